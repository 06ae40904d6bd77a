"""The patient stream: slices, deadlines, torn writes."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.server.streams import SLICE_BYTES, PatientStream, slices

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


async def test_small_buffers_become_one_write_and_large_ones_slices(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inner = AcceptingStream()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)
        await stream.send_buffers([b"one", b"two"])
        await stream.send_all(bytes(SLICE_BYTES + 1))
    assert [len(write) for write in inner.writes] == [6, SLICE_BYTES, 1]


async def test_a_slow_but_steady_peer_is_not_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    inner = AcceptingStream(delay=SEND_TIMEOUT * 0.9)
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)
        await stream.send_all(bytes(SLICE_BYTES * 5))
    assert not stream.stalled
    assert len(inner.writes) == 5


async def test_a_peer_that_accepts_nothing_is_cut_off_by_force(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inner = AcceptingStream(delay=SEND_TIMEOUT * 2)
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        assert trio.current_time() == pytest.approx(stream.last_received + SEND_TIMEOUT)
        assert stream.stalled
        assert inner.closed


async def test_nothing_is_written_after_a_cancelled_write(autojump_clock: trio.testing.MockClock) -> None:
    inner = AcceptingStream(delay=1.0)
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(inner, send_timeout=SEND_TIMEOUT)
        with trio.move_on_after(0.5):
            await stream.send_all(b"half a frame")
        with pytest.raises(trio.BrokenResourceError, match="cut short"):
            await stream.send_all(b"another frame")
    assert inner.writes == []
    assert not stream.stalled


async def test_a_real_socket_whose_peer_does_not_read_stalls() -> None:
    left, right = trio.socket.socketpair()
    with left, right, trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(trio.SocketStream(left), send_timeout=0.05)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(bytes(16 * 1024 * 1024))
        assert stream.stalled
        assert left.fileno() == -1


async def test_the_prefix_is_received_first_and_the_clock_only_moves_with_new_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
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


async def test_send_eof_is_passed_on_and_drain_reads_to_the_end() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(TEST_TIMEOUT):
        stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
        await theirs.send_all(b"unread")
        await theirs.send_eof()
        await stream.drain()
        assert await theirs.receive_some() == b""


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
