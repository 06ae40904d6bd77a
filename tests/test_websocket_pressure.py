"""A WebSocket whose client sends without end, or sends while this side writes."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from reactor_trio.wire import reader
from reactor_trio.wire.accept import accept_websocket
from reactor_trio.wire.reader import (
    CONTROL_FRAMES_AT_ONCE,
    CONTROL_FRAMES_PER_SECOND,
    FRAMES_BETWEEN_LOOKS,
    FRAMING_SECONDS,
    MAX_PONGS,
)
from reactor_trio.wire.streams import PatientStream
from websocket_ends import (
    KEY,
    MAX_MESSAGE_BYTES,
    SEND_TIMEOUT,
    TEST_TIMEOUT,
    RawClient,
    close_frame,
    closing,
    ended_with,
    masked,
    raw_pair,
    socket_pair,
    text,
)


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
            # The older pongs were dropped while the message was being written.
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
            # No task writes, now or later: there is no other task.
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
                await trio.testing.wait_all_tasks_blocked()  # `aclose` reads, as no other task does
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
    monkeypatch.setattr(reader, "LINGER_SECONDS", 0.05)  # seconds that the answer may wait for room
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
    """A clock that moves on by a millisecond whenever it is read."""

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
                        scope.cancel()  # a cancelled `receive` loses no message
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
