"""`emit`, pacing and the frames on the wire, in virtual time."""

from __future__ import annotations

import itertools
import re
from typing import Any, TypeVar

import numpy as np
import pytest
import trio
import trio.testing

from reactor_trio import Audio, InputField, Output, ReactorModel, Video, event
from reactor_trio.compute.lanes import ENCODE
from reactor_trio.session.limits import Limits
from reactor_trio.session.output_steps import convert
from reactor_trio.testing import InlineExecutor, open_session
from slow_executor import SlowExecutor

T = TypeVar("T")


class Picture(Output):
    screen: Video


class Stereo(Output):
    left: Video
    right: Video = None


class Sound(Output):
    speaker: Audio = Audio(sample_rate=24000)


def shade(value: int, height: int = 8, width: int = 16) -> np.ndarray[Any, Any]:
    return np.full((height, width, 3), value, np.uint8)


class Emitter(ReactorModel):
    """Runs the script of a test: `script` is an async function that takes the model."""

    fps = 10

    async def run(self) -> None:
        await self.connected.wait()
        await self.script(self)


def emitting(script: Any, **attributes: Any) -> type[Emitter]:
    return type("Scripted", (Emitter,), {"script": staticmethod(script), **attributes})


def intervals(times: list[float]) -> list[float]:
    return [round(b - a, 6) for a, b in itertools.pairwise(times)]


async def test_frames_leave_at_the_models_rate_however_fast_they_are_made() -> None:
    async def script(model: Emitter) -> None:
        for value in range(30):
            assert await model.emit(Picture(screen=shade(value)))

    async with open_session(emitting(script)) as client:
        frames = [frame async for frame in client.frames("screen")]
    assert [frame.seq for frame in frames] == list(range(30))
    assert set(intervals([frame.pts for frame in frames])) == {0.1}
    assert set(intervals([frame.received_at for frame in frames])) == {0.1}
    assert (frames[0].width, frames[0].height, frames[0].codec) == (16, 8, "jpeg")
    assert abs(int(frames[20].array().mean()) - 20) <= 1


async def test_a_model_that_is_too_slow_is_not_made_to_wait_and_never_bursts() -> None:
    async def script(model: Emitter) -> None:
        for value, seconds in enumerate([0, 0.35, 0.01, 0.01, 0.33, 0.13, 0.02]):
            await trio.sleep(seconds)
            await model.emit(Picture(screen=shade(value)))

    async with open_session(emitting(script)) as client:
        times = [frame.pts async for frame in client.frames("screen")]
    assert intervals(times) == [0.35, 0.1, 0.1, 0.15, 0.13, 0.1]


async def test_emit_waits_when_the_buffer_is_full_and_drop_does_not() -> None:
    taken: list[tuple[float, bool]] = []

    async def script(model: Emitter) -> None:
        began = trio.current_time()
        for value in range(8):
            result = await model.emit(Picture(screen=shade(value)), drop=value >= 6)
            taken.append((round(trio.current_time() - began, 3), result))

    async with open_session(emitting(script, buffer_size=2)) as client:
        seqs = [frame.seq async for frame in client.frames("screen")]
    # The first is shown at once and two wait; then each tick lets one in; the last two find the buffer full.
    assert taken == [
        (0.0, True),
        (0.0, True),
        (0.0, True),
        (0.1, True),
        (0.2, True),
        (0.3, True),
        (0.3, False),
        (0.3, False),
    ]
    assert seqs == [0, 1, 2, 3, 4, 5]


async def test_a_dropped_frame_leaves_a_gap_in_seq() -> None:
    async def script(model: Emitter) -> None:
        for value in range(10):
            await model.emit(Picture(screen=shade(value)), drop=True)
            await trio.sleep(0.05 if value == 0 else 0)
        await trio.sleep(2)
        await model.emit(Picture(screen=shade(99)))
        assert model.output.statistics().dropped == 7

    async with open_session(emitting(script, buffer_size=2)) as client:
        assert [frame.seq async for frame in client.frames("screen")] == [0, 1, 2, 10]


async def test_a_batch_is_shown_frame_by_frame_even_if_larger_than_the_buffer() -> None:
    async def script(model: Emitter) -> None:
        batch = np.stack([shade(10 * n) for n in range(6)])
        await model.emit(Picture(screen=batch))
        batch[:] = 255  # the buffer may be reused
        assert not await model.emit(Picture(screen=batch), drop=True)
        await model.emit(Picture(screen=batch))

    async with open_session(emitting(script, buffer_size=2)) as client:
        frames = [frame async for frame in client.frames("screen")]
    assert [frame.seq for frame in frames] == [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17]
    assert [round(float(frame.array().mean()), -1) for frame in frames[:6]] == [0, 10, 20, 30, 40, 50]


async def test_the_rate_may_be_changed_at_any_time() -> None:
    class Model(Emitter):
        fps = 0.1

        @event
        def faster(self, fps: float = InputField(gt=0)) -> None:
            self.output.fps = fps

    async def script(model: Emitter) -> None:
        for value in range(5):
            await model.emit(Picture(screen=shade(value)))
        await trio.sleep_forever()

    Model.script = staticmethod(script)  # type: ignore[attr-defined]
    async with open_session(Model) as client:
        await client.frame("screen")
        await trio.sleep(1)
        changed = trio.current_time()
        await client.call("faster", fps=2)
        rest = [round((await client.frame("screen")).received_at - changed, 3) for _ in range(4)]
    assert rest == [0.0, 0.5, 1.0, 1.5], "the frame that was due by the new rate does not wait for the old"


async def rates_of(compute_times: list[float], fps: float = 10) -> list[float]:
    """The rate after each frame of a model that passes `compute_time` to `emit`."""
    rates: list[float] = []

    async def script(model: Emitter) -> None:
        for compute_time in compute_times:
            await model.emit(Picture(screen=shade(0)), compute_time=compute_time)
            rates.append(1 / model.output.period)

    async with open_session(emitting(script, fps=fps)) as client:
        await client.ended()
    return rates


@pytest.mark.parametrize("slow", [0.4, 20.0])
async def test_compute_time_lowers_the_rate_and_one_slow_step_does_not_halve_it(slow: float) -> None:
    rates = await rates_of([0.2, 0.2, slow, 0.2, 0.2, 0.2])
    assert rates[:2] == [5.0, 5.0]
    assert 4 < rates[2] < 5
    assert rates[5] == pytest.approx(5), "and it is soon forgotten"


async def test_the_rate_follows_what_a_model_sustains_and_recovers() -> None:
    rates = await rates_of([0.2] * 3 + [0.4] * 20 + [0.2, 0.6] * 10 + [0.2] * 4)
    assert rates[22] == pytest.approx(2.5, rel=0.02)
    assert all(2 < rate < 3.2 for rate in rates[28:43]), "of steps that differ, the average"
    assert rates[-1] == pytest.approx(5)


async def test_a_first_step_that_warms_the_model_up_does_not_count_for_long() -> None:
    rates = await rates_of([30.0, 0.05, 0.05, 0.05, 0.05], fps=30)
    assert rates[-1] == pytest.approx(20)


async def test_the_rate_is_never_above_fps() -> None:
    shown: list[float] = []

    async def script(model: Emitter) -> None:
        for _ in range(10):
            await model.emit(Picture(screen=np.stack([shade(0)] * 4)), compute_time=0.04)
            assert model.output.fps == 10

    async with open_session(emitting(script)) as client:
        shown += [frame.pts async for frame in client.frames("screen")]
    assert set(intervals(shown)) == {0.1}


@pytest.mark.parametrize("compute_time", [-1, float("nan"), float("inf")])
async def test_an_impossible_compute_time_is_refused(compute_time: float) -> None:
    async def script(model: Emitter) -> None:
        for output in (Picture(screen=shade(0)), Sound(speaker=np.zeros(10, np.int16))):
            with pytest.raises(ValueError, match="compute_time must be a number of seconds >= 0, not"):
                await model.emit(output, compute_time=compute_time)

    async with open_session(emitting(script)) as client:
        assert (await client.ended()).reason == "finished"


async def test_flush_drops_what_waits() -> None:
    async def script(model: Emitter) -> None:
        await model.emit(Picture(screen=np.stack([shade(n) for n in range(50)])))
        await trio.sleep(0.45)
        model.output_buffer.flush()  # Reactor's name for `output`
        await model.emit(Picture(screen=shade(99)))

    async with open_session(emitting(script)) as client:
        assert [frame.seq async for frame in client.frames("screen")] == [0, 1, 2, 3, 4, 50]


async def test_flush_drops_the_frame_that_is_being_encoded_too() -> None:
    async def script(model: Emitter) -> None:
        await model.emit(Picture(screen=shade(1)))
        await trio.sleep(0.02)
        model.output.flush()
        await model.emit(Picture(screen=shade(2)))

    async with open_session(emitting(script), executor=SlowExecutor(0.05, ENCODE)) as client:
        assert [frame.seq async for frame in client.frames("screen")] == [1]
        assert client.session.statistics().counts.frames["screen"].dropped == 1


async def test_flush_lets_an_emit_that_waits_go_on() -> None:
    async def script(model: Emitter) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(model.emit, Picture(screen=np.stack([shade(0)] * 50)))
            await trio.sleep(0.01)
            nursery.start_soon(model.emit, Picture(screen=shade(1)))
            await trio.sleep(0.01)
            assert model.output.statistics().waiting == 49
            model.output.flush()
            await trio.sleep(0.01)
            assert model.output.statistics().waiting == 1

    async with open_session(emitting(script)) as client:
        assert [frame.seq async for frame in client.frames("screen")] == [0, 50]


async def test_several_tracks_of_one_output_stay_together() -> None:
    async def script(model: Emitter) -> None:
        for value in range(3):
            await model.emit(Stereo(left=shade(value), right=shade(value)))
        await model.emit(Stereo(left=shade(9)))

    async with open_session(emitting(script)) as client:
        await client.ended()
        left = [(frame.seq, frame.pts) async for frame in client.frames("left")]
        right = [(frame.seq, frame.pts) async for frame in client.frames("right")]
    assert left[:3] == right
    assert len(left) == 4


async def test_what_cannot_be_shown_names_track_shape_and_dtype() -> None:
    errors: list[str] = []

    async def script(model: Emitter) -> None:
        for output in (
            Picture(screen=np.zeros((8, 8), np.uint8)),
            Picture(screen=np.zeros((8, 8, 3), np.int32)),
            Stereo(left=np.zeros((2, 8, 8, 3), np.uint8), right=np.zeros((3, 8, 8, 3), np.uint8)),
            Sound(speaker=np.zeros((10, 2), np.int16)),
        ):
            with pytest.raises(ValueError) as refused:  # noqa: PT011  the text is checked below
                await model.emit(output)
            errors.append(str(refused.value))

    async with open_session(emitting(script)) as client:
        assert (await client.ended()).reason == "finished"
    assert "screen" in errors[0]
    assert "(8, 8)" in errors[0]
    assert "int32" in errors[1]
    assert "left: 2, right: 3" in errors[2]
    assert "speaker" in errors[3]
    assert "(10, 2) and dtype int16, which looks like (samples, channels)" in errors[3]


@pytest.mark.torch
async def test_torch_tensors_of_every_layout() -> None:
    import torch

    async def script(model: Emitter) -> None:
        picture = torch.full((3, 8, 16), 0.5)
        await model.emit(Picture(screen=picture))
        await model.emit(Picture(screen=picture.permute(1, 2, 0)))
        await model.emit(Picture(screen=(picture * 255).to(torch.uint8)))

    async with open_session(emitting(script)) as client:
        means = [float(frame.array().mean()) async for frame in client.frames("screen")]
    assert means == pytest.approx([127.5] * 3, abs=2)


async def test_a_slow_network_slows_neither_the_model_nor_ages_its_picture() -> None:
    """Behind the pacer each track has one slot, in which a newer frame replaces an older one."""
    emitted: list[int] = []

    async def script(model: Emitter) -> None:
        for value in range(100):
            noise = np.random.default_rng(value).integers(0, 255, (256, 256, 3), np.uint8)
            await model.emit(Picture(screen=noise))
            emitted.append(value)
        await trio.sleep_forever()

    limits = Limits(send_timeout=1000, heartbeat=1000)
    async with open_session(emitting(script), limits=limits) as client:
        client.network.stall()
        await trio.sleep(20)
        assert len(emitted) == 100, "ten seconds of frames were taken on time"
        numbers = client.session.output.statistics()
        assert numbers.encoded < 60, "no frame is encoded that cannot be sent"
        client.network.resume()
        await trio.sleep(1)
        last = [frame async for frame in _waiting(client)][-1]
        assert last.seq == 99, "the newest frame got through, not the oldest"


async def _waiting(client: Any) -> Any:
    while True:
        with trio.move_on_after(0.01) as scope:
            frame = await client.frame("screen")
        if scope.cancelled_caught:
            return
        yield frame


async def test_emit_is_paced_with_nobody_reading() -> None:
    steps: list[float] = []

    async def script(model: Emitter) -> None:
        while True:
            await model.emit(Picture(screen=shade(0)))
            steps.append(trio.current_time())

    async with open_session(emitting(script), limits=Limits(heartbeat=1000, send_timeout=1000)) as client:
        client.transport.stall()
        await trio.sleep(60)
        assert len(steps) == pytest.approx(600, abs=10)


async def test_emit_is_paced_while_the_client_has_paused_the_track() -> None:
    steps: list[float] = []

    async def script(model: Emitter) -> None:
        while True:
            await model.emit(Picture(screen=shade(0)))
            steps.append(trio.current_time())

    async with open_session(emitting(script)) as client:
        await client.configure_track("screen", paused=True)
        steps.clear()
        await trio.sleep(60)
        assert len(steps) == pytest.approx(600, abs=10)
        counts = client.session.statistics().counts.frames["screen"]
        assert counts.unwanted == pytest.approx(600, abs=10)
        assert counts.replaced == counts.dropped == 0


async def test_drop_does_not_wait_for_an_output_that_is_being_converted() -> None:
    results: dict[str, bool] = {}

    async def script(model: Emitter) -> None:
        async def emit(name: str, value: np.ndarray[Any, Any]) -> None:
            results[name] = await model.emit(Picture(screen=value), drop=True)

        await model.emit(Picture(screen=shade(0)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(emit, "slow", shade(1) / 255)
            await trio.sleep(0.01)
            nursery.start_soon(emit, "quick", shade(2))
        assert model.output.statistics().waiting == 1

    async with open_session(
        emitting(script, buffer_size=1), executor=SlowExecutor(0.05, only=convert)
    ) as client:
        assert [frame.seq async for frame in client.frames("screen")] == [0, 2], "a gap is a dropped frame"
    assert results == {"slow": True, "quick": False}


async def test_outputs_are_shown_in_the_order_of_their_emits_however_long_they_take_to_convert() -> None:
    async def script(model: Emitter) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(model.emit, Picture(screen=shade(200) / 255))
            await trio.sleep(0.01)
            nursery.start_soon(model.emit, Picture(screen=shade(100)))

    async with open_session(emitting(script), executor=SlowExecutor(0.05, only=convert)) as client:
        shown = [(frame.seq, round(frame.array().mean(), -1)) async for frame in client.frames("screen")]
    assert shown == [(0, 200), (1, 100)]


async def test_an_emit_always_lets_the_others_run() -> None:
    async def script(model: Emitter) -> None:
        for value, drop in itertools.product(range(4), [False, True]):
            with trio.testing.assert_checkpoints():
                await model.emit(Picture(screen=shade(value)), drop=drop)
            with trio.testing.assert_checkpoints():
                await model.emit(Stereo(left=None))

    async with open_session(emitting(script, buffer_size=2)) as client:
        assert (await client.ended()).reason == "finished"


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
async def test_an_impossible_rate_is_refused_when_the_model_is_loaded(fps: float) -> None:
    def load(self: Any, config: dict[str, Any]) -> None:
        self.fps = fps

    with pytest.raises(ValueError, match=r"Impossible\.fps is a finite number > 0"):
        async with open_session(type("Impossible", (ReactorModel,), {"load": load})):
            raise AssertionError("unreachable")


# ---- metadata


async def test_metadata_travels_with_each_frame_of_its_output() -> None:
    async def script(model: Emitter) -> None:
        said: dict[str, Any] = {"box": [1, 2], "text": "ä", "score": np.float32(0.5)}
        await model.emit(Stereo(left=shade(0), right=shade(0), metadata=said))
        said["box"] = None  # `emit` has taken the metadata at the call
        await model.emit(Stereo(left=np.stack([shade(0)] * 3), metadata={"of": "all"}))
        await model.emit(Stereo(left=np.stack([shade(0)] * 3), metadata=[{"n": 0}, None, {"n": 2}]))
        await model.emit(Stereo(left=shade(0)))

    async with open_session(emitting(script)) as client:
        await client.ended()
        left = [frame.extra async for frame in client.frames("left")]
        right = [frame.extra async for frame in client.frames("right")]
    said = {"metadata": {"box": [1, 2], "text": "ä", "score": 0.5}}
    of_all = {"metadata": {"of": "all"}}
    assert left == [said, of_all, of_all, of_all, {"metadata": {"n": 0}}, {}, {"metadata": {"n": 2}}, {}]
    assert right == [said]


async def test_metadata_of_sound_alone_travels_with_its_first_sample() -> None:
    async def script(model: Emitter) -> None:
        await model.emit(Sound(speaker=np.ones(600, np.int16)))
        await model.emit(Sound(speaker=np.full(960, 2, np.int16), metadata={"word": "two"}))
        await model.emit(Sound(speaker=np.full(480, 3, np.int16)))

    async with open_session(emitting(script)) as client:
        blocks = [(block.extra, block.array()[0].tolist()) async for block in client.frames("speaker")]
    assert [extra for extra, _ in blocks] == [{}, {"metadata": {"word": "two"}}, {}, {}, {}]
    assert blocks[1][1] == [1] * 120 + [2] * 360


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ("a string", "Picture: metadata must be a dict, a JSON object, not of type str"),
        (7, "Picture: metadata must be a dict, a JSON object, not of type int"),
        ({"of": object()}, "metadata is not JSON: Type is not JSON serializable: object"),
        ({1: 2}, "metadata is not JSON: Dict key must be str"),
        ({"text": "x" * 16 * 1024}, "metadata has at most 16384 bytes as JSON, not 16395"),
        ([{}, {}], "metadata is a list of 2 for an output that is no batch"),
        ([3], "Picture: metadata must be a dict, a JSON object, not of type int"),
    ],
)
async def test_metadata_that_cannot_be_sent_is_refused_by_emit(metadata: Any, told: str) -> None:
    async def script(model: Emitter) -> None:
        with pytest.raises(ValueError, match=re.escape(told)):
            await model.emit(Picture(screen=shade(0), metadata=metadata))

    async with open_session(emitting(script)) as client:
        assert (await client.ended()).reason == "finished"


def test_metadata_is_a_keyword_of_every_output_and_no_track() -> None:
    with pytest.raises(TypeError):
        Picture(shade(0), {"n": 1})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Wrong\.metadata: every output has `metadata` already"):
        type("Wrong", (Output,), {"__annotations__": {"metadata": Video}})
    assert Picture(shade(0)).metadata is None


# ---- commands that a frame is the first to reflect


class Steered(Emitter):
    @event
    def steer(self) -> None:
        pass


def steered(script: Any, **attributes: Any) -> type[Emitter]:
    return type("Scripted", (Steered,), {"script": staticmethod(script), **attributes})


async def test_frames_that_are_flushed_hand_on_what_they_reflect() -> None:
    async def script(model: Emitter) -> None:
        await trio.sleep(1)
        await model.emit(Picture(screen=np.stack([shade(0)] * 5)))
        await trio.sleep(1)
        for _ in range(3):  # the first is shown at once
            await model.emit(Picture(screen=shade(0)))
        await trio.sleep(0.001)
        model.output.flush()
        await trio.sleep(1)
        await model.emit(Picture(screen=shade(0)))

    async with open_session(steered(script)) as client:
        await client.call("steer")
        await trio.sleep(1.5)
        await client.call("steer")
        await trio.sleep(0.49)
        frames = {frame.seq: frame.applied async for frame in client.frames("screen")}
    assert {seq: ids for seq, ids in frames.items() if ids} == {0: (1,), 5: (2,)}


async def test_an_emit_that_is_cancelled_gives_back_what_it_would_have_reflected() -> None:
    async def script(model: Emitter) -> None:
        await model.emit(Picture(screen=np.stack([shade(0)] * 20)))
        await trio.sleep(0.55)
        with trio.move_on_after(0.1):
            await model.emit(Picture(screen=shade(0)))
        await model.emit(Picture(screen=shade(0)))

    async with open_session(steered(script)) as client:
        await trio.sleep(0.5)
        await client.call("steer")
        frames = {frame.seq: frame.applied async for frame in client.frames("screen")}
    assert {seq: ids for seq, ids in frames.items() if ids} == {20: (1,)}


async def test_sound_alone_reflects_too_in_its_first_block_that_is_sent() -> None:
    async def script(model: Emitter) -> None:
        await trio.sleep(1)
        await model.emit(Sound(speaker=np.ones(4800, np.int16)))
        await trio.sleep(0.01)
        model.output.flush()
        await trio.sleep(1)
        await model.emit(Sound(speaker=np.ones(4800, np.int16)))

    async with open_session(steered(script)) as client:
        await client.call("steer")
        await trio.sleep(1.005)
        await client.call("steer")
        blocks = {block.seq: block.applied async for block in client.frames("speaker")}
    assert {seq: ids for seq, ids in blocks.items() if ids} == {0: (1, 2)}


# ---- a loop that was held up


def leap(seconds: float) -> None:
    """Move the clock forward at once: code that reads the clock sees a loop that was blocked."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(seconds)


@pytest.mark.parametrize(
    ("held", "shown", "late"),
    [
        (0.05, [0, 1, 2, 3, 4, 5], 0.05),
        (0.15, [0, 1, 3, 4, 5], 0.05),
        # Frame 4 is emitted only after the leap and cannot be overdue: it is shown, and 5 a period later.
        (0.35, [0, 1, 4, 5], 0.15),
    ],
)
async def test_of_two_frames_that_are_overdue_the_newer_is_shown(
    held: float, shown: list[int], late: float
) -> None:
    async def script(model: Emitter) -> None:
        for value in range(6):
            await model.emit(Picture(screen=shade(value)))

    async with open_session(emitting(script, buffer_size=2)) as client:
        frames = [await client.frame("screen") for _ in range(2)]
        began = frames[0].pts
        # Now frames 2 and 3 wait for their times, 0.2 and 0.3.
        await trio.sleep(0.095)
        leap(0.005 + held)
        frames += [frame async for frame in client.frames("screen")]
        counts = client.session.statistics().counts.frames["screen"]
    assert [frame.seq for frame in frames] == shown
    assert [int(frame.array().mean()) for frame in frames] == shown
    assert counts.replaced == 6 - len(shown)
    times = {frame.seq: round(frame.received_at - frames[0].received_at, 6) for frame in frames}
    first = frames[2].seq
    assert times[first] == pytest.approx(first / 10 + late)
    # The later frames keep their times if the first is late by at most a period, and else move with it.
    moved = late if late > 0.1 else 0.0
    assert [times[seq] for seq in (4, 5)] == pytest.approx([0.4 + moved, 0.5 + moved])
    assert began == 0.0


async def test_the_frame_that_takes_anothers_place_names_its_commands() -> None:
    class Counting(ReactorModel):
        fps = 10
        buffer_size = 2
        count = 0

        @event
        def touch(self) -> None:
            self.count += 1

        async def run(self) -> None:
            await self.connected.wait()
            while True:
                await self.emit(Picture(screen=shade(self.count)))

    async with open_session(Counting) as client:
        await client.frame("screen")
        await client.call("touch")
        frames = [await client.frame("screen") for _ in range(2)]
        await trio.sleep(0.095)
        leap(0.155)
        while len(frames) < 6:
            frames.append(await client.frame("screen"))
    assert [frame.applied for frame in frames if frame.applied] == [(1,)]
    [first] = [frame for frame in frames if frame.applied]
    assert first.array().mean() == pytest.approx(1, abs=1)
    assert frames[2].seq - frames[1].seq == 2, "one was left out"


async def test_a_model_that_is_late_all_the_time_lets_the_others_run() -> None:
    async def script(model: Emitter) -> None:
        await model.emit(Picture(screen=shade(0)))
        for value in range(1, 50):
            # The frame waits for its time, 0.1 s from here; the leap makes it late before the next one comes.
            with trio.testing.assert_checkpoints():
                await model.emit(Picture(screen=shade(value)))
            leap(0.15)

    async with open_session(emitting(script, buffer_size=1)) as client:
        seqs = [frame.seq async for frame in client.frames("screen")]
    assert (seqs[0], seqs[-1]) == (0, 49)
    assert seqs == sorted(set(seqs))


async def test_what_comes_behind_a_flushed_frame_is_encoded_when_the_encoder_is_free() -> None:
    async def script(model: Emitter) -> None:
        await model.emit(Picture(screen=shade(1)))
        await trio.sleep(0.1)
        model.output.flush()
        await model.emit(Picture(screen=shade(2)))
        await trio.sleep_forever()

    async with open_session(emitting(script), executor=SlowExecutor(0.25, ENCODE)) as client:
        began = trio.current_time()
        frame = await client.frame("screen")
    assert frame.seq == 1
    assert frame.received_at - began == pytest.approx(0.5)


async def test_an_encoder_that_fails_is_not_the_models_fault_though_its_emit_began_with_the_frame() -> None:
    seen: list[Exception] = []

    class Failing(InlineExecutor):
        count = 0

        def begin(self, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == 5:
                raise RuntimeError("no thread can be had")
            return super().begin(*args, **kwargs)

    async def script(model: Emitter) -> None:
        while True:
            try:
                await model.emit(Picture(screen=shade(1)))
            except Exception as error:
                seen.append(error)

    async with open_session(emitting(script), executor=Failing()) as client:
        ending = await client.ended()
    assert (ending.reason, ending.close_code) == ("internal_error", 1011)
    assert seen == []


# ---- an emit that waits for room does the pacer's work


async def test_the_pacer_goes_on_when_an_emit_that_waits_is_cancelled() -> None:
    async def script(model: Emitter) -> None:
        for value in range(3):
            await model.emit(Picture(screen=shade(value)))
        with trio.move_on_after(0.05) as scope:
            await model.emit(Picture(screen=shade(9)))
        assert scope.cancelled_caught
        await trio.sleep(1)
        await model.emit(Picture(screen=shade(3)))

    async with open_session(emitting(script, buffer_size=2)) as client:
        frames = [frame async for frame in client.frames("screen")]
    assert [int(frame.array().mean()) for frame in frames] == [0, 1, 2, 3]
    assert [frame.seq for frame in frames] == [0, 1, 2, 3], "what was cancelled is no gap"
    assert intervals([frame.received_at for frame in frames[:3]]) == [0.1, 0.1]


async def test_several_emits_wait_in_turn_and_each_is_shown_in_time() -> None:
    async def script(model: Emitter) -> None:
        async with trio.open_nursery() as nursery:
            for value in range(10):
                nursery.start_soon(model.emit, Picture(screen=shade(value)))
                await trio.lowlevel.checkpoint()
                await trio.testing.wait_all_tasks_blocked()

    async with open_session(emitting(script, buffer_size=2)) as client:
        frames = [frame async for frame in client.frames("screen")]
    assert [int(frame.array().mean()) for frame in frames] == list(range(10))
    assert set(intervals([frame.received_at for frame in frames])) == {0.1}


async def test_a_flush_lets_an_emit_that_waits_go_on() -> None:
    emitted: list[float] = []

    async def script(model: Emitter) -> None:
        began = trio.current_time()
        for value in range(4):
            await model.emit(Picture(screen=shade(value)))
            emitted.append(round(trio.current_time() - began, 6))
        await trio.sleep(0.005)

    async with open_session(emitting(script, buffer_size=2)) as client:
        await client.frame("screen")
        await trio.sleep(0.03)
        assert len(emitted) == 3
        client.session.output.flush()
        frames = [frame async for frame in client.frames("screen")]
    assert emitted == [0.0, 0.0, 0.0, 0.03]
    assert [frame.seq for frame in frames] == [3]


async def test_a_new_rate_counts_at_once_also_while_an_emit_waits() -> None:
    async def script(model: Emitter) -> None:
        for value in range(8):
            await model.emit(Picture(screen=shade(value)))

    async with open_session(emitting(script, buffer_size=2)) as client:
        frames = [await client.frame("screen") for _ in range(2)]
        client.session.output.fps = 50
        frames += [frame async for frame in client.frames("screen")]
    assert intervals([frame.received_at for frame in frames]) == [0.1, *[0.02] * 6]


async def test_an_overdue_frame_is_shown_after_all_if_the_client_does_not_want_the_newer() -> None:
    async def script(model: Emitter) -> None:
        for value in range(6):
            await model.emit(Picture(screen=shade(value)))

    async with open_session(emitting(script, buffer_size=2)) as client:
        frames = [await client.frame("screen")]
        await client.configure_track("screen", max_fps=5)
        await trio.sleep(0.295)
        leap(0.155)  # 3 is late by more than a period; 4, behind it, is too early for max_fps
        frames += [frame async for frame in client.frames("screen")]
    assert [frame.seq for frame in frames] == [0, 1, 3, 5]
    assert frames[2].received_at - frames[0].received_at == pytest.approx(0.45)
