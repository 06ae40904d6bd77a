"""Each example, and the model in README.md: served by a process of its own, and used as a client would."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import trio

from reactor_trio.client import Client, open_client
from reactor_trio.errors import CommandError
from serving import PROCESS_TIMEOUT, ROOT, Done, Served, serve

EXAMPLES = ROOT / "examples"
README = ROOT / "README.md"
CLIENT_TIMEOUT = 30.0
"""Seconds for what a client does in a test."""

GREY = np.full((96, 128, 3), 128, np.uint8)
RED = np.full((96, 128, 3), (200, 40, 40), np.uint8)


def jpeg(pixels: np.ndarray[Any, Any]) -> bytes:
    return bytes(simplejpeg.encode_jpeg(pixels, quality=95))


@pytest.fixture
def seed(tmp_path: Path) -> Iterator[Served]:
    with serve(EXAMPLES / "seed.py", tmp_path) as server:
        yield server


@pytest.fixture
def booth(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "photo.jpg").write_bytes(jpeg(RED))
    with serve(EXAMPLES / "photo_booth.py", tmp_path) as server:
        yield server


@pytest.fixture
def noughts(tmp_path: Path) -> Iterator[Served]:
    with serve(EXAMPLES / "noughts.py", tmp_path) as server:
        yield server


def docstring_calls(example: str) -> list[str]:
    """The `call` commands that the module's docstring proposes."""
    text = ast.get_docstring(ast.parse((EXAMPLES / example).read_text()))
    return re.findall(r"^ +(python -m reactor_trio call .*)$", text or "", re.MULTILINE)


def printed(done: Done) -> list[dict[str, Any]]:
    assert done.status == 0, done.errors
    return [json.loads(line) for line in done.output.splitlines()]


def test_each_docstring_says_how_to_serve_and_call_the_example() -> None:
    for path in set(EXAMPLES.glob("*.py")) - {EXAMPLES / "paint.py"}:  # a client
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert f"    python -m reactor_trio serve examples/{path.name}\n" in text
        assert len(docstring_calls(path.name)) >= 2, path


# ---- seed.py


async def test_the_seed_page_put_together(seed: Served) -> None:
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(seed.url) as client:
            await client.call("set_prompt", prompt="a dark forest")
            await client.send("get_current_prompt")
            assert (await client.receive("current_prompt")).data == {"prompt": "a dark forest"}

            steps = [(await client.receive("progress")).data["step"] for _ in range(10)]
            assert steps == list(range(10)), "each frame"
            frame = await client.frame("main_video")
            assert frame.array().shape == (180, 320, 3)


async def test_the_seed_takes_its_colours_from_a_reference_image(seed: Served) -> None:
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(seed.url) as client:
            red = await client.upload(jpeg(RED), name="red.jpg")
            assert (await client.receive("upload_received")).data == {"name": "red.jpg", "size": red.size}
            await client.call("set_reference_image", image=red)
            await frame_that_is_red(client)

            notes = await client.upload(b"no picture at all", name="notes.txt")
            with pytest.raises(CommandError, match=r"bad_image: notes\.txt: not a JPEG"):
                await client.call("set_reference_image", image=notes)


async def frame_that_is_red(client: Client) -> None:
    """Those that were emitted before the change come first."""
    async for frame in client.frames("main_video"):
        red, green, blue = frame.array().mean(axis=(0, 1))
        if red > 3 * green and red > 3 * blue:
            return


def test_the_calls_in_the_docstring_of_seed(seed: Served) -> None:
    set_prompt, refused, get_prompt = map(seed.run, docstring_calls("seed.py"))
    assert printed(set_prompt) == [{"type": "reactor.ack", "data": {}}]
    assert refused.status == 1
    assert "invalid_payload: prompt: must have at least 1 character, not 0" in refused.errors
    assert {"type": "current_prompt", "data": {"prompt": "a sunny meadow"}} in printed(get_prompt)


# ---- photo_booth.py


async def test_the_booth_changes_a_photo_and_shows_it(booth: Served) -> None:
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(booth.url) as client:
            photo = await client.upload(jpeg(GREY), name="grey.jpg")
            assert (await client.receive("photo_taken")).data == {"name": "grey.jpg", "count": 1}
            means = {}
            for effect in ("edges", "posterise", "warmth"):
                reply = await client.call("apply", photo=photo, effect=effect)
                assert reply is not None
                assert reply.data == {"width": 128, "height": 96}
                means[effect] = (await client.frame()).array().mean(axis=(0, 1))
    assert means["edges"] == pytest.approx([0, 0, 0], abs=3), "a grey wall has none"
    assert means["posterise"] == pytest.approx([170, 170, 170], abs=3)
    assert means["warmth"] == pytest.approx([166, 128, 90], abs=4)


async def test_the_booth_makes_collages_and_refuses_what_is_no_photo(booth: Served) -> None:
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(booth.url) as client:
            photos = [await client.upload(jpeg(pixels), name="p.jpg") for pixels in (GREY, RED)]
            reply = await client.call("collage", photos=photos)
            assert reply is not None
            picture = (await client.frame()).array()
            assert picture.shape == (160, 320, 3)
            assert picture[:, 170:].mean(axis=(0, 1)) == pytest.approx([200, 40, 40], abs=5)

            broken = await client.upload(jpeg(RED)[:300], name="broken.jpg")
            with pytest.raises(CommandError, match=r"unreadable_photo: broken\.jpg"):
                await client.call("collage", photos=[photos[0], broken])
            with pytest.raises(CommandError, match="at least 1 item"):
                await client.call("collage", photos=[])


def test_the_calls_in_the_docstring_of_photo_booth(booth: Served) -> None:
    edges, warm, too_warm = map(booth.run, docstring_calls("photo_booth.py"))
    for done in (edges, warm):
        assert printed(done) == [{"type": "shown", "data": {"width": 128, "height": 96}}]
    assert too_warm.status == 1
    assert "strength: must be at most 1, not 7" in too_warm.errors


# ---- noughts.py


async def test_a_whole_game_of_noughts_and_crosses(noughts: Served) -> None:
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(noughts.url) as client:
            for row, column in [(0, 0), (1, 0), (0, 1), (1, 1)]:
                await client.call("play", square={"row": row, "column": column})
            with pytest.raises(CommandError, match="not_free: choose another square"):
                await client.call("play", square={"row": 1, "column": 1})

            # The computer takes the third of the row for crosses.
            end = await client.call("let_computer_play")
            assert end is not None
            assert end.data["board"] == ["cross"] * 3 + ["nought"] * 2 + [None] * 4
            assert end.data["winner"] == "cross"
            assert end.data["is_over"]
            with pytest.raises(CommandError, match="game_over"):
                await client.call("let_computer_play")


async def test_a_game_is_a_session_s_own(noughts: Served) -> None:
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(noughts.url) as one, open_client(noughts.url) as other:
            await one.call("play", square={"row": 1, "column": 1})
            position = await other.call("play", square={"row": 0, "column": 0})
            assert position is not None
            assert position.data["board"] == ["cross"] + [None] * 8


def test_the_calls_in_the_docstring_of_noughts(noughts: Served) -> None:
    play, new_game, computer, refused = map(noughts.run, docstring_calls("noughts.py"))
    [position] = printed(play)
    assert position["type"] == "position"
    assert position["data"]["board"] == [None] * 4 + ["cross"] + [None] * 4
    [position] = printed(new_game)
    assert position["data"]["to_move"] == "nought"
    [position] = printed(computer)
    assert position["data"]["board"].count("cross") == 1
    assert refused.status == 1
    assert "square.row: must be at most 2, not 3" in refused.errors
    assert "square.column: must be an integer, not the string 'left'" in refused.errors


# ---- README.md


def readme_model() -> str:
    """The first Python block of README.md, which is a whole model."""
    assert README.is_file(), "README.md is not there: its first ```python block is the model to serve"
    found = re.search(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, "README.md has no ```python block"
    assert "ReactorModel)" in found[1], f"the first ```python block of README.md is no model:\n{found[1]}"
    return found[1]


def test_a_client_paints_with_the_demo(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(jpeg(RED))
    with serve("reactor_trio.demo:Painter", tmp_path) as demo:
        command = [sys.executable, ROOT / "examples" / "paint.py", "a storm", photo, "--url", demo.url]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=PROCESS_TIMEOUT, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "colours: #" in done.stdout
    assert "progress: {'step': 0" in done.stdout
    painting = simplejpeg.decode_jpeg((tmp_path / "painting.jpg").read_bytes())
    assert painting.shape == (512, 512, 3)
    assert painting.std() > 5, "it is no empty canvas"


def test_the_model_of_the_readme_is_short() -> None:
    assert len(readme_model().splitlines()) <= 30


async def test_the_model_of_the_readme_can_be_served_and_used(tmp_path: Path) -> None:
    path = tmp_path / "readme_model.py"
    path.write_text(readme_model())
    with serve(path, tmp_path) as server:
        with trio.fail_after(CLIENT_TIMEOUT):
            async with open_client(server.url) as client:
                assert client.welcome.events, "a model without commands is no example"
                for event in client.welcome.events.values():
                    await client.call(event.name, an_example_of(event.schema))
                for track in client.welcome.tracks.values():
                    assert (await client.frame(track.name)).array().ndim == 3


def an_example_of(schema: Any) -> Any:
    """A value that fits a schema as a README needs them."""
    if "default" in schema or "enum" in schema:
        return schema.get("default", schema.get("enum", [None])[0])
    match schema["type"]:
        case "object":
            return {name: an_example_of(inner) for name, inner in schema["properties"].items()}
        case "string":
            return "rain".ljust(schema.get("minLength", 0), "!")
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "array":
            return [an_example_of(schema["items"]) for _ in range(schema.get("minItems", 0))]
    raise AssertionError(f"no example for {schema}: a README's model has simple fields")
