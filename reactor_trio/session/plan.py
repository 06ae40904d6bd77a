"""Computes when each step of an output is due, from the frame rate and the audio before the step. Pure.

A step is due when the picture of the step before has been shown for one period, and the audio before the step
has been played. So longer audio delays the video, and audio without video is paced by its own length. The due
time is computed from the due time of the step before, not from the time at which the loop woke, since the
rate would drift otherwise. Steps are never shown in a burst.
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
    """The due times of one session's output, in seconds of Trio's clock. Used by `OutputStream`."""

    def __init__(self, fps: float, timelines: Mapping[str, AudioTimeline]) -> None:
        """`timelines` are the audio tracks'. Raises `ValueError` if `fps` is not a finite number > 0."""
        self._timelines = timelines
        self._fps = check_fps(fps)
        self.period = 1 / fps
        """Seconds between two frames now: 1 / `fps`, or the model's time for a frame if that is longer."""
        self._step_time = StepTime()
        # Due times of the last step and of the last step with a picture; time of the last rise of the rate.
        self._last_due = self._last_picture = self._raised = -math.inf

    @property
    def fps(self) -> float:
        """The rate that the model has set, in frames per second."""
        return self._fps

    def set_fps(self, fps: float, now: float) -> None:
        """Change the rate. Raises `ValueError` if `fps` is not a finite number > 0."""
        self._fps = check_fps(fps)
        self._change(now)

    def took(self, compute_time: float, frames: int, now: float) -> None:
        """Record the model's `compute_time`, in seconds, for so many frames. Raises as `StepTime.add`."""
        self._step_time.add(compute_time, frames)
        self._change(now)

    def _change(self, now: float) -> None:
        before, self.period = self.period, max(1 / self._fps, self._step_time.seconds)
        if self.period < before:
            # A step whose time by the new rate has passed is due now, and later steps do not come in a burst.
            self._raised = now

    def due(self, steps: StepBuffer, now: float) -> float:
        """Return when the oldest step is due; infinity if there is none.

        Returns `now` if the step is late by more than a period and no step behind it can replace it.
        """
        if not steps:
            return math.inf
        step = steps[0]
        if step.pictures:
            due = max(self._last_due, self._raised, step.arrived, self._last_picture + self.period)
            # A picture also waits for the audio of earlier steps that had no picture.
            for timeline in self._timelines.values():
                due = max(due, timeline.free_at)
        else:
            due = max(self._last_due, self._raised, step.arrived)
            for sound in step.sounds:
                due = max(due, self._timelines[sound.track].free_at)
        late = now - due
        return due if late <= self.period or self.is_overtaken(steps, late) else now

    def is_overtaken(self, steps: StepBuffer, late: float) -> bool:
        """Whether the oldest step is `late` by so many seconds that the step behind it is due as well.

        Then the later step replaces it, and the due times stay as planned. Always False if one of the two
        steps has sound, since no sound may be lost.
        """
        if late <= self.period or len(steps) < 2:
            return False
        step, behind = steps[0], steps[1]
        return bool(step.pictures and behind.pictures) and not (step.sounds or behind.sounds)

    def shown(self, step: Step, due: float) -> None:
        """Record that a step was shown, and when it was `due`."""
        self._last_due = due
        if step.pictures:
            self._last_picture = due


def check_fps(fps: float) -> float:
    """Return `fps`. Raises `ValueError` if it is not a finite number > 0."""
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a finite number > 0, not {fps!r}")
    return fps
