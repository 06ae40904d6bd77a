"""Video that a model emits -> frames of the wire: arrays (H, W, 3), uint8, RGB.

Pure functions. `inspect_video` decides by shape and dtype alone whether a value is video, and whether it can
be converted on the loop; `rgb_frames` converts it. Shapes are read as follows:

    (H, W, 3), (N, H, W, 3)     a frame, a batch of frames: numpy arrays and torch tensors
    (3, H, W), (N, 3, H, W)     the same, channels first: torch tensors only

A tensor whose last axis is 3 long is always read as channels last, so `(3, 480, 3)` is three rows of 480
pixels.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from reactor_trio.media.arrays import has_memory, is_tensor, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

MAX_SIDE = 16384
"""The largest height and width, in pixels. JPEG allows 65500, but a frame larger than this is a mistake."""

MAX_FLOAT = 2.0
"""The median of a picture in [0, 1] is below this, however far a model overshoots in some places."""

SAMPLED = 8
"""The median is that of every eighth value along each axis."""

IMMEDIATE_BYTES = 8 * 1024 * 1024
"""Frames of up to this size are copied on the loop: about half a millisecond."""

_EXPECTED = (
    "expected a numpy array or a torch tensor of shape (H, W, 3) or (N, H, W, 3) "
    "(a tensor also (3, H, W) or (N, 3, H, W)), of dtype uint8, or float in [0, 1]"
)


@attrs.frozen
class VideoLayout:
    """How the shape of a value is read as frames."""

    track: str
    count: int
    """Number of frames: 1 unless the value is a batch."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    immediate: bool
    """Converting it is one short copy, so it may be done on the loop; otherwise it belongs in a thread."""


def inspect_video(value: object, *, track: str) -> VideoLayout:
    """Find out how `value` is read as frames of `track`, without looking at a pixel.

    Raises `ValueError` with the track, the shape and the dtype if it is no video: another type, number of
    dimensions, number of channels or dtype, a side of 0 or of more than `MAX_SIDE` pixels, an empty batch.
    """
    if isinstance(value, np.ndarray):
        try:
            return _array_layout(track, value.shape, value.dtype, value.flags.c_contiguous)
        except _Unfit as unfit:
            raise _refusal(track, value, str(unfit)) from None
    if is_tensor(value):
        return _inspect_tensor(value, track)
    raise _refusal(track, value)


def rgb_frames(value: object, layout: VideoLayout) -> Sequence[np.ndarray]:
    """Convert a value that `inspect_video` has accepted, to `layout.count` frames.

    Each is (H, W, 3), uint8, C-contiguous, and shares no memory with `value` that could be written to; frames
    of one batch may be parts of one allocation. Floats are clipped to [0, 1]; NaN becomes 0. A tensor is
    converted on its own device, so that only bytes are copied from there.

    Raises `ValueError` with the track if floats are on the scale of bytes: half of them above `MAX_FLOAT`.
    """
    if type(value) is np.ndarray and value.ndim == 3:
        return (_own_bytes(value, layout.track),)
    if not isinstance(value, np.ndarray) and is_tensor(value):
        pixels = _tensor_pixels(value, layout.track)
        return list(pixels.reshape(layout.count, layout.height, layout.width, 3))
    frames = np.asarray(value).reshape(layout.count, layout.height, layout.width, 3)
    return [_own_bytes(frame, layout.track) for frame in frames]


class _Unfit(Exception):
    """A shape or dtype is no video; its text says why, if there is more to say than the shapes that fit."""


# All frames of a model are of one kind, and to inspect each anew costs as much as all the rest of `emit`.
@functools.lru_cache(maxsize=256)
def _array_layout(track: str, shape: tuple[int, ...], dtype: np.dtype[Any], contiguous: bool) -> VideoLayout:
    if dtype != np.uint8 and dtype.kind != "f":
        raise _Unfit
    count, height, width = _sizes(shape)
    short = math.prod(shape) <= IMMEDIATE_BYTES and contiguous
    return VideoLayout(track, count, height, width, immediate=dtype == np.uint8 and short)


def _inspect_tensor(tensor: torch.Tensor, track: str) -> VideoLayout:
    import torch

    shape = tuple(tensor.shape)
    if not has_memory(tensor):
        raise _refusal(track, tensor)
    if tensor.dtype != torch.uint8 and not tensor.dtype.is_floating_point:
        raise _refusal(track, tensor)
    if _is_channels_first(shape):
        shape = (*shape[:-3], *shape[-2:], 3)
    try:
        count, height, width = _sizes(shape)
    except _Unfit as unfit:
        raise _refusal(track, tensor, str(unfit)) from None
    copy = tensor.dtype == torch.uint8 and tensor.device.type == "cpu"
    short = tensor.nbytes <= IMMEDIATE_BYTES and tensor.is_contiguous() and tuple(tensor.shape) == shape
    return VideoLayout(track, count, height, width, immediate=copy and short)


def _is_channels_first(shape: Sequence[int]) -> bool:
    return len(shape) in (3, 4) and shape[-1] != 3 and shape[-3] == 3


def _sizes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Count, height and width of a shape with its channels last. Raises `_Unfit`."""
    if len(shape) not in (3, 4) or shape[-1] != 3:
        raise _Unfit
    count = shape[0] if len(shape) == 4 else 1
    height, width = shape[-3:-1]
    if count == 0:
        raise _Unfit(": a batch of no frames")
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise _Unfit(f": a side has 1 to {MAX_SIDE} pixels")
    return count, height, width


def _refusal(track: str, value: object, why: str = "") -> ValueError:
    return refusal(track, value, why, expected=_EXPECTED)


def _check_scale(values: Any, median: Callable[[Any], Any], track: str) -> None:
    # The median of fewer values says nothing.
    middle = float(median(values[..., ::SAMPLED, ::SAMPLED])) if math.prod(values.shape) >= 1024 else 0.0
    if middle > MAX_FLOAT:
        raise ValueError(
            f"track {track!r} was given floats around {middle:.4g}; a float frame is in [0, 1]: divide it by "
            "255, or make it uint8"
        )


def _own_bytes(frame: np.ndarray, track: str) -> np.ndarray:
    if frame.dtype == np.uint8:
        return frame if frame.flags.c_contiguous and _is_constant(frame) else np.array(frame, order="C")
    # `fmax` takes 0 for NaN. Clipped before the conversion to float32, so nothing overflows.
    unit = np.fmax(frame, 0, order="C")
    _check_scale(unit, np.median, track)
    np.minimum(unit, 1, out=unit)
    levels = unit.astype(np.float32, copy=False)
    levels *= 255
    pixels: np.ndarray = np.rint(levels, out=levels).astype(np.uint8)
    return pixels


def _is_constant(array: np.ndarray) -> bool:
    """Whether the array is read-only, and so are all arrays that it is a view of."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None or isinstance(owner, bytes)


def _tensor_pixels(tensor: torch.Tensor, track: str) -> np.ndarray:
    import torch

    with torch.inference_mode():
        pixels = tensor.detach()
        if pixels.dtype != torch.uint8:
            # In float32, since half precision would round a second time. `mul` makes a copy to work in.
            unit = pixels.to(torch.float32)
            _check_scale(unit, torch.nanmedian, track)
            pixels = unit.mul(255).nan_to_num_(nan=0.0).round_().clamp_(0, 255)
        pixels = pixels.to(torch.uint8, copy=True, memory_format=torch.contiguous_format)
        if _is_channels_first(pixels.shape):
            # To interleave three planes takes half the time of a permuted copy.
            pixels = torch.stack(pixels.unbind(-3), dim=-1)
        array: np.ndarray = pixels.cpu().numpy()
    return array
