"""JPEG, the default codec of video: simplejpeg (libjpeg-turbo), which works with the GIL released.

simplejpeg is imported when it is first used. Its errors become `ValueError` here, each with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactor_trio.media.arrays import MAX_PIXELS
from reactor_trio.media.jpeg_scans import check_work, jpeg_work

if TYPE_CHECKING:
    import numpy as np


def encode_jpeg(frame: np.ndarray, quality: int = 85) -> bytes:
    """Encode a frame (H, W, 3), uint8, RGB, with 4:2:0 colour.

    `quality` is 1 to 100. Raises `ValueError` for another quality, and for a frame that no JPEG can hold,
    such as one with a side of more than 65500 pixels.
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


def decode_jpeg(data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> np.ndarray:
    """Decode a picture to (H, W, 3), uint8, RGB. A grey one gets three equal channels.

    With `min_side` (pixels) the result may be up to 8 times smaller, but none of its sides is below that:
    much less work, where a small version is enough.

    Raises `ValueError` if the data are no whole JPEG, if its header announces more than `max_pixels`, or if
    it is too much work to decode (see `check_work`): this is checked before any memory is allocated.
    """
    import simplejpeg

    work = jpeg_work(data)
    check_work(work, max_pixels)
    height, width = work.height, work.width
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=min_side or height, min_width=min_side or width
        )
    except ValueError as error:
        raise ValueError(f"a broken JPEG: {error}") from error
    return pixels
