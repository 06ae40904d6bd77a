"""Each example, and the model in README.md: a process of its own serves it, and a client uses it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import warnings
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

pytestmark = pytest.mark.real_time

EXAMPLES = ROOT / "examples"
README = ROOT / "README.md"
CLIENT_TIMEOUT = 30.0
"""Seconds that a client has in a test."""

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
    # paint.py is a client; in_fastapi.py serves its model itself (tests/test_embedding.py).
    others = {EXAMPLES / "paint.py", EXAMPLES / "in_fastapi.py"}
    for path in set(EXAMPLES.glob("*.py")) - others:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert re.search(
            rf"^ +python -m reactor_trio serve examples/{re.escape(path.name)}( --set .*)?$",
            text,
            re.MULTILINE,
        )
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
    """Wait for a red frame: frames that were emitted before the change come first."""
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
    """A value that fits the schema, for the simple schemas that a README needs."""
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


# ---- webcam.py, tone.py, life.py


@pytest.fixture
def webcam(tmp_path: Path) -> Iterator[Served]:
    with serve(EXAMPLES / "webcam.py", tmp_path) as server:
        yield server


@pytest.fixture
def tone(tmp_path: Path) -> Iterator[Served]:
    with serve(EXAMPLES / "tone.py", tmp_path) as server:
        yield server


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Served]:
    with serve(EXAMPLES / "life.py", tmp_path) as server:
        yield server


async def test_a_webcam_s_picture_comes_back_changed(webcam: Served) -> None:
    stripes = np.zeros((96, 128, 3), np.uint8)
    stripes[:, 64:] = 255
    means = {}
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(webcam.url) as client:
            for effect, picture in (("none", RED), ("invert", RED), ("trails", RED), ("edges", stripes)):
                await client.call("set_effect", effect=effect, strength=1.0)
                await client.publish("webcam", picture)
                means[effect] = (await client.frame()).array().mean(axis=(0, 1))
    assert means["none"] == pytest.approx([200, 40, 40], abs=4)
    assert means["invert"] == pytest.approx([55, 215, 215], abs=4)
    # Light pixels of the frame before fade slowly: 0.95 of 215 is 204.
    assert means["trails"] == pytest.approx([200, 204, 204], abs=4)
    # The stripes have one edge: two of 128 columns are light.
    assert means["edges"] == pytest.approx([4, 4, 4], abs=2)


def test_the_calls_in_the_docstring_of_webcam(webcam: Served) -> None:
    edges, trails, sepia = map(webcam.run, docstring_calls("webcam.py"))
    for done in (edges, trails):
        assert printed(done) == [{"type": "reactor.ack", "data": {}}]
    assert sepia.status == 1
    assert "effect: must be" in sepia.errors


async def test_a_tone_has_the_pitch_that_was_asked_for_and_its_picture(tone: Served) -> None:
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(tone.url) as client:
            await client.call("set_tone", frequency=1000.0, volume=0.5)
            blocks = []
            async for block in client.frames("tone"):
                blocks.append(block.array()[0])
                assert (block.rate, len(blocks[-1])) == (48_000, 960)
                if len(blocks) == 50:
                    break
            async for frame in client.frames("wave_form"):
                if frame.pts >= block.pts - 0.1:
                    break
            picture = frame.array()
    # The last half second, long after the change.
    heard = np.concatenate(blocks[25:]) / 32768
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert np.argmax(spectrum) * 48_000 / len(heard) == pytest.approx(1000, abs=2)
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.01)
    assert picture.shape == (180, 480, 3)
    # The curve goes down to a quarter and up to three quarters of the picture.
    rows = np.flatnonzero(picture[:, :, 1].max(axis=1) > 150)
    assert (rows.min(), rows.max()) == pytest.approx((45, 134), abs=3)


def test_the_calls_in_the_docstring_of_tone(tone: Served) -> None:
    low, high, too_high = map(tone.run, docstring_calls("tone.py"))
    for done in (low, high):
        assert printed(done) == [{"type": "reactor.ack", "data": {}}]
    assert too_high.status == 1
    assert "frequency: must be at most 8000, not 99999" in too_high.errors


async def test_life_goes_on_until_it_is_paused(life: Served) -> None:
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(life.url) as client:
            await client.call("set_speed", speed=60)
            frames = [await client.frame() for _ in range(5)]
            assert [frame.metadata["generation"] for frame in frames] == [1, 2, 3, 4, 5]
            assert frames[0].array().shape == (360, 480, 3)

            empty = await client.call("scatter", share=0)
            assert empty is not None
            assert empty.data == {"alive": 0}
            async for frame in client.frames():  # dead cells fade
                if frame.array().max() < 8:
                    break

            await client.call("set_paused", paused=True)
            with trio.move_on_after(0.5):  # frames that were on their way
                while True:
                    await client.frame()
            full = await client.call("scatter", share=1)
            assert full is not None
            assert full.data == {"alive": 90 * 120}
            with trio.move_on_after(0.3) as silence:
                await client.frame()
            assert silence.cancelled_caught


def test_the_calls_in_the_docstring_of_life(life: Served) -> None:
    speed, scatter, too_fast = map(life.run, docstring_calls("life.py"))
    assert printed(speed) == [{"type": "reactor.ack", "data": {}}]
    [scattered] = printed(scatter)
    assert scattered["type"] == "scattered"
    assert 0.3 < scattered["data"]["alive"] / (90 * 120) < 0.5
    assert too_fast.status == 1
    assert "speed: must be at most 60, not 1000" in too_fast.errors


# ---- diffusion.py: nothing can be downloaded here, so the pipeline is tiny and untrained


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with random weights, saved in the layout of a pipeline in the cache of the Hub."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    start, end = "<|startoftext|>", "<|endoftext|>"
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), start, end]
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries warn about each other
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 16),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                norm_num_groups=4,
            ),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(vocabulary),
                    hidden_size=16,
                    intermediate_size=32,
                    num_attention_heads=2,
                    num_hidden_layers=1,
                    bos_token_id=vocabulary[start],
                    eos_token_id=vocabulary[end],
                    pad_token_id=vocabulary[end],
                )
            ),
            tokenizer=CLIPTokenizer(
                str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
            ),
            unet=UNet2DConditionModel(
                block_out_channels=(8, 16),
                layers_per_block=1,
                sample_size=16,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=16,
                attention_head_dim=2,
                norm_num_groups=4,
            ),
            scheduler=EulerDiscreteScheduler(steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture
def dreamer(tmp_path: Path, checkpoint: Path) -> Iterator[Served]:
    (tmp_path / "photo.jpg").write_bytes(jpeg(RED))
    options = [f"--set={each}" for each in (f"checkpoint={checkpoint}", "size=64", "device=cpu")]
    with serve(EXAMPLES / "diffusion.py", tmp_path, *options) as server:
        yield server


async def test_a_diffusion_pipeline_dreams_on_from_each_frame(dreamer: Served) -> None:
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(dreamer.url) as client:
            first, second = [(await client.frame()).array().astype(int) for _ in range(2)]
            assert first.shape == second.shape == (64, 64, 3)
            assert np.abs(first - second).mean() > 1, "each is made from the one before"

            with pytest.raises(CommandError, match="steps: must be at most 8"):
                await client.call("set_steps", steps=50)
            await client.call("set_prompt", prompt="a dark forest")
            applied = None
            async for frame in client.frames():
                applied = applied or frame.applied
                if applied:
                    break
            assert applied, "the prompt has reached a picture"


async def test_two_dreamers_share_the_device(dreamer: Served) -> None:
    with trio.fail_after(CLIENT_TIMEOUT):
        async with open_client(dreamer.url) as one, open_client(dreamer.url) as other:
            for client in (one, other) * 3:
                assert (await client.frame()).array().shape == (64, 64, 3)


def test_the_calls_in_the_docstring_of_diffusion(dreamer: Served) -> None:
    for done in map(dreamer.run, docstring_calls("diffusion.py")):
        assert printed(done) == [{"type": "reactor.ack", "data": {}}]
