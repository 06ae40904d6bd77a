"""The WebSocket transport, over streams in memory or, where the kernel's buffers matter, a socket pair."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.link.outbox import Outbox, OutFrame
from reactor_trio.protocol.server_messages import Goodbye
from reactor_trio.wire.accept import accept_websocket
from reactor_trio.wire.reader import LINGER_SECONDS
from reactor_trio.wire.streams import PatientStream
from reactor_trio.wire.websocket import WebSocketTransport
from websocket_ends import (
    KEY,
    MAX_MESSAGE_BYTES,
    SEND_TIMEOUT,
    TEST_TIMEOUT,
    RawClient,
    close_frame,
    closing,
    closing_after,
    ended_with,
    masked,
    pair,
    raw_pair,
    text,
)

MANY = 64
"""Number of messages that a test sends at once."""


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
                # `aclose` has to read past these messages to see the client's close frame.
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
