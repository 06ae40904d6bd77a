"""Frames of the wire -> arrays for a model.

Video is `(H, W, 3)`, uint8, RGB; audio `(channels, samples)`, int16.

Pure functions. `check_frame` decides by the header and the payload's length alone whether a frame fits its
track; `decode_frame` decodes it. Errors are `ValueError`s with the reason, but without track and number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from reactor_trio.contract.contract import AUDIO_CODECS, INPUT_VIDEO_CODECS
from reactor_trio.media.arrays import MAX_PIXELS
from reactor_trio.media.audio import MAX_CHANNELS, PCM
from reactor_trio.media.jpeg import decode_jpeg
from reactor_trio.media.video import MAX_SIDE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.declare.tracks import TrackSpec
    from reactor_trio.protocol.binary import MediaFrame

_CODECS: Final[Mapping[str, tuple[str, ...]]] = {"video": INPUT_VIDEO_CODECS, "audio": AUDIO_CODECS}


def check_frame(frame: MediaFrame, track: TrackSpec, max_bytes: int) -> None:
    """Raise `ValueError` unless this can be a frame of the track, of at most `max_bytes` when decoded."""
    codecs = _CODECS[track.kind]
    if frame.codec not in codecs:
        raise ValueError(f"{track.kind} comes as {' or '.join(codecs)}, not as {frame.codec!r}")
    if not isinstance(frame.extra.get("metadata", {}), dict):
        raise ValueError("`metadata` must be a JSON object")
    if frame.codec == "raw":
        _check_raw(frame)
    elif track.kind == "audio":
        _check_samples(frame, track)
    if frame.codec != "jpeg" and len(frame.payload) > max_bytes:
        raise ValueError(f"{len(frame.payload)} bytes; {max_bytes} are allowed")


def _check_raw(frame: MediaFrame) -> None:
    width, height = frame.width, frame.height
    if width is None or height is None:
        raise ValueError("a raw frame needs `width` and `height`")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width} x {height} pixels; a side has at most {MAX_SIDE}")
    if len(frame.payload) != width * height * 3:
        raise ValueError(
            f"{width} x {height} pixels of RGB are {width * height * 3} bytes, not {len(frame.payload)}"
        )


def _check_samples(frame: MediaFrame, track: TrackSpec) -> None:
    if frame.rate != track.rate:
        raise ValueError(f"`rate` must be {track.rate} samples a second, not {frame.rate}")
    if frame.channels is None or frame.channels > MAX_CHANNELS:
        raise ValueError(f"`channels` must be 1 to {MAX_CHANNELS}, not {frame.channels}")
    block = frame.channels * PCM.itemsize
    if not len(frame.payload) or len(frame.payload) % block:
        raise ValueError(
            f"{len(frame.payload)} bytes are no whole samples of {frame.channels} channels, of {block} bytes"
        )


def decode_frame(frame: MediaFrame, max_bytes: int) -> np.ndarray[Any, Any]:
    """Decode a frame that `check_frame` has accepted, into memory of its own that may be written to.

    Raises `ValueError` for a JPEG that is broken, or that announces more than `max_bytes` of RGB or more than
    `MAX_PIXELS`: this is checked before any memory is allocated.
    """
    if frame.codec == "jpeg":
        return decode_jpeg(bytes(frame.payload), max_pixels=min(MAX_PIXELS, max_bytes // 3))
    if frame.codec == "raw":
        pixels = np.frombuffer(frame.payload, np.uint8)
        return np.array(pixels.reshape(frame.height or 0, frame.width or 0, 3))
    samples = np.frombuffer(frame.payload, PCM).reshape(-1, frame.channels or 1)
    return np.array(samples.T, np.int16, order="C")
