"""From `emit` to the outbox: what is shown waits in a short buffer and leaves it at its time.

Three stages, so that neither the network nor the encoder can slow the model down: the buffer of steps, which
makes `emit` wait; the pacer; and behind it one slot for each video track (video_out.py) and the samples that
are due of each audio track (audio_out.py).

One clock paces everything. A step is due when the video of the one before has been shown for its period, and
when the audio before it will have been played. So audio that lasts longer holds the video back, and audio
alone is paced by its own length. A block of audio is cut when its last sample is due, in the order of these
times whatever the time of waking: that is why rounding never makes a gap.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from reactor_trio.compute.from_thread import on_loop
from reactor_trio.compute.lanes import ENCODE
from reactor_trio.errors import FieldError, InvalidPayload
from reactor_trio.link.audio_out import AudioTrack
from reactor_trio.link.encoding import VideoEncoder
from reactor_trio.link.video_out import VideoTrack
from reactor_trio.media.settings import MediaSettings
from reactor_trio.model.ports import OutputStatistics
from reactor_trio.protocol import names
from reactor_trio.session.latency import LatencyTracker
from reactor_trio.session.naps import Nap
from reactor_trio.session.observer import Counts
from reactor_trio.session.output_steps import check_channels, convert, inspect_output, make_steps
from reactor_trio.session.step_time import StepTime

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from reactor_trio.compute.executor import Executor
    from reactor_trio.declare.tracks import Output, TrackSpec
    from reactor_trio.link.outbox import Outbox
    from reactor_trio.session.latency import Applied
    from reactor_trio.session.output_steps import Content, Step, Values

ROUNDING = 1e-6
"""Seconds within which a step and the end of a block are at the same time: the step comes first."""


class OutputStream:
    """The output of a session, `self.output` for its model."""

    def __init__(
        self,
        tracks: Iterable[TrackSpec],
        outbox: Outbox,
        executor: Executor,
        *,
        fps: float,
        buffer_size: int,
        counts: Counts | None = None,
        latency: LatencyTracker | None = None,
        media: MediaSettings | None = None,
        session_id: str = "",
    ) -> None:
        self._outbox = outbox
        self._executor = executor
        self._counts = Counts() if counts is None else counts
        self._latency = LatencyTracker() if latency is None else latency
        self._media_settings = MediaSettings() if media is None else media
        self._session_id = session_id
        self._buffer_size = buffer_size
        self._fps = check_fps(fps)
        self.period = 1 / fps
        """Seconds between two frames now: by `fps`, or slower if `compute_time` says so."""
        self._tracks = {track.name: track for track in tracks}
        self.video: dict[str, VideoTrack] = {}
        """By name: the session runs `encode` of each."""
        self.audio: dict[str, AudioTrack] = {}
        """By name."""
        for track in self._tracks.values():
            self._open(track)
        self._seq = dict.fromkeys(self.video, 0)
        self._waiting: deque[Step] = deque()
        # What of them has pictures, and the seconds of those that have not.
        self._frames_waiting = 0
        self._seconds_waiting = 0.0
        self._step_time = StepTime()
        self._now = trio.lowlevel.current_clock().current_time
        self._started = self._now()
        # When the newest step was due, and the newest with a picture, and when the rate was last raised.
        self._last_due = self._last_picture = self._plan_made = -math.inf
        self._emitted = self._dropped = 0
        # Whether an `emit` that waits for room does the pacer's work; and the nap of the task that does it:
        # until something is due, moved by whoever changes when that is.
        self._is_relieved = False
        self._nap = self._pacers_nap = Nap()
        self._emits_nap = Nap()
        # For order, not for exclusion: outputs are shown in the order of their `emit` calls.
        # A semaphore does that at half the price of a lock, which knows its owner.
        self._turn = trio.Semaphore(1)
        # Set by pacer and encoders; `played` waits for it.
        self._progress = trio.Event()

    def _open(self, track: TrackSpec) -> None:
        counts = self._counts.frames[track.name]
        if track.rate is None:
            encoder = VideoEncoder(
                track.name, self._executor, self._media_settings, self._rate, self._session_id
            )
            self.video[track.name] = VideoTrack(
                encoder, self._executor, self._outbox, self._latency, counts, self._have_progressed
            )
        else:
            self.audio[track.name] = AudioTrack(
                track.name, track.rate, self._outbox, self._latency, counts, self._pts
            )

    # ---- what the model sees

    @property
    def fps(self) -> float:
        """Frames per second of the output; may be set at any time. Raises `ValueError` if it is not > 0."""
        return self._fps

    @fps.setter
    @on_loop
    def fps(self, value: float) -> None:
        self._fps = check_fps(value)
        self._replan()

    def _rate(self) -> float:
        return 1 / self.period

    def statistics(self) -> OutputStatistics:
        """The numbers now."""
        encoded = sum(track.encoded for track in self.video.values())
        return OutputStatistics(len(self._waiting), self._emitted, self._dropped, encoded)

    @on_loop
    def flush(self) -> None:
        """Throw away the frames and the audio that wait, in the buffer and behind it."""
        for frame in self._outbox.drop_frames():
            self._track(frame.track).lost(frame)
        for name in self._tracks:
            self._track(name).clear()
        for step in self._waiting:
            self._throw_away(step)
        self._waiting.clear()
        self._frames_waiting, self._seconds_waiting = 0, 0.0
        self._nap.move(self._now())  # it may be that of an `emit`, for which there is room now
        self._have_progressed()

    def _throw_away(self, step: Step) -> None:
        self._dropped += 1
        for picture in step.pictures:
            self._counts.frames[picture.track].dropped += 1
            self.video[picture.track].carry(picture)
        for sound in step.sounds:
            self.audio[sound.track].line.count_dropped(len(sound.samples))
            self.audio[sound.track].carry(sound)

    def _track(self, name: str) -> VideoTrack | AudioTrack:
        return self.video[name] if name in self.video else self.audio[name]

    # ---- what the session sees

    def configure(self, track: str, changes: Mapping[str, Any]) -> None:
        """Change what the client has chosen of one track; `changes` is as in `ConfigureTrack`.

        Raises `InvalidPayload` for a codec that is not offered, and for what an audio track does not have.
        """
        self._track(track).configure(changes)

    def request_key_frame(self, track: str) -> None:
        """The client cannot decode on. Raises `InvalidPayload` for an audio track."""
        if track not in self.video:
            fault = FieldError("track", f"is audio, which has no key frames: {track!r}")
            raise InvalidPayload([fault], event=names.REQUEST_KEY_FRAME)
        self.video[track].encoder.request_key_frame()

    async def emit(self, output: Output, *, drop: bool, compute_time: float | None) -> bool:
        """See `ReactorModel.emit`."""
        content = inspect_output(output, self._tracks)
        if content.audio:
            check_channels(content, {name: track.line for name, track in self.audio.items()})
        if compute_time is not None:
            self._step_time.add(compute_time, content.frames)
            self._replan()
        if not content.steps:
            await trio.lowlevel.checkpoint()
            return True
        if drop and not self._has_room(content):
            await trio.lowlevel.checkpoint()
            self._refuse(content)
            return False
        # Before anything is waited for: what is handled from now on, this output does not reflect.
        applied = self._latency.take(self._now())
        taken = False
        try:
            await self._insert(output, content, applied)
            taken = True
        finally:
            if not taken:
                self._latency.give_back(applied)
        return taken

    async def _insert(self, output: Output, content: Content, applied: tuple[Applied, ...]) -> None:
        values = convert(output, content) if content.is_immediate else None
        if values is not None and self._has_room(content):
            await trio.lowlevel.checkpoint_if_cancelled()
            self._append(self._steps(content, values, applied))
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        try:
            self._turn.acquire_nowait()  # no checkpoint: one comes with waiting for room
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            if values is None:  # in a thread: what is emitted meanwhile comes after it
                values = await self._executor.run(ENCODE, convert, output, content)
            if not self._fits(content):
                await self._make_room(content)
            self._append(self._steps(content, values, applied))
        finally:
            self._turn.release()

    async def _make_room(self, content: Content) -> None:
        """Show what is due until it fits. Who waits does the pacer's work: that spares it a step a frame."""
        self._is_relieved, self._nap = True, self._emits_nap
        self._pacers_nap.move(math.inf)
        try:
            if not await self._advance():
                # It was late. If it always is, the model would let nobody else run.
                await trio.lowlevel.checkpoint()
            while not self._fits(content):
                await self._advance()
        finally:
            self._is_relieved, self._nap = False, self._pacers_nap
            self._wake()

    def _steps(self, content: Content, values: Values, applied: tuple[Applied, ...]) -> list[Step]:
        shares = self._latency.share(applied, self._tracks, values)
        return make_steps(content, values, shares, self._seq)

    def _refuse(self, content: Content) -> None:
        for track in content.video:
            self._seq[track] += content.frames  # a gap
            self._counts.frames[track].dropped += content.frames
        for track, layout in content.audio.items():
            self.audio[track].line.count_dropped(layout.samples)
        self._dropped += content.steps

    def _has_room(self, content: Content) -> bool:
        return self._turn.value > 0 and self._fits(content)

    def _fits(self, content: Content) -> bool:
        """Whether it fits into the buffer: in frames, or in as much time as these take, for audio alone."""
        if not (content.audio or self._seconds_waiting):
            return self._frames_waiting + content.frames <= max(self._buffer_size, content.frames)
        size = content.frames or content.seconds / self.period
        waiting = self._frames_waiting + self._seconds_waiting / self.period
        # What is larger than the buffer, such as a batch, is let in when the buffer is empty.
        return waiting + size <= max(self._buffer_size, size) + ROUNDING

    def _append(self, steps: Sequence[Step]) -> None:
        now = self._now()
        for step in steps:
            step.arrived = now
        self._count_waiting(steps, 1)
        was_empty = not self._waiting
        self._waiting.extend(steps)
        if was_empty:
            self._wake()

    def _count_waiting(self, steps: Iterable[Step], sign: int) -> None:
        for step in steps:
            if step.pictures:
                self._frames_waiting += sign
            else:
                self._seconds_waiting += sign * step.seconds

    def _replan(self) -> None:
        before, self.period = self.period, max(1 / self._fps, self._step_time.seconds)
        if self.period < before:
            # What would have been due by the new rate is due now, not in a burst.
            self._plan_made = self._now()
        self._wake()

    # ---- the pacer

    async def pace(self) -> None:
        """The pacer task: steps and blocks of audio, each at its time. Runs until it is cancelled."""
        while True:
            if self._is_relieved:
                await self._pacers_nap.until(math.inf)
            else:
                await self._advance()

    async def _advance(self) -> bool:
        """Sleep until something is due, or show it if it is; returns whether it has slept."""
        now = self._now()
        due, track = self._next(now)
        if due > now:
            await self._nap.until(due)
            return True
        if track is None:
            self._show(due, now - due)
        else:
            track.send_block(now - due)
            self._have_progressed()
        return False

    def _wake(self) -> None:
        """Have the pacer wake at another time, without a task switch if that is later."""
        self._nap.move(self._next(self._now())[0])

    def _next(self, now: float) -> tuple[float, AudioTrack | None]:
        """When something is due, and of which track the block is; None if it is a step."""
        due = self._step_due(now)
        if not self.audio:
            return due, None
        track = min(self.audio.values(), key=_next_block_at, default=None)
        if track is None or due <= track.line.next_block_at + ROUNDING:
            return due, None
        return track.line.next_block_at, track

    def _step_due(self, now: float) -> float:
        if not self._waiting:
            return math.inf
        step = self._waiting[0]
        if step.pictures:
            due = max(self._last_due, self._plan_made, step.arrived, self._last_picture + self.period)
            # Also behind the audio of steps that had no picture.
            heard: Iterable[str] = self.audio
        else:
            due = max(self._last_due, self._plan_made, step.arrived)
            heard = [sound.track for sound in step.sounds]
        for track in heard:
            due = max(due, self.audio[track].line.free_at)
        # By the plan, not by the time of waking, or the rate would drift; but never in a burst.
        late = now - due
        return due if late <= self.period or self._is_overtaken(late) else now

    def _is_overtaken(self, late: float) -> bool:
        """Whether the step at the front is so many seconds late that the one behind it is due as well.

        Then that takes its place, and the plan is kept; but not where there is sound, of which none is lost.
        """
        if late <= self.period or len(self._waiting) < 2:
            return False
        step, behind = self._waiting[0], self._waiting[1]
        return bool(step.pictures and behind.pictures) and not (step.sounds or behind.sounds)

    def _show(self, due: float, late: float) -> None:
        is_overtaken = self._is_overtaken(late)
        step = self._waiting.popleft()
        self._count_waiting([step], -1)
        if not self._waiting:
            self._seconds_waiting = 0.0  # free of what rounding has left
        self._emitted += 1
        self._last_due = due
        if step.pictures:
            self._last_picture = due
        pts = self._pts(due)
        for picture in step.pictures:
            picture.pts = pts
            self.video[picture.track].show(picture, is_overtaken=is_overtaken)
        for sound in step.sounds:
            self.audio[sound.track].play(sound, due)
        self._have_progressed()

    def _pts(self, time: float) -> float:
        return round(time - self._started, 9)  # the header is JSON: no digits of noise

    # ---- the end

    async def played(self) -> None:
        """Wait until all that was emitted has been handed to the outbox or replaced on the way there."""
        while not self._is_played():
            self._progress = trio.Event()
            await self._progress.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _is_played(self) -> bool:
        silent = all(track.line.waiting == 0 for track in self.audio.values())
        return silent and not self._waiting and all(track.is_idle for track in self.video.values())

    def _have_progressed(self) -> None:
        self._progress.set()


def _next_block_at(track: AudioTrack) -> float:
    return track.line.next_block_at


def check_fps(fps: float) -> float:
    """Return it if it is a rate; raises `ValueError`."""
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a finite number > 0, not {fps!r}")
    return fps
