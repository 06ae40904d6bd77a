"""When each step of an output is due: by the rate, by the sound before it, and never in a burst. Pure.

A step is due when the video of the step before has been shown for its period, and when the audio before it
will have been played. So audio that lasts longer holds the video back, and audio alone is paced by its own
length. A step's time follows from the plan, not from the time at which the loop woke, or the rate would
drift.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from reactor_trio.session.step_time import StepTime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.session.audio_timeline import AudioTimeline
    from reactor_trio.session.output_steps import Step
    from reactor_trio.session.step_buffer import StepBuffer


class Plan:
    """The times of one output, in seconds of the runtime's clock."""

    def __init__(self, fps: float, timelines: Mapping[str, AudioTimeline]) -> None:
        """`timelines` are the audio tracks'. Raises `ValueError` for an `fps` that is no number > 0."""
        self._timelines = timelines
        self._fps = check_fps(fps)
        self.period = 1 / fps
        """Seconds between two frames now: by `fps`, or slower if the model takes longer for a step."""
        self._step_time = StepTime()
        # When the newest step was due, and the newest with a picture, and when the rate was last raised.
        self._last_due = self._last_picture = self._raised = -math.inf

    @property
    def fps(self) -> float:
        """The rate that was asked for, in frames a second."""
        return self._fps

    def set_fps(self, fps: float, now: float) -> None:
        """Change the rate. Raises `ValueError` if it is no number > 0."""
        self._fps = check_fps(fps)
        self._change(now)

    def took(self, compute_time: float, frames: int, now: float) -> None:
        """Take in the seconds that the model took for so many frames. Raises `ValueError` as `StepTime`."""
        self._step_time.add(compute_time, frames)
        self._change(now)

    def _change(self, now: float) -> None:
        before, self.period = self.period, max(1 / self._fps, self._step_time.seconds)
        if self.period < before:
            # A step that would have been due by the new rate is due now, and those behind it not in a burst.
            self._raised = now

    def due(self, steps: StepBuffer, now: float) -> float:
        """When the oldest step is due; infinity if there is none."""
        if not steps:
            return math.inf
        step = steps[0]
        if step.pictures:
            due = max(self._last_due, self._raised, step.arrived, self._last_picture + self.period)
            # Also behind the audio of steps that had no picture.
            for timeline in self._timelines.values():
                due = max(due, timeline.free_at)
        else:
            due = max(self._last_due, self._raised, step.arrived)
            for sound in step.sounds:
                due = max(due, self._timelines[sound.track].free_at)
        late = now - due
        return due if late <= self.period or self.is_overtaken(steps, late) else now

    def is_overtaken(self, steps: StepBuffer, late: float) -> bool:
        """Whether the oldest step is so many seconds late that the one behind it is due as well.

        Then that takes its place, and the plan is kept; but not where there is sound, of which none is lost.
        """
        if late <= self.period or len(steps) < 2:
            return False
        step, behind = steps[0], steps[1]
        return bool(step.pictures and behind.pictures) and not (step.sounds or behind.sounds)

    def shown(self, step: Step, due: float) -> None:
        """Note that a step was shown that was due then."""
        self._last_due = due
        if step.pictures:
            self._last_picture = due


def check_fps(fps: float) -> float:
    """Return it if it is a rate; raises `ValueError`."""
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a finite number > 0, not {fps!r}")
    return fps
