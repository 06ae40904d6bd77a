"""How one client takes one video track: which codec, how often, how large. One encoder a track and session.

Everything here runs on the loop; the work itself is done by the executor, in the encode lane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.compute.executor import ENCODE, Executor
from reactor_trio.media.jpeg import encode_jpeg

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


@attrs.frozen
class Encoded:
    """One frame as it goes on the wire."""

    codec: str
    payload: bytes = attrs.field(repr=False)
    width: int
    """Pixels, after scaling."""
    height: int
    extra: Mapping[str, Any] = attrs.field(factory=dict)
    """Further fields of the header, such as `key`."""


class VideoEncoder:
    """The encoder of one track for one client."""

    def __init__(self, track: str, executor: Executor) -> None:
        self.track = track
        self._executor = executor

    def takes(self, pts: float) -> bool:
        """Whether the client wants the frame of this time, in seconds; asked once for each, in order."""
        return True

    async def encode(self, pixels: np.ndarray[Any, Any]) -> Encoded:
        """Encode a frame (H, W, 3), uint8, RGB. If cancelled, waits for the thread that is at it."""
        payload = await self._executor.run(ENCODE, encode_jpeg, pixels)
        height, width, _ = pixels.shape
        return Encoded("jpeg", payload, width, height)

    def lost(self) -> None:
        """A frame that was encoded will not be sent: the next one must not build on it."""
