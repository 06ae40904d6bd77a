"""Reduces a frame rate evenly: for 20 of 30 frames a second two of three frames are kept, not one of two."""

from __future__ import annotations

import math

SLACK = 1e-6
"""Seconds by which a frame may be early: frame times are sums of periods, so rounding makes them inexact."""


class Thinning:
    """Chooses the frames of one track for a client that asked for at most `max_fps` frames a second.

    A frame is taken when it is due. The next frame is due one period after this frame was due, not after it
    came: so one late frame does not delay all later frames. After a gap longer than a period the next frame
    is due one period after the frame that ended the gap.
    """

    def __init__(self, max_fps: float | None) -> None:
        self._period = 0.0 if max_fps is None else 1 / max_fps
        self._due = -math.inf

    def takes(self, pts: float) -> bool:
        """Whether to take the frame with this time in seconds. Call it once for each frame, in order."""
        if pts < self._due - SLACK:
            return False
        planned = self._due + self._period
        self._due = planned if planned > pts else pts + self._period
        return True
