"""Numpy arrays and torch tensors, as a model emits them: told apart, described, and refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import numpy as np

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 64_000_000
"""The largest picture that is decoded: 192 MB of RGB. A file of some KB may announce 65500 x 65500."""


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Whether the value is a torch tensor."""
    # By name, so that a model of numpy alone never imports torch.
    return any(base.__module__ == "torch" and base.__name__ == "Tensor" for base in type(value).__mro__)


def has_memory(tensor: torch.Tensor) -> bool:
    """Whether all values of the tensor are in memory: it is neither sparse nor on the device `meta`."""
    import torch

    return tensor.layout == torch.strided and not tensor.is_meta


def refusal(track: str, value: object, why: str, *, expected: str) -> ValueError:
    """Make the error for a value that a track cannot show or play: its description, `why`, and `expected`."""
    return ValueError(f"track {track!r} was given {_described(value)}{why}; {expected}")


def _described(value: object) -> str:
    # Not before a value is refused: the name of a dtype costs more than all other looks at a frame.
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if is_tensor(value):
        place = "" if has_memory(value) else f", {value.layout}, on the device {value.device}"
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}{place}"
    return f"a {type(value).__qualname__}"
