"""JPEG, the default codec of video: simplejpeg (libjpeg-turbo), which works with the GIL released.

Imported when it is first used. Its errors become `ValueError` here, each with the reason.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

MAX_PIXELS = 64_000_000
"""The largest picture that is decoded: 192 MB of RGB. A file of some KB may announce 65500 x 65500."""
FULL_SCANS: Final = 12
"""Scans over each pixel that the largest picture may have. Progressive ones have about 10, others 1 to 3."""
MAX_SCANS: Final = 64
"""Scans that any picture may have."""
MAX_SEGMENTS: Final = 4096
"""Segments before, between and behind the scans: tables, profiles, thumbnails, comments."""

_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
# A marker (ITU-T T.81, B.1.1.2): no byte 0xFF of the data (a zero follows it), nor one that fills, nor RSTn.
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def encode_jpeg(frame: np.ndarray, quality: int = 85) -> bytes:
    """Encode a frame (H, W, 3), uint8, RGB, with 4:2:0 colour.

    `quality` is 1 to 100. Raises `ValueError` for anything else, such as a side of more than 65500 pixels.
    """
    import simplejpeg

    if not 1 <= quality <= 100:
        raise ValueError(f"the quality of a JPEG is 1 to 100, not {quality!r}")
    try:
        data: bytes = simplejpeg.encode_jpeg(
            frame, quality, colorspace="RGB", colorsubsampling="420", fastdct=True
        )
    except ValueError as error:
        raise ValueError(f"no JPEG of shape {frame.shape} and dtype {frame.dtype}: {error}") from error
    return data


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Read height and width, in pixels, from the header alone.

    Raises `ValueError` if it is no JPEG.
    """
    import simplejpeg

    try:
        height, width, _colour, _sampling = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ValueError(f"not a JPEG: {error}") from error
    return int(height), int(width)


def count_scans(data: bytes) -> int:
    """How often a decoder would go over the pixels: the scans of a file, without decoding any.

    An empty scan is 39 bytes, and costs a decoder as much as a full one. Raises `ValueError` for more than
    `MAX_SEGMENTS`. It takes a millisecond for each megabyte.
    """
    scans, position = 0, 2
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(data, position)
        if marker is None or data[marker.end() - 1] == _EOI:
            return scans
        kind, position = data[marker.end() - 1], marker.end()
        if kind in (_SOI, _TEM):  # which have no length
            continue
        scans += kind == _SOS
        position += int.from_bytes(data[position : position + 2], "big")
    raise ValueError(f"a JPEG of more than {MAX_SEGMENTS} segments")


def decode_jpeg(data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> np.ndarray:
    """Decode a picture to (H, W, 3), uint8, RGB. A grey one gets three equal channels.

    With `min_side` (pixels) it may come back smaller, by up to 8, but with no side below that: much less
    work, where a small version is enough.

    Raises `ValueError` if it is no whole JPEG, if its header announces more than `max_pixels`, or if it has
    more than `MAX_SCANS` scans, or more work in them than `FULL_SCANS` over `max_pixels` would be; that is
    known before any memory is taken, or any pixel decoded.
    """
    import simplejpeg

    height, width = jpeg_size(data)
    if height * width > max_pixels:
        raise ValueError(f"a JPEG of {width} x {height} pixels; {max_pixels} pixels are allowed")
    scans = count_scans(data)
    if scans > min(MAX_SCANS, FULL_SCANS * max_pixels // max(1, height * width)):
        raise ValueError(f"a JPEG of {scans} scans over {width} x {height} pixels: too much work")
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=min_side or height, min_width=min_side or width
        )
    except ValueError as error:
        raise ValueError(f"a broken JPEG: {error}") from error
    return pixels
