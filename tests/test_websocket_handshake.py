"""The opening handshake of a WebSocket, a server's and a client's, over streams in memory."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing
from wsproto.utilities import generate_accept_token

from reactor_trio.errors import HandshakeFailed, TransportClosed
from reactor_trio.wire.accept import accept_websocket
from reactor_trio.wire.connect import propose_websocket
from reactor_trio.wire.engine import SHOWN_BYTES, Proposal
from reactor_trio.wire.reader import MAX_HEAD_BYTES
from reactor_trio.wire.streams import PatientStream
from websocket_ends import KEY, SEND_TIMEOUT, TEST_TIMEOUT, RawClient, closing, masked, read_key, text

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.mark.real_time
async def test_the_handshake_is_answered_with_the_chosen_subprotocol() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
        async with accept_websocket(stream, key=KEY, subprotocol="reactor.v1", max_message_bytes=1000):
            head = (await RawClient(theirs).head()).lower()
    assert head.startswith(b"http/1.1 101 ")
    assert b"sec-websocket-accept: " + generate_accept_token(KEY).lower() in head
    assert b"sec-websocket-protocol: reactor.v1\r\n" in head


async def test_frames_that_came_with_the_head_are_not_lost() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(ours, send_timeout=SEND_TIMEOUT, prefix=text(b"early"))
        async with accept_websocket(stream, key=KEY, subprotocol=None, max_message_bytes=1000) as transport:
            assert await transport.receive() == ["early"]
    await theirs.aclose()


async def test_a_client_gone_before_the_handshake_is_a_closed_transport() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
        with pytest.raises(TransportClosed):
            async with accept_websocket(stream, key=KEY, subprotocol=None, max_message_bytes=1000):
                pytest.fail("not reached")


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nno!", 401, "no!"),
        (b"HTTP/1.1 404 Not found\r\nConnection: close\r\n\r\nnope", 404, "nope"),
        (b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n" + b"x" * 5000, 502, "x" * SHOWN_BYTES),
        (b"HTTP/1.0 501 Unsupported\r\n\r\n", 501, ""),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", 103, ""),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", None, ""),
        (SWITCHING + b"Sec-WebSocket-Protocol: \xff\r\n\r\n", None, ""),
        (b"SSH-2.0-hello\r\n\r\n", None, ""),
        (b"x" * (MAX_HEAD_BYTES + 1), None, ""),
        (b"", None, ""),
    ],
)
async def test_a_client_whose_handshake_fails_is_told_how(
    answer: bytes, status: int | None, body: str
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
    with trio.fail_after(TEST_TIMEOUT):
        await theirs.send_all(answer)
        await theirs.send_eof()
        with pytest.raises(HandshakeFailed) as caught:
            async with propose_websocket(stream, Proposal("localhost", "/ws"), max_message_bytes=1000):
                pytest.fail("not reached")
    assert (caught.value.status, caught.value.body) == (status, body)


async def test_a_refusal_that_comes_byte_by_byte_is_read_to_its_end() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nfull"

    async def refuse() -> None:
        for index in range(len(answer)):
            await theirs.send_all(answer[index : index + 1])
            await trio.sleep(0.01)

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
            with pytest.raises(HandshakeFailed) as caught:
                async with propose_websocket(stream, Proposal("localhost", "/ws"), max_message_bytes=1000):
                    pytest.fail("not reached")
    assert (caught.value.status, caught.value.body, caught.value.retry_after) == (503, "full", 7)


@pytest.mark.parametrize(
    "proposal", [Proposal("localhost", "/a path"), Proposal("localhost", "/", headers=((b"A", b"x\n"),))]
)
async def test_a_proposal_that_http_cannot_carry_is_a_value_error(proposal: Proposal) -> None:
    ours, _ = trio.testing.memory_stream_pair()
    with trio.fail_after(TEST_TIMEOUT), pytest.raises(ValueError, match="no HTTP request"):
        async with propose_websocket(
            PatientStream(ours, send_timeout=SEND_TIMEOUT), proposal, max_message_bytes=1000
        ):
            pytest.fail("not reached")


@pytest.mark.parametrize(
    ("frame", "code"),
    [(b"\x88\x06" + struct.pack("!H", 1013) + b"busy", 1013), (masked(0x81, b"a server masks none"), 1002)],
)
async def test_a_server_that_ends_the_connection_right_behind_its_answer_is_no_failed_handshake(
    frame: bytes, code: int
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def answer() -> None:
        accept = generate_accept_token(await read_key(theirs))
        await theirs.send_all(SWITCHING + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + frame)

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
            async with propose_websocket(
                stream, Proposal("localhost", "/ws"), max_message_bytes=1000
            ) as client:
                assert (await closing(client)).code == code
