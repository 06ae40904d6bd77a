"""The output of a session: steps wait in a short buffer, and the pacer shows each step when it is due.

An output passes three stages, so that neither the network nor the encoder can slow the model down: the buffer
of steps, whose bound makes `emit` wait; the pacer; and, for each client, one slot for each video track and
the sound that is due (`link/tracks.py`).

One plan (`session/plan.py`) gives the times of all tracks. A block of audio is cut when its last sample is
due. Steps and blocks are processed in the order of their due times, even if the pacer wakes late, so rounding
never makes a gap.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from reactor_trio.compute.from_thread import on_loop
from reactor_trio.compute.lanes import ENCODE
from reactor_trio.model.ports import OutputStatistics
from reactor_trio.session.audio_timeline import AudioTimeline, check_channels
from reactor_trio.session.output_steps import convert, inspect_output, make_steps
from reactor_trio.session.plan import Plan
from reactor_trio.session.step_buffer import ROUNDING, StepBuffer
from reactor_trio.session.timers import Timer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactor_trio.declare.tracks import Output
    from reactor_trio.session.applied import Applied, AppliedCommands
    from reactor_trio.session.context import SessionContext
    from reactor_trio.session.links import Viewer
    from reactor_trio.session.output_steps import Content, Step, Values

LATE = 0.1
"""Seconds after its time at which a block of silence is not sent any more, because the loop was blocked."""


class OutputStream:
    """The output of a session. A model reads it as `self.output`; the session calls `emit` and `pace`."""

    def __init__(
        self,
        context: SessionContext,
        applied: AppliedCommands,
        viewers: Sequence[Viewer],
        *,
        fps: float,
        buffer_size: int,
    ) -> None:
        """`viewers` are shown all output. Raises `ValueError` if `fps` is not a finite number > 0."""
        self._executor = context.executor
        self._frame_counts = context.counts.frames
        self._applied = applied
        self._viewers = viewers
        self._tracks = {track.name: track for track in context.contract.tracks if track.direction == "out"}
        self._seq = {name: 0 for name, track in self._tracks.items() if track.rate is None}
        self._timelines = {
            name: AudioTimeline(track.rate, self._frame_counts[name])
            for name, track in self._tracks.items()
            if track.rate is not None
        }
        self._plan = Plan(fps, self._timelines)
        self._buffer = StepBuffer(buffer_size)
        self._now = trio.lowlevel.current_clock().current_time
        self._started = self._now()
        self._emitted = self._dropped = 0
        # Whether an `emit` that waits for room does the pacer's work, and the timer of the task that does
        # this work. The timer ends at the next due time; code that changes the due time resets the timer.
        self._is_relieved = False
        self._timer = self._pacers_timer = Timer()
        self._emits_timer = Timer()
        # Keeps the outputs in the order of their `emit` calls. A semaphore, not a lock: a lock also records
        # its owner, which takes twice the CPU time.
        self._turn = trio.Semaphore(1)
        # Set by the pacer and the links when output has been shown or sent; `played` waits for it.
        self._progress = trio.Event()

    # ---- the side of the model

    @property
    def fps(self) -> float:
        """Frames per second of the output. May be set at any time; raises `ValueError` if not > 0."""
        return self._plan.fps

    @fps.setter
    @on_loop
    def fps(self, value: float) -> None:
        self._plan.set_fps(value, self._now())
        self._wake()

    @property
    def period(self) -> float:
        """Seconds between two frames now: 1 / `fps`, or the model's time for a frame if that is longer."""
        return self._plan.period

    def statistics(self) -> OutputStatistics:
        """The output's numbers now."""
        encoded = sum(viewer.encoded for viewer in self._viewers)
        return OutputStatistics(len(self._buffer), self._emitted, self._dropped, encoded)

    @on_loop
    def flush(self) -> None:
        """Throw away all waiting frames and audio, in the buffer and at each client."""
        for viewer in self._viewers:
            viewer.flush()
        for name, timeline in self._timelines.items():
            self._carry(name, timeline.seq, timeline.clear())
        for step in self._buffer:
            self._throw_away(step)
        self._buffer.clear()
        self._timer.reset(self._now())  # an `emit` may hold this timer, and has room now
        self.have_progressed()

    def _throw_away(self, step: Step) -> None:
        self._dropped += 1
        for picture in step.pictures:
            self._frame_counts[picture.track].dropped += 1
            self._carry(picture.track, picture.seq, picture.applied)
        for sound in step.sounds:
            timeline = self._timelines[sound.track]
            timeline.count_dropped(len(sound.samples))
            self._carry(sound.track, timeline.seq, sound.applied)

    def _carry(self, track: str, seq: int, applied: tuple[Applied, ...]) -> None:
        for viewer in self._viewers:
            viewer.carry(track, seq, applied)

    # ---- the side of the session

    @property
    def has_tracks(self) -> bool:
        """Whether the model has output tracks; without any, no pacer is needed."""
        return bool(self._tracks)

    async def emit(self, output: Output, *, drop: bool, compute_time: float | None) -> bool:
        """See `ReactorModel.emit`."""
        content = inspect_output(output, self._tracks)
        if content.audio:
            check_channels(content, self._timelines)
        if compute_time is not None:
            self._plan.took(compute_time, content.frames, self._now())
            self._wake()
        if not content.steps:
            await trio.lowlevel.checkpoint()
            return True
        if drop and not self._has_room(content):
            await trio.lowlevel.checkpoint()
            self._refuse(content)
            return False
        # Before the first wait: this output does not reflect commands that are handled during the wait.
        applied = self._applied.take(self._now())
        taken = False
        try:
            await self._insert(output, content, applied)
            taken = True
        finally:
            if not taken:
                self._applied.give_back(applied)
        return taken

    async def _insert(self, output: Output, content: Content, applied: tuple[Applied, ...]) -> None:
        values = convert(output, content) if content.is_immediate else None
        if values is not None and self._has_room(content):
            await trio.lowlevel.checkpoint_if_cancelled()
            self._append(self._steps(content, values, applied))
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        try:
            self._turn.acquire_nowait()  # no checkpoint: waiting for room, or for the thread, has one
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            if values is None:  # convert in a thread; a later `emit` waits for `_turn` meanwhile
                values = await self._executor.run(ENCODE, convert, output, content)
            if not self._fits(content):
                await self._make_room(content)
            self._append(self._steps(content, values, applied))
        finally:
            self._turn.release()

    async def _make_room(self, content: Content) -> None:
        """Do the pacer's work in this task until the content fits: this saves a task switch a frame."""
        self._is_relieved, self._timer = True, self._emits_timer
        self._pacers_timer.reset(math.inf)
        try:
            if not await self._advance():
                # A step was due already. A model that is always late would never let other tasks run.
                await trio.lowlevel.checkpoint()
            while not self._fits(content):
                await self._advance()
        finally:
            self._is_relieved, self._timer = False, self._pacers_timer
            self._wake()

    def _steps(self, content: Content, values: Values, applied: tuple[Applied, ...]) -> list[Step]:
        shares = self._applied.share(applied, self._tracks, values)
        return make_steps(content, values, shares, self._seq)

    def _refuse(self, content: Content) -> None:
        for track in content.video:
            self._seq[track] += content.frames  # clients see a gap
            self._frame_counts[track].dropped += content.frames
        for track, layout in content.audio.items():
            self._timelines[track].count_dropped(layout.samples)
        self._dropped += content.steps

    def _has_room(self, content: Content) -> bool:
        return self._turn.value > 0 and self._fits(content)

    def _fits(self, content: Content) -> bool:
        return self._buffer.fits(content, self._plan.period)

    def _append(self, steps: Sequence[Step]) -> None:
        now = self._now()
        for step in steps:
            step.arrived = now
        was_empty = not self._buffer
        self._buffer.append(steps)
        if was_empty:
            self._wake()

    # ---- the pacer

    async def pace(self) -> None:
        """The pacer task: shows each step and plays each block of audio in time. Runs until cancelled."""
        while True:
            if self._is_relieved:
                await self._pacers_timer.sleep_until(math.inf)
            else:
                await self._advance()

    async def _advance(self) -> bool:
        """Show the step or play the block that is due, or sleep until one is; returns True if it slept."""
        now = self._now()
        due, track = self._next(now)
        if due > now:
            await self._timer.sleep_until(due)
            return True
        if track is None:
            self._show(due, now - due)
        else:
            self._play(track, now - due)
        self.have_progressed()
        return False

    def _wake(self) -> None:
        """Reset the timer to the next due time. Makes no task switch if the due time is still to come."""
        self._timer.reset(self._next(self._now())[0])

    def _next(self, now: float) -> tuple[float, str | None]:
        """The next due time, in seconds of Trio's clock, and the audio track whose block is due then.

        The track is None if a step is due. The time is infinity if no step or block waits.
        """
        due = self._plan.due(self._buffer, now)
        if not self._timelines:
            return due, None
        track, timeline = min(self._timelines.items(), key=_next_block_at)
        if due <= timeline.next_block_at + ROUNDING:
            return due, None
        return timeline.next_block_at, track

    def _show(self, due: float, late: float) -> None:
        is_overtaken = self._plan.is_overtaken(self._buffer, late)
        step = self._buffer.pop()
        self._emitted += 1
        self._plan.shown(step, due)
        pts = self.pts(due)
        for picture in step.pictures:
            picture.pts = pts
            for viewer in self._viewers:
                viewer.show(picture, is_overtaken=is_overtaken)
        for sound in step.sounds:
            self._timelines[sound.track].lay(sound, due)

    def _play(self, track: str, late: float) -> None:
        timeline = self._timelines[track]
        if late > LATE and not timeline.waiting:
            timeline.rest()
            return
        block = timeline.cut()
        for viewer in self._viewers:
            viewer.play(track, block)

    def pts(self, time: float) -> float:
        """Convert a time of Trio's clock to a timestamp for clients: seconds since the session began."""
        return round(time - self._started, 9)  # the header is JSON: keep out the digits of rounding errors

    # ---- the end

    async def played(self) -> None:
        """Wait until all emitted output has been handed to the outbox, or replaced by newer output.

        If cancelled, the output is still shown.
        """
        while not self._is_played():
            self._progress = trio.Event()
            await self._progress.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _is_played(self) -> bool:
        silent = all(timeline.waiting == 0 for timeline in self._timelines.values())
        return silent and not self._buffer and all(viewer.is_idle for viewer in self._viewers)

    def have_progressed(self) -> None:
        """Wake `played`. Called when output has left the buffer or a link's slots."""
        self._progress.set()


def _next_block_at(timeline: tuple[str, AudioTimeline]) -> float:
    return timeline[1].next_block_at
