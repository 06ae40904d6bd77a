"""The demo's network: from a point of the picture and a latent to five values, which a style colours.

It is a compositional pattern-producing network (CPPN; Stanley, 2007): small dense layers that are applied to
each point of the picture by itself. Its weights are random and shared by all sessions. A prompt chooses the
latent, which sets how the plane enters the first layer and the phases of each layer's waves. The network has
learned nothing, so a prompt is a seed and not a description; the code around it is that of a large model.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import attrs
import torch
from torch import nn
from torch.nn import functional

from reactor_trio.demo.palette import draw_palette
from reactor_trio.demo.styles import STYLES

if TYPE_CHECKING:
    from torch import Tensor

    from reactor_trio.demo.styles import Style, StyleName

HIDDEN = 16
"""Units in a layer."""
PIECE = 16384
"""Points that the network computes at a time."""
BAND = 64
"""Rows of the picture that a style computes at a time."""
MORPH_SECONDS = 1.5
"""How long one scene takes to become another."""
MAX_SIDE = 4096
"""The largest picture, pixels a side."""


@attrs.frozen(eq=False)
class Scene:
    """All values that a picture depends on, except the time. Scenes can be mixed, and so they morph."""

    latent: Tensor
    """(HIDDEN, 6): for each unit the weights of x, y and the radius, then a phase for each layer."""
    colours: Tensor
    """(5, 3): a palette, from dark to light."""
    style: Tensor
    """(styles,): the share of each style; the sum is 1."""

    def mix(self, other: Scene, amount: float) -> Scene:
        """Return a scene on the way to another one: `amount` is 0 for this scene, 1 for the other."""
        return Scene(
            latent=_slerp(self.latent, other.latent, amount),
            colours=torch.lerp(self.colours, other.colours, amount),
            style=torch.lerp(self.style, other.style, amount),
        )


@attrs.frozen
class Morph:
    """The change from one scene to the next."""

    start: Scene
    goal: Scene
    since: float
    """When it began, in seconds of the picture's time."""

    def at(self, now: float) -> Scene:
        """Return the scene at a time (seconds). The change begins slowly and ends slowly."""
        way = (now - self.since) / MORPH_SECONDS
        if way >= 1:
            return self.goal
        way = max(way, 0.0)
        return self.start.mix(self.goal, way * way * (3 - 2 * way))


def scene_of(prompt: str, style: StyleName, colours: Tensor | None = None) -> Scene:
    """Draw the scene of a prompt, and its colours as well unless `colours` are given.

    The same prompt gives the same scene, in every process.
    """
    # `hash` differs from process to process.
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    plane = torch.randn(HIDDEN, 3, generator=generator) * torch.tensor([0.9, 0.9, 0.4])
    # All units lean the same way, so that the picture flows in one direction.
    angle = math.tau * torch.rand((), generator=generator)
    lean = torch.stack([angle.cos(), angle.sin(), torch.zeros(())])
    plane += 1.1 * torch.randn(HIDDEN, 1, generator=generator) * lean
    phases = 1.8 * torch.randn(HIDDEN, 3, generator=generator)
    return Scene(
        latent=torch.cat([plane, phases], 1),
        colours=draw_palette(generator) if colours is None else colours,
        style=torch.tensor([float(name == style) for name in STYLES]),
    )


class Network(nn.Module):
    """The shared part: random weights, and the coordinates at which they are evaluated.

    `width` and `height` are in pixels. Raises `ValueError` if one is not between 16 and `MAX_SIDE`.
    """

    def __init__(self, width: int = 512, height: int = 512, seed: int = 7) -> None:
        super().__init__()
        if not (16 <= width <= MAX_SIDE and 16 <= height <= MAX_SIDE):
            raise ValueError(f"a picture of {width} x {height} pixels; a side has 16 to {MAX_SIDE}")
        self.size = height, width
        # The fields are smooth: every second point is enough, the others are interpolated.
        self.grid = height // 2 + 1, width // 2 + 1
        generator = torch.Generator().manual_seed(seed)
        self.second = _dense(HIDDEN, HIDDEN, generator)
        self.third = _dense(HIDDEN, HIDDEN, generator)
        self.broad = _dense(3, HIDDEN, generator)
        self.ripple = _dense(HIDDEN, HIDDEN, generator)
        self.fine = _dense(2, HIDDEN, generator)
        self.points: Tensor
        self.register_buffer("points", _points(*self.grid))
        self.vignette: Tensor
        # A little darker towards the corners.
        radius = _points(*self.size)[2].view(self.size)
        self.register_buffer("vignette", 1 - 0.24 * radius / radius.max())

    def forward(self, latent: Tensor, seconds: float) -> Tensor:
        """Compute the five fields of a picture, (5, H, W), each with mean 0 and deviation 1."""
        drift = _drift(seconds).to(latent.device)
        # In pieces, so that the values between the layers stay in the processor's cache.
        pieces = [self._layers(latent, drift, points) for points in torch.split(self.points, PIECE, dim=1)]
        fields = functional.layer_norm(torch.cat(pieces, 1), [self.points.shape[1]])
        fields = fields.view(1, -1, *self.grid)
        return functional.interpolate(fields, self.size, mode="bilinear", align_corners=True)[0]

    def _layers(self, latent: Tensor, drift: Tensor, points: Tensor) -> Tensor:
        # Channels first: every layer is the product of a small matrix with (HIDDEN, points).
        plane, (one, two, three) = latent[:, :3], latent[:, 3:, None].unbind(1)
        waves = (plane @ points).add_(one + drift).sin_()
        shapes = (1.3 * self.second @ waves).add_(0.4 * (two.sin() + drift.flip(0))).tanh_()
        folds = (1.5 * self.third @ shapes).add_(0.4 * three.sin()).tanh_()
        ripples = (4.5 * self.ripple @ shapes).add_(two).sin_()
        return torch.cat([self.broad @ folds, self.fine @ ripples])

    def paint(self, scene: Scene, seconds: float) -> Tensor:
        """Paint a scene at a time (seconds): (3, H, W), float, sRGB in [0, 1].

        Call it in a worker thread. PyTorch keeps inference mode for each thread, so it is set here.
        """
        with torch.inference_mode():
            device = self.points.device
            fields = self(scene.latent.to(device), seconds)
            colours = scene.colours.to(device)
            picture = torch.zeros(3, *self.size, device=device)
            for style, share in zip(STYLES.values(), scene.style.tolist(), strict=True):
                if share > 0:
                    self._add(picture, style, share, fields, colours)
            return picture.mul_(self.vignette).clamp_(0, 1).sqrt_()

    def _add(self, picture: Tensor, style: Style, share: float, fields: Tensor, colours: Tensor) -> None:
        for top in range(0, self.size[0], BAND):
            # With one row more on either side, since a slope needs its neighbours.
            first = max(top - 1, 0)
            light = style(fields[:, first : top + BAND + 1], colours)
            rows = picture[:, top : top + BAND]
            rows.add_(light[:, top - first :][:, :BAND], alpha=share)


def _dense(rows: int, columns: int, generator: torch.Generator) -> nn.Parameter:
    weights = torch.randn(rows, columns, generator=generator) / math.sqrt(columns)
    return nn.Parameter(weights, requires_grad=False)


def _points(height: int, width: int) -> Tensor:
    """Coordinates x, y and squared radius of a grid, (3, H * W); its shorter side goes from -1 to 1."""
    short = min(width, height)
    down, across = torch.meshgrid(
        torch.linspace(-1, 1, height) * (height / short),
        torch.linspace(-1, 1, width) * (width / short),
        indexing="ij",
    )
    return torch.stack([across, down, across.square() + down.square()]).view(3, -1)


def _drift(seconds: float) -> Tensor:
    """How far each unit has moved, (HIDDEN, 1). Each has its own pace, so the picture never repeats."""
    unit = torch.arange(HIDDEN, dtype=torch.float64)[:, None]
    pace = 0.25 + 0.35 * (unit * 0.618).frac()
    return (0.7 * torch.sin(seconds * pace + unit)).float()


def _slerp(start: Tensor, goal: Tensor, amount: float) -> Tensor:
    """Return a latent on the way along the sphere: on a straight line the latents between are duller."""
    cosine = torch.cosine_similarity(start.flatten(), goal.flatten(), dim=0).clamp(-0.999, 0.999)
    angle = cosine.acos()
    if angle < 0.05:
        return torch.lerp(start, goal, amount)
    return (start * ((1 - amount) * angle).sin() + goal * (amount * angle).sin()) / angle.sin()
