"""The demo's network, its scenes and its palettes; pure torch, no session."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from reactor_trio.demo.network import MORPH_SECONDS, Morph, Network, scene_of
from reactor_trio.demo.palette import (
    COLOURS,
    draw_palette,
    from_oklab,
    hex_colours,
    k_means,
    palette_of,
    read_colours,
    to_linear,
    to_oklab,
    to_srgb,
)
from reactor_trio.demo.styles import STYLES, StyleName
from reactor_trio.media.jpeg import encode_jpeg

WIDTH, HEIGHT = 96, 64
FRAME = 1 / 24
"""Seconds of a frame."""


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(WIDTH, HEIGHT)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean difference of two pictures in [0, 1]."""
    return float((one - other).abs().mean())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- pictures


def test_every_style_has_a_name_and_every_name_a_style() -> None:
    assert tuple(STYLES) == get_args(StyleName)


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_is_rgb_in_the_unit_range_and_has_contrast(network: Network, style: StyleName) -> None:
    picture = network.paint(scene_of("a sunny meadow", style), 0.0)
    assert picture.shape == (3, HEIGHT, WIDTH)
    assert picture.dtype == torch.float32
    assert picture.isfinite().all()
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture.std() > 0.03


@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 65), (200, 33)])
def test_any_size_is_painted(width: int, height: int) -> None:
    assert Network(width, height).paint(scene_of("x", "paper"), 0.0).shape == (3, height, width)


@pytest.mark.parametrize(("width", "height"), [(15, 64), (64, 0), (4097, 64)])
def test_sizes_have_bounds(width: int, height: int) -> None:
    with pytest.raises(ValueError, match=f"{width} x {height}"):
        Network(width, height)


@pytest.mark.parametrize("style", STYLES)
def test_bands_leave_no_seam(network: Network, style: StyleName, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of("seams", style)
    whole = network.paint(scene, 0.0)
    monkeypatch.setattr("reactor_trio.demo.network.BAND", 7)
    torch.testing.assert_close(network.paint(scene, 0.0), whole, atol=1e-3, rtol=0)


def test_the_picture_moves_smoothly_with_time(network: Network) -> None:
    scene = scene_of("a sunny meadow", "silk")
    now, soon, later = (network.paint(scene, seconds) for seconds in (3.0, 3.0 + FRAME, 5.0))
    assert 0 < difference(now, soon) < 0.02
    assert difference(now, later) > 3 * difference(now, soon)


def test_the_same_prompt_gives_the_same_picture_in_every_process(network: Network) -> None:
    code = f"""
import sys
from reactor_trio.demo.network import Network, scene_of
picture = Network({WIDTH}, {HEIGHT}).paint(scene_of("Füchse im Schnee", "ink"), 1.5)
sys.stdout.buffer.write(picture.numpy().tobytes())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    theirs = torch.from_numpy(np.frombuffer(run.stdout, np.float32).reshape(3, HEIGHT, WIDTH).copy())
    # The last bits may differ, because a matrix product may be summed in another order.
    torch.testing.assert_close(
        theirs, network.paint(scene_of("Füchse im Schnee", "ink"), 1.5), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("style", STYLES)
def test_different_prompts_give_clearly_different_pictures(network: Network, style: StyleName) -> None:
    pictures = [network.paint(scene_of(f"prompt {number}", style), 0.0) for number in range(4)]
    for index, picture in enumerate(pictures):
        assert all(difference(picture, other) > 0.03 for other in pictures[index + 1 :])


def test_the_seed_decides_the_weights(network: Network) -> None:
    scene = scene_of("a sunny meadow", "silk")
    assert difference(network.paint(scene, 0.0), Network(WIDTH, HEIGHT, seed=8).paint(scene, 0.0)) > 0.03


# --- morphing


def test_a_morph_leads_from_one_scene_to_the_other(network: Network) -> None:
    start, goal = scene_of("one", "silk"), scene_of("two", "neon")
    morph = Morph(start, goal, since=10.0)
    for seconds, scene in ((9.0, start), (10.0, start), (10.0 + MORPH_SECONDS, goal), (99.0, goal)):
        torch.testing.assert_close(
            network.paint(morph.at(seconds), 0.0), network.paint(scene, 0.0), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("style", ["silk", "marble"])
def test_a_morph_has_no_jump(network: Network, style: StyleName) -> None:
    morph = Morph(scene_of("one", "silk"), scene_of("two", style), since=0.0)
    moment = FRAME / 50
    for seconds in torch.linspace(-moment, MORPH_SECONDS, 25).tolist():
        before, after = (network.paint(morph.at(time), time) for time in (seconds, seconds + moment))
        assert difference(before, after) < 0.01


def test_a_morph_that_is_overtaken_goes_on_from_where_it_was() -> None:
    morph = Morph(scene_of("one", "silk"), scene_of("two", "ink"), since=0.0)
    half = morph.at(MORPH_SECONDS / 2)
    overtaken = Morph(half, scene_of("three", "silk"), since=MORPH_SECONDS / 2)
    torch.testing.assert_close(overtaken.at(MORPH_SECONDS / 2).latent, half.latent)


def test_a_morph_keeps_the_liveliness_of_the_latents() -> None:
    start, goal = scene_of("one", "silk"), scene_of("two", "silk")
    halfway = start.mix(goal, 0.5).latent.norm()
    assert halfway > 0.9 * min(start.latent.norm(), goal.latent.norm())


def test_mixing_a_scene_with_itself_changes_nothing() -> None:
    scene = scene_of("one", "silk")
    torch.testing.assert_close(scene.mix(scene, 0.3).latent, scene.latent)


# --- palettes


def test_oklab_and_srgb_have_inverses() -> None:
    srgb = torch.rand(100, 3, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(to_srgb(from_oklab(to_oklab(to_linear(srgb)))), srgb, atol=1e-5, rtol=0)


def test_white_is_white_in_oklab() -> None:
    white = to_oklab(torch.ones(1, 3, dtype=torch.float64))
    torch.testing.assert_close(white, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_palette_goes_from_dark_to_light(seed: int) -> None:
    palette = draw_palette(seeded(seed))
    assert palette.shape == (COLOURS, 3)
    lightness = to_oklab(to_linear(palette.sqrt()))[:, 0]
    assert lightness.diff().min() > 0


FOUR = {"#c81e28": 0.5, "#1e46b4": 0.25, "#f0c828": 0.15, "#149650": 0.10}
"""The colours of a picture, and the share of it that each covers."""


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def picture_of(shares: dict[str, float], height: int = 240, width: int = 400) -> bytes:
    pixels = np.zeros((height, width, 3), np.uint8)
    left = 0
    for colour, share in shares.items():
        right = left + round(share * width)
        pixels[:, left:right] = rgb(colour)
        left = right
    return encode_jpeg(pixels, 90)


def test_the_colours_of_a_picture_are_found_the_most_frequent_first() -> None:
    found = [rgb(colour) for colour in hex_colours(read_colours(picture_of(FOUR)))]
    for colour, expected in zip(found[:4], FOUR, strict=True):
        np.testing.assert_allclose(colour, rgb(expected), atol=8)


def test_the_same_picture_gives_the_same_colours() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    data = encode_jpeg(noise)
    assert hex_colours(read_colours(data)) == hex_colours(read_colours(data))


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (1000, 700)])
def test_a_picture_of_one_colour_has_one(size: tuple[int, int]) -> None:
    colours = read_colours(picture_of({"#336699": 1.0}, *size))
    assert len(colours) == 1
    np.testing.assert_allclose(rgb(hex_colours(colours)[0]), rgb("#336699"), atol=2)
    assert palette_of(colours).shape == (COLOURS, 3)


@pytest.mark.parametrize("data", [b"", b"no picture", picture_of(FOUR)[:500]])
def test_what_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="JPEG"):
        read_colours(data)


def test_too_large_a_picture_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactor_trio.demo.palette.MAX_PIXELS", 240 * 400 - 1)
    with pytest.raises(ValueError, match="400 x 240"):
        read_colours(picture_of(FOUR))


def test_k_means_finds_clouds_and_their_shares() -> None:
    middles = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    sizes = [100, 50, 25]
    points = torch.cat(
        [
            middle + 0.1 * torch.randn(size, 2, generator=seeded(1))
            for middle, size in zip(middles, sizes, strict=True)
        ]
    )
    centres, shares = k_means(points, 3, seeded(0))
    order = shares.argsort(descending=True)
    torch.testing.assert_close(centres[order], middles, atol=0.1, rtol=0)
    torch.testing.assert_close(shares[order], torch.tensor(sizes) / 175)


def test_k_means_of_few_points_has_few_centres() -> None:
    centres, shares = k_means(torch.tensor([[1.0], [1.0], [3.0]]), 5, seeded(0))
    assert sorted(centres[:, 0].tolist()) == [1.0, 3.0]
    assert float(shares.sum()) == pytest.approx(1)


def test_a_palette_changes_the_picture_and_not_its_shape(network: Network) -> None:
    own = scene_of("a sunny meadow", "paper")
    palette = palette_of(read_colours(picture_of(FOUR)))
    other = scene_of("a sunny meadow", "paper", palette)
    torch.testing.assert_close(own.latent, other.latent)
    assert difference(network.paint(own, 0.0), network.paint(other, 0.0)) > 0.05


def test_a_grey_palette_makes_a_grey_picture(network: Network) -> None:
    palette = palette_of(torch.tensor([[0.1] * 3, [0.5] * 3, [0.9] * 3]))
    picture = network.paint(scene_of("a sunny meadow", "silk", palette), 0.0)
    assert float((picture - picture.mean(0)).abs().max()) < 1e-3
