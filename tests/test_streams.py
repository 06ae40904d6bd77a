"""The patient stream: slices, deadlines, torn writes."""

from __future__ import annotations

import os
import socket

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.wire.streams import AT_ONCE_BYTES, SLICE_BYTES, PatientStream, gathered, slices

SEND_TIMEOUT = 5.0
TEST_TIMEOUT = 60.0


class AcceptingStream(trio.abc.Stream):
    """Takes each write after `delay` seconds and remembers it."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.writes: list[bytes] = []
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep(self.delay)
        self.writes.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@given(st.lists(st.binary(max_size=40)), st.integers(1, 20))
def test_slices_are_the_concatenation_in_pieces_of_one_size(buffers: list[bytes], size: int) -> None:
    pieces = [bytes(piece) for piece in slices(buffers, size)]
    assert b"".join(pieces) == b"".join(buffers)
    assert all(len(piece) == size for piece in pieces[:-1])
    assert all(0 < len(piece) <= size for piece in pieces)


@given(st.lists(st.binary(max_size=40)), st.integers(1, 20))
def test_pieces_in_parts_are_the_same_and_no_byte_of_them_is_copied(buffers: list[bytes], size: int) -> None:
    pieces = [*gathered(buffers, size)]
    assert [b"".join(parts) for parts in pieces] == [bytes(piece) for piece in slices(buffers, size)]
    parts = [part for parts in pieces for part in parts]
    assert all(len(part) for part in parts)
    assert all(isinstance(part, memoryview) or any(part is buffer for buffer in buffers) for part in parts)


async def test_small_buffers_become_one_write_and_large_ones_slices() -> None:
    inner = AcceptingStream()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)
        await stream.send_buffers([b"one", b"two"])
        await stream.send_all(bytes(SLICE_BYTES + 1))
    assert [len(write) for write in inner.writes] == [6, SLICE_BYTES, 1]


async def test_a_slow_but_steady_peer_is_not_cut_off() -> None:
    inner = AcceptingStream(delay=SEND_TIMEOUT * 0.9)
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)
        await stream.send_all(bytes(SLICE_BYTES * 5))
    assert not stream.stalled
    assert len(inner.writes) == 5


async def test_a_peer_that_accepts_nothing_is_cut_off_by_force() -> None:
    inner = AcceptingStream(delay=SEND_TIMEOUT * 2)
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        assert trio.current_time() == pytest.approx(stream.last_received + SEND_TIMEOUT)
        assert stream.stalled
        assert inner.closed


async def test_nothing_is_written_after_a_cancelled_write() -> None:
    inner = AcceptingStream(delay=1.0)
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)
        with trio.move_on_after(0.5):
            await stream.send_all(b"half a frame")
        with pytest.raises(trio.BrokenResourceError, match="cut short"):
            await stream.send_all(b"another frame")
    assert inner.writes == []
    assert not stream.stalled


@pytest.mark.real_time
async def test_a_real_socket_whose_peer_does_not_read_stalls() -> None:
    left, right = trio.socket.socketpair()
    with left, right, trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(trio.SocketStream(left), send_timeout=0.05)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(bytes(16 * 1024 * 1024))
        assert stream.stalled
        assert left.fileno() == -1


async def test_the_prefix_is_received_first_and_the_clock_only_moves_with_new_bytes() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(ours, send_timeout=SEND_TIMEOUT, prefix=b"abc")
        made = trio.current_time()
        await theirs.send_all(b"def")
        await trio.sleep(1)
        assert await stream.receive_some(2) == b"ab"
        assert await stream.receive_some(2) == b"c"
        assert stream.last_received == made
        assert await stream.receive_some() == b"def"
        assert stream.last_received == made + 1
        await theirs.send_eof()
        assert await stream.receive_some() == b""
        assert stream.last_received == made + 1


@pytest.mark.real_time
async def test_send_eof_is_passed_on_and_drain_reads_to_the_end() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
        await theirs.send_all(b"unread")
        await theirs.send_eof()
        await stream.drain()
        assert await theirs.receive_some() == b""


@pytest.mark.real_time
async def test_every_method_checkpoints() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = PatientStream(ours, send_timeout=SEND_TIMEOUT, prefix=b"x")
    with trio.fail_after(TEST_TIMEOUT):
        for method in (stream.receive_some, stream.wait_send_all_might_not_block):
            with trio.testing.assert_checkpoints():
                await method()
        with trio.testing.assert_checkpoints():
            await stream.send_buffers([])
        with trio.testing.assert_checkpoints():
            await stream.send_all(b"x")
        with trio.testing.assert_checkpoints():
            await stream.send_eof()
        with trio.testing.assert_checkpoints():
            await stream.aclose()
    await theirs.aclose()


@pytest.mark.real_time
async def test_what_needs_no_waiting_is_written_at_once_and_a_part_is_ended_by_the_next_write() -> None:
    left, right = trio.socket.socketpair()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.SocketStream(left) as inner, trio.SocketStream(right) as peer:
            stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)
            assert stream.send_nowait([b"head", b"payload"])
            assert not stream.has_rest
            assert await peer.receive_some() == b"headpayload"
            sent, number = b"", 0
            while True:  # until the kernel takes nothing, or only a part
                data = bytes([number % 256]) * 50_000
                if not stream.send_nowait([data]):
                    break
                sent, number = sent + data, number + 1
                if stream.has_rest:
                    break
            assert not stream.send_nowait([b"not before the rest"])
            received = b""

            async def read() -> None:
                nonlocal received
                while len(received) < len(sent) + 4:
                    received += await peer.receive_some()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await stream.send_all(b"tail")
            assert received == sent + b"tail"


@pytest.mark.real_time
async def test_nothing_is_written_at_once_where_it_cannot_be() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    assert not PatientStream(ours, send_timeout=SEND_TIMEOUT).send_nowait([b"x"]), "no descriptor"
    left, right = trio.socket.socketpair()
    stream = PatientStream(trio.SocketStream(left), send_timeout=SEND_TIMEOUT)
    assert not stream.send_nowait([bytes(1_000_000)]), "more than a slice is for the patient way"
    right.close()
    stream.send_nowait([b"x"])
    assert not stream.send_nowait([b"x"]), "the peer is gone; the next write says so"
    await stream.aclose()
    assert not stream.send_nowait([b"x"])


@pytest.mark.real_time
async def test_what_a_socket_takes_in_parts_arrives_whole_and_in_order() -> None:
    left, right = trio.socket.socketpair()
    buffers = [
        bytes([number % 256]) * size
        for number, size in enumerate((1, 0, AT_ONCE_BYTES, 70_000, 3, 0, AT_ONCE_BYTES * 3 + 1, 9))
    ]
    received = bytearray()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.SocketStream(left) as inner, trio.SocketStream(right) as peer:
            stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)

            async def read() -> None:
                async for data in peer:
                    received.extend(data)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for _ in range(3):
                    await stream.send_buffers(buffers)
                await stream.send_eof()
    assert received == b"".join(buffers) * 3


@pytest.mark.real_time
async def test_more_buffers_than_one_system_call_takes() -> None:
    left, right = trio.socket.socketpair()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.SocketStream(left) as inner, trio.SocketStream(right) as peer:
            await PatientStream(inner, send_timeout=SEND_TIMEOUT).send_buffers([b"x"] * 3000)
            assert await peer.receive_some(4000) == b"x" * 3000


@pytest.mark.real_time
async def test_a_write_that_was_cancelled_before_its_first_byte_leaves_the_stream_whole() -> None:
    left, right = trio.socket.socketpair()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.SocketStream(left) as inner, trio.SocketStream(right) as peer:
            stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)
            while not stream.has_rest and stream.send_nowait([bytes(50_000)]):
                pass
            had_rest = stream.has_rest
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.send_all(b"never")
            assert scope.cancelled_caught
            assert stream.has_rest == had_rest
            with trio.move_on_after(0.01) as scope:  # cancelled after its first bytes were written
                await stream.send_all(bytes(10_000_000))
            assert scope.cancelled_caught
            with pytest.raises(trio.BrokenResourceError, match="cut short"):
                await stream.send_all(b"another frame")
            assert b"never" not in await peer.receive_some(1 << 20)


@pytest.mark.real_time
async def test_reading_a_socket_tells_end_closing_and_reset() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        left, right = trio.socket.socketpair()
        stream = PatientStream(trio.SocketStream(left), send_timeout=SEND_TIMEOUT)
        await right.send(b"bytes")
        assert await stream.receive_some(3) == b"byt"
        right.shutdown(trio.socket.SHUT_WR)
        assert await stream.receive_some() == b"es"
        assert await stream.receive_some() == b""
        async with trio.open_nursery() as nursery:
            other, kept = trio.socket.socketpair()
            waiting = PatientStream(trio.SocketStream(other), send_timeout=SEND_TIMEOUT)

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await waiting.receive_some()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await waiting.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await waiting.receive_some()
        kept.close()
        right.close()
        await stream.aclose()


@pytest.mark.real_time
async def test_a_stream_that_is_closed_as_it_is_woken_reads_no_byte_of_the_descriptors_next_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, right = trio.socket.socketpair()
    theirs, secret = socket.socketpair()
    stream = PatientStream(trio.SocketStream(left), send_timeout=SEND_TIMEOUT)
    wait_readable, number = trio.lowlevel.wait_readable, left.fileno()

    async def wait_and_lose(fd: int) -> None:
        await wait_readable(fd)
        # The descriptor gets its next owner in the same pass of the loop, before the reader goes on.
        left.close()
        os.dup2(theirs.fileno(), fd)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_and_lose)
    with right, theirs, secret, trio.fail_after(TEST_TIMEOUT):
        secret.sendall(b"the secret of another client")
        await right.send(b"bytes of its own")
        try:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()
            assert not stream.send_nowait([b"nor is anything written to it"])
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"nor this")
            assert theirs.recv(100) == b"the secret of another client"
            secret.setblocking(False)
            with pytest.raises(BlockingIOError):
                secret.recv(100)
        finally:
            os.close(number)


@pytest.mark.real_time
async def test_a_write_that_waits_ends_when_the_stream_is_closed_and_its_number_is_given_away() -> None:
    left, right = trio.socket.socketpair()
    theirs, secret = socket.socketpair()
    stream = PatientStream(trio.SocketStream(left), send_timeout=SEND_TIMEOUT)
    number = left.fileno()
    with right, theirs, secret, trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.send_all(bytes(16 * 1024 * 1024))

            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            left.close()
            os.dup2(theirs.fileno(), number)
        secret.setblocking(False)
        with pytest.raises(BlockingIOError):
            secret.recv(100)
        os.close(number)
