"""The demo model, through whole sessions in memory."""

from __future__ import annotations

from typing import get_args, get_type_hints

import numpy as np
import pytest
import trio

from reactor_trio import CommandError
from reactor_trio.demo import Painter
from reactor_trio.demo.network import MORPH_SECONDS
from reactor_trio.demo.styles import STYLES
from reactor_trio.media.jpeg import encode_jpeg
from reactor_trio.testing import SessionClient, open_session, run

SMALL = {"width": 64, "height": 48}
SOON = 30
"""Seconds of virtual time in which each test must be done."""


async def picture_after(client: SessionClient, frames: int) -> np.ndarray:
    """The picture of the last of the next `frames` frames."""
    for _ in range(frames - 1):
        await client.frame()
    return (await client.frame()).array().astype(int)


def change(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of two pictures, in levels."""
    return float(np.abs(one - other).mean())


def settled() -> int:
    """Frames after which a change is complete, including the frames that are already on the way."""
    return round(MORPH_SECONDS * Painter.fps) + 12


async def test_it_paints_and_tells_how_far_it_is() -> None:
    with trio.fail_after(SOON):
        async with open_session(Painter, SMALL) as client:
            for number in range(30):
                frame = await client.frame("main_video")
                progress = await client.receive("progress")
                assert frame.seq == progress.data["step"] == number
                assert progress.data["seconds"] == pytest.approx(number / Painter.fps)
                assert frame.array().shape == (48, 64, 3)


async def test_it_keeps_its_pace() -> None:
    with trio.fail_after(SOON):
        async with open_session(Painter, SMALL) as client:
            times = [(await client.frame()).pts for _ in range(25)]
            np.testing.assert_allclose(np.diff(times), 1 / Painter.fps, atol=1e-3)


async def test_the_prompt_is_remembered_and_changes_the_picture_little_by_little() -> None:
    with trio.fail_after(SOON):
        async with open_session(Painter, SMALL) as client:
            reply = await client.call("get_current_prompt")
            assert reply is not None
            assert reply.data == {"prompt": "a sunny meadow"}
            await client.call("set_speed", speed=0)
            still = await picture_after(client, settled())
            assert change(still, await picture_after(client, 5)) < 0.5

            assert await client.call("set_prompt", prompt="deep ocean at night") is None
            reply = await client.call("get_current_prompt")
            assert reply is not None
            assert (reply.type, reply.data) == ("current_prompt", {"prompt": "deep ocean at night"})
            pictures = [still] + [await picture_after(client, 1) for _ in range(settled())]
            assert change(pictures[0], pictures[-1]) > 10
            assert change(pictures[-2], pictures[-1]) < 0.5


@pytest.mark.parametrize("prompt", ["", "x" * 501, 5, None])
async def test_a_wrong_prompt_is_refused(prompt: object) -> None:
    with trio.fail_after(SOON):
        async with open_session(Painter, SMALL) as client:
            with pytest.raises(CommandError) as caught:
                await client.call("set_prompt", {"prompt": prompt})
            assert caught.value.code == "invalid_payload"
            assert [error.path for error in caught.value.errors] == ["prompt"]


def test_a_client_may_choose_every_style() -> None:
    style = get_type_hints(Painter.set_style)["style"]
    assert get_args(style) == tuple(STYLES)


@pytest.mark.parametrize("style", [name for name in STYLES if name != "silk"])
async def test_a_style_changes_the_picture(style: str) -> None:
    with trio.fail_after(SOON):
        async with open_session(Painter, SMALL) as client:
            await client.call("set_speed", speed=0)
            before = await picture_after(client, settled())
            await client.call("set_style", style=style)
            assert change(before, await picture_after(client, settled())) > 5


def red_and_blue() -> bytes:
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, :60] = 200, 30, 40
    pixels[:, 60:] = 30, 60, 180
    return encode_jpeg(pixels, 95)


async def test_a_picture_gives_its_colours_until_they_are_cleared() -> None:
    with trio.fail_after(SOON):
        async with open_session(Painter, SMALL) as client:
            await client.call("set_speed", speed=0)
            before = await picture_after(client, settled())
            image = await client.upload(red_and_blue(), name="flag.jpg", mime_type="image/jpeg")
            reply = await client.call("set_palette_image", image=image)
            assert reply is not None
            assert reply.type == "palette_extracted"
            red, blue = (bytes.fromhex(colour[1:]) for colour in reply.data["colours"][:2])
            np.testing.assert_allclose(tuple(red), (200, 30, 40), atol=8)
            np.testing.assert_allclose(tuple(blue), (30, 60, 180), atol=8)
            coloured = await picture_after(client, settled())
            assert change(before, coloured) > 10
            assert coloured[..., 1].mean() < coloured[..., 0].mean()

            await client.call("clear_palette")
            assert change(before, await picture_after(client, settled())) < 1


async def test_a_picture_that_cannot_be_read_is_refused_and_the_session_goes_on() -> None:
    with trio.fail_after(SOON):
        async with open_session(Painter, SMALL) as client:
            image = await client.upload(b"no picture", name="x.jpg", mime_type="image/jpeg")
            with pytest.raises(CommandError, match="not a JPEG") as caught:
                await client.call("set_palette_image", image=image)
            assert caught.value.code == "bad_image"
            await client.frame()


async def test_only_jpeg_is_taken() -> None:
    with trio.fail_after(SOON):
        async with open_session(Painter, SMALL) as client:
            image = await client.upload(b"\x89PNG", name="x.png", mime_type="image/png")
            with pytest.raises(CommandError) as caught:
                await client.call("set_palette_image", image=image)
            assert caught.value.code == "upload_type"


def test_two_runs_are_the_same_to_the_byte() -> None:
    async def main() -> list[bytes]:
        with trio.fail_after(SOON):
            async with open_session(Painter, SMALL) as client:
                await client.call("set_prompt", prompt="jazz")
                return [(await client.frame()).data for _ in range(20)]

    assert run(main) == run(main)
