"""The WebSocket seam, over streams in memory and, where the kernel's buffers matter, over a socket pair."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from wsproto.utilities import generate_accept_token

from reactor_trio.errors import HandshakeFailed, TransportClosed, TransportStalled
from reactor_trio.link.outbox import Outbox, OutFrame
from reactor_trio.protocol.server_messages import Goodbye
from reactor_trio.wire import reader
from reactor_trio.wire.accept import accept_websocket
from reactor_trio.wire.connect import propose_websocket
from reactor_trio.wire.engine import SHOWN_BYTES, Proposal
from reactor_trio.wire.framing import encode_frame
from reactor_trio.wire.reader import (
    CONTROL_FRAMES_AT_ONCE,
    CONTROL_FRAMES_PER_SECOND,
    FRAMES_BETWEEN_LOOKS,
    FRAMING_SECONDS,
    LINGER_SECONDS,
    MAX_HEAD_BYTES,
    MAX_PONGS,
)
from reactor_trio.wire.streams import PatientStream
from reactor_trio.wire.websocket import WebSocketTransport
from websocket_ends import read_key, websockets

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
MAX_MESSAGE_BYTES = 1000
MANY = 64
"""Messages at once."""
SEND_TIMEOUT = 5.0
TEST_TIMEOUT = 60.0
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
MASK = b"\x01\x02\x03\x04"


def masked(first: int, payload: bytes) -> bytes:
    """A client's frame."""
    assert len(payload) < 126
    body = bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))
    return bytes((first, 0x80 | len(payload))) + MASK + body


def text(payload: bytes) -> bytes:
    return masked(0x81, payload)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return masked(0x88, struct.pack("!H", code) + reason)


class RawClient:
    """Reads the bytes that a server writes, frame by frame."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self.buffer += data
        head, self.buffer = self.buffer[:count], self.buffer[count:]
        return head

    async def head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await self.exactly(1)
        return head

    async def frame(self) -> tuple[int, bytes]:
        first, length = await self.exactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await self.exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.exactly(8))
        return first, await self.exactly(length)

    async def close_frame(self) -> tuple[int, str]:
        first, payload = await self.frame()
        assert first == 0x88
        return struct.unpack("!H", payload[:2])[0], payload[2:].decode()


@asynccontextmanager
async def raw_pair() -> AsyncIterator[tuple[WebSocketTransport, RawClient]]:
    """A server's transport, and the bare stream of its client."""
    ours, theirs = trio.testing.memory_stream_pair()
    stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
    async with accept_websocket(
        stream, key=KEY, subprotocol=None, max_message_bytes=MAX_MESSAGE_BYTES
    ) as transport:
        client = RawClient(theirs)
        await client.head()
        yield transport, client


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[WebSocketTransport, WebSocketTransport]]:
    """A server's transport and a client's, talking to each other."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with websockets(
        ours, theirs, send_timeout=SEND_TIMEOUT, max_message_bytes=MAX_MESSAGE_BYTES
    ) as ends:
        yield ends


async def closing(transport: WebSocketTransport) -> TransportClosed:
    """Receive until the connection has ended, and return how."""
    return await closing_after(transport, [])


async def closing_after(transport: WebSocketTransport, received: list[str | bytes]) -> TransportClosed:
    """The same, and keep what was received."""
    while True:
        try:
            received += await transport.receive()
        except TransportClosed as closed:
            return closed


async def ended_with(transport: WebSocketTransport, code: int) -> None:
    assert (await closing(transport)).code == code


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 70000])
def test_frames_are_the_bytes_that_wsproto_would_write(length: int) -> None:
    from wsproto.frame_protocol import FrameProtocol

    engine = FrameProtocol(client=False, extensions=[])
    payload = b"ab" * (length // 2) + b"c" * (length % 2)
    assert b"".join(encode_frame(payload)) == engine.send_data(payload)
    assert b"".join(encode_frame(payload.decode())) == engine.send_data(payload.decode())


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


async def test_messages_go_both_ways_in_order_and_in_batches() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with pair() as (server, client):
            await client.send(["one", b"two", "thr\u00e9\u00e9"])
            await trio.testing.wait_all_tasks_blocked()
            assert await server.receive() == ["one", b"two", "thr\u00e9\u00e9"]
            await server.send(["a" * 100_000, b"", ""])
            received: list[str | bytes] = []
            while len(received) < 3:
                received += await client.receive()
            assert received == ["a" * 100_000, b"", ""]


async def test_a_batch_is_one_write() -> None:
    writes = []

    class Counting(PatientStream):
        async def send_buffers(self, buffers: object) -> None:
            writes.append(list(buffers))  # type: ignore[call-overload]
            await super().send_buffers(writes[-1])

    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(TEST_TIMEOUT):
        stream = Counting(ours, send_timeout=SEND_TIMEOUT)
        async with accept_websocket(stream, key=KEY, subprotocol=None, max_message_bytes=1000) as transport:
            await RawClient(theirs).head()
            writes.clear()
            await transport.send(["one", "two", b"three"])
    assert len(writes) == 1


async def test_more_messages_than_the_queue_holds_all_arrive_in_order() -> None:
    sent = [str(number) for number in range(MANY * 3 + 5)]
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            await client.stream.send_all(
                b"".join(text(number.encode()) for number in sent) + close_frame(1000)
            )
            await trio.testing.wait_all_tasks_blocked()
            received: list[str | bytes] = []
            assert (await closing_after(transport, received)).code == 1000
    assert received == sent


async def test_frames_that_came_with_the_head_are_not_lost() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(ours, send_timeout=SEND_TIMEOUT, prefix=text(b"early"))
        async with accept_websocket(stream, key=KEY, subprotocol=None, max_message_bytes=1000) as transport:
            assert await transport.receive() == ["early"]
    await theirs.aclose()


async def test_fragments_are_put_together_and_empty_ones_cost_nothing() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            pieces = [masked(0x01, "\u00e9".encode()[:1]), masked(0x00, b""), masked(0x00, b"")]
            await client.stream.send_all(b"".join(pieces))
            await trio.testing.wait_all_tasks_blocked()
            await client.stream.send_all(masked(0x80, "\u00e9".encode()[1:]))
            assert await transport.receive() == ["\u00e9"]
            await client.stream.send_all(masked(0x02, b"") + masked(0x80, b""))
            assert await transport.receive() == [b""]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (4321, "own")])
async def test_the_peers_close_is_reported_and_answered(code: int, reason: str) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            await client.stream.send_all(text(b"last") + close_frame(code, reason.encode()))
            assert await transport.receive() == ["last"]
            ended = await closing(transport)
            assert (ended.code, ended.reason) == (code, reason)
            assert await client.close_frame() == (code, reason)
            for attempt in (transport.send(["late"]), transport.ping(), transport.receive()):
                with pytest.raises(TransportClosed) as caught:
                    await attempt
                assert caught.value.code == code
            await transport.aclose(1000, "")


async def test_a_close_without_a_code_is_1005() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            await client.stream.send_all(masked(0x88, b""))
            assert (await closing(transport)).code == 1005


async def test_a_lost_connection_is_1006() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            await client.stream.send_all(text(b"last"))
            await client.stream.aclose()
            assert await transport.receive() == ["last"]
            assert (await closing(transport)).code == 1006
            with pytest.raises(TransportClosed) as caught:
                await transport.send(["x"])
            assert caught.value.code == 1006


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (text(b"\xff\xfe"), 1007),
        (bytes((0x81, 3)) + b"abc", 1002),
        (masked(0x83, b"?"), 1002),
        (masked(0x80, b"nothing to continue"), 1002),
        (masked(0xC1, b"reserved bit"), 1002),
        (close_frame(1005), 1002),
        (b"".join(masked(first, bytes(100)) for first in [0x02] + [0x00] * 10), 1009),
    ],
)
async def test_what_breaks_the_rules_is_told_to_the_peer(wire: bytes, code: int) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            await client.stream.send_all(text(b"good") + wire)
            assert await transport.receive() == ["good"]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.stream.send_all, b"more that is not read")
                nursery.start_soon(ended_with, transport, code)
                assert (await client.close_frame())[0] == code
                with pytest.raises(EOFError):
                    await client.frame()
                await client.stream.aclose()


async def test_a_peer_that_ignores_why_it_is_cut_off_is_left_after_a_moment() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            started = trio.current_time()
            await client.stream.send_all(text(b"\xff"))
            assert (await closing(transport)).code == 1007
            assert trio.current_time() == pytest.approx(started + LINGER_SECONDS)


async def test_a_long_text_is_measured_in_bytes() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with pair() as (server, client):
            await client.send(["\u00e9" * (MAX_MESSAGE_BYTES // 2)])
            assert await server.receive() == ["\u00e9" * (MAX_MESSAGE_BYTES // 2)]
            await client.send(["\u00e9" * (MAX_MESSAGE_BYTES // 2 + 1)])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(closing, server)
                assert (await closing(client)).code == 1009
                await client.aclose(1000, "")
            assert (await closing(server)).code == 1009


async def test_a_close_of_ours_is_seen_by_the_peer_and_by_receive() -> None:
    endings: list[TransportClosed] = []

    async def receive(transport: WebSocketTransport) -> None:
        endings.append(await closing(transport))

    with trio.fail_after(TEST_TIMEOUT):
        async with pair() as (server, client):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, server)
                nursery.start_soon(receive, client)
                await server.aclose(1001, "shutting_down")
                with pytest.raises(TransportClosed):
                    await server.send(["late"])
            assert {(ended.code, ended.reason) for ended in endings} == {(1001, "shutting_down")}
            await server.aclose(1000, "again")
            await server.abort()


async def test_pings_and_messages_that_arrive_while_we_close_do_no_harm() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.aclose, 1001, "bye")
                assert await client.close_frame() == (1001, "bye")
                # More than the queue holds: a reader that waited for room would never see the answer.
                many = text(b"late") * (MANY * 2)
                await client.stream.send_all(masked(0x89, b"ping") + many + masked(0x89, b"ping"))
                await client.stream.send_all(close_frame(1001))
            assert (await closing(transport)).code == 1001


async def test_a_close_while_the_queue_is_full_is_not_stuck() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            await client.stream.send_all(text(b"unread") * (MANY * 2))
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.aclose, 1001, "bye")
                assert await client.close_frame() == (1001, "bye")
                await client.stream.send_all(close_frame(1001))


async def test_a_close_that_is_not_answered_ends_with_its_deadline() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            with trio.move_on_after(3) as scope:
                await transport.aclose(1001, "bye")
            assert scope.cancelled_caught
            assert (await closing(transport)).code == 1001
            assert await client.close_frame() == (1001, "bye")
            with pytest.raises(EOFError):
                await client.frame()


async def test_abort_says_nothing_and_wakes_receive() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(closing, transport)
                await trio.testing.wait_all_tasks_blocked()
                await transport.abort()
            with pytest.raises(EOFError):
                await client.frame()
            await transport.abort()


async def test_pings_are_answered_and_ours_does_not_wait_for_its_pong() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client), trio.open_nursery() as nursery:
            nursery.start_soon(closing, transport)
            await client.stream.send_all(masked(0x89, b"are you there"))
            assert await client.frame() == (0x8A, b"are you there")
            await trio.sleep(7)
            before = transport.last_received
            await transport.ping()
            assert await client.frame() == (0x89, b"")
            await client.stream.send_all(masked(0x8A, b""))
            await trio.testing.wait_all_tasks_blocked()
            assert transport.last_received == before + 7
            nursery.cancel_scope.cancel()


async def test_a_cancelled_receive_loses_no_message() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with pair() as (server, client):
            with trio.move_on_after(1):
                await server.receive()
            await client.send(["kept"])
            with trio.CancelScope() as scope:
                scope.cancel(reason="test")
                await server.receive()
            assert await server.receive() == ["kept"]


async def test_nothing_of_a_cut_send_is_followed_by_another_message() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
        client = RawClient(theirs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.head)
            async with accept_websocket(
                stream, key=KEY, subprotocol=None, max_message_bytes=1000
            ) as transport:
                with trio.move_on_after(1):
                    await transport.send([bytes(100)])
                with pytest.raises(TransportClosed):
                    await transport.send(["torn"])
                await transport.abort()


@pytest.mark.real_time
async def test_a_peer_that_reads_nothing_is_cut_off_and_receive_ends() -> None:
    left, right = trio.socket.socketpair()
    with right, trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(trio.SocketStream(left), send_timeout=0.05)
        async with accept_websocket(stream, key=KEY, subprotocol=None, max_message_bytes=1000) as transport:
            async with trio.open_nursery() as nursery:

                async def receive() -> None:
                    with pytest.raises(TransportStalled):
                        await transport.receive()

                nursery.start_soon(receive)
                with pytest.raises(TransportStalled):
                    await transport.send([bytes(16 * 1024 * 1024)])
            await transport.abort()
            await transport.aclose(1000, "")


@pytest.mark.real_time
async def test_a_frame_that_the_kernel_takes_in_part_is_ended_by_the_task_that_sends() -> None:
    left, right = trio.socket.socketpair()
    written: list[int] = []
    with right, trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(trio.SocketStream(left), send_timeout=SEND_TIMEOUT)
        async with accept_websocket(stream, key=KEY, subprotocol=None, max_message_bytes=1000) as transport:
            client = RawClient(trio.SocketStream(right))
            await client.head()
            box = Outbox(max_messages=3, max_bytes=1000, transport=transport)
            count = 0

            def note(frame: OutFrame) -> None:
                written.append(frame.seq)

            while not transport.has_unsent and count < 1000:
                box.put_frame(OutFrame("screen", count, bytes([count % 256]) * 60_000, on_written=note))
                count += 1
            assert written == list(range(count - 1)), "all but the one that is under way"
            assert not box.is_idle
            box.put_nowait(Goodbye("finished"))

            async def send() -> None:
                while True:
                    await transport.send(await box.take())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked()
                assert written == list(range(count - 1)), "the client reads nothing yet"
                for number in range(count):
                    assert await client.frame() == (0x82, bytes([number % 256]) * 60_000)
                assert await client.frame() == (0x81, Goodbye("finished").encode().encode())
                await box.flushed()
                assert not box.has_frame("screen")
                nursery.cancel_scope.cancel()
    assert written == list(range(count))


@pytest.mark.real_time
async def test_a_close_frame_that_came_before_a_reset_is_what_send_reports() -> None:
    left, right = trio.socket.socketpair()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(trio.SocketStream(left), send_timeout=SEND_TIMEOUT)
        async with accept_websocket(stream, key=KEY, subprotocol=None, max_message_bytes=1000) as transport:
            await right.send(close_frame(1001, b"tab closed"))
            right.close()

            async def send_until_closed() -> None:
                while True:
                    await transport.send([bytes(100_000)])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(closing, transport)
                with pytest.raises(TransportClosed) as caught:
                    await send_until_closed()
    assert caught.value.code == 1001


# ---- what a client sends without end, or while we write


@asynccontextmanager
async def socket_pair(
    *, send_timeout: float = SEND_TIMEOUT
) -> AsyncIterator[tuple[WebSocketTransport, RawClient]]:
    """The same as `raw_pair`, over sockets whose buffers get full."""
    left, right = trio.socket.socketpair()
    async with trio.SocketStream(right) as theirs:
        stream = PatientStream(trio.SocketStream(left), send_timeout=send_timeout)
        async with accept_websocket(
            stream, key=KEY, subprotocol=None, max_message_bytes=MAX_MESSAGE_BYTES
        ) as transport:
            client = RawClient(theirs)
            await client.head()
            yield transport, client


@pytest.mark.real_time
async def test_a_pong_that_must_wait_keeps_nothing_from_being_read_and_only_the_newest_are_kept() -> None:
    big, pings = bytes(8 * 1024 * 1024), MAX_PONGS * 3
    with trio.fail_after(TEST_TIMEOUT):
        async with socket_pair() as (transport, client), trio.open_nursery() as nursery:
            nursery.start_soon(transport.send, [big])
            await trio.testing.wait_all_tasks_blocked()  # the client does not read
            for number in range(pings):
                await client.stream.send_all(masked(0x89, b"%d" % number) + text(b"stop %d" % number))
                assert await transport.receive() == [f"stop {number}"]
            assert await client.frame() == (0x82, big)
            # Some bytes of the first ones may have gone out before the network was full.
            newest = [(0x8A, b"%d" % number) for number in range(pings - MAX_PONGS, pings)]
            assert [await client.frame() for _ in newest] == newest
            await transport.send(["after"])
            assert await client.frame() == (0x81, b"after")


@pytest.mark.real_time
async def test_a_pong_that_the_network_has_no_room_for_is_written_when_it_has() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with socket_pair() as (transport, client):
            sent = 0
            while not transport.has_unsent and transport.send_nowait([bytes(1000)]):
                sent += 1
            sent += transport.has_unsent
            # Nobody writes, and nobody will: there is no other task.
            await client.stream.send_all(masked(0x89, b"now?") + text(b"read"))
            assert await transport.receive() == ["read"]
            for _ in range(sent):
                assert await client.frame() == (0x82, bytes(1000))
            assert await client.frame() == (0x8A, b"now?")


async def test_a_receive_that_is_cancelled_tears_no_pong() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    client = RawClient(theirs)
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.head)
            async with accept_websocket(
                PatientStream(ours, send_timeout=SEND_TIMEOUT),
                key=KEY,
                subprotocol=None,
                max_message_bytes=MAX_MESSAGE_BYTES,
            ) as transport:
                nursery.start_soon(theirs.send_all, masked(0x89, b"are you there"))
                with trio.move_on_after(1):
                    await transport.receive()  # lockstep: the pong waits until the client reads it
                nursery.start_soon(transport.send, ["whole"])
                nursery.start_soon(ended_with, transport, 1000)
                assert await client.frame() == (0x8A, b"are you there")
                assert await client.frame() == (0x81, b"whole")
                nursery.start_soon(theirs.send_all, close_frame(1000))
                assert await client.close_frame() == (1000, "")


@pytest.mark.real_time
async def test_two_tasks_may_wait_for_the_end_and_the_clients_close_is_read() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with socket_pair() as (transport, client):
            codes: list[int] = []

            async def receive() -> None:
                codes.append((await closing(transport)).code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.aclose, 1000, "finished")
                await trio.testing.wait_all_tasks_blocked()  # it reads, as nobody else does
                nursery.start_soon(receive)
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                assert await client.close_frame() == (1000, "finished")
                await client.stream.send_all(text(b"late") * 3 + close_frame(1000))
            assert codes == [1000, 1000]
            with pytest.raises(EOFError):
                await client.frame()


@pytest.mark.real_time
async def test_the_one_who_reads_may_be_cancelled_and_the_other_goes_on() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with socket_pair() as (transport, client), trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def receive() -> None:
                with scope:
                    await transport.receive()

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(transport.aclose, 1001, "bye")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            assert await client.close_frame() == (1001, "bye")
            await client.stream.send_all(close_frame(1001))


@pytest.mark.real_time
async def test_a_close_behind_a_large_write_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "LINGER_SECONDS", 0.05)  # what the answer may wait for room
    with trio.fail_after(TEST_TIMEOUT):
        async with socket_pair(send_timeout=2 * TEST_TIMEOUT) as (transport, client):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.send, [bytes(8 * 1024 * 1024)])
                await trio.testing.wait_all_tasks_blocked()
                await client.stream.send_all(text(b"last") + close_frame(1001, b"tab closed"))
                assert await transport.receive() == ["last"]
                assert (await closing(transport)).code == 1001
                nursery.cancel_scope.cancel()


class Ticking:
    """A clock that goes on by itself, a millisecond a look."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 0.001
        return self.time


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (text(b"x"), "x"),
        (masked(0x82, b""), b""),
        (masked(0x01, b"a") + masked(0x00, b"") + masked(0x80, b"b"), "ab"),
    ],
    ids=["small", "empty", "fragments"],
)
async def test_what_one_read_brings_is_handed_over_in_pieces_and_others_run_between(
    unit: bytes, message: str | bytes
) -> None:
    count, turns = 2000, 0
    most = FRAMES_BETWEEN_LOOKS * (FRAMING_SECONDS / 0.001 + 1)

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client), trio.open_nursery() as nursery:
            transport._reader._now = Ticking()
            await client.stream.send_all(unit * count)
            nursery.start_soon(other)
            received: list[str | bytes] = []
            pieces = 0
            while len(received) < count:
                with trio.CancelScope() as scope:
                    if pieces % 3 == 2:
                        scope.cancel()  # which loses nothing
                    batch = await transport.receive()
                    assert len(batch) <= most
                    received += batch
                pieces += 1
            nursery.cancel_scope.cancel()
    assert received == [message] * count
    assert pieces >= count / most
    assert turns >= pieces / 2, "a piece that a cancelled call has left is handed over at once"


@pytest.mark.parametrize("kind", [0x89, 0x8A], ids=["pings", "pongs"])
async def test_a_flood_of_control_frames_ends_the_connection_and_the_client_is_told(kind: int) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client), trio.open_nursery() as nursery:
            nursery.start_soon(ended_with, transport, 1008)
            await client.stream.send_all(masked(kind, b"x") * CONTROL_FRAMES_AT_ONCE)
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(CONTROL_FRAMES_AT_ONCE / CONTROL_FRAMES_PER_SECOND)
            assert transport._reader.how is None, "so many are nothing to object to"
            await client.stream.send_all(masked(kind, b"x") * (CONTROL_FRAMES_AT_ONCE + 1))
            pongs = 0
            while (frame := await client.frame())[0] == 0x8A:
                pongs += 1
            assert frame[0] == 0x88
            assert struct.unpack("!H", frame[1][:2])[0] == 1008
            assert pongs <= (2 * MAX_PONGS if kind == 0x89 else 0), "one batch is answered by the newest"
            await client.stream.aclose()


async def test_a_flood_that_goes_on_after_our_close_is_skipped_in_short_steps() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with raw_pair() as (transport, client), trio.open_nursery() as nursery:
            transport._reader._now = Ticking()
            nursery.start_soon(ended_with, transport, 1001)
            nursery.start_soon(transport.aclose, 1001, "bye")
            assert await client.close_frame() == (1001, "bye")
            began = trio.current_time()
            await client.stream.send_all(text(b"late") * 2000 + masked(0x89, b"") * 100 + close_frame(1001))
            with pytest.raises(EOFError):
                await client.frame()
    assert trio.current_time() > began, "it slept meanwhile"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
async def test_an_error_of_the_body_leaves_bare_and_closes_the_stream(error: type[BaseException]) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
        with pytest.raises(error):
            async with accept_websocket(stream, key=KEY, subprotocol=None, max_message_bytes=1000):
                raise error
        client = RawClient(theirs)
        await client.head()
        with pytest.raises(EOFError):
            await client.frame()


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
