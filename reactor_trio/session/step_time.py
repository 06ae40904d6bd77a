"""Estimates the time that a model needs for a frame, from the times of its steps. Pure."""

from __future__ import annotations

import math
from collections import deque

SMOOTHING = 0.2
"""Weight of the newest step in the moving average, 0 to 1."""
OUTLIER = 2.0
"""A step counts for at most this many times the average, so that one slow step cannot halve the rate."""
MEMORY = 3
"""Number of newest steps. Their slowest bounds the average, so that a slow first step, in which the model
warms up, is soon forgotten."""


class StepTime:
    """A moving average of `compute_time`. `seconds` is in seconds per frame; 0 until the first `add`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._newest: deque[float] = deque(maxlen=MEMORY)

    def add(self, compute_time: float, frames: int) -> None:
        """Record the seconds that a step with so many frames took. A step without frames is ignored.

        Raises `ValueError` if `compute_time` is not a finite number >= 0.
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
