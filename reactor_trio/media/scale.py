"""Scales frames down, for clients that show them small. Pure functions.

Every pixel of the result is the mean of the area that it covers (a box filter), so details thinner than a
pixel do not flicker. If PyAV is installed (the extra `video`), its scaler does the work in a third of the
time; some of its values differ from NumPy's by one level.
"""

from __future__ import annotations

import functools
import importlib.util
import sys

import numpy as np

BAND = 16
"""Rows of the result that are made at a time: their intermediate values fit the processor's cache."""


def fitted(width: int, height: int, max_width: int | None, *, even: bool = False) -> tuple[int, int]:
    """Width and height, in pixels, to which a frame is scaled that may be `max_width` pixels wide.

    A frame is never enlarged, and its aspect is kept to the pixel. With `even` both are even, as 4:2:0 video
    needs them: a scaled frame is rounded to the nearest even size, another one gains a row or a column.
    """
    step = 2 if even else 1
    if max_width is None or width <= max_width:
        return width + width % step, height + height % step
    fitting = max_width - max_width % step
    return fitting, max(step, step * round(height * fitting / width / step))


def padded(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """Extend a frame (H, W, 3) to `width` and `height` pixels by repeating its last column and row."""
    missing = (height - frame.shape[0], width - frame.shape[1])
    if missing == (0, 0):
        return frame
    return np.pad(frame, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def downscale(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale a frame (H, W, 3), uint8, down to `width` x `height` pixels. The result is C-contiguous.

    Raises `ValueError` if a side would grow.
    """
    if not (0 < height <= frame.shape[0] and 0 < width <= frame.shape[1]):
        raise ValueError(f"a frame of shape {frame.shape} is not scaled down to {width} x {height}")
    if frame.shape[:2] == (height, width):
        return np.ascontiguousarray(frame)
    return _by_swscale(frame, width, height) if has_pyav() else by_numpy(frame, width, height)


def has_pyav() -> bool:
    """Whether PyAV is installed; does not import it."""
    if "av" in sys.modules:  # asked for every scaled frame, and a look at the disk takes 0.1 ms
        return sys.modules["av"] is not None
    return importlib.util.find_spec("av") is not None


def _by_swscale(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    from av.video.frame import VideoFrame
    from av.video.reformatter import Interpolation

    # Without the last three flags FFmpeg halves the resolution of the colours on the way, and is slower.
    how = (
        Interpolation.AREA
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.ACCURATE_RND
    )
    picture = VideoFrame.from_numpy_buffer(np.ascontiguousarray(frame), format="rgb24")
    # FFmpeg pads the rows of most widths.
    return np.ascontiguousarray(picture.reformat(width, height, "rgb24", interpolation=how).to_ndarray())


def by_numpy(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """Do the work of `downscale` with NumPy alone."""
    rows, row_weights = _cover(frame.shape[0], height)
    columns, column_weights = _cover(frame.shape[1], width)
    result = np.empty((height, width, 3), np.uint8)
    for start in range(0, height, BAND):
        band = slice(start, start + BAND)
        lines = _weighted(frame, rows[band], row_weights[band], axis=0)
        mean = _weighted(lines, columns, column_weights, axis=1)
        mean += 0.5  # the conversion to integers rounds down
        result[band] = mean
    return result


def _weighted(pixels: np.ndarray, places: np.ndarray, weights: np.ndarray, *, axis: int) -> np.ndarray:
    """The weighted sum of the covered places along one axis of (H, W, 3), as float32."""
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    total: np.ndarray = pixels.take(places[:, 0], axis) * weights[:, 0].reshape(shape)
    for place, weight in zip(places.T[1:], weights.T[1:], strict=True):
        total += pixels.take(place, axis) * weight.reshape(shape)
    return total


@functools.lru_cache(maxsize=64)
def _cover(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `wanted` pixels: which of `size` pixels it covers, and the share of each of them in it.

    Both are (wanted, places), int64 and float32; each row of the weights sums up to 1.
    """
    ratio = size / wanted
    left = np.arange(wanted) * ratio
    places = np.floor(left + 1e-9).astype(np.int64)[:, None] + np.arange(int(np.ceil(ratio)) + 1)
    covered = np.minimum(places + 1, (left + ratio)[:, None]) - np.maximum(places, left[:, None])
    # If the ratio is a whole number, the last column covers nothing: without it a third of the work is saved.
    used = covered.max(axis=0) > 1e-6
    weights = np.clip(covered[:, used], 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.minimum(places[:, used], size - 1), weights.astype(np.float32)
