"""The numbers of `/metrics`, and the failures that `/health` reports."""

from __future__ import annotations

import itertools
from typing import TypeVar, get_args

import attrs
import numpy as np
import prometheus_client
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from reactor_trio import (
    Audio,
    CommandError,
    Input,
    InputField,
    Output,
    ReactorModel,
    UploadedFile,
    Video,
    event,
)
from reactor_trio.compute.calls import RunningCall
from reactor_trio.compute.executor import ThreadExecutor
from reactor_trio.compute.lanes import FILES, Device, Lane
from reactor_trio.link.host import ModelHost
from reactor_trio.protocol.binary import MediaFrame, encode_media
from reactor_trio.server.http import Request, Response
from reactor_trio.server.metric_families import Histogram
from reactor_trio.server.metrics import MAX_REASONS, OTHER_REASON, Metrics
from reactor_trio.server.origins import Policy
from reactor_trio.server.routes import State, answer, is_guarded
from reactor_trio.server.service import Service
from reactor_trio.server.settings import ServerSettings
from reactor_trio.session.limits import Limits
from reactor_trio.session.observer import UNKNOWN, NotHandled
from reactor_trio.testing import InlineExecutor, open_session
from reactor_trio.wire.transport import Transport
from slow_executor import SlowExecutor

T = TypeVar("T")

HANDLER = 0.08
"""Seconds that the slow handler takes."""
FRAME = 0.2
"""Seconds that a frame takes."""
PICTURE = np.zeros((16, 16, 3), np.uint8)


class Picture(Output):
    main: Video


class Painter(ReactorModel):
    prompt = ""

    @event
    def set_prompt(self, prompt: str = InputField(max_length=10)) -> None:
        self.prompt = prompt

    @event
    def refuse(self) -> None:
        raise CommandError("too_early", "come back later")

    @event
    def fail(self) -> None:
        raise ZeroDivisionError

    @event(dedupe=True)
    async def slow(self) -> None:
        await trio.sleep(HANDLER)

    @event
    def use(self, file: UploadedFile) -> None: ...

    @event
    async def paint(self) -> None:
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        await self.connected.wait()
        while True:
            await trio.sleep(FRAME)
            await self.emit(Picture(main=PICTURE))


async def load(metrics: Metrics, **limits: int) -> ModelHost:
    ids = map("session-{}".format, itertools.count(1))
    return await ModelHost.load(
        Painter,
        limits=Limits(**limits),
        executor=InlineExecutor(),
        session_id=lambda: next(ids),
        observer=metrics,
    )


class Scrape:
    """The samples of one request of `/metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        body, _ = metrics.exposition()
        self._samples = [
            sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples
        ]

    def __call__(self, name: str, **labels: str) -> float:
        [value] = [
            each.value
            for each in self._samples
            if each.name == f"reactor_trio_{name}" and labels.items() == each.labels.items()
        ]
        return value

    @property
    def size(self) -> int:
        return len(self._samples)

    def commands(self, event: str) -> dict[str, float]:
        """The number of each outcome of an event's commands; outcomes that never occurred are left out."""
        return {
            each.labels["outcome"]: each.value
            for each in self._samples
            if each.name == "reactor_trio_commands_total" and each.labels["event"] == event and each.value
        }


async def settle() -> None:
    await trio.sleep(0.01)


async def test_commands_are_counted_by_event_and_outcome() -> None:
    metrics = Metrics()
    async with open_session(await load(metrics, max_queued_events=2)) as client:
        await client.call("set_prompt", prompt="meadow")
        for name, payload in {
            "refuse": {},
            "fail": {},
            "set_prompt": {"prompt": 1},
            "sing": {},
            "use": {"file": {"upload_id": "never announced"}},
        }.items():
            with pytest.raises(CommandError):
                await client.call(name, **payload)
        for _ in range(3):  # the first command is being handled, the third takes the place of the second
            await client.send("slow")
            await settle()
        for _ in range(2):
            await client.send("paint")
        await trio.sleep(1)
    said = Scrape(metrics)
    assert said.commands("set_prompt") == {"ok": 1, "invalid": 1}
    assert said.commands("refuse") == {"refused": 1}
    assert said.commands("fail") == {"failed": 1}
    assert said.commands("use") == {"invalid": 1}
    assert said.commands("slow") == {"ok": 2, "superseded": 1}
    assert said.commands("paint") == {"ok": 1, "overloaded": 1}
    assert said.commands(UNKNOWN) == {"unknown": 1}


async def test_times_are_measured() -> None:
    metrics = Metrics()
    async with open_session(await load(metrics)) as client:
        await client.send("slow")
        await settle()
        await client.call("paint")  # waits for the rest of `slow`
    said = Scrape(metrics)
    assert said("handler_seconds_sum", event="slow") == pytest.approx(HANDLER)
    assert said("handler_seconds_count", event="slow") == 1
    assert said("handler_seconds_bucket", event="slow", le="0.05") == 0
    assert said("handler_seconds_bucket", event="slow", le="0.1") == 1
    assert said("handler_seconds_bucket", event="slow", le="+Inf") == 1
    assert said("command_wait_seconds_count") == 2
    assert said("command_wait_seconds_sum") == pytest.approx(HANDLER - 0.01)


async def test_the_first_frame_after_a_handler_is_timed() -> None:
    metrics = Metrics()
    async with open_session(await load(metrics)) as client:
        await trio.sleep(FRAME + 0.05)
        await client.call("set_prompt", prompt="a")
        await trio.sleep(0.05)
        await client.call("set_prompt", prompt="b")  # one frame shows both; the first command counts
        await trio.sleep(2 * FRAME)
    said = Scrape(metrics)
    assert said("first_frame_seconds_count") == 1
    assert said("first_frame_seconds_sum") == pytest.approx(FRAME - 0.05)


async def test_frames_messages_and_uploads_are_counted_also_when_the_session_has_ended() -> None:
    metrics = Metrics()
    async with open_session(await load(metrics)) as client:
        await client.upload(b"x" * 1000, name="x")
        await client.transport.send(["no JSON"])
        await trio.sleep(2.5 * FRAME)
        live = Scrape(metrics)
    ended = Scrape(metrics)
    for said in (live, ended):
        assert said("frames_sent_total", track="main") == 2
        assert said("frames_replaced_total", track="main") == 0
        assert said("upload_bytes_total") == 1000
        assert said("bad_messages_total") == 1
        assert said("messages_sent_total") == 4  # welcome, upload_ready, upload_complete, error
    assert (live("sessions", state="connected"), ended("sessions", state="connected")) == (1, 0)
    assert ended("sessions_ended_total", reason="client_closed") == 1


async def test_frames_that_no_client_sees_are_counted() -> None:
    metrics = Metrics()

    class Flood(ReactorModel):
        fps = 1000

        async def run(self) -> None:
            await self.connected.wait()
            for _ in range(10):
                await self.emit(Picture(main=PICTURE))
            await trio.sleep(1)
            for _ in range(10):
                await self.emit(Picture(main=PICTURE), drop=True)
            await trio.sleep_forever()

    host = await ModelHost.load(Flood, executor=SlowExecutor(0.1), observer=metrics)
    async with open_session(host):
        await trio.sleep(2)
        said = Scrape(metrics)
    replaced, dropped, sent = (
        said(f"frames_{how}_total", track="main") for how in ("replaced", "dropped", "sent")
    )
    assert replaced > 5
    assert dropped > 4
    assert replaced + dropped + sent == 20


async def test_frames_that_nobody_wants_silence_and_frames_of_clients_are_counted() -> None:
    class Webcam(Input):
        webcam: Video

    class Talk(Output):
        screen: Video
        voice: Audio = Audio(sample_rate=8000)

    class Duet(ReactorModel):
        input: Webcam
        fps = 10

        async def run(self) -> None:
            await self.connected.wait()
            while True:  # a step is 100 ms of picture and 50 ms of sound
                await self.emit(Talk(screen=PICTURE, voice=np.ones(400, np.int16)))

    metrics = Metrics()
    host = await ModelHost.load(Duet, executor=InlineExecutor(), observer=metrics)
    said = Scrape(metrics)
    assert said("frames_unwanted_total", track="screen") == 0
    assert said("silence_samples_total", track="voice") == 0
    assert said("input_frames_total", track="webcam") == 0
    assert said("display_seconds_count", track="screen") == 0
    async with open_session(host) as client:
        await client.configure_track("screen", paused=True)
        for seq in range(200):
            webcam = MediaFrame("webcam", seq, 0.0, "raw", PICTURE.tobytes(), width=16, height=16)
            await client.transport.send([encode_media(webcam)])
        await trio.sleep(2.05)
        live = Scrape(metrics)
    for said in (live, Scrape(metrics)):
        # Of 21 frames the first was sent, and the newest is kept until the track goes on.
        assert said("frames_sent_total", track="screen") == 1
        assert said("frames_unwanted_total", track="screen") == 19
        assert said("frames_unwanted_total", track="voice") == 0
        assert said("silence_samples_total", track="voice") == pytest.approx(2.05 * 8000 / 2, rel=0.1)
        assert said("input_frames_total", track="webcam") == 200
        assert said("input_frames_dropped_total", track="webcam") == 200 - 128


async def test_queues_and_states_are_those_of_the_moment() -> None:
    metrics = Metrics()
    metrics.waiting_clients = lambda: 7
    async with open_session(await load(metrics)) as client:
        await settle()
        await client.send("slow")
        await settle()
        for _ in range(3):
            await client.send("paint")
        await settle()
        said = Scrape(metrics)
        assert said("queue_depth", queue="inbox") == 3
        assert said("queue_depth", queue="outbox") == 0
        assert said("sessions", state="waiting") == 7
    assert Scrape(metrics)("queue_depth", queue="inbox") == 0


async def test_what_a_client_makes_up_is_no_label() -> None:
    metrics = Metrics()
    host = await load(metrics)
    before = Scrape(metrics).size
    async with open_session(host) as client:
        for number in range(50):
            with pytest.raises(CommandError):
                await client.call(f"made_up_{number}")
        assert Scrape(metrics).size == before
    assert Scrape(metrics).commands(UNKNOWN) == {"unknown": 50}


async def test_names_made_up_by_clients_are_no_labels_whatever_is_wrong_with_them() -> None:
    metrics = Metrics()
    host = await load(metrics, max_events_per_second=10)
    before = Scrape(metrics).size
    async with open_session(host) as client:
        # Unknown events, from the 11th on too many a second; an unknown message of the runtime; messages of
        # the runtime with wrong data; messages of made-up tracks.
        await client.transport.send([f'{{"type": "made_up_{number}"}}' for number in range(100)])
        for name in ("reactor.made_up", "reactor.configure_track", "reactor.upload_start", "reactor.ping"):
            await client.transport.send([f'{{"type": "{name}", "data": {{"made_up": 1}}}}'])
        for number in range(100):
            for asked in ("frame_shown", "configure_track", "request_key_frame"):
                text = f'{{"type": "reactor.{asked}", "data": {{"track": "made_up_{number}", "seq": 0}}}}'
                await client.transport.send([text])
        await client.transport.send([encode_media(MediaFrame("made_up", 0, 0.0, "jpeg", b"", 1, 1))])
        await trio.sleep(1)
        said = Scrape(metrics)
    assert said.size == before
    body, _ = metrics.exposition()
    assert b"made_up" not in body
    assert said.commands(UNKNOWN)["unknown"] >= 10
    assert said.commands(UNKNOWN)["overloaded"] == 90


@pytest.mark.parametrize("outcome", get_args(NotHandled))
async def test_an_observer_that_is_told_made_up_names_keeps_none(outcome: NotHandled) -> None:
    metrics = Metrics()
    await load(metrics)
    before = Scrape(metrics).size
    for number in range(1000):
        name = f"made_up_{number}"
        metrics.not_handled(name, outcome)
        metrics.handled(name, "ok", 0.0, 0.0)
        metrics.encoded(name, 0.0)
        metrics.written(name, 0.0)
        metrics.displayed(name, 0.0)
    said = Scrape(metrics)
    assert said.size == before
    assert said("commands_total", event=UNKNOWN, outcome=outcome) == 1000


async def test_reasons_of_endings_are_bounded() -> None:
    metrics = Metrics()
    async with open_session(await load(metrics)) as client:
        for number in range(2 * MAX_REASONS):
            metrics.session_ended(client.session, f"made_up_{number}")
        assert Scrape(metrics)("sessions_ended_total", reason=OTHER_REASON) == MAX_REASONS


async def test_counters_begin_at_zero_before_the_first_command() -> None:
    metrics = Metrics()
    await load(metrics)
    said = Scrape(metrics)
    assert said("commands_total", event="set_prompt", outcome="failed") == 0
    assert said("frames_sent_total", track="main") == 0
    assert said("loop_stalls_total") == 0


def test_the_global_registry_stays_as_it_is() -> None:
    before = prometheus_client.generate_latest()
    metrics = Metrics()
    assert metrics.registry is not prometheus_client.REGISTRY
    assert b"reactor_trio" not in before + prometheus_client.generate_latest()
    Metrics()  # a second registry does not clash with the first


def test_a_value_is_in_the_bucket_that_it_is_not_above() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.0001, 0.00011, 0.05, 100.0):
        histogram.observe(seconds)
    buckets = dict(histogram.buckets)
    assert (buckets["0.0001"], buckets["0.00025"], buckets["0.05"]) == (2, 3, 4)
    assert (buckets["30.0"], buckets["+Inf"]) == (4, 5)


# ---- HTTP

PAGE = Metrics()
STATE = State("loading", "Painter", sessions=0)


def get(path: str, state: State, **headers: str) -> Response:
    what = answer(Request("GET", path, tuple(headers.items())), Policy(), state)
    assert isinstance(what, Response)
    return what


def test_metrics_are_served_from_the_start_and_guarded() -> None:
    state = attrs.evolve(STATE, metrics=Metrics().exposition)
    response = get("/metrics", state)
    assert response.status == 200
    assert response.content_type.startswith("text/plain; version=")
    assert b"# TYPE reactor_trio_sessions gauge" in response.body
    assert is_guarded(Request("GET", "/metrics"))
    assert get("/metrics", STATE).status == 404


def test_openmetrics_is_served_to_who_asks_for_it() -> None:
    state = attrs.evolve(STATE, metrics=Metrics().exposition)
    response = get("/metrics", state, accept="application/openmetrics-text; version=1.0.0")
    assert response.content_type.startswith("application/openmetrics-text")
    assert response.body.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=abc",
        "application/openmetrics-text;version=",
        "application/openmetrics-text;version=1.0.0-\x85",
        "application/openmetrics-text;version=1.0.0;q=0.000",
        "application/openmetrics-text;version=99999999999999999999.0",
        "text/plain;version=abc",
        "text/plain;version=1.0.0;escaping=\x00",
        ";=,;;=;,==",
        "*/*",
        "text/html",
    ],
)
def test_an_odd_accept_header_gets_the_page(accept: str) -> None:
    state = attrs.evolve(STATE, metrics=Metrics().exposition)
    response = get("/metrics", state, accept=accept)
    assert response.status == 200
    wants = accept.endswith("version=")
    assert response.content_type.startswith("application/openmetrics" if wants else "text/plain; version=")


ACCEPT_PARTS = st.sampled_from(
    [
        "application/openmetrics-text",
        "text/plain",
        "version",
        "escaping",
        "q",
        "=",
        ";",
        ",",
        " ",
        "1.0.0",
        "0",
    ]
)


@given(
    st.one_of(st.text(), st.lists(ACCEPT_PARTS).map("".join), st.lists(ACCEPT_PARTS | st.text()).map("".join))
)
def test_no_accept_header_breaks_the_page_or_comes_back_in_it(accept: str) -> None:
    body, content_type = PAGE.exposition(accept)
    assert body
    assert content_type in {PAGE.exposition("")[1], PAGE.exposition("application/openmetrics-text")[1]}


class StuckExecutor(ThreadExecutor):
    """Reports these calls as running."""

    def __init__(self, *calls: RunningCall) -> None:
        super().__init__()
        self.calls = calls

    def running(self) -> tuple[RunningCall, ...]:
        return self.calls


class Host:
    def __init__(self, host: ModelHost) -> None:
        self.contract, self.limits = host.contract, host.limits

    def session(self, transport: Transport, **_: object) -> None:  # pragma: no cover
        raise AssertionError


@pytest.mark.parametrize(
    ("lane", "began", "seconds", "status"),
    [
        (Device("cuda:0").lane, -31.0, 30.0, "failed"),
        (Device("cuda:0").lane, -29.0, 30.0, "ready"),
        (Device("cuda:0").lane, -1e9, 0.0, "ready"),
        (FILES, -1e9, 30.0, "ready"),
    ],
)
async def test_a_call_that_keeps_the_device_for_too_long_is_a_failure(
    lane: Lane, began: float, seconds: float, status: str
) -> None:
    now = trio.current_time()
    executor = StuckExecutor(RunningCall(lane, "Painter.forward", now - 1e9, now + began))
    service = Service(ServerSettings(port=0, stuck_timeout=seconds), name="Painter", executor=executor)
    assert service.state.status == "loading"
    service.open(await load(Metrics()))
    assert service.state.status == status
    response = get("/health", service.state)
    assert response.status == (200 if status == "ready" else 503)
    assert f'"status":"{status}"'.encode() in response.body
