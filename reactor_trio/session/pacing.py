"""From `emit` to the outbox: frames wait in a short buffer, leave it at the model's rate, and are encoded.

Three stages, so that neither the network nor the encoder can slow the model down: the buffer, which makes
`emit` wait; the pacer, which opens one slot a track at each tick of Trio's clock; and an encoder a track,
which takes the newest frame from the slot whenever the previous one has been written.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import trio

from reactor_trio.compute.executor import ENCODE, Executor
from reactor_trio.media.frames import VideoLayout, inspect_video, rgb_frames
from reactor_trio.protocol.binary import MediaFrame, encode_media
from reactor_trio.session.encoding import VideoEncoder
from reactor_trio.session.observer import Counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from reactor_trio.authoring.tracks import Output, TrackSpec
    from reactor_trio.session.outbox import Outbox

SMOOTHING = 0.2
"""Weight of the newest `compute_time` in the moving average: one slow step must not halve the rate."""


@attrs.frozen
class _Picture:
    """One frame of one track on its way."""

    track: str
    seq: int
    pixels: np.ndarray[Any, Any]
    pts: float = 0.0


@attrs.frozen
class OutputStatistics:
    """Numbers of one session's output."""

    waiting: int
    """Frames in the buffer."""
    emitted: int
    """Frames that left the buffer, on time."""
    dropped: int
    """Frames that `emit(drop=True)` refused or `flush` threw away."""
    encoded: int


class _Slot:
    """The newest frame of a track, for its encoder."""

    def __init__(self) -> None:
        self.picture: _Picture | None = None
        # Set by the pacer; the track's encoder waits for it.
        self.filled = trio.Event()


class OutputStream:
    """The output of a session, `self.output` for its model."""

    def __init__(
        self,
        tracks: Sequence[str],
        outbox: Outbox,
        executor: Executor,
        *,
        fps: float,
        buffer_size: int,
        counts: Counts | None = None,
    ) -> None:
        self._outbox = outbox
        self._counts = Counts() if counts is None else counts
        self._executor = executor
        self._buffer_size = buffer_size
        self._fps = check_fps(fps)
        self._slots = {track: _Slot() for track in tracks}
        self._encoders = {track: VideoEncoder(track, executor) for track in tracks}
        self._seq = dict.fromkeys(tracks, 0)
        self._waiting: deque[list[_Picture]] = deque()
        self._step_time = 0.0
        self._started = trio.current_time()
        self._last_tick = -math.inf
        self._emitted = self._dropped = self._encoded = 0
        self._encoding = 0
        # The pacer's nap until the next frame is due; a new rate moves its deadline.
        self._nap: trio.CancelScope | None = None
        # Set by `emit`; the pacer waits for it.
        self._arrived = trio.Event()
        # Set by the pacer and by `flush`; the `emit` whose turn it is waits for it.
        self._room = trio.Event()
        # For order, not for exclusion: outputs are shown in the order of their `emit` calls.
        self._turn = trio.Lock()
        # Set by pacer and encoders; `played` waits for it.
        self._progress = trio.Event()

    @property
    def fps(self) -> float:
        """Frames per second of the output; may be set at any time. Raises `ValueError` if it is not > 0."""
        return self._fps

    @fps.setter
    def fps(self, value: float) -> None:
        self._fps = check_fps(value)
        self._move_nap()

    @property
    def period(self) -> float:
        """Seconds between two frames now: by `fps`, or slower if `compute_time` says so."""
        return max(1 / self._fps, self._step_time)

    def statistics(self) -> OutputStatistics:
        """The numbers now."""
        return OutputStatistics(len(self._waiting), self._emitted, self._dropped, self._encoded)

    def flush(self) -> None:
        """Throw away the frames that wait, in the buffer and behind it."""
        self._dropped += len(self._waiting)
        for step in self._waiting:
            for picture in step:
                self._count_dropped(picture.track)
        self._waiting.clear()
        for slot in self._slots.values():
            if slot.picture is not None:
                self._count_dropped(slot.picture.track)
            slot.picture = None
        self._outbox.drop_frames()
        self._room.set()
        self._progress.set()

    def _count_dropped(self, track: str, count: int = 1) -> None:
        self._counts.frames[track].dropped += count

    async def emit(self, output: Output, *, drop: bool, compute_time: float | None) -> bool:
        """See `ReactorModel.emit`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        layouts = self._inspect(output)
        count = next(iter(layouts.values())).count if layouts else 0
        self._measure(compute_time, count)
        if drop and (self._turn.locked() or not self._fits(count)):
            self._number({track: [] for track in layouts}, skip=count)
            self._dropped += count
            for track in layouts:
                self._count_dropped(track, count)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return False
        frames = {track: await self._rgb(output, track, layout) for track, layout in layouts.items()}
        async with self._turn:
            while not self._fits(count):
                self._room = trio.Event()
                await self._room.wait()
            self._waiting.extend(self._number(frames))
        self._arrived.set()
        return True

    def _inspect(self, output: Output) -> Mapping[str, VideoLayout]:
        """Layout of each track that has a value; raises `ValueError` for what cannot be shown."""
        layouts: dict[str, VideoLayout] = {}
        for track in type(output).__tracks__:
            value = getattr(output, track.name)
            if value is None:
                continue
            if track.name not in self._slots:
                raise ValueError(_unknown_track(track))
            layouts[track.name] = inspect_video(value, track=track.name)
        if len({layout.count for layout in layouts.values()}) > 1:
            counts = ", ".join(f"{track}: {layout.count}" for track, layout in layouts.items())
            raise ValueError(f"the tracks of one output must have equally many frames, not {counts}")
        return layouts

    async def _rgb(self, output: Output, track: str, layout: VideoLayout) -> Sequence[np.ndarray[Any, Any]]:
        value = getattr(output, track)
        if layout.immediate:
            return rgb_frames(value, layout)
        return await self._executor.run(ENCODE, rgb_frames, value, layout)

    def _number(self, frames: Mapping[str, Sequence[Any]], skip: int = 0) -> list[list[_Picture]]:
        """Give the frames their numbers; `skip` counts frames that will never be seen, and leave a gap."""
        steps: list[list[_Picture]] = [[] for _ in next(iter(frames.values()), ())]
        for track, pixels in frames.items():
            for step, picture in zip(steps, pixels, strict=True):
                step.append(_Picture(track, self._seq[track], picture))
                self._seq[track] += 1
            self._seq[track] += skip
        return steps

    def _fits(self, count: int) -> bool:
        # A batch may be larger than the buffer: it is let in when the buffer is empty.
        return len(self._waiting) + count <= max(self._buffer_size, count)

    def _measure(self, compute_time: float | None, count: int) -> None:
        if compute_time is None or not count:
            return
        if not (math.isfinite(compute_time) and compute_time >= 0):
            raise ValueError(f"compute_time must be a number of seconds >= 0, not {compute_time!r}")
        step_time = compute_time / count
        if self._step_time:
            step_time = self._step_time + SMOOTHING * (step_time - self._step_time)
        self._step_time = step_time
        self._move_nap()

    async def pace(self) -> None:
        """The pacer task: open the slots once a period. Runs until it is cancelled."""
        while True:
            await self._next_arrival()
            await self._sleep_until_due()
            if self._waiting:
                self._tick(self._waiting.popleft())

    async def _next_arrival(self) -> None:
        while not self._waiting:
            self._arrived = trio.Event()
            await self._arrived.wait()

    async def _sleep_until_due(self) -> None:
        now, due = trio.current_time(), self._last_tick + self.period
        if due <= now:  # the model was late: count from now, never in a burst
            self._last_tick = now
            return
        with trio.move_on_at(due) as self._nap:
            await trio.sleep_forever()
        # By the plan, not by the time of waking, or the rate would drift; unless the rate was changed.
        self._last_tick = due if self._nap.deadline == due else trio.current_time()
        self._nap = None

    def _move_nap(self) -> None:
        if self._nap is not None:
            self._nap.deadline = self._last_tick + self.period

    def _tick(self, step: list[_Picture]) -> None:
        self._emitted += 1
        pts = trio.current_time() - self._started
        for picture in step:
            slot = self._slots[picture.track]
            self._counts.frames[picture.track].replaced += slot.picture is not None
            slot.picture = attrs.evolve(picture, pts=pts)
            slot.filled.set()
        self._room.set()
        self._progress.set()

    async def encode(self, track: str) -> None:
        """The encoder task of a track: always the newest frame. Runs until it is cancelled."""
        slot = self._slots[track]
        while True:
            while slot.picture is None:
                slot.filled = trio.Event()
                await slot.filled.wait()
            await self._outbox.frame_written(track)
            if slot.picture is not None:  # it may have been flushed meanwhile
                picture, slot.picture = slot.picture, None
                await self._encode(picture)

    async def _encode(self, picture: _Picture) -> None:
        self._encoding += 1
        try:
            encoded = await self._encoders[picture.track].encode(picture.pixels)
        finally:
            self._encoding -= 1
        frame = MediaFrame(
            picture.track,
            picture.seq,
            picture.pts,
            encoded.codec,
            encoded.payload,
            width=encoded.width,
            height=encoded.height,
            extra=encoded.extra,
        )
        self._outbox.put_frame(picture.track, encode_media(frame))
        self._encoded += 1
        self._progress.set()

    async def played(self) -> None:
        """Wait until all that was emitted has been handed to the outbox or replaced on the way there."""
        while self._waiting or self._encoding or any(slot.picture for slot in self._slots.values()):
            self._progress = trio.Event()
            await self._progress.wait()
        await trio.lowlevel.checkpoint_if_cancelled()


def _unknown_track(track: TrackSpec) -> str:
    if track.kind == "video":
        return f"track {track.name!r} was not announced: declare its Output beside the model"
    return f"track {track.name!r} is {track.kind}: so far only video can be emitted"


def check_fps(fps: float) -> float:
    """Return it if it is a rate; raises `ValueError`."""
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a finite number > 0, not {fps!r}")
    return fps
