"""Every way to end a session, at every scheduling point of several scenarios.

A scenario is run once undisturbed, and its task steps are counted. Then it is run again for each step, and
the session's end is set off right before that step. Afterwards nothing of the session may be left, its
`@disconnected` must have run once if `@connected` began, and a neighbour must have read the same messages
at the same times as in the undisturbed run.
"""

from __future__ import annotations

import functools
import itertools
import json
import warnings
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import pytest
import trio

from reactor_trio import (
    BufferClosed,
    Idle,
    InputState,
    ModelMessage,
    Output,
    ReactorModel,
    ReactorPipeline,
    UploadedFile,
    Video,
    connected,
    disconnected,
    event,
    file_uploaded,
)
from reactor_trio.protocol.binary import UploadChunk, encode_upload_chunk
from reactor_trio.session import timers
from reactor_trio.session.limits import Limits
from reactor_trio.testing import InlineExecutor, load_host, run
from reactor_trio.testing.leaks import left_open
from slow_executor import SlowExecutor
from strict_transport import StrictTransport
from traces import logged_errors, temporary_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from reactor_trio.link.host import ModelHost
    from reactor_trio.session.session import Session

LIMITS = Limits(
    heartbeat=1.0,
    send_timeout=0.5,
    close_timeout=0.3,
    hook_timeout=1.0,
    upload_timeout=5.0,
    spool_bytes=8,
    max_queued_messages=4,
)
HANG = 60.0
"""Virtual seconds after which a session counts as hung: each ending is bounded by far less."""
FRAME = np.full((8, 8, 3), 128, np.uint8)


# ---- the model


class Said(ModelMessage):
    text: str


class Picture(Output):
    screen: Video


@attrs.define
class Probe:
    """Notes that a session's model takes, and settings by which the sweep steers it."""

    entered: int = 0
    """How often `@connected` was entered."""
    left: int = 0
    """How often `@disconnected` ran to its end."""
    active: list[str] = attrs.field(factory=list)
    """Parts of the model's code that are running."""
    faults: list[str] = attrs.field(factory=list)
    # The sweep cancels this scope: `run` leaves it, and then returns, or raises if `fails` is set.
    leave: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    fails: bool = False
    transport: StrictTransport | None = None
    emits: bool = False
    generators: int = 0
    """Generators of a pipeline that have begun and were not closed."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.active.append(name)
        try:
            yield
        finally:
            self.active.remove(name)

    @contextmanager
    def handler(self, name: str) -> Iterator[None]:
        if self.active not in ([], ["run"]):
            self.faults.append(f"{name} beside {self.active}")
        if not self.entered:
            self.faults.append(f"{name} before @connected")
        with self.part(name):
            yield


class Parts:
    """Handlers and hooks for the messages of a scenario's client."""

    fps = 10
    buffer_size = 2
    probe: Probe
    send: Any

    @connected
    async def on_connect(self) -> None:
        self.probe.entered += 1
        with self.probe.part("@connected"):
            await trio.sleep(0.02)

    @event
    async def work(self, seconds: float) -> None:
        with self.probe.handler("work"):
            for _ in range(3):
                await trio.sleep(seconds / 3)

    @event(in_thread=True)
    def think(self) -> Said:
        with self.probe.handler("think"):
            return Said(text="thought")

    @event
    def mark(self, number: int) -> Said:
        with self.probe.handler("mark"):
            return Said(text=f"marked {number}")

    @event
    def later(self):  # type: ignore[no-untyped-def]
        return self._later()

    async def _later(self) -> None:
        with self.probe.handler("later"):
            await trio.sleep(0.01)

    @event(dedupe=True)
    async def set_ref(self, ref: str) -> None:
        with self.probe.handler("set_ref"):
            await trio.sleep(0.01)

    @event
    async def say(self, times: int) -> None:
        with self.probe.handler("say"):
            for number in range(times):
                await self.send(Said(text=f"said {number}"))

    @event(dedupe=True)
    async def use(self, file: UploadedFile) -> Said:
        with self.probe.handler("use"):
            await trio.sleep(0.01)
            return Said(text=file.data.decode())

    @file_uploaded
    async def on_file(self, uploaded_file: UploadedFile) -> None:
        with self.probe.handler("@file_uploaded"):
            await trio.sleep(0.05)

    @disconnected
    async def on_disconnect(self) -> None:
        assert self.probe.transport is not None
        if self.probe.active:
            self.probe.faults.append(f"@disconnected beside {self.probe.active}")
        if not self.probe.transport.aborted:
            self.probe.faults.append("@disconnected before the connection was closed")
        await self.send(Said(text="nobody hears this"))
        await trio.sleep(0.02)
        self.probe.left += 1


class Swept(Parts, ReactorModel):
    """The theatre assigns `probe` for each session."""

    async def run(self) -> None:
        with self.probe.part("run"):
            with self.probe.leave:
                await self.connected.wait()
                while self.probe.emits:
                    await self.emit(Picture(screen=FRAME))
                await trio.sleep_forever()
            if self.probe.fails:
                raise ZeroDivisionError("the author's bug")


class SweptState(InputState):
    prompt: str = ""
    file: UploadedFile | None = None


class SweptGenerator(Parts, ReactorPipeline):
    """A pipeline with a plain generator, whose steps run in a thread."""

    state: SweptState

    def steps(self) -> Iterator[Any]:
        self.probe.generators += 1
        try:
            for _ in range(5):
                with self.probe.part("a step"):
                    if self.probe.leave.cancel_called:
                        raise ZeroDivisionError("the author's bug") if self.probe.fails else BufferClosed
                yield Picture(screen=FRAME)
                yield Idle
        finally:
            with self.probe.part("closing"):
                self.probe.generators -= 1

    def inference(self) -> Iterator[Any]:
        yield from self.steps()


class SweptAsyncGenerator(SweptGenerator):
    """The same pipeline with an async generator: its steps run on the loop, and sleep."""

    async def inference(self) -> AsyncIterator[Any]:  # type: ignore[override]
        steps = self.steps()
        try:
            for value in steps:
                with self.probe.part("a step"):
                    await trio.sleep(0.01)
                yield value
        finally:
            try:
                with self.probe.part("closing"):
                    await trio.sleep(0.01)
            finally:
                steps.close()


# ---- the parts in threads


class Threads(SlowExecutor):
    """Notes which parts of a model run in a thread."""

    def passing(self, fn: Callable[..., object]) -> AbstractContextManager[object]:
        model = getattr(fn, "__self__", None)
        probe = model.probe if isinstance(model, Parts) else Probe()
        return probe.part("a thread")


# ---- the steps of the clients

Step = tuple[float, "tuple[str | bytes, ...] | Callable[[StrictTransport], object]"]
"""Seconds to wait, and then the messages to send, or a function to call with the transport."""

ids = itertools.count(1)


def text(type_: str, **data: Any) -> str:
    """A message with an id, which asks for an answer."""
    return json.dumps({"type": type_, "data": data, "id": next(ids)})


def start(upload_id: str, size: int) -> str:
    return text("reactor.upload_start", upload_id=upload_id, name="n", mime_type="text/plain", size=size)


def chunk(upload_id: str, offset: int, payload: bytes) -> bytes:
    return encode_upload_chunk(UploadChunk(upload_id, offset, payload))


def use(upload_id: str) -> str:
    return text("use", file={"upload_id": upload_id})


UPLOAD: tuple[Step, ...] = (
    (0.1, (start("large", 12), start("small", 4), use("large"), text("mark", number=1))),
    (0.1, (chunk("large", 0, b"abcd"), chunk("small", 0, b"ab"))),
    (0.1, (chunk("large", 4, b"efgh"), start("second", 9), chunk("small", 2, b"cd"), use("small"))),
    # In one batch: messages behind a chunk that is being written, and a reference to an upload under way.
    (0.1, (use("second"), chunk("large", 8, b"ijkl"), chunk("second", 0, b"012345678"), use("large"))),
    (0.1, (start("third", 20), chunk("third", 0, b"0123456789"), use("third"), chunk("third", 3, b"?"))),
    (0.4, (start("never", 20), chunk("never", 0, b"0123456789"), use("never"))),
)


PIPELINE: tuple[Step, ...] = (
    (0.0, (text("mark", number=0), text("set_prompt", prompt="A"), text("work", seconds=0.05))),
    (0.1, (text("set_prompt", prompt="B"), text("set_prompt", prompt="C"), text("later"))),
    (0.1, (start("small", 2), chunk("small", 0, b"ab"), text("think"), text("mark", number=1))),
    (0.6, (text("set_file", file={"upload_id": "small"}), text("set_prompt", prompt=5))),
    (0.4, (text("mark", number=2),)),
)

INLINE = InlineExecutor()


@attrs.frozen
class Scenario:
    """The model of the victim, the steps of its client, and the conditions of the run."""

    steps: tuple[Step, ...]
    executor: InlineExecutor = INLINE
    emits: bool = False
    capacity: float = float("inf")
    short_writes: bool = False
    model: type[Any] = Swept


SCENARIOS = {
    "idle": Scenario(((2.2, ()),)),
    "pipeline": Scenario(PIPELINE, Threads(0.03), model=SweptGenerator),
    "async pipeline": Scenario(PIPELINE, model=SweptAsyncGenerator),
    "handler": Scenario(
        (
            (0.0, (text("mark", number=0), text("work", seconds=0.3), text("set_ref", ref="A"))),
            (0.1, (text("set_ref", ref="B"), text("mark", number=1), text("later"))),
            (0.5, (text("later"), text("work", seconds=0.1), "garbage", b"garbage")),
            (0.2, (text("reactor.ping", t=1.0), text("set_ref", ref=5), text("mark", number=2))),
        ),
        short_writes=True,
    ),
    "thread": Scenario(
        (
            (0.1, (text("think"), text("think"), text("mark", number=1))),
            (0.02, (text("set_ref", ref="A"), text("think"))),
            (0.3, (text("think"),)),
            (0.02, ()),
        ),
        Threads(0.03),
    ),
    "upload": Scenario(UPLOAD),
    "upload in threads": Scenario(UPLOAD, Threads(0.03), short_writes=True),
    "emit": Scenario(((0.1, (text("mark", number=1),)), (0.6, (text("work", seconds=0.1),))), emits=True),
    "emit in threads": Scenario(((0.1, (text("mark", number=1),)), (0.6, ())), Threads(0.03), emits=True),
    "send": Scenario(
        (
            (0.1, StrictTransport.pause),
            (0.0, (text("say", times=20),)),
            (0.1, tuple(text("mark", number=number) for number in range(6))),
            (0.1, (start("small", 2), chunk("small", 0, b"ab"), *(text("unknown") for _ in range(3)))),
            (0.1, StrictTransport.resume),
            (0.2, (text("mark", number=7),)),
        ),
        capacity=100,
        short_writes=True,
    ),
    "hook": Scenario(
        (
            (0.0, (text("mark", number=1), text("set_ref", ref="A"))),
            (0.01, (text("mark", number=2), text("set_ref", ref="B"))),
            (0.1, (start("empty", 0), start("small", 2), chunk("small", 0, b"ab"), text("mark", number=3))),
            (0.08, ()),
        )
    ),
}

NEIGHBOUR: tuple[Step, ...] = (
    (0.05, (text("mark", number=1), text("work", seconds=0.2), text("set_ref", ref="A"))),
    (0.1, (text("set_ref", ref="B"), start("small", 2), chunk("small", 0, b"hi"), use("small"))),
    (0.4, (text("say", times=3), start("other", 8), chunk("other", 0, b"01234567"), use("other"))),
    *((0.7, (text("mark", number=number), text("reactor.ping", t=1.5))) for number in range(6)),
)


# ---- the endings


@attrs.frozen
class Victim:
    """The session that an ending acts on, with its parts."""

    session: Session
    transport: StrictTransport
    probe: Probe
    outside: trio.CancelScope


def run_ends(victim: Victim) -> None:
    victim.probe.leave.cancel()


def run_fails(victim: Victim) -> None:
    victim.probe.fails = True
    victim.probe.leave.cancel()


ENDINGS: dict[str, tuple[Callable[[Victim], object], str]] = {
    "client close": (lambda victim: victim.transport.hang_up(), "client_closed"),
    "socket reset": (lambda victim: victim.transport.cut(), "connection_lost"),
    "heartbeat": (lambda victim: victim.transport.freeze(), "heartbeat_lost"),
    "slow client": (lambda victim: victim.transport.stall(), "slow_client"),
    "run ends": (run_ends, "finished"),
    "run fails": (run_fails, "model_error"),
    "drain": (lambda victim: victim.session.drain(), "shutting_down"),
    "second signal": (lambda victim: victim.outside.cancel(), "cancelled"),
}
POLITE = {"run ends", "run fails", "drain"}
CLOSE_CODES = {"finished": 1000, "model_error": 1011, "shutting_down": 1001}


class Cut(trio.abc.Instrument):
    """Counts task steps, and calls the action of a step right before that step."""

    def __init__(self, actions: dict[int, Callable[[], object]]) -> None:
        self.steps = 0
        self.actions = actions
        self.failure: BaseException | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        action = self.actions.pop(self.steps, None)
        if action is not None:
            try:
                action()
            except BaseException as failure:  # Trio would log it and go on without the instrument
                self.failure = failure


# ---- one run


@attrs.define
class Outcome:
    """The outcome of one run of a scenario."""

    steps: int = 0
    """Task steps from the scenario's start to the victim's end."""
    reason: str = ""
    faults: list[str] = attrs.field(factory=list)
    neighbour: list[Any] = attrs.field(factory=list)


Cuts = dict[int, str]
"""The number of a step, and the name of the ending that is set off right before that step."""


async def play(transport: StrictTransport, steps: Iterable[Step]) -> None:
    for seconds, what in steps:
        await trio.sleep(seconds)
        if callable(what):
            what(transport)
        else:
            transport.arrive(*what)
    await trio.sleep(0.05)
    transport.hang_up()


@attrs.define
class Theatre:
    """A host for each model, with the temporary files and the log of the sessions on the hosts."""

    hosts: dict[type[Any], ModelHost]
    files: list[Any]
    logged: list[dict[str, Any]]

    @property
    def errors(self) -> list[str]:
        return [entry["event"] for entry in self.logged]

    def play(self, scenario: Scenario, cuts: Cuts) -> Outcome:
        result = Outcome()
        self.files.clear()
        self.logged.clear()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            run(self._main, scenario, cuts, result)
        result.faults += [f"warned: {warning.message}" for warning in warned]
        return result

    async def _main(self, scenario: Scenario, cuts: Cuts, result: Outcome) -> None:
        with trio.move_on_after(HANG) as hang:
            await self._sessions(scenario, cuts, result)
        if hang.cancelled_caught:
            result.faults.append("it hangs")

    async def _sessions(self, scenario: Scenario, cuts: Cuts, result: Outcome) -> None:
        names = iter(("neighbour", "victim"))
        shared: dict[str, Any] = {"executor": scenario.executor, "session_id": lambda: next(names)}
        host = attrs.evolve(self.hosts[scenario.model], **shared)
        quiet = StrictTransport(send_timeout=LIMITS.send_timeout)
        other = attrs.evolve(self.hosts[Swept], **shared).session(quiet)
        other.model.probe = Probe(transport=quiet)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.run, name="neighbour")
            nursery.start_soon(play, quiet, NEIGHBOUR, name="neighbour's client")
            await self._victim(host, scenario, cuts, result)
            result.faults += [f"still runs: {name}" for name in strangers()]
        result.neighbour = transcript(quiet)
        result.faults += [f"the neighbour: {fault}" for fault in faults_of(other, quiet)]

    async def _victim(self, host: ModelHost, scenario: Scenario, cuts: Cuts, result: Outcome) -> None:
        transport = StrictTransport(
            send_timeout=LIMITS.send_timeout,
            capacity=scenario.capacity,
            short_writes=scenario.short_writes,
        )
        session = host.session(transport)
        session.model.probe = probe = Probe(transport=transport, emits=scenario.emits)
        victim = Victim(session, transport, probe, trio.CancelScope())
        cut = Cut({step: functools.partial(ENDINGS[name][0], victim) for step, name in cuts.items()})
        trio.lowlevel.add_instrument(cut)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play, transport, scenario.steps, name="victim's client")
            with victim.outside:
                await session.run()
            nursery.cancel_scope.cancel()
        trio.lowlevel.remove_instrument(cut)
        assert session.ending is not None
        result.steps, result.reason = cut.steps, session.ending.reason
        result.faults += [*faults_of(session, transport), *faults_of_farewell(session, transport)]
        result.faults += [f"a temporary file is open: {file!r}" for file in self.files if not file.closed]
        expected = ("run() failed", "inference() failed") if probe.fails else ()
        result.faults += [f"logged: {error}" for error in self.errors if error not in expected]
        result.faults += [f"no cut was made before step {step}" for step in cut.actions]
        if cut.failure is not None:
            result.faults.append(f"the cut failed: {cut.failure!r}")


def strangers() -> Iterator[str]:
    """Names of the tasks that belong neither to the test, Trio or the neighbour, nor to all sessions."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    waiting = [root]
    while waiting:
        task = waiting.pop()
        if task.name == "neighbour":
            continue
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        waiting += children
        known = task in (root, trio.lowlevel.current_task())
        known = known or task.name in ("neighbour's client", timers.TASK_NAME)
        if not known and not task.name.startswith("<TrioToken"):
            yield task.name


def transcript(transport: StrictTransport) -> list[Any]:
    """The messages that the client has read, with the time of each."""
    return transport.read


def faults_of(session: Session, transport: StrictTransport) -> list[str]:
    """The faults of a session that has ended."""
    probe = session.model.probe
    answered = [message["reply_to"] for message in texts(transport) if "reply_to" in message]
    checks = {
        f"@connected was entered {probe.entered} times": probe.entered > 1,
        f"@disconnected ran {probe.left} times, @connected {probe.entered}": probe.left != probe.entered,
        f"{probe.active} still run": bool(probe.active),
        f"{probe.generators} generators were not closed": bool(probe.generators),
        "the connection is open": not (transport.has_ended and transport.aborted),
        f"answered twice: {answered}": len(answered) != len(set(answered)),
    }
    faults = [*probe.faults, *transport.faults, *(text for text, is_fault in checks.items() if is_fault)]
    return faults + [str(leak) for leak in left_open(session)]


def faults_of_farewell(session: Session, transport: StrictTransport) -> list[str]:
    """Faults of the close code and the last message, for a session that the server's side has ended."""
    assert session.ending is not None
    reason, code = session.ending.reason, session.ending.close_code
    if transport.close_code not in (None, code):
        return [f"{reason} was closed with {transport.close_code}"]
    if code is None or transport.close_code is None:
        return []
    kind, data = (
        ("reactor.goodbye", {"reason": reason}) if session.ending.goodbye else ("reactor.error", None)
    )
    _, last = transport.read[-1]
    message = json.loads(last) if isinstance(last, str) else {"type": "a frame"}
    if message["type"] != kind or data not in (None, message["data"]):
        return [f"{reason}: the last message was {message}"]
    return []


def texts(transport: StrictTransport) -> list[dict[str, Any]]:
    return [json.loads(message) for _, message in transport.read if isinstance(message, str)]


# ---- the sweep


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    async def load(model: type[Any]) -> ModelHost:
        return await load_host(model, limits=LIMITS)

    models = (Swept, SweptGenerator, SweptAsyncGenerator)
    hosts = {model: run(load, model) for model in models}
    with temporary_files() as files, logged_errors() as logged:
        yield Theatre(hosts, files, logged)


def undisturbed(theatre: Theatre, name: str) -> Outcome:
    if name not in _undisturbed:
        _undisturbed[name] = theatre.play(SCENARIOS[name], {})
    return _undisturbed[name]


_undisturbed: dict[str, Outcome] = {}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_undisturbed_a_scenario_ends_with_its_client(theatre: Theatre, scenario: str) -> None:
    result = undisturbed(theatre, scenario)
    assert result.faults == []
    assert result.reason == "client_closed"
    again = theatre.play(SCENARIOS[scenario], {})
    assert again == result, "each run is the same"
    assert len(result.neighbour) > 20


def sweep(
    theatre: Theatre, scenario: str, all_cuts: Iterable[Cuts], record_property: Callable[[str, object], None]
) -> None:
    """Run the scenario once for each of the cuts, and report all faults."""
    reference = undisturbed(theatre, scenario)
    faults: list[str] = []
    count = 0
    for cuts in all_cuts:
        count += 1
        result = theatre.play(SCENARIOS[scenario], cuts)
        expected = {ENDINGS[name][1] for name in cuts.values()} | {reference.reason}
        if result.reason not in expected:
            result.faults.append(f"it ended with {result.reason}")
        if result.neighbour != reference.neighbour:
            result.faults.append("the neighbour noticed")
        faults += [f"{cuts}: {fault}" for fault in result.faults]
    points.append(count)
    record_property("cut_points", count)
    assert not faults, "\n".join([f"{len(faults)} faults", *faults[:10]])


points: list[int] = []
"""For each sweep, the number of its runs."""


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_session_ends_cleanly_at_every_scheduling_point(
    theatre: Theatre, scenario: str, ending: str, record_property: Callable[[str, object], None]
) -> None:
    steps = range(1, undisturbed(theatre, scenario).steps + 1)
    sweep(theatre, scenario, ({step: ending} for step in steps), record_property)


@pytest.mark.parametrize("second", ["client close", "socket reset", "slow client", "drain", "second signal"])
@pytest.mark.parametrize("first", ["run ends", "run fails", "drain"])
@pytest.mark.parametrize("scenario", ["emit in threads", "upload in threads", "send"])
def test_a_polite_ending_is_overtaken_at_every_scheduling_point(
    theatre: Theatre, scenario: str, first: str, second: str, record_property: Callable[[str, object], None]
) -> None:
    middle = undisturbed(theatre, scenario).steps * 5 // 9  # here threads have files and frames, answers wait
    end = theatre.play(SCENARIOS[scenario], {middle: first}).steps
    cuts = ({middle: first, step: second} for step in range(middle + 1, end + 1))
    sweep(theatre, scenario, cuts, record_property)


def test_the_sweep_was_complete(record_testsuite_property: Callable[[str, object], None]) -> None:
    """Prints the number of cut points, which can be quoted. (0 if the sweep itself was not selected.)"""
    record_testsuite_property("cut_points", sum(points))
    print(f"{sum(points)} cut points in {len(points)} sweeps")  # noqa: T201  shown by -rP
    whole = len(SCENARIOS) * len(ENDINGS) + 45
    assert len(points) < whole or sum(points) > 9000
