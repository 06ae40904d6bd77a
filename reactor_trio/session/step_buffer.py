"""The steps of an output that wait for their time, and how much of the buffer they take."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from reactor_trio.session.output_steps import Content, Step

ROUNDING = 1e-6
"""Seconds within which a step and the end of a block are at the same time: the step comes first."""


class StepBuffer:
    """Bounded in frames, or in the time that these take where there is sound alone; oldest first."""

    def __init__(self, size: int) -> None:
        """`size` is in frames; a batch that is larger is let in when the buffer is empty."""
        self._size = size
        self._steps: deque[Step] = deque()
        # The steps that have pictures, and the seconds of those that have none.
        self._frames = 0
        self._seconds = 0.0

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> Step:
        return self._steps[index]

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps)

    def fits(self, content: Content, period: float) -> bool:
        """Whether an output fits in; `period` is the time of a frame, in seconds."""
        if not (content.audio or self._seconds):
            return self._frames + content.frames <= max(self._size, content.frames)
        size = content.frames or content.seconds / period
        waiting = self._frames + self._seconds / period
        # An output that is larger than the buffer, such as a batch, is let in when the buffer is empty.
        return waiting + size <= max(self._size, size) + ROUNDING

    def append(self, steps: Sequence[Step]) -> None:
        """Add steps at the end, whether they fit or not."""
        self._count(steps, 1)
        self._steps.extend(steps)

    def pop(self) -> Step:
        """Take the oldest step."""
        step = self._steps.popleft()
        self._count([step], -1)
        if not self._steps:
            self._seconds = 0.0  # free of what rounding has left
        return step

    def clear(self) -> None:
        """Forget all steps."""
        self._steps.clear()
        self._frames, self._seconds = 0, 0.0

    def _count(self, steps: Iterable[Step], sign: int) -> None:
        for step in steps:
            if step.pictures:
                self._frames += sign
            else:
                self._seconds += sign * step.seconds
