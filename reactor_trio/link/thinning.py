"""Fewer frames than there are, evenly: 20 of 30 a second are two of three, not every second one."""

from __future__ import annotations

import math

SLACK = 1e-6
"""Seconds; times are sums of periods, and not exact."""


class Thinning:
    """Decides frame by frame, by their times, which to take so that they are at most `max_fps` a second.

    A frame is taken when it is due, and the next one is due a period after this one *was due*, not after it
    came: so what is late does not make all that follows late. After a gap there is nothing to catch up on.
    """

    def __init__(self, max_fps: float | None) -> None:
        self._period = 0.0 if max_fps is None else 1 / max_fps
        self._due = -math.inf

    def takes(self, pts: float) -> bool:
        """Whether to take the frame of this time, in seconds; asked once for each, in order."""
        if pts < self._due - SLACK:
            return False
        planned = self._due + self._period
        self._due = planned if planned > pts else pts + self._period
        return True
