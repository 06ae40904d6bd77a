"""The frames that a model reads from the tracks of an `Input`, and the two ways to read them."""

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
    """Which of the waiting frames a read takes. Both modes give them oldest first."""

    LATEST = "latest"
    """The newest frames; older ones are thrown away. For models that react: an old frame is of no use."""
    FIFO = "fifo"
    """The oldest frames; newer ones stay. For models that want every frame, as long as they keep up."""


class InputFrame(np.ndarray[Any, np.dtype[Any]]):
    """One frame of an input track: a numpy array with the time and the number that the client gave the frame.

    Video is `(H, W, 3)`, uint8, RGB; audio is `(channels, samples)`, int16. The memory belongs to the model,
    which may draw into the frame. Views and copies (`frame[10:20]`, `frame.copy()`, a pickle) are
    `InputFrame`s and keep the attributes; the result of a calculation (`255 - frame`, `frame.mean(axis=2)`)
    is a plain array.
    """

    pts: float
    """Seconds on the client's clock; for audio, the time of the first sample."""
    seq: int
    """The client's number of the frame. A gap between two numbers is a frame that was lost."""
    metadata: Mapping[str, Any]
    """The JSON object that the client sent with the frame; empty if there is none."""

    def __new__(
        cls, values: np.ndarray[Any, Any], *, pts: float, seq: int, metadata: Mapping[str, Any] | None = None
    ) -> Self:
        """A view of `values`, which is not copied."""
        frame = np.asarray(values).view(cls)
        frame.pts, frame.seq = pts, seq
        frame.metadata = NO_METADATA if metadata is None else metadata
        return frame

    def __array_finalize__(self, origin: object) -> None:
        # numpy calls it for each array that it makes of a frame, `origin`.
        self.pts = getattr(origin, "pts", 0.0)
        self.seq = getattr(origin, "seq", 0)
        self.metadata = getattr(origin, "metadata", NO_METADATA)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        # numpy calls it with the result of a calculation, which is the frame itself for `frame += 1`.
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
        """The same values as a plain array. The name is that of Reactor's runtime."""
        return self.view(np.ndarray)
