"""Colours: drawn from a seed, or found in a picture by k-means.

A palette is a tensor (5, 3): amounts of red, green and blue light in [0, 1], from dark to light. Light is
computed as the square of sRGB, which is close to its real curve, and quick to undo by a square root.
Colours are compared in OKLab, where equal distances look equal (Björn Ottosson, "A perceptual color space
for image processing").
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from reactor_trio.media.jpeg import decode_jpeg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor

COLOURS = 5
"""Colours in a palette."""
MAX_PIXELS = 32_000_000
"""The largest picture that is read."""
SAMPLE_SIDE = 96
"""Pictures are shrunk to so many pixels a side: they keep their colours, and k-means takes milliseconds."""
SMALLEST_SHARE = 0.005
"""A colour with a smaller share of the picture is noise at an edge."""

_LMS = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=torch.float64,
)
_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=torch.float64,
)
_FROM_LMS = torch.linalg.inv(_LMS)
_FROM_LAB = torch.linalg.inv(_LAB)

# Hues of OKLab in radians: shadows lean towards the first, light towards the second.
_NIGHT, _SUN = 4.85, 1.75


def draw_palette(generator: Generator) -> Tensor:
    """Draw five colours that go together.

    They have a main hue, a neighbour of it and a contrast. Shadows lean to violet and lights to yellow, as
    they do outdoors, so that dark yellows do not look like mud.
    """
    hue, side, turn, leap = torch.rand(4, generator=generator).tolist()
    hue *= math.tau
    sign = math.copysign(1.0, side - 0.5)
    neighbour = hue + sign * (0.27 + 0.3 * turn)
    contrast = hue + sign * (1.5 + 1.6 * leap)
    rows = [
        (0.17, 0.07, _lean(hue, _NIGHT, 0.65)),
        (0.40, 0.14, _lean(hue, _NIGHT, 0.35)),
        (0.60, 0.19, neighbour),
        (0.76, 0.16, _lean(contrast, _SUN, 0.25)),
        (0.95, 0.04, _lean(contrast, _SUN, 0.5)),
    ]
    lab = [(light, chroma * math.cos(hue), chroma * math.sin(hue)) for light, chroma, hue in rows]
    return to_srgb(from_oklab(torch.tensor(lab, dtype=torch.float64))).square().float()


def _lean(hue: float, towards: float, amount: float) -> float:
    """Turn a hue (radians) towards another, the short way round."""
    return hue + amount * math.remainder(towards - hue, math.tau)


def read_colours(jpeg: bytes) -> Tensor:
    """Find the main colours of a picture: sRGB in [0, 1], (1 to 5, 3), the most frequent first.

    The same picture gives the same colours. Raises `ValueError` if it is no JPEG, or one of more than
    `MAX_PIXELS`.
    """
    pixels = torch.from_numpy(decode_jpeg(jpeg, max_pixels=MAX_PIXELS, min_side=SAMPLE_SIDE))
    size = [min(side, SAMPLE_SIDE) for side in pixels.shape[:2]]
    with torch.inference_mode():
        image = pixels.permute(2, 0, 1)[None].double() / 255
        points = functional.interpolate(image, size, mode="area")[0].flatten(1).T
        centres, shares = k_means(to_oklab(to_linear(points)), COLOURS, torch.Generator().manual_seed(0))
        order = shares.argsort(descending=True, stable=True)
        order = order[shares[order] >= SMALLEST_SHARE]
        return to_srgb(from_oklab(centres[order]))


def k_means(points: Tensor, count: int, generator: Generator, steps: int = 12) -> tuple[Tensor, Tensor]:
    """Gather points (N, D) round at most `count` centres (K, D); also return each one's share of the points.

    Begins with k-means++ (Arthur and Vassilvitskii, 2007): each centre is drawn with a probability that grows
    with the square of its distance from the centres before it. There are fewer centres than `count` if there
    are fewer points, or if the points hardly differ.
    """
    first = torch.randint(len(points), (1,), generator=generator)
    centres = points[first]
    while len(centres) < count:
        squared = torch.cdist(points, centres).amin(1).square()
        if squared.max() < 1e-4:
            break
        centres = torch.cat([centres, points[torch.multinomial(squared, 1, generator=generator)]])
    for _ in range(steps):
        members = _members(points, centres)
        sizes = members.sum(0)[:, None]
        # A centre without points stays in its place.
        centres = torch.where(sizes > 0, members.T @ points / sizes.clamp_min(1), centres)
    return centres, _members(points, centres).mean(0)


def _members(points: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each point, as ones and zeros: (N, K)."""
    nearest = torch.cdist(points, centres).argmin(1)
    return functional.one_hot(nearest, len(centres)).to(points.dtype)


def palette_of(colours: Tensor) -> Tensor:
    """Make a palette of 1 to 5 colours (K, 3), sRGB in [0, 1]: sorted by lightness, repeated if too few."""
    enough = colours.repeat(COLOURS, 1)[:COLOURS]
    lightness = to_oklab(to_linear(enough))[:, 0]
    return enough[lightness.argsort(stable=True)].square().float()


def hex_colours(colours: Tensor) -> list[str]:
    """Write sRGB colours (K, 3) in [0, 1] as `#rrggbb`."""
    rows: Sequence[Sequence[int]] = (colours.clamp(0, 1) * 255).round().int().tolist()
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in rows]


def to_linear(srgb: Tensor) -> Tensor:
    """Undo the transfer function of sRGB (IEC 61966-2-1)."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055).pow(2.4))


def to_srgb(linear: Tensor) -> Tensor:
    """Apply the transfer function of sRGB (IEC 61966-2-1), clipped to [0, 1]."""
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, linear.pow(1 / 2.4) * 1.055 - 0.055)


def to_oklab(linear: Tensor) -> Tensor:
    """Linear RGB (K, 3) to lightness and the two axes of colour."""
    lms: Tensor = linear.double() @ _LMS.T
    lab: Tensor = lms.clamp_min(0).pow(1 / 3) @ _LAB.T
    return lab


def from_oklab(lab: Tensor) -> Tensor:
    """OKLab (K, 3) to linear RGB, clipped to [0, 1]."""
    lms: Tensor = lab.double() @ _FROM_LAB.T
    linear: Tensor = lms.pow(3) @ _FROM_LMS.T
    return linear.clamp(0, 1)
