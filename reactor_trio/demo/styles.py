"""Styles: functions that make a picture of the network's five fields and a palette of five colours.

A style takes the fields (5, H, W), each with mean 0 and deviation 1 over the picture, and the colours (5, 3),
from dark to light. It returns the picture (3, H, W). Colours and picture are amounts of light (see
`palette.py`); an amount of more than 1 is a highlight, which is clipped later. The first three fields are
broad, the last two finer. H may be a part of the picture's height.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

StyleName = Literal["silk", "marble", "neon", "paper", "ink"]
Style = Callable[[Tensor, Tensor], Tensor]


def silk(fields: Tensor, colours: Tensor) -> Tensor:
    """Cloth in folds, lit from the upper left."""
    flow, tint, swell, fine, _ = fields
    wave = 5.5 * flow + 1.2 * torch.sin(1.7 * tint) + 0.25 * fine
    folds = torch.sin(wave)
    height = 0.30 * folds + 0.16 * torch.sin(2.3 * wave + 1.5 * swell) + 0.45 * torch.sin(1.5 * swell)
    lit = light(height, 0.11)
    sheen = 0.24 * gloss(lit, 8) + 0.40 * gloss(lit, 64)
    cloth = ramp(0.47 + 0.36 * torch.tanh(0.9 * tint) + 0.09 * folds, colours)
    return cloth * (0.12 + 1.05 * lit * lit) + (0.35 * cloth + 0.65) * sheen


def marble(fields: Tensor, colours: Tensor) -> Tensor:
    """Pale stone with dark veins and fine coloured ones."""
    flow, tint, swell, fine, finer = fields
    along, across = stir(0.9 * flow + 0.2 * fine, 0.9 * tint + 0.2 * finer, turns=5, frequency=1.7)
    crack = torch.sin(1.15 * along).abs()
    hair = torch.sin(1.7 * across + 0.6 * along).abs()
    cloud = 0.5 + 0.5 * torch.sin(1.4 * across + swell)
    haze = torch.exp(-2.6 * crack)
    stone = ramp(0.84 + 0.14 * cloud - 0.34 * haze, colours)
    stone = torch.lerp(stone, (0.50 + 0.46 * cloud * (1 - haze)).expand_as(stone), 0.42)
    stone = torch.lerp(stone, tone(0.12, colours), 0.85 * torch.exp(-11 * crack))
    return torch.lerp(stone, tone(0.62, colours), 0.85 * torch.exp(-18 * hair) * torch.sigmoid(3 * swell))


def neon(fields: Tensor, colours: Tensor) -> Tensor:
    """Glowing tubes along the lines of equal height, in the dark."""
    flow, tint, swell, _, _ = fields
    level = 1.15 * flow + 0.25 * tint
    across, down = slope(level)
    # The distance to the next line is the difference in height over the steepness: so all tubes are equally
    # thick.
    distance = torch.sin(torch.pi * level).abs() * (across * across + down * down + 0.3).rsqrt()
    gas = ramp(0.58 + 0.28 * torch.tanh(0.9 * swell), colours)
    glow = gas * (0.75 * torch.exp(-7 * distance))
    tube = (0.8 * gas + 0.45) * torch.exp(-((32 * distance) ** 2))
    return 0.35 * tone(0.0, colours) + glow + tube


def paper(fields: Tensor, colours: Tensor) -> Tensor:
    """Sheets of coloured paper, cut out and laid over each other."""
    flow, _, swell, _, _ = fields
    level = 2.0 * flow + 0.2 * swell
    across, down = slope(level)
    steepness = across.abs() + down.abs() + 0.01
    sheet = torch.floor(level)
    inside = level - sheet
    # Each sheet lies in the shadow of the one before it.
    distance = inside / steepness
    shadow = 0.42 * torch.exp(-24 * distance) + 0.30 * torch.exp(-6 * distance)
    this, following = (
        ramp(0.5 + 0.44 * torch.sin(1.05 * number), colours, crispness=60) for number in (sheet, sheet + 1)
    )
    # A sheet is mixed with the next one in its last pixel; otherwise the edges would be jagged.
    pixel = 2.4 / level.shape[1]
    edge = ((inside - 1) / (pixel * steepness) + 1).clamp(0, 1)
    return torch.lerp(this * (1 - shadow), following * (1 - 0.72), edge)


def ink(fields: Tensor, colours: Tensor) -> Tensor:
    """Paints poured into each other, wet."""
    flow, tint, swell, _, _ = fields
    along, across = stir(flow, tint, turns=3, frequency=1.4)
    flow = 3.3 * along + 1.1 * torch.sin(1.6 * across)
    lit = light(0.5 * torch.cos(2 * flow), 0.045)
    paint = ramp(0.5 - 0.5 * torch.cos(flow + 0.5 * torch.sin(2 * swell)), colours, crispness=220)
    return paint * (0.6 + 0.55 * lit) + 0.16 * gloss(lit, 32)


STYLES: dict[StyleName, Style] = {
    "silk": silk,
    "marble": marble,
    "neon": neon,
    "paper": paper,
    "ink": ink,
}


def ramp(tones: Tensor, colours: Tensor, *, crispness: float = 40.0) -> Tensor:
    """Colour tones (H, W) between 0 (the darkest colour) and 1 (the lightest): (3, H, W).

    Each pixel is a mixture of the colours: a softmax over their squared distances from the tone. The square
    of the tone is common to all distances and cancels out, so the rest is linear in the tone.
    """
    places = torch.linspace(0, 1, len(colours), device=tones.device)[:, None]
    nearness = torch.addcmul(-crispness * places * places, 2 * crispness * places, tones.reshape(1, -1))
    return (colours.T @ torch.softmax(nearness, 0)).view(3, *tones.shape)


def tone(place: float, colours: Tensor) -> Tensor:
    """One colour of the ramp, (3, 1, 1)."""
    return ramp(torch.full((1, 1), place, device=colours.device), colours)


def slope(height: Tensor) -> tuple[Tensor, Tensor]:
    """The slope of a field (H, W) to the right and downwards, per half of the picture's height."""
    down, across = torch.gradient(height, spacing=2 / height.shape[1])
    return across, down


def light(height: Tensor, depth: float) -> Tensor:
    """The light from the upper left on each point (H, W) of a relief: 0 to 1."""
    across, down = slope(depth * height)
    length = (1 + across * across + down * down).rsqrt()
    return ((0.70 - 0.45 * across - 0.55 * down) * length).clamp_min(0)


def gloss(lit: Tensor, power: int) -> Tensor:
    """Narrow light to highlights: its power of `power`, a power of two. Squares are quicker than `pow`."""
    for _ in range(power.bit_length() - 1):
        lit = lit * lit
    return lit


def stir(along: Tensor, across: Tensor, *, turns: int, frequency: float) -> tuple[Tensor, Tensor]:
    """Bend two fields round each other, each turn finer and weaker than the one before."""
    strength = 0.6 * 0.62 ** torch.arange(turns)
    for turn, amount in enumerate(strength.tolist()):
        along = along + amount * torch.sin(frequency * across + 1.3 * turn)
        across = across + amount * torch.sin(frequency * along + 2.1 * turn + 1)
        frequency *= 1.55
    return along, across
