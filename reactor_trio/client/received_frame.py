"""A frame of a track, as a client receives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from reactor_trio.media.jpeg import decode_jpeg
from reactor_trio.protocol.text import is_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.protocol.binary import MediaFrame
    from reactor_trio.protocol.text import Id


@attrs.frozen
class Frame:
    """One encoded frame of a track.

    `seq` counts what the model emitted, so a gap is a dropped frame; `pts` is in seconds since the
    session's start; `received_at` in seconds of the client's clock; `width` and `height` in pixels (video),
    `rate` in samples a second (audio). `payload` is a view of the received message.
    """

    track: str
    seq: int
    pts: float
    codec: str
    width: int | None
    height: int | None
    rate: int | None
    channels: int | None
    payload: memoryview = attrs.field(repr=False)
    received_at: float
    extra: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def read(cls, media: MediaFrame, received_at: float) -> Frame:
        """Make the frame of a decoded message."""
        return cls(
            media.track,
            media.seq,
            media.pts,
            media.codec,
            media.width,
            media.height,
            media.rate,
            media.channels,
            memoryview(media.payload),
            received_at,
            media.extra,
        )

    @property
    def applied(self) -> tuple[Id, ...]:
        """The `id`s of the commands that this frame is the first of its track to reflect."""
        ids = self.extra.get("applied")
        return tuple(id_ for id_ in ids if is_id(id_)) if isinstance(ids, list) else ()

    @property
    def timing(self) -> Mapping[str, float]:
        """The seconds that each stage of the server took for the last command of `applied`; empty without it.

        The stages: `wait` (for the handler), `handle`, `emit` (from the handler's end to the model's next
        emit), `pace` (until the encoding began), `encode`.
        """
        timing = self.extra.get("timing")
        if not isinstance(timing, dict):
            return {}
        return {name: float(value) for name, value in timing.items() if type(value) in (int, float)}

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata that the model gave this frame, `Output(metadata=...)`; empty if it gave none."""
        metadata = self.extra.get("metadata")
        return metadata if isinstance(metadata, dict) else {}

    @property
    def key(self) -> bool:
        """Whether the frame can be decoded without those before it; always True, except for `h264`."""
        return self.codec != "h264" or self.extra.get("key") is True

    @property
    def data(self) -> bytes:
        """A copy of the encoded bytes: for `jpeg`, a whole JPEG file."""
        return bytes(self.payload)

    def array(self) -> np.ndarray[Any, Any]:
        """Decode the frame: video to `(height, width, 3)` uint8 RGB, audio to `(channels, samples)` int16.

        A large JPEG takes some milliseconds: on a busy loop, call this in a worker thread. Raises
        `ValueError` for an unknown codec, for a damaged payload, and for `h264`, whose frames depend on
        earlier ones: see `reactor_trio.media.h264.H264Decoder`.
        """
        if self.codec == "jpeg":
            return decode_jpeg(self.data)
        if self.codec == "raw":
            pixels = np.frombuffer(self.payload, np.uint8)
            return pixels.reshape(self.height or 0, self.width or 0, 3).copy()
        if self.codec == "pcm_s16le":
            samples = np.frombuffer(self.payload, "<i2")
            return samples.reshape(-1, self.channels or 1).T.astype(np.int16)
        if self.codec == "h264":
            raise ValueError(
                f"track {self.track!r}: h264 is decoded frame after frame, not one alone: "
                "give each, in order, to one reactor_trio.media.h264.H264Decoder"
            )
        raise ValueError(f"track {self.track!r}: unknown codec {self.codec!r}")
