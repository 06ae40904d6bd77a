"""Audio that a model emits: values, blocks of 20 ms, one clock for picture and sound. In virtual time."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor_trio import Audio, Output, ReactorModel, Video
from reactor_trio.compute.lanes import Lane
from reactor_trio.link.outbox import MAX_AUDIO_BLOCKS
from reactor_trio.media.audio import MAX_CHANNELS, inspect_audio, pcm_samples
from reactor_trio.session.limits import Limits
from reactor_trio.testing import InlineExecutor, Network, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactor_trio.client import Frame
    from reactor_trio.testing import SessionClient

RATE = 48_000
BLOCK = 0.02
"""Seconds of a block."""


class Film(Output):
    screen: Video = None
    speaker: Audio = None


class Film44(Output):
    view: Video
    voice: Audio = Audio(sample_rate=44_100)


class Emitter(ReactorModel):
    """Runs the script of a test: `script` is an async function that takes the model."""

    async def run(self) -> None:
        await self.connected.wait()
        await self.script(self)


def emitting(script: Any, **attributes: Any) -> type[Emitter]:
    return type("Scripted", (Emitter,), {"script": staticmethod(script), **attributes})


def picture(value: int = 0) -> np.ndarray[Any, Any]:
    return np.full((8, 8, 3), value, np.uint8)


def ramp(count: int, start: int = 1) -> np.ndarray[Any, Any]:
    """Samples that count up from `start`: never 0, and all different if there are at most 30000."""
    return ((np.arange(start, start + count) - 1) % 30_000 + 1).astype(np.int16)


def heard(blocks: Sequence[Frame]) -> np.ndarray[Any, Any]:
    """The samples of consecutive blocks, as one array of shape (channels, samples)."""
    return np.concatenate([block.array() for block in blocks], axis=1)


async def both(client: SessionClient, video: str, audio: str) -> tuple[list[Frame], list[Frame]]:
    """All frames of a video track and all blocks of an audio track, until the session ends."""
    taken: dict[str, list[Frame]] = {video: [], audio: []}

    async def collect(track: str) -> None:
        taken[track] += [frame async for frame in client.frames(track)]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, video)
        nursery.start_soon(collect, audio)
    return taken[video], taken[audio]


# ---- values that `emit` takes as audio


def pcm(value: object) -> np.ndarray[Any, Any]:
    layout = inspect_audio(value, track="speaker")
    samples = pcm_samples(value, layout)
    assert samples.shape == (layout.samples, layout.channels)
    assert samples.dtype == np.dtype("<i2")
    assert samples.flags.c_contiguous
    if isinstance(value, np.ndarray):
        assert not np.shares_memory(samples, value)
    return samples


def test_int16_is_interleaved_and_copied() -> None:
    np.testing.assert_array_equal(pcm(np.array([1, 2, 3], np.int16)), [[1], [2], [3]])
    np.testing.assert_array_equal(pcm(np.array([[1, 2], [3, 4]], np.int16)), [[1, 3], [2, 4]])
    np.testing.assert_array_equal(pcm(np.array([[1, 2], [3, 4]], ">i2")), [[1, 3], [2, 4]])
    assert pcm(np.zeros((2, 0), np.int16)).shape == (0, 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_clipped_and_what_is_no_number_is_silence(dtype: Any) -> None:
    values = [-2, -1, -0.5, 0, 0.5, 1, 2, math.nan, math.inf, -math.inf]
    levels = [-32767, -32767, -16384, 0, 16384, 32767, 32767, 0, 32767, -32767]
    np.testing.assert_array_equal(pcm(np.array(values, dtype))[:, 0], levels)


@pytest.mark.torch
def test_tensors() -> None:
    import torch

    values = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, math.nan, math.inf, -math.inf]
    levels = [-32767, -32767, -16384, 0, 16384, 32767, 32767, 0, 32767, -32767]
    for dtype in (torch.float16, torch.float32, torch.float64):
        np.testing.assert_array_equal(pcm(torch.tensor(values, dtype=dtype))[:, 0], levels)
    np.testing.assert_array_equal(pcm(torch.tensor([[1, 2], [3, 4]], dtype=torch.int16).T), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(pcm(torch.tensor([0.5, -1], dtype=torch.bfloat16))[:, 0], [16384, -32767])
    pcm(torch.ones(4, requires_grad=True))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            np.zeros((480, 2), np.int16),
            r"shape \(480, 2\) .* looks like \(samples, channels\)",
        ),
        (np.zeros((MAX_CHANNELS + 1, 480), np.int16), r"shape \(9, 480\) and dtype int16; expected"),
        (np.zeros((0, 480), np.int16), r"shape \(0, 480\)"),
        (np.zeros((1, 2, 480), np.int16), r"shape \(1, 2, 480\)"),
        (np.int16(3), "int16"),
        (np.zeros(480, np.int32), "dtype int32"),
        (np.zeros(480, np.uint8), "dtype uint8"),
        (np.zeros(480, bool), "dtype bool"),
        (np.zeros(480, complex), "dtype complex128"),
        ([0.0] * 480, "a list"),
        (b"\0\0", "a bytes"),
    ],
)
def test_anything_else_names_track_shape_and_dtype(value: object, told: str) -> None:
    with pytest.raises(ValueError, match=rf"track 'speaker' was given .*{told}"):
        inspect_audio(value, track="speaker")


@pytest.mark.torch
def test_other_tensors_are_refused_as_well() -> None:
    import torch

    with pytest.raises(ValueError, match=r"a tensor of shape \(480,\) and dtype torch.int32"):
        inspect_audio(torch.zeros(480, dtype=torch.int32), track="speaker")
    with pytest.raises(ValueError, match=r"track 'speaker' was given .*meta"):
        inspect_audio(torch.zeros(480, device="meta"), track="speaker")


# ---- blocks


async def test_blocks_of_20_ms_leave_at_their_end_and_without_a_gap() -> None:
    numbers: list[int] = []

    async def script(model: Emitter) -> None:
        for index in range(50):
            left = ramp(1600, 1 + 1600 * index)
            await model.emit(Film(speaker=np.stack([left, -left])))
        numbers.append(client.session.statistics().counts.frames["speaker"].silence)

    async with open_session(emitting(script)) as client:
        blocks = [block async for block in client.frames("speaker")]
    assert [block.seq for block in blocks] == list(range(84))
    assert {(block.codec, block.rate, block.channels) for block in blocks} == {("pcm_s16le", RATE, 2)}
    assert {len(block.payload) for block in blocks} == {960 * 2 * 2}
    first = blocks[0].pts
    assert [block.pts for block in blocks] == pytest.approx([first + BLOCK * n for n in range(84)], abs=1e-6)
    for block in blocks:
        assert block.received_at - blocks[0].received_at == pytest.approx(BLOCK * block.seq)
    samples = heard(blocks)
    np.testing.assert_array_equal(samples[0, :80_000], ramp(80_000))
    np.testing.assert_array_equal(samples[1], -samples[0])
    assert not samples[:, 80_000:].any(), "the rest of the last block is silence"
    assert numbers == [0]


@given(
    cuts=st.lists(st.integers(0, 5000), max_size=12),
    channels=st.integers(1, 3),
    buffer_size=st.integers(1, 4),
    slow=st.booleans(),
)
@settings(max_examples=40, deadline=None)
async def test_any_cut_of_the_samples_gives_the_same_stream(
    cuts: list[int], channels: int, buffer_size: int, slow: bool
) -> None:
    lengths = [*cuts, 1]
    stream = np.stack([ramp(sum(lengths)) + channel for channel in range(channels)]).astype(np.int16)

    async def script(model: Emitter) -> None:
        begin = 0
        for length in lengths:
            await model.emit(Film(speaker=stream[:, begin : begin + length]))
            begin += length
            if slow:  # about as fast as it is played, so that little sound waits
                await trio.sleep(0.9 * length / RATE)

    with trio.fail_after(3600):
        async with open_session(emitting(script, buffer_size=buffer_size)) as client:
            blocks = [block async for block in client.frames("speaker")]
    count = stream.shape[1]
    assert len(blocks) == math.ceil(count / 960)
    np.testing.assert_array_equal(heard(blocks)[:, :count], stream)
    assert np.diff([block.pts for block in blocks]) == pytest.approx(BLOCK, abs=1e-6)


async def test_the_number_of_channels_may_not_change() -> None:
    async def script(model: Emitter) -> None:
        await model.emit(Film(speaker=np.zeros((2, 960), np.int16)))
        with pytest.raises(ValueError, match=r"track 'speaker' has 2 channels .* given 1"):
            await model.emit(Film(speaker=np.zeros(960, np.int16)))
        await model.emit(Film(speaker=np.zeros((2, 960), np.int16)))

    async with open_session(emitting(script)) as client:
        assert (await client.ended()).reason == "finished"


async def test_no_samples_say_nothing_of_the_channels() -> None:
    async def script(model: Emitter) -> None:
        for samples in (np.zeros(0), np.zeros((2, 960)), np.zeros(0), np.zeros((2, 960))):
            await model.emit(Film(speaker=samples))

    async with open_session(emitting(script)) as client:
        assert (await client.ended()).reason == "finished"


async def test_emit_takes_the_samples_at_the_call() -> None:
    async def script(model: Emitter) -> None:
        buffer = ramp(960)
        for _ in range(3):
            await model.emit(Film(speaker=buffer))
            buffer[:] = 0

    async with open_session(emitting(script)) as client:
        blocks = [block async for block in client.frames("speaker")]
    np.testing.assert_array_equal(blocks[0].array()[0], ramp(960))
    assert not blocks[1].array().any()


async def test_audio_alone_waits_in_a_buffer_of_as_much_time_as_the_frames_take() -> None:
    taken: list[float] = []
    refused: list[bool] = []

    async def script(model: Emitter) -> None:
        began = trio.current_time()
        for _ in range(12):
            await model.emit(Film(speaker=ramp(2400)))  # 50 ms
            taken.append(round(trio.current_time() - began, 3))
        refused.append(await model.emit(Film(speaker=ramp(2400)), drop=True))
        await trio.sleep(0.06)
        refused.append(await model.emit(Film(speaker=ramp(2400)), drop=True))

    async with open_session(emitting(script, fps=10, buffer_size=2)) as client:
        blocks = [block async for block in client.frames("speaker")]
    # The first is played at once, and the next four (200 ms) wait; each later one waits until one was played.
    assert taken == [0, 0, 0, 0, 0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    assert refused == [False, True]
    assert heard(blocks)[0].astype(bool).sum() == 13 * 2400


# ---- picture and sound


@pytest.mark.parametrize(("fps", "rate"), [(24, 44_100), (30, 48_000), (29.97, 44_100)])
async def test_ten_minutes_of_picture_and_sound_do_not_part(fps: float, rate: int) -> None:
    """Each frame's samples carry its number; the model's steps jitter, and one step in 997 takes 0.5 s."""
    frames = int(600 * fps)
    draw = random.Random(rate + int(fps))
    output, video, audio = (Film44, "view", "voice") if rate == 44_100 else (Film, "screen", "speaker")
    still = picture()

    async def script(model: Emitter) -> None:
        for index in range(frames):
            await trio.sleep(0.5 if index % 997 == 500 else draw.uniform(0.2, 1.1) / fps)
            count = math.floor((index + 1) * rate / fps) - math.floor(index * rate / fps)
            samples = np.full(count, index + 1, np.int16)
            await model.emit(output(**{video: still, audio: samples}))

    def check(pictures: list[Frame], blocks: list[Frame]) -> None:
        assert [frame.seq for frame in pictures] == list(range(frames)), "no frame is lost"
        assert [block.seq for block in blocks] == list(range(len(blocks))), "no block is lost"
        shown = np.array([frame.pts for frame in pictures])
        samples = heard(blocks)[0]
        # Runs of equal samples: each run belongs to one frame, or is silence.
        begins = np.concatenate([[0], np.flatnonzero(samples[1:] != samples[:-1]) + 1])
        lengths = np.diff(begins, append=len(samples))
        of_frames = samples[begins] > 0
        exact = [math.floor((k + 1) * rate / fps) - math.floor(k * rate / fps) for k in range(frames)]
        np.testing.assert_array_equal(samples[begins][of_frames], np.arange(1, frames + 1))
        np.testing.assert_array_equal(lengths[of_frames], exact, "no sample is lost")
        pts = np.array([block.pts for block in blocks])
        size = rate // 50
        first = begins[of_frames]
        played = pts[first // size] + first % size / rate
        assert np.abs(played - shown).max() < 0.006, "5 ms, and a sample"
        received = np.array([block.received_at for block in blocks])[first // size]
        sent = np.array([frame.received_at for frame in pictures])
        assert np.abs(received - sent).max() < 1 / fps

    async with open_session(emitting(script, fps=fps), max_frames=64) as client:
        pictures, blocks = await both(client, video, audio)
    check(pictures, blocks)


@pytest.mark.parametrize("rate", [44_100, 48_000])
@pytest.mark.parametrize("fps", [24, 25, 29.97, 30, 60])
async def test_exactly_supplied_sound_has_no_silence(fps: float, rate: int) -> None:
    output, video, audio = (Film44, "view", "voice") if rate == 44_100 else (Film, "screen", "speaker")
    silence: list[int] = []

    async def script(model: Emitter) -> None:
        for index in range(int(60 * fps)):
            count = math.floor((index + 1) * rate / fps) - math.floor(index * rate / fps)
            await model.emit(output(**{video: picture(), audio: ramp(count)}))
        silence.append(client.session.statistics().counts.frames[audio].silence)

    async with open_session(emitting(script, fps=fps)) as client:
        pictures, blocks = await both(client, video, audio)
    assert silence == [0]
    assert np.diff([frame.pts for frame in pictures]) == pytest.approx(1 / fps, abs=1e-6)
    assert np.diff([block.pts for block in blocks]) == pytest.approx(BLOCK, abs=1e-6)


async def test_longer_sound_holds_the_picture_back() -> None:
    async def script(model: Emitter) -> None:
        for value in range(10):
            await model.emit(Film(screen=picture(value), speaker=ramp(RATE // 5)))

    async with open_session(emitting(script, fps=10)) as client:
        pictures, blocks = await both(client, "screen", "speaker")
    assert np.diff([frame.pts for frame in pictures]) == pytest.approx(0.2, abs=1e-6)
    assert heard(blocks).all(), "and has no gap"


async def test_shorter_sound_is_filled_up_with_silence_at_its_end_and_counted() -> None:
    async def script(model: Emitter) -> None:
        for value in range(10):
            await model.emit(Film(screen=picture(value), speaker=ramp(RATE // 20)))
        await trio.sleep(0.5)

    async with open_session(emitting(script, fps=10)) as client:
        pictures, blocks = await both(client, "screen", "speaker")
        counted = client.session.statistics().counts.frames["speaker"].silence
    assert np.diff([frame.pts for frame in pictures]) == pytest.approx(0.1, abs=1e-6)
    samples = heard(blocks)[0]
    for value in range(10):
        begin = value * RATE // 10
        np.testing.assert_array_equal(samples[begin : begin + RATE // 20], ramp(RATE // 20))
        assert not samples[begin + RATE // 20 : begin + RATE // 10].any()
    assert counted == len(samples) - 10 * RATE // 20


async def test_after_a_second_of_silence_a_track_rests_until_samples_come() -> None:
    async def script(model: Emitter) -> None:
        await model.emit(Film(speaker=ramp(960)))
        await trio.sleep(5)
        await model.emit(Film(speaker=ramp(960)))

    async with open_session(emitting(script)) as client:
        blocks = [block async for block in client.frames("speaker")]
        counted = client.session.statistics().counts.frames["speaker"].silence
    assert len(blocks) == 1 + 50 + 1
    assert [block.seq for block in blocks] == list(range(52))
    assert blocks[-1].pts - blocks[0].pts == pytest.approx(5)
    assert counted == RATE


async def test_the_sound_of_a_batch_is_spread_over_its_frames() -> None:
    async def script(model: Emitter) -> None:
        batch = np.stack([picture(n) for n in range(8)])
        await model.emit(Film(screen=batch, speaker=ramp(8 * RATE // 10 + 3)))
        await model.emit(Film(screen=picture(), speaker=ramp(RATE // 10)))

    async with open_session(emitting(script, fps=10)) as client:
        pictures, blocks = await both(client, "screen", "speaker")
    assert np.diff([frame.pts for frame in pictures]) == pytest.approx(0.1, abs=1e-4)
    samples = heard(blocks)[0]
    count = 8 * RATE // 10 + 3
    np.testing.assert_array_equal(samples[:count], ramp(count))
    np.testing.assert_array_equal(samples[count : count + RATE // 10], ramp(RATE // 10))


async def test_sound_and_picture_of_separate_outputs_share_the_clock() -> None:
    async def script(model: Emitter) -> None:
        for value in range(20):
            await model.emit(Film(screen=picture(value)))
            await model.emit(Film(speaker=ramp(RATE // 10)))

    async with open_session(emitting(script, fps=10)) as client:
        pictures, blocks = await both(client, "screen", "speaker")
    assert np.diff([frame.pts for frame in pictures]) == pytest.approx(0.1, abs=1e-6)
    assert heard(blocks).all()
    assert blocks[0].pts == pictures[0].pts


async def test_picture_and_sound_stay_together_when_the_rate_changes() -> None:
    async def script(model: Emitter) -> None:
        for index in range(300):
            if index == 100:
                model.output.fps = 5
            if index == 150:
                model.output.fps = 50
            compute_time = 0.15 if 200 <= index < 250 else 0.01
            samples = np.full(RATE // 20, index + 1, np.int16)
            await model.emit(Film(screen=picture(), speaker=samples), compute_time=compute_time)

    async with open_session(emitting(script, fps=20)) as client:
        pictures, blocks = await both(client, "screen", "speaker")
    samples = heard(blocks)[0]
    assert len(pictures) == 300
    for frame in pictures:
        place = int(np.flatnonzero(samples == frame.seq + 1)[0])
        played = blocks[place // 960].pts + place % 960 / RATE
        assert played == pytest.approx(frame.pts, abs=0.006)
    assert (pictures[-1].pts - pictures[260].pts) / 39 == pytest.approx(0.05, abs=0.002)


async def test_flush_drops_the_sound_with_the_picture() -> None:
    async def script(model: Emitter) -> None:
        await model.emit(Film(screen=np.stack([picture()] * 20), speaker=np.full(2 * RATE, 7, np.int16)))
        await trio.sleep(0.45)
        model.output.flush()
        await model.emit(Film(screen=picture(), speaker=np.full(RATE // 10, 9, np.int16)))

    async with open_session(emitting(script, fps=10)) as client:
        pictures, blocks = await both(client, "screen", "speaker")
    assert [frame.seq for frame in pictures] == [0, 1, 2, 3, 4, 20]
    samples = heard(blocks)[0]
    assert (samples == 7).sum() == round(0.44 * RATE), "22 blocks of it were out"
    assert (samples == 9).sum() == RATE // 10
    new = next(block for block in blocks if (block.array() == 9).any())
    assert new.pts == pytest.approx(pictures[-1].pts)


async def test_a_frozen_loop_makes_no_burst() -> None:
    """The clock leaps by ten minutes though nothing holds the loop, as on a laptop that was closed."""

    async def script(model: Emitter) -> None:
        for index in range(40):
            await model.emit(Film(screen=picture(), speaker=np.full(RATE // 10, index + 1, np.int16)))
            if index == 20:
                clock = trio.lowlevel.current_clock()
                clock.jump(600)  # type: ignore[attr-defined]

    limits = Limits(heartbeat=100_000, send_timeout=100_000)
    async with open_session(emitting(script, fps=10), limits=limits) as client:
        pictures, blocks = await both(client, "screen", "speaker")
    assert np.diff([frame.pts for frame in pictures]).min() > 0.09
    assert [frame.seq for frame in pictures] == list(range(40))
    assert len(blocks) < 500, "ten minutes of silence were not sent"
    samples = heard(blocks)[0]
    assert sorted(set(samples.tolist()) - {0}) == list(range(1, 41)), "and no sound was lost"


# ---- blocks that wait for a slow client, and conversion


async def test_a_client_that_is_behind_misses_the_oldest_blocks_and_the_model_goes_on() -> None:
    emitted: list[float] = []

    async def script(model: Emitter) -> None:
        for _ in range(100):
            await model.emit(Film(speaker=ramp(RATE // 10)))
            emitted.append(trio.current_time())
        await trio.sleep_forever()

    limits = Limits(heartbeat=10_000, send_timeout=10_000)
    # The sockets buffer 200 kB, which is 2 s of sound.
    network = Network(buffer_bytes=200_000)
    model = emitting(script, fps=10)
    async with open_session(model, limits=limits, network=network, max_frames=1000) as client:
        client.network.stall()
        await trio.sleep(30)
        assert emitted[-1] - emitted[0] < 10.1, "the model was not held up"
        waiting = client.session.statistics()
        assert waiting.counts.frames["speaker"].replaced > 300
        client.network.resume()
        seqs: list[int] = []
        with trio.move_on_after(1):
            while True:
                seqs.append((await client.frame("speaker")).seq)
    begun = len(seqs) - MAX_AUDIO_BLOCKS
    assert seqs == [*range(begun), *range(525, 550)], "what the sockets held, and then the newest"


async def test_a_large_array_is_converted_off_the_loop() -> None:
    lanes: list[str] = []

    class Noting(InlineExecutor):
        async def run(self, lane: Lane, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            lanes.append(getattr(fn, "__name__", ""))
            return await super().run(lane, fn, *args, **kwargs)

    async def script(model: Emitter) -> None:
        await model.emit(Film(speaker=np.full((2, 480), 0.5, np.float32)))
        assert "convert" not in lanes
        await model.emit(Film(speaker=np.full((2, 20 * RATE), 0.5)))

    async with open_session(emitting(script), executor=Noting()) as client:
        assert (await client.ended()).reason == "finished"
    assert lanes.count("convert") == 1
