"""The outbox: messages in order and bounded, frames replaced, and nothing lost when a sender is cancelled."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from reactor_trio.errors import TransportClosed
from reactor_trio.link.outbox import MAX_AUDIO_BLOCKS, Outbox, OutFrame
from reactor_trio.session.observer import Counts
from reactor_trio.testing.network import Network
from reactor_trio.testing.transport import memory_transport_pair

DEADLINE = 5.0
"""Seconds after which a test counts as hanging."""


@attrs.frozen
class Line:
    """A message that consists of `text`."""

    text: str

    @property
    def weight(self) -> int:
        return len(self.text.encode())

    def encode(self) -> str:
        return self.text


def outbox(max_messages: int = 3, max_bytes: int = 1000) -> Outbox:
    return Outbox(max_messages=max_messages, max_bytes=max_bytes)


def ignore(frame: OutFrame) -> None:
    pass


def frame(
    track: str, data: bytes, seq: int = 0, on_written: Callable[[OutFrame], object] = ignore
) -> OutFrame:
    return OutFrame(track, seq, data, on_written=on_written)


async def test_messages_come_before_frames_and_only_the_newest_frame_of_a_track() -> None:
    counts = Counts()
    box = Outbox(max_messages=3, max_bytes=1000, counts=counts)
    box.put_frame(frame("left", b"l0"))
    box.put_nowait(Line("one"))
    box.put_frame(frame("left", b"l1"))
    box.put_frame(frame("right", b"r0"))
    await box.put(Line("two"))
    assert await box.take() == ["one", "two", b"l1", b"r0"]
    assert counts.frames["left"].replaced == 1


async def test_taking_is_a_checkpoint_and_takes_nothing_if_cancelled() -> None:
    box = outbox()
    box.put_nowait(Line("one"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.take()
    assert scope.cancelled_caught
    with trio.testing.assert_checkpoints():
        assert await box.take() == ["one"]


async def test_it_is_full_by_number_and_by_bytes() -> None:
    by_number, by_bytes = outbox(max_messages=2), outbox(max_bytes=10)
    by_number.put_nowait(Line("1"))
    by_number.put_nowait(Line("2"))
    with pytest.raises(trio.WouldBlock):
        by_number.put_nowait(Line("3"))
    by_bytes.put_nowait(Line("12345"))
    with pytest.raises(trio.WouldBlock):
        by_bytes.put_nowait(Line("ääää"))  # eight bytes
    by_bytes.put_nowait(Line("12345"))
    assert by_bytes.statistics().bytes == 10


async def test_a_message_larger_than_the_bound_is_let_in_alone() -> None:
    box = outbox(max_bytes=10)
    box.put_nowait(Line("x" * 100))
    with pytest.raises(trio.WouldBlock):
        box.put_nowait(Line("y"))
    assert await box.take() == ["x" * 100]
    box.put_nowait(Line("y"))


async def test_senders_wait_in_line_and_nobody_pushes_in() -> None:
    box = outbox(max_messages=1)
    box.put_nowait(Line("0"))
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(box.put, Line(str(number)))
                await wait_all_tasks_blocked()
            with pytest.raises(trio.WouldBlock):
                box.put_nowait(Line("pushing in"))
            taken = []
            for _ in range(4):
                taken += await box.take()
                await wait_all_tasks_blocked()
    assert taken == ["0", "1", "2", "3"]


async def test_a_cancelled_sender_leaves_nothing_behind_and_frees_its_place() -> None:
    box = outbox(max_messages=1)
    box.put_nowait(Line("0"))
    first = trio.CancelScope()

    async def put_first() -> None:
        with first:
            await box.put(Line("cancelled"))

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_first)
            await wait_all_tasks_blocked()
            nursery.start_soon(box.put, Line("second"))
            await wait_all_tasks_blocked()
            first.cancel()
            await wait_all_tasks_blocked()
            assert await box.take() == ["0"]
            await wait_all_tasks_blocked()
            assert await box.take() == ["second"]


async def test_a_cancelled_take_takes_nothing() -> None:
    box = outbox()
    with trio.move_on_after(0):
        await box.take()
    box.put_nowait(Line("kept"))
    assert await box.take() == ["kept"]


async def test_flushed_means_written() -> None:
    box = outbox()
    box.put_nowait(Line("text"))
    box.put_frame(frame("left", b"l0"))
    await box.take()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.flushed)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks, "it is being written"
            assert not box.is_idle
            with trio.move_on_after(0):
                await box.take()  # the next `take` means that the last batch is written
            assert box.is_idle


async def test_a_frame_is_here_until_it_is_written_and_then_the_next_one_may_be_encoded() -> None:
    box = outbox()
    here: list[bool] = []
    box.put_nowait(Line("text"))
    await box.take()
    # The frame waits behind a slow write.
    box.put_frame(frame("left", b"l0", on_written=lambda _: here.append(box.has_frame("left"))))
    assert box.has_frame("left"), "it waits"
    assert not box.has_frame("right")
    with trio.fail_after(DEADLINE):
        assert await box.take() == [b"l0"]
    assert box.has_frame("left"), "it is being written"
    assert not box.has_frame("right")
    with trio.move_on_after(0):
        await box.take()
    assert here == [False], "whoever is told may put the next one"


async def test_audio_is_kept_in_order_and_only_the_oldest_of_its_track_is_pushed_out() -> None:
    counts = Counts()
    box = Outbox(max_messages=3, max_bytes=1000, counts=counts)
    box.put_frame(frame("left", b"l0"))
    assert box.put_audio(frame("music", b"m")) is None
    pushed_out = [box.put_audio(frame("voice", b"v%d" % n, n)) for n in range(MAX_AUDIO_BLOCKS + 2)]
    box.put_nowait(Line("text"))
    assert [each and each.seq for each in pushed_out] == [None] * MAX_AUDIO_BLOCKS + [0, 1]
    assert box.statistics().tracks == 3
    voice = [b"v%d" % seq for seq in range(2, MAX_AUDIO_BLOCKS + 2)]
    assert await box.take() == ["text", b"m", *voice, b"l0"]
    assert counts.frames["voice"].replaced == 2
    assert counts.frames["voice"].sent == MAX_AUDIO_BLOCKS
    assert counts.frames["music"].sent == 1


async def test_who_wants_to_know_is_told_what_was_written_and_what_was_dropped() -> None:
    written: list[OutFrame] = []
    box = Outbox(max_messages=3, max_bytes=1000)
    sent = [frame("left", b"l4", 4, written.append), frame("voice", b"v7", 7, written.append)]
    box.put_frame(sent[0])
    box.put_audio(sent[1])
    await box.take()
    assert written == []
    first, second = [frame("left", b"", seq, written.append) for seq in (5, 6)]
    assert box.put_frame(first) is None
    assert box.put_frame(second) is first
    assert box.drop_frames() == [second]
    with trio.move_on_after(0):
        await box.take()
    assert sorted(written, key=lambda each: each.seq) == sent


async def test_a_last_message_takes_the_place_of_all_frames() -> None:
    box = outbox()
    box.put_frame(frame("left", b"l0"))
    box.put_audio(frame("voice", b"v0"))
    await box.put(Line("goodbye"), last=True)
    box.put_audio(frame("voice", b"v1"))
    box.put_frame(frame("left", b"l1"))
    assert await box.take() == ["goodbye"]
    assert not box.has_frame("left")


async def test_closing_lets_everybody_go_on() -> None:
    box = outbox(max_messages=1)
    box.put_nowait(Line("0"))
    await box.take()
    box.put_nowait(Line("1"))
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.put, Line("2"))
            nursery.start_soon(box.flushed)
            await wait_all_tasks_blocked()
            box.close()
    box.put_nowait(Line("thrown away"))
    await box.put(Line("thrown away too"))
    box.put_frame(frame("left", b"x"))
    box.put_audio(frame("voice", b"x"))
    assert box.statistics().messages == box.statistics().tracks == 0


async def test_a_writer_can_be_woken_for_what_the_transport_has_begun() -> None:
    box = outbox()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_take_nothing, box)
            await wait_all_tasks_blocked()
            box.wake()


async def _take_nothing(box: Outbox) -> None:
    assert await box.take() == []


async def test_a_frame_that_nothing_is_ahead_of_is_written_where_it_is_put() -> None:
    client, server = memory_transport_pair()
    counts, written = Counts(), list[OutFrame]()
    box = Outbox(max_messages=3, max_bytes=1000, counts=counts, transport=server)
    left = [frame("left", b"l4", 4, written.append), frame("left", b"l5", 5, written.append)]
    voice = frame("voice", b"v0", 0, written.append)
    assert box.put_frame(left[0]) is None
    assert box.put_frame(left[1]) is None, "the one before is written, not replaced"
    assert box.put_audio(voice) is None
    assert written == [*left, voice]
    assert not box.has_frame("left")
    assert (counts.frames["left"].sent, counts.frames["voice"].sent) == (2, 1)
    assert box.is_idle
    with trio.fail_after(DEADLINE):
        await box.flushed()
        assert await client.receive() == [b"l4", b"l5", b"v0"]
    with trio.move_on_after(0) as scope:
        await box.take()
    assert scope.cancelled_caught, "nothing is left to take"


async def test_a_frame_overtakes_neither_what_waits_nor_what_is_being_written() -> None:
    client, server = memory_transport_pair()
    box = Outbox(max_messages=3, max_bytes=1000, transport=server)
    box.put_nowait(Line("waits"))
    box.put_frame(frame("left", b"l0", 0))
    assert await box.take() == ["waits", b"l0"]
    box.put_frame(frame("left", b"l1", 1))
    box.put_audio(frame("voice", b"v0", 0))
    assert await box.take() == [b"v0", b"l1"], "they had to wait for the write before"
    with trio.move_on_after(0):
        await box.take()
    await box.put(Line("goodbye"), last=True)
    box.put_frame(frame("left", b"l2", 2))
    box.put_audio(frame("voice", b"v1", 1))
    assert await box.take() == ["goodbye"]
    box.close()
    box.put_frame(frame("left", b"l3", 3))
    await server.abort()
    with pytest.raises(TransportClosed):
        await client.receive()


async def test_of_frames_that_a_stalled_client_does_not_take_the_newest_waits() -> None:
    client, server = memory_transport_pair(network=Network(buffer_bytes=100))
    counts = Counts()
    box = Outbox(max_messages=3, max_bytes=1000, counts=counts, transport=server)
    client.stall()
    size = 60
    kept = [box.put_frame(frame("left", bytes([seq]) * size, seq)) for seq in range(4)]
    assert [each and each.seq for each in kept] == [None, None, 1, 2]
    assert (counts.frames["left"].sent, counts.frames["left"].replaced) == (1, 2)
    assert await box.take() == [bytes([3]) * size]
