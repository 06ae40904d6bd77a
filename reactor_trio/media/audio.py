"""Audio that a model emits -> samples of the wire: arrays (samples, channels), int16, little-endian.

Pure functions. `inspect_audio` decides by shape and dtype alone whether a value is audio, and whether it can
be converted on the loop; `pcm_samples` converts it. Shapes of arrays and tensors are read alike:

    (channels, samples)     1 to 8 channels
    (samples,)              one channel
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from reactor_trio.media.arrays import has_memory, is_tensor, refusal

if TYPE_CHECKING:
    import torch

MAX_CHANNELS = 8
"""More than 7.1 is a mistake: mostly an array of shape (samples, channels)."""

IMMEDIATE_BYTES = 1024 * 1024
"""Values of up to this size are converted on the loop: about half a millisecond."""

PCM: np.dtype[np.int16] = np.dtype("<i2")
"""A sample of `pcm_s16le`."""

_EXPECTED = (
    "expected a numpy array or a torch tensor of shape (channels, samples) or (samples,), with 1 to "
    f"{MAX_CHANNELS} channels, of dtype int16, or float in [-1, 1]"
)


@attrs.frozen
class AudioLayout:
    """How the shape of a value is read as samples."""

    channels: int
    samples: int
    """Samples of each channel; may be 0."""
    immediate: bool
    """Converting it is short work, so it may be done on the loop; otherwise it belongs in a thread."""


def inspect_audio(value: object, *, track: str) -> AudioLayout:
    """Find out how `value` is read as samples of `track`, without looking at a sample.

    Raises `ValueError` with the track, the shape and the dtype if it is no audio: another type, number of
    dimensions or dtype, no channel or more than `MAX_CHANNELS`.
    """
    if is_tensor(value):
        return _inspect_tensor(value, track)
    if isinstance(value, np.ndarray):
        fits = value.dtype.kind == "f" or (value.dtype.kind == "i" and value.dtype.itemsize == 2)
        return _layout(value, track, fits=fits, immediate=value.nbytes <= IMMEDIATE_BYTES)
    raise _refusal(track, value)


def pcm_samples(value: object, layout: AudioLayout) -> np.ndarray[Any, Any]:
    """Convert a value that `inspect_audio` has accepted, to (samples, channels), `PCM`, C-contiguous.

    It shares no memory with `value`. Floats are clipped to [-1, 1], where 1 is 32767; NaN becomes 0. A tensor
    is converted on its own device, so that two bytes a sample are copied from there.
    """
    planes = _tensor_levels(value) if is_tensor(value) else _levels(np.asarray(value))
    return np.array(planes.reshape(layout.channels, layout.samples).T, PCM, order="C")


def _inspect_tensor(tensor: torch.Tensor, track: str) -> AudioLayout:
    import torch

    if not has_memory(tensor):
        raise _refusal(track, tensor)
    fits = tensor.dtype == torch.int16 or tensor.dtype.is_floating_point
    short = tensor.device.type == "cpu" and tensor.nbytes <= IMMEDIATE_BYTES
    return _layout(tensor, track, fits=fits, immediate=short)


def _layout(
    value: np.ndarray[Any, Any] | torch.Tensor, track: str, *, fits: bool, immediate: bool
) -> AudioLayout:
    shape = tuple(value.shape)
    if not fits or len(shape) not in (1, 2):
        raise _refusal(track, value)
    channels = shape[0] if len(shape) == 2 else 1
    if not 1 <= channels <= MAX_CHANNELS:
        hint = ", which looks like (samples, channels)" if shape[-1] in range(1, MAX_CHANNELS + 1) else ""
        raise _refusal(track, value, hint)
    return AudioLayout(channels, shape[-1], immediate)


def _refusal(track: str, value: object, why: str = "") -> ValueError:
    return refusal(track, value, why, expected=_EXPECTED)


def _levels(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if samples.dtype.kind == "i":
        return samples
    # Clipped before the conversion to float32, so nothing overflows. NaN passes through, and becomes 0.
    unit = np.clip(samples, -1, 1).astype(np.float32)
    unit[np.isnan(unit)] = 0
    levels: np.ndarray[Any, Any] = np.rint(unit * 32767).astype(np.int16)
    return levels


def _tensor_levels(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    import torch

    with torch.inference_mode():
        samples = tensor.detach()
        if samples.dtype != torch.int16:
            # In float32, since half precision has fewer levels than 16 bits. NaN passes through `clamp`.
            unit = samples.to(torch.float32).clamp(-1, 1).nan_to_num_(nan=0.0)
            samples = unit.mul_(32767).round_().to(torch.int16)
        array: np.ndarray[Any, Any] = samples.cpu().numpy()
    return array
