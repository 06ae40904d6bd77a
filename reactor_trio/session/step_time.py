"""The rate that a model can sustain, from the times that its steps took."""

from __future__ import annotations

import math
from collections import deque

SMOOTHING = 0.2
"""Weight of the newest step in the moving average."""
OUTLIER = 2.0
"""A step counts for at most this many average ones, so that one slow step cannot halve the rate."""
MEMORY = 3
"""Steps. The average is never more than the slowest of these, so that it soon forgets what is over: mostly a
slow first step, in which a model warms up."""


class StepTime:
    """A moving average of `compute_time`, in seconds a frame; 0 until the first one is known."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._newest: deque[float] = deque(maxlen=MEMORY)

    def add(self, compute_time: float, frames: int) -> None:
        """Take in what a step took that made so many frames; without frames it says nothing.

        Raises `ValueError` if it is not a number of seconds >= 0.
        """
        if not (math.isfinite(compute_time) and compute_time >= 0):
            raise ValueError(f"compute_time must be a number of seconds >= 0, not {compute_time!r}")
        if not frames:
            return
        newest = compute_time / frames
        self._newest.append(newest)
        if not self.seconds:
            self.seconds = newest
            return
        bounded = min(newest, OUTLIER * self.seconds)
        self.seconds += SMOOTHING * (bounded - self.seconds)
        if len(self._newest) == MEMORY:
            self.seconds = min(self.seconds, max(self._newest))
