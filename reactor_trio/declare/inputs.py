"""What a model reads from its client: frames of the tracks that an `Input` declares."""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

NO_METADATA: Final[Mapping[str, Any]] = MappingProxyType({})


class ReadMode(enum.Enum):
    """Which of the frames that wait a read gives, oldest first in either case."""

    LATEST = "latest"
    """The newest; what is older is thrown away. For models that react: an old frame is of no use."""
    FIFO = "fifo"
    """The oldest; newer ones stay. For models that want every frame, as long as they keep up."""


class InputFrame(np.ndarray[Any, np.dtype[Any]]):
    """One frame of an input track, a numpy array with the time and the number that the client gave it.

    Video is `(H, W, 3)`, uint8, RGB; audio `(channels, samples)`, int16. The memory is the model's own: it
    may draw into it. Views and copies (`frame[10:20]`, `frame.copy()`, a pickle) are `InputFrame`s and keep
    the attributes; what is calculated from a frame (`255 - frame`, `frame.mean(axis=2)`) is a plain array.
    """

    pts: float
    """Seconds on the client's clock, for audio those of the first sample."""
    seq: int
    """The client's number of the frame; a gap is one that was lost."""
    metadata: Mapping[str, Any]
    """What the client said with it, a JSON object; empty if it said nothing."""

    def __new__(
        cls, values: np.ndarray[Any, Any], *, pts: float, seq: int, metadata: Mapping[str, Any] | None = None
    ) -> Self:
        """A view of `values`, which is not copied."""
        frame = np.asarray(values).view(cls)
        frame.pts, frame.seq = pts, seq
        frame.metadata = NO_METADATA if metadata is None else metadata
        return frame

    def __array_finalize__(self, origin: object) -> None:
        # Called for whatever numpy makes of a frame; `origin` is what it was made of.
        self.pts = getattr(origin, "pts", 0.0)
        self.seq = getattr(origin, "seq", 0)
        self.metadata = getattr(origin, "metadata", NO_METADATA)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        # The result of a calculation. With `out=frame` and `frame += 1` it is that frame.
        if array is self:
            return self
        return array[()] if return_scalar else np.asarray(array)

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        rebuild, arguments, state = reduced
        return rebuild, arguments, (state, self.pts, self.seq, dict(self.metadata))

    def __setstate__(self, state: Any) -> None:
        array_state, self.pts, self.seq, self.metadata = state
        super().__setstate__(array_state)

    @property
    def data(self) -> np.ndarray[Any, Any]:  # type: ignore[override]
        """The same values as a plain array (its name in Reactor's runtime)."""
        return self.view(np.ndarray)
