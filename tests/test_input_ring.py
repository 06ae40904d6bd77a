"""The ring of frames behind an input track: which reader gets which frame, and which frames are dropped."""

from __future__ import annotations

import copy
import pickle
from collections import deque
from typing import Any

import attrs
import hypothesis.strategies as st
import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given, settings

from reactor_trio import BufferClosed, InputFrame, ReadMode
from reactor_trio.declare.tracks import TrackSpec
from reactor_trio.session.inputs import InputTrack
from reactor_trio.session.observer import InputCounts

FRAME_BYTES = 8


def frame(seq: int, size: int = FRAME_BYTES) -> InputFrame:
    return InputFrame(np.zeros(size, np.uint8), pts=seq / 10, seq=seq, metadata=None)


def ring(max_bytes: int = 1_000_000) -> InputTrack:
    return InputTrack(TrackSpec("cam", "video", "in"), max_bytes, InputCounts())


def filled(count: int) -> InputTrack:
    track = ring()
    for seq in range(count):
        track.put(frame(seq))
    return track


def seqs(frames: list[InputFrame] | None) -> list[int] | None:
    return None if frames is None else [each.seq for each in frames]


async def reads(track: InputTrack, n: int, mode: ReadMode, into: list[Any]) -> None:
    try:
        into.append(seqs(await track.read(n, mode)))
    except BufferClosed:
        into.append("closed")


# ---- reading


def test_latest_gives_the_newest_and_forgets_what_is_older() -> None:
    track = filled(5)
    assert seqs(track.try_read(2)) == [3, 4]
    assert (track.available, track.dropped) == (0, 0)


def test_fifo_gives_the_oldest_and_keeps_what_is_newer() -> None:
    track = filled(5)
    assert seqs(track.try_read(2, ReadMode.FIFO)) == [0, 1]
    assert track.available == 3


@pytest.mark.parametrize("mode", ReadMode)
def test_too_few_frames_are_left_alone(mode: ReadMode) -> None:
    track = filled(3)
    assert track.try_read(4, mode) is None
    assert track.available == 3


@pytest.mark.parametrize("n", [0, -1, 129])
async def test_how_many_may_be_read(n: int) -> None:
    track = filled(3)
    with pytest.raises(ValueError, match="1 to 128"):
        track.try_read(n)
    with pytest.raises(ValueError, match="1 to 128"):
        await track.read(n)


async def test_read_is_a_checkpoint_whether_it_waits_or_not() -> None:
    track = filled(1)
    with trio.testing.assert_checkpoints():
        await track.read()
    track.close()
    with trio.testing.assert_checkpoints(), pytest.raises(BufferClosed):
        await track.read()


async def test_a_frame_larger_than_what_fits_is_told_to_one_who_waits() -> None:
    track = ring(max_bytes=3 * FRAME_BYTES)
    refusals: list[str] = []

    async def wait() -> None:
        with pytest.raises(ValueError, match="max_input_bytes") as refused:
            await track.read(4)
        refusals.append(str(refused.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        track.put(frame(0))
    assert refusals == ["input track 'cam': 4 frames of 8 bytes are more than the limit max_input_bytes, 24"]


# ---- several readers, and cancelled ones


async def test_readers_are_served_in_the_order_of_their_calls() -> None:
    track, into = ring(), list[Any]()
    async with trio.open_nursery() as nursery:
        for n in (3, 1, 2):
            nursery.start_soon(reads, track, n, ReadMode.FIFO, into)
            await trio.testing.wait_all_tasks_blocked()
        for seq in range(6):
            track.put(frame(seq))
            await trio.testing.wait_all_tasks_blocked()
    assert into == [[0, 1, 2], [3], [4, 5]]


async def test_one_who_comes_later_does_not_overtake() -> None:
    track, into = filled(1), list[Any]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reads, track, 2, ReadMode.FIFO, into)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(reads, track, 1, ReadMode.FIFO, into)
        await trio.testing.wait_all_tasks_blocked()
        assert into == []
        track.put(frame(1))
        track.put(frame(2))
    assert sorted(into) == [[0, 1], [2]]


async def test_a_reader_that_gives_up_makes_way() -> None:
    track, into = filled(1), list[Any]()
    async with trio.open_nursery() as nursery:
        impatient = trio.CancelScope()

        async def wait_for_two() -> None:
            with impatient:
                await track.read(2)

        nursery.start_soon(wait_for_two)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(reads, track, 1, ReadMode.FIFO, into)
        await trio.testing.wait_all_tasks_blocked()
        impatient.cancel()
    assert into == [[0]]


@pytest.mark.parametrize("cancelled_first", [False, True])
async def test_a_reader_cancelled_in_the_step_of_a_frame_loses_none(cancelled_first: bool) -> None:
    track, into = ring(), list[Any]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reads, track, 1, ReadMode.LATEST, into)
        await trio.testing.wait_all_tasks_blocked()
        if cancelled_first:
            nursery.cancel_scope.cancel()
        track.put(frame(0))
        nursery.cancel_scope.cancel()
    assert [*into, seqs(track.try_read())] == ([[0]] if cancelled_first else [[0], None])


async def test_a_read_that_was_cancelled_before_takes_nothing() -> None:
    track = filled(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await track.read()
    assert scope.cancelled_caught
    assert track.available == 1


async def test_a_read_that_has_its_frames_gives_them_though_it_is_cancelled() -> None:
    track, into = filled(1), list[Any]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reads, track, 1, ReadMode.LATEST, into)
        nursery.start_soon(cancel, nursery)
    assert [*into, seqs(track.try_read())] in ([[0], None], [[0]])


async def cancel(nursery: trio.Nursery) -> None:
    nursery.cancel_scope.cancel()


# ---- the end of a track


async def test_the_end_is_told_to_all_also_with_frames_left() -> None:
    track, into = filled(1), list[Any]()
    async with trio.open_nursery() as nursery:
        for n in (2, 1):
            nursery.start_soon(reads, track, n, ReadMode.FIFO, into)
            await trio.testing.wait_all_tasks_blocked()
        track.close()
        track.put(frame(1))  # a frame that was still being decoded
    assert into == ["closed", "closed"]
    assert track.available == 0
    with pytest.raises(BufferClosed, match="'cam'"):
        track.try_read()


async def test_one_who_tries_for_ever_does_not_hold_the_loop() -> None:
    track = ring()
    track.close()
    with trio.move_on_after(1) as scope:
        while True:
            with pytest.raises(BufferClosed):
                await track.read()
            await trio.sleep(0.1)
    assert scope.cancelled_caught


# ---- from a thread


@pytest.mark.real_time
async def test_a_thread_reads_while_the_loop_writes() -> None:
    """With a real thread: no frame is lost, read twice or out of order."""
    count, seen = 3000, list[int]()

    def consume(track: InputTrack) -> None:
        while len(seen) < count:
            frames = track.try_read(1, ReadMode.FIFO)
            seen.extend(each.seq for each in frames or ())

    track = ring()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, consume, track)
            for seq in range(count):
                while track.available > 100:
                    await trio.lowlevel.checkpoint()
                track.put(frame(seq))
    assert track.dropped == 0
    assert seen == list(range(count))


@pytest.mark.real_time
async def test_a_thread_may_wait_too() -> None:

    got: list[Any] = []

    track = ring()

    def wait() -> list[int] | None:
        return seqs(trio.from_thread.run(track.read, 2))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def look() -> None:
                got.append(await trio.to_thread.run_sync(wait))

            nursery.start_soon(look)
            await trio.lowlevel.checkpoint()
            track.put(frame(0))
            track.put(frame(1))
    assert got == [[0, 1]]


# ---- the ring against a list


@attrs.define
class Wait:
    """One call of `read`: its arguments, the result of the model (`wanted`) and of the ring (`got`)."""

    n: int
    mode: ReadMode
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    wanted: Any = None
    got: Any = None


class Model:
    """The behaviour that the ring must have, written with a list and two loops."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: list[int] = []
        self.waits: deque[Wait] = deque()
        self.dropped = 0
        self.closed = False

    def push(self, seq: int) -> None:
        if self.closed:
            return
        self.items.append(seq)
        while len(self.items) > self.capacity:
            del self.items[0]
            self.dropped += 1
        self.serve()

    def take(self, n: int, mode: ReadMode) -> list[int] | None:
        if len(self.items) < n:
            return None
        if mode is ReadMode.LATEST:
            taken, self.items = self.items[-n:], []
        else:
            taken, self.items = self.items[:n], self.items[n:]
        return taken

    def read(self, wait: Wait) -> None:
        if self.closed:
            wait.wanted = "closed"
            return
        self.waits.append(wait)
        self.serve()

    def serve(self) -> None:
        while self.waits:
            taken = self.take(self.waits[0].n, self.waits[0].mode)
            if taken is None:
                return
            self.waits.popleft().wanted = taken

    def cancel(self, wait: Wait) -> None:
        if wait in self.waits:
            self.waits.remove(wait)
            wait.wanted = "cancelled"
            self.serve()

    def close(self) -> None:
        self.closed = True
        self.items.clear()
        while self.waits:
            self.waits.popleft().wanted = "closed"


MODES = st.sampled_from(ReadMode)
COUNTS = st.integers(1, 5)
STEPS = st.one_of(
    st.just(("push",)),
    st.just(("push",)),
    st.tuples(st.just("try"), COUNTS, MODES),
    st.tuples(st.just("read"), COUNTS, MODES),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    # Two actions in one pass of Trio's loop.
    st.tuples(st.just("cancel and push"), st.integers(0, 3)),
    st.tuples(st.just("push and cancel"), st.integers(0, 3)),
    st.just(("close",)),
)


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=60))
async def test_the_ring_behaves_like_a_list(steps: list[tuple[Any, ...]]) -> None:
    capacity = 6
    track, model = ring(max_bytes=capacity * FRAME_BYTES), Model(capacity)
    waits: list[Wait] = []
    pushed = 0

    def push() -> None:
        nonlocal pushed
        track.put(frame(pushed))
        model.push(pushed)
        pushed += 1

    def give_up(index: int) -> None:
        for wait in list(model.waits)[index : index + 1]:
            model.cancel(wait)
            wait.scope.cancel()

    async def reader(wait: Wait) -> None:
        with wait.scope:
            try:
                wait.got = seqs(await track.read(wait.n, wait.mode))
            except BufferClosed:
                wait.got = "closed"
        if wait.scope.cancelled_caught:
            wait.got = "cancelled"

    async with trio.open_nursery() as nursery:
        for step in steps:
            match step:
                case ("push",):
                    push()
                case ("try", n, mode):
                    if model.closed:
                        with pytest.raises(BufferClosed):
                            track.try_read(n, mode)
                    else:
                        assert seqs(track.try_read(n, mode)) == model.take(n, mode)
                case ("read", n, mode):
                    wait = Wait(n, mode)
                    waits.append(wait)
                    nursery.start_soon(reader, wait)
                    model.read(wait)
                case ("cancel", index):
                    give_up(index)
                case ("cancel and push", index):
                    give_up(index)
                    push()
                case ("push and cancel", index):
                    push()
                    give_up(index)
                case ("close",):
                    track.close()
                    model.close()
            await trio.testing.wait_all_tasks_blocked()
            assert (track.available, track.dropped) == (len(model.items), model.dropped)
            assert [wait.got for wait in waits] == [wait.wanted for wait in waits]
        track.close()
        model.close()
    assert [wait.got for wait in waits] == [wait.wanted for wait in waits]


# ---- the frame


PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def picture() -> InputFrame:
    return InputFrame(PIXELS.copy(), pts=1.5, seq=7, metadata={"face": 1})


@pytest.mark.parametrize(
    "make",
    [
        lambda it: it[1:3],
        lambda it: it.copy(),
        lambda it: it.astype(np.float32),
        copy.copy,
        copy.deepcopy,
        *(lambda it, protocol=protocol: pickle.loads(pickle.dumps(it, protocol)) for protocol in range(2, 6)),
    ],
)
def test_views_and_copies_are_still_that_frame(make: Any) -> None:
    again = make(picture())
    assert isinstance(again, InputFrame)
    assert (again.pts, again.seq, dict(again.metadata)) == (1.5, 7, {"face": 1})
    np.testing.assert_array_equal(again, make(PIXELS))


@pytest.mark.parametrize(
    "make",
    [lambda it: 255 - it, lambda it: it.mean(axis=2), lambda it: it > 3, lambda it: np.stack([it, it])],
)
def test_what_is_calculated_is_a_plain_array(make: Any) -> None:
    assert type(make(picture())) is np.ndarray
    np.testing.assert_array_equal(make(picture()), make(PIXELS))


def test_it_can_be_drawn_into_and_summed_up() -> None:
    frame = picture()
    frame += 1
    assert isinstance(frame, InputFrame)
    assert frame[0, 0, 0] == 1
    assert type(frame.max()) is np.uint8
    assert frame.pts == 1.5


def test_reactors_data_is_the_plain_array() -> None:
    frame = picture()
    assert type(frame.data) is np.ndarray
    frame.data[0] = 9
    assert (frame[0] == 9).all()


def test_an_empty_metadata_is_a_mapping() -> None:
    assert frame(0).metadata == {}
    assert pickle.loads(pickle.dumps(frame(0))).metadata == {}
