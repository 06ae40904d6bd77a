"""From a command to the picture that shows it: each stage on server and client, in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import trio

from reactor_trio import Audio, CommandError, Output, ReactorModel, Video, event
from reactor_trio.client import Frame, Superseded
from reactor_trio.client.latency import LatencyRecorder
from reactor_trio.compute.lanes import ENCODE, Lane
from reactor_trio.link.host import ModelHost
from reactor_trio.link.latency import MAX_FRAMES, FrameLatency
from reactor_trio.server.metrics import Metrics
from reactor_trio.session.applied import MAX_APPLIED, MAX_ID_LENGTH, AppliedCommands
from reactor_trio.session.limits import Limits
from reactor_trio.session.observer import NoObserver
from reactor_trio.testing import DeviceCost, Network, open_session
from slow_executor import SlowExecutor
from test_metrics import Scrape

T = TypeVar("T")

DELAY = 0.050
"""Seconds that a message takes over the network, one way."""
HANDLER = 0.030
RENDER = 0.080
"""Seconds that the device takes for a frame."""
ENCODER = 0.010
FRAME = 0.040
SCREEN = 0.016
"""Seconds from a frame's arrival until the client has shown it."""
PICTURE = np.zeros((16, 16, 3), np.uint8)


class Picture(Output):
    main: Video


class Sound(Output):
    voice: Audio


class Costs(DeviceCost):
    """An executor on which the work of the device, and encoding, take time."""

    async def run(self, lane: Lane, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        if lane == ENCODE:
            await trio.sleep(ENCODER)
        return await super().run(lane, fn, *args, **kwargs)


class Painter(ReactorModel):
    """Renders a frame each time that a command has set `changed`."""

    fps = 1000

    async def run(self) -> None:
        self.changed = trio.Event()
        await self.connected.wait()
        while True:
            await self.changed.wait()
            self.changed = trio.Event()
            await self.compute(PICTURE.copy)
            await self.emit(Picture(main=PICTURE))

    @event(dedupe=True)
    async def paint(self) -> None:
        await trio.sleep(HANDLER)
        self.changed.set()

    @event
    def repaint(self) -> None:
        self.changed.set()

    @event
    async def fail(self) -> None:
        await trio.lowlevel.checkpoint()
        self.changed.set()
        raise CommandError("too_bad", "it cannot be done")

    @event
    async def snapshot(self) -> None:
        await trio.sleep(HANDLER)
        await self.emit(Picture(main=PICTURE))
        await trio.sleep(HANDLER)

    @event
    async def offer(self) -> None:
        await self.emit(Picture(main=PICTURE), drop=True)
        await trio.sleep(HANDLER)


async def load(metrics: Metrics | None = None, **limits: Any) -> ModelHost:
    ids = map("session-{}".format, itertools.count(1))
    return await ModelHost.load(
        Painter,
        limits=Limits(**limits),
        executor=Costs(RENDER),
        session_id=lambda: next(ids),
        observer=metrics,
    )


def frame_shown(seq: int) -> str:
    return f'{{"type": "reactor.frame_shown", "data": {{"track": "main", "seq": {seq}}}}}'


# ---- on the wire


async def test_the_first_frame_after_a_command_names_it_and_what_each_stage_took() -> None:
    async with open_session(await load(), network=Network(delay=DELAY)) as client:
        await client.call("paint")
        frame = await client.frame()
        assert frame.applied == (1,)
        assert frame.timing == pytest.approx(
            {"wait": 0.0, "handle": HANDLER, "emit": RENDER, "pace": 0.0, "encode": ENCODER}
        )
        await client.call("repaint")
        later = await client.frame()
        assert later.applied == (2,)
        await client.send("repaint")
        unasked = await client.frame()
        assert (unasked.applied, unasked.timing) == ((), {})


async def test_a_command_that_waited_says_so_and_speaks_for_those_before_it() -> None:
    async with open_session(await load(), network=Network(delay=DELAY)) as client:
        async with trio.open_nursery() as nursery:
            for name in ("paint", "repaint"):
                nursery.start_soon(client.call, name)
                await trio.sleep(0.01)
        frame = await client.frame()
        assert frame.applied == (1, 2)
        assert frame.timing["wait"] == pytest.approx(HANDLER - 0.01)
        assert frame.timing["handle"] == 0.0


async def test_a_command_that_came_while_its_frame_was_computed_is_named_by_the_next_one() -> None:
    # Only the model knows whether the frame in the making shows `repaint`: this one may, the next one must.
    async with open_session(await load()) as client:
        await client.call("paint")
        await trio.sleep(RENDER / 2)
        await client.call("repaint")
        assert (await client.frame()).applied == (1, 2)
        assert (await client.frame()).applied == ()


async def test_superseded_and_failed_commands_are_in_no_frame() -> None:
    async with open_session(await load(), network=Network(delay=DELAY)) as client:
        async with trio.open_nursery() as nursery:

            async def be_refused(name: str, error: type[Exception]) -> None:
                with pytest.raises(error):
                    await client.call(name)

            nursery.start_soon(client.call, "paint")
            await trio.sleep(0.001)
            nursery.start_soon(be_refused, "paint", Superseded)
            await trio.sleep(0.001)
            nursery.start_soon(client.call, "paint")
            await trio.sleep(0.001)
            nursery.start_soon(be_refused, "fail", CommandError)
        await trio.sleep(1)
        await client.aclose()
        assert [id_ async for frame in client.frames() for id_ in frame.applied] == [1, 3]


async def test_a_frame_that_a_handler_emits_itself_reflects_its_command() -> None:
    async with open_session(await load(), network=Network(delay=DELAY)) as client:
        await client.call("snapshot")
        frame = await client.frame()
        assert frame.applied == (1,)
        assert frame.timing["handle"] == pytest.approx(HANDLER)
        assert frame.timing["emit"] == 0.0
        await client.call("repaint")
        assert (await client.frame()).applied == (2,)


async def test_a_frame_that_was_refused_gives_its_command_back_and_once() -> None:
    class Full(Painter):
        fps = 1
        buffer_size = 1

    host = await ModelHost.load(Full, executor=Costs(RENDER), session_id=lambda: "session-1")
    async with open_session(host) as client:
        for _ in range(3):
            await client.call("offer")
        await trio.sleep(5)
        await client.aclose()
        applied = [frame.applied async for frame in client.frames()]
    # The first frame is shown at once, the second waits, and there is no room for the third.
    assert applied == [(1,), (2,)]


async def test_each_track_names_the_command_in_its_own_first_frame() -> None:
    class Two(ReactorModel):
        async def run(self) -> None:
            await self.connected.wait()
            while True:
                await trio.sleep(FRAME)
                await self.emit(Sound(voice=np.zeros(480, np.int16)))
                await self.emit(Picture(main=PICTURE))

        @event
        def change(self) -> None: ...

    async with open_session(Two) as client:
        await client.call("change")
        for track in ("voice", "main"):
            named = [(await client.frame(track)).applied for _ in range(5)]
            assert sorted(named) == [(), (), (), (), (1,)], track


class Duet(Output):
    first: Audio
    second: Audio


async def test_a_track_that_was_given_no_samples_names_the_command_in_its_next_block() -> None:
    class Singers(ReactorModel):
        async def run(self) -> None:
            await trio.sleep_forever()

        @event
        async def sing(self, samples: int) -> None:
            await self.emit(Duet(first=np.ones(960, np.int16), second=np.ones(samples, np.int16)))

    async with open_session(Singers) as client:
        for samples in (0, 960):
            await client.call("sing", samples=samples)
        assert (await client.frame("second")).applied == (1, 2)


async def test_a_frame_that_is_thinned_out_hands_its_commands_on() -> None:
    async with open_session(await load()) as client:
        await client.configure_track("main", max_fps=1)
        for _ in range(3):
            await client.call("repaint")
            await trio.sleep(0.1)
        await client.call("repaint")
        assert (await client.frame()).applied == (1 + 1,)
        await trio.sleep(1)
        await client.call("repaint")
        assert (await client.frame()).applied == (3, 4, 5, 6)


async def test_a_frame_that_a_newer_one_replaces_hands_its_commands_on() -> None:
    async with open_session(await load()) as client:
        client.network.stall()
        client.network.change("down", buffer_bytes=10)
        for number in range(1, 6):
            await client.transport.send([f'{{"type": "repaint", "id": {number}}}'])
            await trio.sleep(0.5)
        client.network.resume()
        named = [id_ for _ in range(2) for id_ in (await client.frame()).applied]
        assert named == [1, 2, 3, 4, 5]


class Counter(ReactorModel):
    """Shows the number of commands so far, ten times a second."""

    fps = 10
    count = 0

    async def run(self) -> None:
        await self.connected.wait()
        while True:
            await self.emit(Picture(main=np.full_like(PICTURE, 10 * self.count)))

    @event
    def touch(self) -> None:
        self.count += 1


@pytest.mark.parametrize("at", [0.05, 0.15, 0.25, 0.35])
async def test_no_frame_names_a_command_that_came_after_it(at: float) -> None:
    async with open_session(Counter, executor=SlowExecutor(0.35, ENCODE)) as client:
        await client.configure_track("main", max_fps=5)
        await trio.sleep(1 + at)
        for number in range(1, 11):
            await client.call("touch")
            with trio.move_on_after(0.4):
                while True:
                    frame = await client.frame()
                    assert all(id_ <= shown(frame) + 1 for id_ in frame.applied), f"{frame} at {number}"


def shown(frame: Frame) -> int:
    """The number of commands that a frame of `Counter` shows."""
    return round(float(frame.array().mean()) / 10)


class Speaker(ReactorModel):
    """Emits two seconds of sound for each command `say`."""

    async def run(self) -> None:
        await trio.sleep_forever()

    @event
    async def say(self) -> None:
        await self.emit(Sound(voice=np.ones(2 * 48_000, np.int16)))

    @event
    async def tick(self) -> None:
        await self.emit(Sound(voice=np.ones(960, np.int16)))

    @event
    def flush(self) -> None:
        self.output.flush()


async def test_blocks_of_sound_that_are_thrown_away_hand_their_commands_on_in_order() -> None:
    async with open_session(Speaker) as client:
        client.network.stall()
        client.network.change("down", buffer_bytes=10)
        for number in range(1, 6):
            await client.transport.send([f'{{"type": "tick", "id": {number}}}'])
            await trio.sleep(0.02)
        await client.transport.send(['{"type": "flush"}', '{"type": "tick"}'])
        await trio.sleep(0.02)
        client.network.resume()
        assert (await client.frame("voice")).applied == (1, 2, 3, 4, 5)


async def test_a_block_that_is_not_sent_hands_its_commands_to_the_next_block() -> None:
    async with open_session(Speaker) as client:
        await client.configure_track("voice", paused=True)
        await client.call("say")
        await trio.sleep(1)
        await client.configure_track("voice", paused=False)
        assert (await client.frame("voice")).applied == (2,), "there is a second of the same sound to come"


async def test_no_id_is_long_enough_to_break_a_header() -> None:
    async with open_session(await load()) as client:
        texts = [f'{{"type": "repaint", "id": "{"é" * (MAX_ID_LENGTH + longer)}"}}' for longer in (1, 0)]
        await client.transport.send(texts)
        frame = await client.frame()
        assert frame.applied == ("é" * MAX_ID_LENGTH,)
        await client.transport.send([f'{{"type": "repaint", "id": "{"x" * 900_000}"}}'] * 3)
        await client.ping()
        assert len(client.transcript.of_type("reactor.error")) == 3, "it is refused before it is a command"


# ---- frames that the client has shown


async def test_every_stage_is_in_the_metrics() -> None:
    metrics = Metrics()
    async with open_session(await load(metrics), network=Network(delay=DELAY)) as client:
        await client.call("paint")
        await trio.sleep(RENDER + ENCODER)
        frame = await client.frame()
        assert trio.current_time() == frame.received_at
        await trio.sleep(SCREEN)
        await client.shown(frame)
        await client.shown(frame)
        await trio.sleep(2 * DELAY)
        await client.call("repaint")
        await client.frame()  # the client does not report this frame as shown
    said = Scrape(metrics)
    assert said("command_wait_seconds_sum") == 0.0
    assert said("handler_seconds_sum", event="paint") == pytest.approx(HANDLER)
    assert (said("first_frame_seconds_count"), said("first_frame_seconds_sum")) == (
        2,
        pytest.approx(2 * RENDER),
    )
    assert (said("encode_seconds_count", track="main"), said("encode_seconds_sum", track="main")) == (
        2,
        pytest.approx(2 * ENCODER),
    )
    assert (said("send_seconds_count", track="main"), said("send_seconds_sum", track="main")) == (2, 0.0)
    display = DELAY + SCREEN + DELAY
    assert said("display_seconds_count", track="main") == 1
    assert said("display_seconds_sum", track="main") == pytest.approx(display)
    assert said("command_to_picture_seconds_count") == 1
    assert said("command_to_picture_seconds_sum") == pytest.approx(HANDLER + RENDER + ENCODER + display)


async def test_what_the_network_does_not_take_at_once_counts_as_sending() -> None:
    metrics = Metrics()
    async with open_session(await load(metrics)) as client:
        client.network.change("down", bandwidth=1000, buffer_bytes=100)
        await client.call("paint")
        frame = await client.frame()
        await trio.sleep(1)
        waited = Scrape(metrics)("send_seconds_sum", track="main")
        assert 0.1 < waited <= frame.received_at


async def test_shown_frames_that_were_never_sent_cost_nothing() -> None:
    metrics = Metrics()
    async with open_session(await load(metrics)) as client:
        await client.transport.send([frame_shown(seq) for seq in range(5000)])
        assert await client.ping() < 1
        await client.call("repaint")
        assert (await client.frame()).seq == 0
        await client.ping()
        assert Scrape(metrics)("display_seconds_count", track="main") == 0, "it was too early"
        await client.transport.send([frame_shown(0)])
        await client.ping()
    assert Scrape(metrics)("display_seconds_count", track="main") == 1


@pytest.mark.parametrize("track", ["other", "mai"])
async def test_a_track_that_is_not_there_is_refused(track: str) -> None:
    async with open_session(await load()) as client:
        text = f'{{"type": "reactor.frame_shown", "data": {{"track": "{track}", "seq": 0}}, "id": "x"}}'
        await client.transport.send([text])
        await trio.sleep(0.01)
        [error] = client.transcript.of_type("reactor.error")
        assert f"this model has no output track '{track}'; it has: main" in str(error.message)
        assert '"path":"track"' in str(error.message)
        assert '"reply_to":"x"' in str(error.message)


async def test_frame_shown_is_acknowledged_to_who_asks() -> None:
    async with open_session(await load()) as client:
        text = '{"type": "reactor.frame_shown", "data": {"track": "main", "seq": 7}'
        await client.transport.send([text + "}", text + ', "id": "x"}'])
        await trio.sleep(0.01)
        [ack] = client.transcript.of_type("reactor.ack")
        assert ack.message == '{"type":"reactor.ack","data":{},"reply_to":"x"}'


# ---- the client's statistics


async def test_the_client_splits_what_its_commands_took() -> None:
    async with open_session(await load(), network=Network(delay=DELAY)) as client:
        assert (client.latency().count, client.latency().total) == (0, None)
        await client.call("paint")
        frame = await client.frame()
        latency = client.latency()
        assert latency.count == 1
        assert latency.total is not None
        assert latency.total.last == pytest.approx(2 * DELAY + HANDLER + RENDER + ENCODER)
        await trio.sleep(SCREEN)
        await client.shown(frame)
        latency = client.latency()
        parts = {
            stage: spread.last
            for stage in ("total", "wait", "handle", "emit", "pace", "encode", "network")
            if (spread := getattr(latency, stage)) is not None
        }
        assert parts == pytest.approx(
            {
                "total": 2 * DELAY + HANDLER + RENDER + ENCODER + SCREEN,
                "wait": 0.0,
                "handle": HANDLER,
                "emit": RENDER,
                "pace": 0.0,
                "encode": ENCODER,
                "network": 2 * DELAY + SCREEN,
            }
        )


async def test_the_statistics_are_of_the_last_commands() -> None:
    async with open_session(await load()) as client:
        slow = 10
        for _ in range(slow):
            await client.call("paint")
            await client.frame()
        quick = 256 - slow
        for _ in range(quick):
            await client.call("repaint")
            await client.frame()
        latency = client.latency()
        assert latency.count == 256
        assert latency.total is not None
        assert latency.handle is not None
        assert latency.total.p50 == pytest.approx(RENDER + ENCODER)
        assert (latency.handle.p50, latency.handle.p95, latency.handle.last) == (0.0, 0.0, 0.0)
        for _ in range(slow + 10):
            await client.call("paint")
            await client.frame()
        latency = client.latency()
        assert latency.count == 256
        assert latency.handle is not None
        assert (latency.handle.p50, latency.handle.p95) == (0.0, pytest.approx(HANDLER))


def test_commands_that_have_no_frame_are_forgotten() -> None:
    recorder = LatencyRecorder()
    for number in range(1000):
        recorder.sent(number, 0.0)
    recorder.failed(999)
    recorder.arrived(naming(*range(1000 - 256)))
    assert recorder.statistics().count == 0
    recorder.arrived(naming(*range(1000)))
    assert recorder.statistics().count == 255


def naming(*ids: int) -> Frame:
    """A frame that names the commands of these ids."""
    return Frame(
        track="main",
        seq=0,
        pts=0.0,
        codec="raw",
        width=1,
        height=1,
        rate=None,
        channels=None,
        payload=memoryview(bytes(3)),
        received_at=1.0,
        extra={"applied": [*ids]},
    )


# ---- bounds


async def test_a_model_that_never_emits_keeps_few_commands() -> None:
    tracker = AppliedCommands()
    for number in range(10_000):
        tracker.handled(number, 0.0, 0.0, 0.0)
    assert [each.id for each in tracker.take(1.0)] == list(range(10_000 - MAX_APPLIED, 10_000))
    assert tracker.take(2.0) == ()


async def test_frames_of_which_nobody_says_that_they_are_shown_are_forgotten() -> None:
    metrics = Metrics()
    async with open_session(await load(metrics, max_events_per_second=0)) as client:
        for _ in range(1000):
            await client.call("repaint")
            await client.frame()
        await client.transport.send([frame_shown(seq) for seq in range(1000 - MAX_FRAMES)])
        await client.ping()
        assert Scrape(metrics)("display_seconds_count", track="main") == 0
        await client.transport.send([frame_shown(seq) for seq in range(1000)])
        await client.ping()
    assert Scrape(metrics)("display_seconds_count", track="main") == MAX_FRAMES


# ---- `AppliedCommands` and `FrameLatency` without a session


class Notes(Metrics):
    """Keeps the measurements of frames, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, float]] = []

    def displayed(self, track: str, seconds: float) -> None:
        self.told.append((f"displayed {track}", seconds))

    def pictured(self, seconds: float) -> None:
        self.told.append(("pictured", seconds))


async def test_a_client_may_answer_before_the_writer_knows_that_it_has_written() -> None:
    notes = Notes()
    commands, frames = AppliedCommands(), FrameLatency(notes)
    began = trio.current_time()
    commands.handled(1, began, began, began)
    frames.encoded("main", 0, commands.take(began), began, began)
    await trio.sleep(0.1)
    frames.shown("main", 0)
    await trio.sleep(0.1)
    frames.written("main", 0)
    frames.shown("main", 0)
    assert notes.told == [("displayed main", 0.0), ("pictured", pytest.approx(0.1))]


async def test_a_frame_of_another_task_says_nothing_of_a_handler_that_runs() -> None:
    tracker = AppliedCommands()
    tracker.handlers_run_here()
    tracker.running(1, 0.0, 1.0)

    async def emit_from_run() -> None:
        assert tracker.take(2.0) == ()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(emit_from_run)
    [own] = tracker.take(3.0)
    assert (own.id, own.ended, own.emitted) == (1, 3.0, 3.0)
    assert tracker.take(4.0) == ()  # the second frame of the handler names no command
    tracker.ran(1, 0.0, 1.0, 5.0)
    assert tracker.take(6.0) == ()


async def test_a_command_that_failed_after_its_frame_was_refused_is_in_none() -> None:
    tracker = AppliedCommands()
    tracker.handlers_run_here()
    tracker.handled(1, 0.0, 0.0, 0.0)
    tracker.running(2, 0.0, 0.0)
    both = tracker.take(1.0)
    assert [each.id for each in both] == [1, 2]
    tracker.give_back(both)
    tracker.failed()
    assert [each.id for each in tracker.take(2.0)] == [1]


async def test_each_track_of_an_output_names_the_command() -> None:
    tracker, frames = AppliedCommands(), FrameLatency(NoObserver())
    tracker.handled("a", 0.0, 1.0, 3.0)
    tracker.handled(None, 0.0, 3.0, 3.5)
    applied = tracker.take(6.0)
    timing = {"wait": 1.0, "handle": 2.0, "emit": 3.0, "pace": 4.0, "encode": 5.0}
    for track in ("left", "right"):
        assert frames.encoded(track, 0, applied, 10.0, 15.0) == {"applied": ["a"], "timing": timing}
    assert frames.encoded("left", 1, tracker.take(7.0), 15.0, 16.0) == {}


async def test_more_commands_than_a_frame_names_keep_the_newest() -> None:
    tracker = AppliedCommands()
    for number in range(100):
        tracker.handled(number, 0.0, 0.0, 0.0)
    older = tracker.take(1.0)
    assert [each.id for each in older] == list(range(36, 100))
    for number in range(100, 110):
        tracker.handled(number, 0.0, 0.0, 0.0)
    tracker.give_back(older)
    assert [each.id for each in tracker.take(2.0)] == list(range(46, 110))


async def test_times_are_rounded_to_microseconds() -> None:
    tracker = AppliedCommands()
    tracker.handled(1, 0.0, 1 / 3, 1.0)
    header = FrameLatency(NoObserver()).encoded("main", 0, tracker.take(2.0), 3.0, 3.0)
    assert header["timing"] == {"wait": 0.333333, "handle": 0.666667, "emit": 1.0, "pace": 1.0, "encode": 0.0}
