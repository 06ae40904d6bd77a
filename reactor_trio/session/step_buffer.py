"""The bounded buffer of the steps that wait until they are due."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from reactor_trio.session.output_steps import Content, Step

ROUNDING = 1e-6
"""Seconds within which a step and the end of a block count as simultaneous; the step is shown first."""


class StepBuffer:
    """The waiting steps of an output, oldest first. Bounded in frames; sound alone counts by its duration."""

    def __init__(self, size: int) -> None:
        """`size` is in frames. A larger batch fits if the buffer is empty."""
        self._size = size
        self._steps: deque[Step] = deque()
        # Number of steps with pictures, and duration of the steps without, in seconds.
        self._frames = 0
        self._seconds = 0.0

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> Step:
        return self._steps[index]

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps)

    def fits(self, content: Content, period: float) -> bool:
        """Whether an output fits in the buffer; `period` is the duration of a frame, in seconds."""
        if not (content.audio or self._seconds):
            return self._frames + content.frames <= max(self._size, content.frames)
        size = content.frames or content.seconds / period
        waiting = self._frames + self._seconds / period
        # An output that is larger than the buffer, such as a batch, fits if the buffer is empty.
        return waiting + size <= max(self._size, size) + ROUNDING

    def append(self, steps: Sequence[Step]) -> None:
        """Add steps at the end, without a check that they fit."""
        self._count(steps, 1)
        self._steps.extend(steps)

    def pop(self) -> Step:
        """Take the oldest step."""
        step = self._steps.popleft()
        self._count([step], -1)
        if not self._steps:
            self._seconds = 0.0  # remove the rounding error
        return step

    def clear(self) -> None:
        """Remove all steps."""
        self._steps.clear()
        self._frames, self._seconds = 0, 0.0

    def _count(self, steps: Iterable[Step], sign: int) -> None:
        for step in steps:
            if step.pictures:
                self._frames += sign
            else:
                self._seconds += sign * step.seconds
