"""`ReactorPipeline`: a generator that is stepped, and handlers between its steps. In virtual time."""

from __future__ import annotations

import abc
import contextvars
import dataclasses
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
import structlog
import torch
import trio
import trio.testing

from reactor_trio import (
    BufferClosed,
    CommandError,
    Idle,
    InputField,
    InputState,
    ModelMessage,
    Output,
    ReactorPipeline,
    UploadedFile,
    Video,
    connected,
    disconnected,
    event,
    file_uploaded,
)
from reactor_trio.compute.executor import HANDLERS, ThreadExecutor, device_lane, is_stuck
from reactor_trio.session.limits import Limits
from reactor_trio.testing import (
    DeviceCost,
    InlineExecutor,
    SessionClient,
    load_host,
    open_session,
    open_sessions,
)
from virtual import virtually

FRAME = np.full((8, 8, 3), 7, np.uint8)
STEP = 0.1
"""Seconds of a step, on a device that has a cost."""


class Said(ModelMessage):
    text: str


class Picture(Output):
    screen: Video


class Quiet(Output):
    """Has no value at all in the test that yields it."""

    quiet: Video = None


class GameState(InputState):
    prompt: str = InputField(default="a sunny meadow", max_length=20, description="What is to be seen")
    strength: float = InputField(default=0.5, ge=0, le=1)
    reference: UploadedFile | None = InputField(default=None, mime_types=["image/*"])
    _noise: object = None


class Game(ReactorPipeline):
    """Its generator is `script`; `log` is the session's own."""

    state: GameState
    fps = 10
    script: Callable[[Any], Any]

    def _reactor_begin(self) -> None:
        super()._reactor_begin()
        self.log: list[Any] = []

    def inference(self) -> Iterator[Any]:
        yield from self.script(self)

    @disconnected
    def on_disconnect(self) -> None:
        self.log.append("disconnected")


class AsyncGame(Game):
    async def inference(self) -> AsyncIterator[Any]:
        script = self.script(self)
        try:
            while True:
                value = next(script, StopIteration)
                if value is StopIteration:
                    return
                yield value
        finally:
            script.close()


def module_of(code: str, **names: Any) -> dict[str, Any]:
    """A module with nothing else in sight, and without our own `from __future__`."""
    module = ModuleType("authors_module")
    sys.modules[module.__name__] = module
    vars(module).update(names)
    exec(compile(code, "authors_module.py", "exec", dont_inherit=True), vars(module))
    return vars(module)


def scripted(script: Any, base: type[Game] = Game, **attributes: Any) -> type[Game]:
    return type("Scripted", (base,), {"script": staticmethod(script), **attributes})


def pictures(model: Game) -> Iterator[Any]:
    while True:
        yield Picture(screen=FRAME)


def idles(model: Game) -> Iterator[Any]:
    while True:
        model.log.append(round(trio.current_time(), 3))
        yield Idle


@pytest.fixture
def errors() -> Iterator[list[dict[str, Any]]]:
    """What is logged as an error, from any thread."""
    found: list[dict[str, Any]] = []

    def note(logger: object, method: str, event_dict: dict[str, Any]) -> Any:
        if method == "error":
            found.append(event_dict)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[note])
    yield found
    structlog.configure(**before)


BOTH = pytest.mark.parametrize("base", [Game, AsyncGame], ids=["sync", "async"])


# ---- state


@virtually
async def test_the_public_fields_of_the_state_are_commands() -> None:
    async with open_session(scripted(idles)) as client:
        events = client.welcome.events
        assert list(events) == ["set_prompt", "set_strength", "set_reference"]
        assert events["set_prompt"].description == "What is to be seen"
        assert events["set_prompt"].schema == {
            "title": "set_prompt",
            "type": "object",
            "properties": {
                "prompt": {
                    "type": "string",
                    "maxLength": 20,
                    "description": "What is to be seen",
                    "default": "a sunny meadow",
                }
            },
            "additionalProperties": False,
        }
        assert all(each.dedupe for each in events.values())
        assert await client.call("set_prompt", prompt="rain") is None
        state = client.session.model.state
        assert state == GameState(prompt="rain")
        await client.call("set_prompt")
        assert state.prompt == "a sunny meadow", "without a value it is the default again"
        for wrong, why in [("x" * 21, "at most 20 characters"), (5, "must be a string")]:
            with pytest.raises(CommandError, match=why) as refused:
                await client.call("set_prompt", prompt=wrong)
            assert [fault.path for fault in refused.value.errors] == ["prompt"]
        with pytest.raises(CommandError, match="unknown_event"):
            await client.call("set__noise", _noise=1)


@virtually
async def test_a_field_may_be_an_upload() -> None:
    async with open_session(scripted(idles)) as client:
        photo = await client.upload(b"photo", name="a.png", mime_type="image/png")
        await client.call("set_reference", reference=photo)
        assert client.session.model.state.reference.data == b"photo"
        await client.call("set_reference", reference=None)
        assert client.session.model.state.reference is None
        with pytest.raises(CommandError, match="upload_type"):
            await client.call("set_reference", reference=await client.upload(b"x", name="b.txt"))


@virtually
async def test_an_event_of_the_same_name_replaces_the_fields_own() -> None:
    class Careful(Game):
        script = staticmethod(idles)

        @event
        def set_prompt(self, prompt: str) -> Said:
            self.state.prompt = prompt.strip()
            self.state._noise = len(prompt)
            return Said(text=self.state.prompt)

    async with open_session(Careful) as client:
        assert list(client.welcome.events) == ["set_strength", "set_reference", "set_prompt"]
        reply = await client.call("set_prompt", prompt=" much longer than twenty characters ")
        assert reply is not None
        assert reply.data == {"text": "much longer than twenty characters"}
        assert client.session.model.state._noise == 36


@virtually
async def test_each_session_has_a_state_of_its_own_and_the_prototype_has_none() -> None:
    class Tagged(GameState):
        tags: list[str] = attrs.field(factory=list)

    class Model(Game):
        state: Tagged
        script = staticmethod(idles)

        def load(self, config: dict[str, Any]) -> None:
            with pytest.raises(AttributeError, match="made just before @connected"):
                _ = self.state

        @event
        def tag(self, name: str) -> None:
            self.state.tags.append(name)

    host = await load_host(Model)
    async with open_sessions(host, 2) as (one, two):
        assert "set_tags" in one.welcome.events
        await one.call("set_prompt", prompt="rain")
        await one.call("tag", name="wet")
        await trio.sleep(1)
        assert one.session.model.state == Tagged(prompt="rain", tags=["wet"])
        assert two.session.model.state == Tagged()
        await two.call("set_tags", tags=["dry"])
        assert (one.session.model.state.tags, two.session.model.state.tags) == (["wet"], ["dry"])
    assert "state" not in vars(host.prototype)
    assert one.session.model.state.prompt == "rain", "it can be read until the end, and after it"


@virtually
async def test_the_state_is_there_in_every_hook() -> None:
    seen = []

    class Model(Game):
        script = staticmethod(idles)

        @connected
        def on_connect(self) -> None:
            self.state._noise = "set in @connected"

        @disconnected
        def on_disconnect(self) -> None:
            seen.append(self.state._noise)

    async with open_session(Model):
        await trio.sleep(1)
    assert seen == ["set in @connected"]


@virtually
async def test_a_default_that_cannot_be_made_ends_the_session_before_connected(errors: list[Any]) -> None:
    class Broken(InputState):
        level: int = attrs.field(factory=lambda: 1 // 0)

    class Model(Game):
        state: Broken
        script = staticmethod(idles)

    async with open_session(Model) as client:
        assert (await client.ended()).reason == "model_error"
    assert isinstance(errors[0]["exc_info"], ZeroDivisionError)


@virtually
async def test_a_pipeline_may_have_no_state() -> None:
    class Stateless(ReactorPipeline):
        def inference(self) -> Iterator[Any]:
            yield from pictures(self)  # type: ignore[arg-type]

    async with open_session(Stateless) as client:
        assert client.welcome.events == {}
        assert (await client.frame("screen")).seq == 0
        with pytest.raises(AttributeError, match="declare it, with `state: StatelessState`"):
            _ = client.session.model.state


# ---- mistakes


def make(code: str) -> None:
    """Make classes in a module of their own, which has our names."""
    names = {name: value for name, value in globals().items() if not name.startswith("__")}
    module_of("", **names)
    exec(f"from __future__ import annotations\n{code}", vars(sys.modules["authors_module"]))


LOOP = "\n    def inference(self): yield"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class S(InputState):\n n: int", "S.n needs a default, as a fresh state is made for each client"),
        ("class S(InputState):\n _n: int", "S._n needs a default"),
        ("class S(InputState):\n n: int = InputField(ge=1)", "S.n needs a default"),
        ("class S(InputState):\n n: list[int] = []", r"S.n: the default \[\] would be shared"),
        ("class S(InputState):\n _n: Any = {}", "S._n: the default {} would be shared"),
        ("class S(InputState):\n n: bytes = b''", "S.n: the type bytes is not supported"),
        ("class S(InputState):\n n: int = 'x'", "S.n: the default does not fit: 'x' is no int"),
        ("class S(InputState):\n n: int = InputField(9, le=5)", "S.n: the default does not fit"),
        ("class S(InputState):\n n: int = InputField(9, min_length=5)", "S.n: min_length does not apply"),
        (
            "class S(InputState):\n maxSize: int = 1",
            "S.maxSize: clients set it with the command 'set_maxSize'",
        ),
        ("class S(InputState):\n n = 1", "S.n has no annotation: write `n: int = 1`, with a colon"),
        ("class S(InputState):\n n = str", "S.n has no annotation: write `n: str`, with a colon"),
        ("class S(InputState):\n n = InputField(1)", r"write `n: TYPE = InputField\(...\)`"),
        (
            "@attrs.frozen\nclass S(InputState):\n n: int = 1",
            "S is a state that clients set, and frozen=True",
        ),
        (
            f"class P(ReactorPipeline):\n    state: Gone{LOOP}",
            "P.state: the annotation 'Gone' cannot be resolved",
        ),
        (
            f"class P(ReactorPipeline):\n    state: int{LOOP}",
            "P.state is annotated int, which is no subclass of",
        ),
        (
            f"class P(ReactorPipeline):\n    state: GameState | None{LOOP}",
            "which is no subclass of InputState",
        ),
        (
            f"class P(ReactorPipeline):\n    state = GameState{LOOP}",
            "P.state has no annotation: write `state: Ga",
        ),
        (
            f"class P(ReactorPipeline):\n    state: GameState = GameState(){LOOP}",
            "P.state has a value, which all clients would share",
        ),
        (
            "class P(ReactorPipeline): ...",
            r"P has no inference\(\): write `def inference\(self\)` that yields",
        ),
        (
            "class P(ReactorPipeline):\n def inference(self): return 1",
            "P.inference is no generator: `yield` each",
        ),
        ("class P(ReactorPipeline):\n async def inference(self): ...", "P.inference is no generator"),
        (
            f"class P(ReactorPipeline):\n    async def run(self): ...{LOOP}",
            "P.run would be in the place of infer",
        ),
        (
            f"class P(ReactorPipeline):\n    @event\n    def state(self): ...{LOOP}",
            "'state' is a name of the runt",
        ),
        (
            f"class P(ReactorPipeline):\n    state: GameState\n    def set_prompt(self, prompt): ...{LOOP}",
            "P.set_prompt is no event, so the command 'set_prompt' does not call it",
        ),
        (
            f"class S(InputState):\n    n: Later = None\nclass P(ReactorPipeline):\n    state: S{LOOP}",
            "S.n: the annotation 'Later' cannot be resolved",
        ),
    ],
)
def test_a_mistake_is_told_when_the_class_is_made(code: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make(code)


def test_classes_to_derive_from_need_no_inference() -> None:
    class First(ReactorPipeline, abc.ABC):
        state: GameState

    class Second(First):
        @abc.abstractmethod
        def inference(self) -> Iterator[Any]: ...

    class Third(Second):
        def inference(self) -> Iterator[Any]:
            yield

    class Fourth(Third): ...

    assert "set_prompt" in Fourth.__declarations__.events


@pytest.mark.parametrize("decorate", [dataclasses.dataclass, attrs.define, attrs.define(slots=False)])
def test_a_decorator_on_top_changes_nothing(decorate: Any) -> None:
    @decorate
    class Decorated(InputState):
        prompt: str = InputField(default="rain", max_length=4)
        tags: list[str] = dataclasses.field(default_factory=list)
        _noise: object = None

    class Model(ReactorPipeline):
        state: Decorated

        def inference(self) -> Iterator[Any]:
            yield

    assert Decorated() == Decorated("rain", [], None)
    events = Model.__declarations__.events
    assert list(events) == ["set_prompt", "set_tags"]
    assert events["set_prompt"].schema["properties"]["prompt"]["maxLength"] == 4
    assert events["set_tags"].schema["properties"]["tags"]["default"] == []


def test_a_decorator_on_inference_is_looked_through() -> None:
    class Model(ReactorPipeline):
        @torch.inference_mode()
        def inference(self) -> Iterator[Any]:
            yield

    assert Model.inference is not None


# ---- what it yields


@BOTH
@virtually
async def test_outputs_are_shown_at_the_models_rate(base: type[Game]) -> None:
    async with open_session(scripted(pictures, base)) as client:
        times = [(await client.frame("screen")).pts for _ in range(20)]
    assert np.allclose(np.diff(times), 0.1)


@BOTH
@virtually
async def test_a_batch_an_array_a_tensor_and_a_message_may_be_yielded(base: type[Game]) -> None:
    def script(model: Game) -> Iterator[Any]:
        yield Said(text="first")
        yield Picture(screen=np.stack([FRAME] * 3))
        yield from idles(model)

    async with open_session(scripted(script, base)) as client:
        assert (await client.receive("said")).data == {"text": "first"}
        assert [(await client.frame("screen")).seq for _ in range(3)] == [0, 1, 2]


def single_track_module() -> type[ReactorPipeline]:
    """A model in a module with one output, as an author's is."""
    code = """
from __future__ import annotations
import numpy as np, torch
from reactor_trio import Idle, Output, ReactorPipeline, Video

class Only(Output):
    main_video: Video

class Model(ReactorPipeline):
    def inference(self):
        yield np.zeros((8, 8, 3), np.uint8)
        yield torch.zeros(2, 3, 8, 8)
        while True:
            yield Idle
"""
    model: type[ReactorPipeline] = module_of(code)["Model"]
    return model


@virtually
async def test_a_raw_array_is_the_output_of_a_model_that_has_one_track() -> None:
    async with open_session(single_track_module()) as client:
        assert [(await client.frame("main_video")).seq for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            FRAME,
            r"Scripted\.inference yielded a value of type ndarray as it is.*Picture\(screen=...\), Quiet\(",
        ),
        (5, r"Scripted\.inference yielded a value of type int; it may yield an Output, Idle or None, an"),
        ([FRAME], "yielded a value of type list"),
        (Picture, "yielded the class Picture"),
    ],
    ids=["array", "int", "list", "class"],
)
@BOTH
@virtually
async def test_anything_else_ends_the_session(
    base: type[Game], value: Any, message: str, errors: list[dict[str, Any]]
) -> None:
    def script(model: Game) -> Iterator[Any]:
        try:
            yield value
        finally:
            model.log.append("closed")

    async with open_session(scripted(script, base)) as client:
        assert (await client.ended()).reason == "model_error"
    assert client.session.model.log == ["closed", "disconnected"]
    [error] = errors
    assert error["event"] == "inference() failed"
    with pytest.raises(TypeError, match=message):
        raise error["exc_info"]


@virtually
async def test_a_call_that_a_plain_generator_cannot_await_is_told(errors: list[dict[str, Any]]) -> None:
    class Forgetful(Game):
        def inference(self) -> Iterator[Any]:
            self.send(Said(text="lost"))
            self.emit(Picture(screen=FRAME))
            self.compute(abs, -1)
            yield Idle
            yield self.send(Said(text="no"))

    async with open_session(Forgetful) as client:
        assert (await client.ended()).reason == "model_error"
    remedies = [error["remedy"] for error in errors if "remedy" in error]
    assert remedies[:3] == [
        "`yield` the message itself, or write `async def inference`",
        "`yield` the output itself",
        "call the function itself: a plain `inference` runs in a worker thread already",
    ]
    assert "yielded self.send(...), which is to be awaited" in str(
        next(error["exc_info"] for error in errors if "exc_info" in error)
    )


@BOTH
@virtually
async def test_what_inference_raises_ends_the_session(base: type[Game], errors: list[dict[str, Any]]) -> None:
    def script(model: Game) -> Iterator[Any]:
        yield Picture(screen=FRAME)
        raise ZeroDivisionError("the author's bug")

    async with open_session(scripted(script, base)) as client:
        assert (await client.ended()).reason == "model_error"
    [error] = errors
    assert isinstance(error["exc_info"], ZeroDivisionError)
    assert "in script" in "".join(traceback.format_exception(error["exc_info"])), "the author's line is in it"


@BOTH
@virtually
async def test_buffer_closed_is_no_failure(base: type[Game], errors: list[dict[str, Any]]) -> None:
    def script(model: Game) -> Iterator[Any]:
        yield Picture(screen=FRAME)
        raise BufferClosed

    async with open_session(scripted(script, base)) as client:
        assert (await client.ended()).reason == "finished"
    assert errors == []


# ---- idling, returning


@BOTH
@virtually
async def test_idle_waits_for_a_frames_time_or_for_a_command(base: type[Game]) -> None:
    async with open_session(scripted(idles, base)) as client:
        await trio.sleep(0.35)
        await client.call("set_prompt", prompt="rain")
        await trio.sleep(0.2)
        log = client.session.model.log
        assert log == [0.0, 0.1, 0.2, 0.3, 0.35, 0.45, 0.55]


@pytest.mark.parametrize("nothing", [None, Idle, Quiet()], ids=["None", "Idle", "an empty output"])
@BOTH
@virtually
async def test_nothing_to_show_is_no_busy_loop(base: type[Game], nothing: Any) -> None:
    steps = []

    def script(model: Game) -> Iterator[Any]:
        while True:
            steps.append(trio.current_time())
            yield nothing

    async with open_session(scripted(script, base)):
        await trio.sleep(60)
    assert len(steps) == pytest.approx(600, abs=2)


def test_idle_is_false_and_says_its_name() -> None:
    assert not Idle
    assert repr(Idle) == "Idle"


@BOTH
@virtually
async def test_inference_that_returns_is_started_again_with_the_same_state(base: type[Game]) -> None:
    seen = []

    def script(model: Game) -> Iterator[Any]:
        seen.append((round(trio.current_time(), 3), model.state.prompt))
        yield Picture(screen=FRAME)
        yield Picture(screen=FRAME)

    async with open_session(scripted(script, base, buffer_size=1)) as client:
        await trio.sleep(0.5)
        await client.call("set_prompt", prompt="rain")
        times = [(await client.frame("screen")).pts for _ in range(15)]
    assert np.allclose(np.diff(times), 0.1), "nobody sees where one ends and the next one begins"
    assert seen[0] == (0.0, "a sunny meadow")
    assert seen[-1][1] == "rain"


@BOTH
@virtually
async def test_inference_that_never_yields_does_not_spin(base: type[Game]) -> None:
    started = []

    def script(model: Game) -> Iterator[Any]:
        started.append(round(trio.current_time(), 3))
        yield from ()

    async with open_session(scripted(script, base)) as client:
        await trio.sleep(0.25)
        await client.call("set_prompt", prompt="rain")
        await trio.sleep(0.1)
    assert started == [0.0, 0.1, 0.2, 0.25, 0.35]


# ---- pace


@virtually
async def test_without_an_fps_of_its_own_the_model_is_shown_as_fast_as_it_is() -> None:
    class Slow(ReactorPipeline):
        def inference(self) -> Iterator[Any]:
            while True:
                yield Picture(screen=FRAME)

    async with open_session(Slow, executor=DeviceCost(0.08)) as client:
        await trio.sleep(2)
        assert client.session.output.period == pytest.approx(0.08)
        times = [(await client.frame("screen")).pts for _ in range(20)]
    assert np.allclose(np.diff(times[5:]), 0.08, atol=0.01)


@pytest.mark.parametrize("where", ["class", "load"])
@virtually
async def test_an_fps_that_the_author_chose_stays(where: str) -> None:
    class Chosen(ReactorPipeline):
        if where == "class":
            fps = 10

        def load(self, config: dict[str, Any]) -> None:
            if where == "load":
                self.fps = 10

        def inference(self) -> Iterator[Any]:
            while True:
                yield Picture(screen=FRAME)

    async with open_session(Chosen, executor=DeviceCost(0.5)) as client:
        await trio.sleep(5)
        assert client.session.output.period == 0.1


@virtually
async def test_a_slow_first_step_and_idling_say_nothing_of_the_rate() -> None:
    class Compiled(ReactorPipeline):
        async def inference(self) -> AsyncIterator[Any]:
            await trio.sleep(30)
            while True:
                yield Picture(screen=FRAME)
                yield Idle
                await trio.sleep(0.05)
                yield Said(text="half of it is done")
                await trio.sleep(0.05)

    async with open_session(Compiled) as client:
        await trio.sleep(40)
        assert client.session.output.period == pytest.approx(0.1)


@virtually
async def test_a_plain_generator_may_set_the_rate() -> None:
    def script(model: Game) -> Iterator[Any]:
        model.output.fps = 2
        yield from pictures(model)

    async with open_session(scripted(script)) as client:
        assert np.diff([(await client.frame("screen")).pts for _ in range(3)]).tolist() == [0.5, 0.5]


@virtually
async def test_sessions_share_the_device_step_by_step() -> None:
    order = []

    def script(model: Game) -> Iterator[Any]:
        while True:
            order.append(model.state.prompt)
            yield Picture(screen=FRAME)

    device = DeviceCost(STEP)
    host = await load_host(scripted(script, fps=1000), executor=device)
    async with open_sessions(host, 2) as (one, two):
        await one.call("set_prompt", prompt="one")
        await two.call("set_prompt", prompt="two")
        order.clear()
        await trio.sleep(20 * STEP)
        assert order[:10] in (["one", "two"] * 5, ["two", "one"] * 5)
        [call] = device.running()
        assert (call.lane, call.name) == (device_lane("cpu"), "Scripted.inference")
        assert not is_stuck(device, 10)
        device.fixed = 100.0
        await trio.sleep(50)
        assert is_stuck(device, 10), "a step is a call like any other"


# ---- only between yields


@attrs.define
class Watch:
    """Who is inside, generator and handlers of one session."""

    inside: str | None = None
    handled: list[tuple[float, str]] = attrs.field(factory=list)
    steps: int = 0
    faults: list[str] = attrs.field(factory=list)

    @contextmanager
    def enter(self, name: str) -> Iterator[None]:
        if self.inside is not None:
            self.faults.append(f"{name} inside {self.inside}")
        before, self.inside = self.inside, name
        try:
            yield
        finally:
            self.inside = before
            if name != "a step":
                self.handled.append((round(trio.current_time(), 3), name))


class Watched(ReactorPipeline):
    """Each of its steps takes `STEP` seconds; every kind of handler takes note."""

    state: GameState
    fps = 1000

    def load(self, config: dict[str, Any]) -> None:
        self.step_time = config.get("step_time", STEP)

    @connected
    async def on_connect(self) -> None:
        self.watch = Watch()
        with self.watch.enter("@connected"):
            await trio.sleep(1)

    async def inference(self) -> AsyncIterator[Any]:
        while True:
            with self.watch.enter("a step"):
                self.watch.steps += 1
                await trio.sleep(self.step_time)
            yield Picture(screen=FRAME)

    @event
    def plain(self) -> None:
        with self.watch.enter("plain"):
            pass

    @event
    async def awaits(self, seconds: float) -> None:
        with self.watch.enter("awaits"):
            await trio.sleep(seconds)

    @event
    def hands_on(self):  # type: ignore[no-untyped-def]
        return self.awaits(0.02)

    @event(in_thread=True)
    def in_thread(self) -> None:
        with self.watch.enter("in_thread"):
            pass

    @event
    def set_prompt(self, prompt: str) -> None:
        with self.watch.enter("set_prompt"):
            self.state.prompt = prompt

    @file_uploaded
    async def on_file(self, uploaded_file: UploadedFile) -> None:
        with self.watch.enter("@file_uploaded"):
            await trio.sleep(0.02)

    @disconnected
    async def on_disconnect(self) -> None:
        with self.watch.enter("@disconnected"):
            await trio.sleep(0.02)


class Slow(InlineExecutor):
    """Handlers in threads take their time, too."""

    async def run(self, lane: str, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(fn, "__self__", None)
        if not isinstance(owner, Watched) or lane != HANDLERS:
            return await super().run(lane, fn, *args, **kwargs)
        with owner.watch.enter("a thread"):
            await trio.sleep(0.03)
        return fn(*args, **kwargs)


@virtually
async def test_handlers_of_every_kind_run_between_two_steps() -> None:
    async with open_session(Watched, executor=Slow()) as client:
        await trio.sleep(1)
        watch = client.session.model.watch
        commands: list[tuple[str, dict[str, Any]]] = [
            ("plain", {}),
            ("awaits", {"seconds": 0.05}),
            ("hands_on", {}),
            ("in_thread", {}),
            ("set_prompt", {"prompt": "x"}),
            ("set_strength", {"strength": 1}),
        ]
        for number in range(120):
            name, data = commands[number % len(commands)]
            await client.send(name, data)
            if number % 10 == 0:
                await client.upload(b"x", name="x")
            await trio.sleep(0.061)
        await trio.sleep(10)
    assert watch.faults == []
    handled = [name for _, name in watch.handled]
    assert {name: handled.count(name) for name in handled} == {
        "@connected": 1,
        "plain": 20,
        "awaits": 40,
        "in_thread": 20,
        "a thread": 20,
        "set_prompt": handled.count("set_prompt"),
        "@file_uploaded": 12,
        "@disconnected": 1,
    }
    assert 1 <= handled.count("set_prompt") <= 20, "it replaces one that is deduplicated, but is none itself"
    assert watch.steps > 100


@virtually
async def test_a_command_waits_for_no_more_than_the_step_under_way() -> None:
    async with open_session(Watched, executor=Slow()) as client:
        await trio.sleep(1.03)
        for _ in range(30):
            asked = trio.current_time()
            await client.call("plain")
            assert trio.current_time() - asked <= STEP + 1e-9
            await trio.sleep(0.037)


@virtually
async def test_all_commands_that_wait_run_before_the_next_step() -> None:
    async with open_session(Watched, executor=Slow()) as client:
        await trio.sleep(1.03)
        model = client.session.model
        steps = model.watch.steps
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(client.call, "plain")
        assert model.watch.steps <= steps + 1
        assert len(model.watch.handled) == 41


@BOTH
@virtually
async def test_a_generator_that_never_pauses_starves_no_command(base: type[Game]) -> None:
    def script(model: Game) -> Iterator[Any]:
        while model.state.prompt != "stop":
            model.log.append("a step")
            yield Said(text="on and on")
        yield from idles(model)

    async with open_session(scripted(script, base)) as client:
        await client.call("set_prompt", prompt="stop")
        assert 0 < len(client.session.model.log) < 1000


@virtually
async def test_a_flood_of_commands_starves_no_step() -> None:
    async with open_session(Watched, {"step_time": 0.0}, limits=Limits(max_events_per_second=0)) as client:
        await trio.sleep(1)
        model = client.session.model
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                while True:
                    await client.call("awaits", seconds=0.01)

            for _ in range(20):
                nursery.start_soon(flood)
            await trio.sleep(1)
            before = model.watch.steps
            await trio.sleep(10)
            assert model.watch.steps - before > 900, "after each of the handlers, which take longer than 5 ms"
            nursery.cancel_scope.cancel()
    assert model.watch.faults == []


@virtually
async def test_a_handler_cancels_no_step_and_a_waiting_output_holds_no_handler() -> None:
    async with open_session(scripted(pictures, fps=1, buffer_size=1), executor=DeviceCost(STEP)) as client:
        await trio.sleep(5.5)  # in `emit`, which waits for half a second more
        asked = trio.current_time()
        await client.call("set_prompt", prompt="rain")
        assert trio.current_time() == asked


# ---- the end


ENDINGS: dict[str, Callable[[SessionClient], object]] = {
    "client close": lambda client: None,
    "connection lost": lambda client: client.network.lose(),
    "drain": lambda client: client.session.drain(),
}


@pytest.mark.parametrize("where", ["a step", "a yield"])
@pytest.mark.parametrize("ending", ENDINGS)
@BOTH
@virtually
async def test_it_is_closed_wherever_it_stands_before_disconnected(
    base: type[Game], ending: str, where: str
) -> None:
    def script(model: Game) -> Iterator[Any]:
        try:
            yield from pictures(model)
        finally:
            model.log.append(("closed", model.state.prompt))

    device = DeviceCost(100.0 if where == "a step" else 0.0)
    limits = Limits(heartbeat=1.0, send_timeout=1.0)
    async with open_session(scripted(script, base), executor=device, limits=limits) as client:
        device.fixed = 0.0
        await trio.sleep(1)
        await client.call("set_prompt", prompt="rain") if where == "a yield" else None
        ENDINGS[ending](client)
        if ending != "client close":
            await client.ended()
    prompt = "rain" if where == "a yield" else "a sunny meadow"
    assert client.session.model.log == [("closed", prompt), "disconnected"]


@virtually
async def test_an_async_generator_may_await_while_it_is_closed() -> None:
    class Model(Game):
        async def inference(self) -> AsyncIterator[Any]:
            try:
                while True:
                    yield Picture(screen=FRAME)
            finally:
                await trio.sleep(2)
                self.log.append("tidied up")

    async with open_session(Model) as client:
        await trio.sleep(1)
    assert client.session.model.log == ["tidied up", "disconnected"]


@virtually
async def test_closing_has_its_time_limit(errors: list[dict[str, Any]]) -> None:
    class Model(Game):
        async def inference(self) -> AsyncIterator[Any]:
            try:
                yield Picture(screen=FRAME)
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                await trio.sleep_forever()

    async with open_session(Model, limits=Limits(hook_timeout=3)) as client:
        await client.frame("screen")
        await trio.sleep(1)
        left = trio.current_time()
    assert client.session.model.log == ["disconnected"]
    assert trio.current_time() - left <= 4
    del errors[:]


@BOTH
@virtually
async def test_a_yield_while_it_is_closed_is_told(base: type[Game], errors: list[dict[str, Any]]) -> None:
    def script(model: Game) -> Iterator[Any]:
        try:
            yield from pictures(model)
        finally:
            yield Idle

    class Model(Game):
        script: Any

        async def inference(self) -> AsyncIterator[Any]:
            try:
                while True:
                    yield Picture(screen=FRAME)
            finally:
                yield Idle

    async with open_session(scripted(script) if base is Game else Model) as client:
        await trio.sleep(1)
    assert client.session.model.log == ["disconnected"]
    [error] = errors
    assert "has a `yield` where it is closed" in error["hint"]


@BOTH
@virtually
async def test_what_closing_raises_is_logged_and_harms_nothing(
    base: type[Game], errors: list[dict[str, Any]]
) -> None:
    def script(model: Game) -> Iterator[Any]:
        try:
            yield from pictures(model)
        finally:
            raise ZeroDivisionError("the author's bug")

    async with open_session(scripted(script, base)) as client:
        await trio.sleep(1)
    assert client.session.ending is not None
    assert client.session.ending.reason == "client_closed"
    assert client.session.model.log == ["disconnected"]
    assert [error["event"] for error in errors] == ["inference() failed while it was closed"]


@virtually
async def test_a_device_that_is_busy_does_not_keep_a_session_from_ending() -> None:
    def script(model: Game) -> Iterator[Any]:
        try:
            yield from pictures(model)
        finally:
            model.log.append("closed")

    device = DeviceCost(0.0)
    host = await load_host(scripted(script), executor=device, limits=Limits(hook_timeout=2))
    async with open_session(host) as one:
        await one.frame("screen")
        device.fixed = 1000.0
        async with open_session(host) as two:
            await trio.sleep(1)  # one of them has the device now
            one.session.drain()
            two.session.drain()
            with trio.move_on_after(5):
                await one.ended()
            with trio.move_on_after(5):
                await two.ended()
            ended = [client.session.model.log for client in (one, two) if client.session.model.log]
            assert ["disconnected"] in ended or ["closed", "disconnected"] in ended


# ---- real threads


@attrs.define
class Seen:
    """What a generator in a thread notes at each step."""

    threads: list[int] = attrs.field(factory=list)
    contexts: list[str] = attrs.field(factory=list)
    modes: list[bool] = attrs.field(factory=list)
    closed: threading.Event = attrs.field(factory=threading.Event)


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="outside")


class InThread(ReactorPipeline):
    """Everything that belongs to a thread stays from step to step."""

    state: GameState
    fps = 1000
    seen: Seen

    @connected
    def on_connect(self) -> None:
        self.seen = Seen()

    def note(self) -> None:
        self.seen.threads.append(threading.get_ident())
        self.seen.contexts.append(VARIABLE.get())
        self.seen.modes.append(torch.is_inference_mode_enabled())

    def inference(self) -> Iterator[Any]:
        VARIABLE.set(self.state.prompt)
        self.output.fps = 500
        with torch.inference_mode():
            try:
                while True:
                    self.note()
                    yield Picture(screen=FRAME)
            finally:
                self.note()
                assert structlog.contextvars.get_contextvars()["session_id"] == self.client.id
                self.seen.closed.set()


async def test_all_of_a_plain_generator_happens_in_one_thread_of_its_own() -> None:
    with trio.fail_after(30):
        host = await load_host(InThread, executor=ThreadExecutor())
        async with open_sessions(host, 3) as clients:
            for client in clients:
                for _ in range(10):
                    await client.frame("screen")
                assert client.session.output.fps == 500, "set from its thread"
    seen = [client.session.model.seen for client in clients]
    assert all(each.closed.is_set() for each in seen)
    threads = [set(each.threads) for each in seen]
    assert [len(each) for each in threads] == [1, 1, 1]
    assert len(set.union(*threads)) == 3, "none shares it"
    assert threading.get_ident() not in set.union(*threads)
    assert {each for one in seen for each in one.contexts} == {"a sunny meadow"}
    assert all(each for one in seen for each in one.modes)
    assert (VARIABLE.get(), torch.is_inference_mode_enabled()) == ("outside", False)


async def test_a_step_under_way_is_seen_and_waited_for() -> None:
    began, go_on = threading.Event(), threading.Event()

    def script(model: Game) -> Iterator[Any]:
        try:
            began.set()
            go_on.wait(30)
            yield Idle
            model.log.append("not reached")
        finally:
            model.log.append("closed")

    executor = ThreadExecutor()
    with trio.fail_after(30):
        async with open_session(scripted(script), executor=executor) as client:
            await trio.to_thread.run_sync(began.wait)
            [call] = executor.running()
            assert (call.lane, call.name) == (device_lane("cpu"), "Scripted.inference")
            client.session.drain()
            await trio.testing.wait_all_tasks_blocked()
            assert client.session.model.log == [], "a thread cannot be stopped"
            go_on.set()
            await client.ended()
    assert client.session.model.log == ["closed", "disconnected"]
    assert executor.running() == ()


async def test_a_long_step_may_ask_whether_it_is_over() -> None:
    began = threading.Event()

    def script(model: Game) -> Iterator[Any]:
        try:
            began.set()
            while True:
                trio.from_thread.check_cancelled()
                threading.Event().wait(0.001)
            yield Idle
        finally:
            model.log.append("closed")

    with trio.fail_after(30):
        async with open_session(scripted(script), executor=ThreadExecutor()) as client:
            await trio.to_thread.run_sync(began.wait)
    assert client.session.model.log == ["closed", "disconnected"]


async def test_a_session_that_ends_at_once_leaves_no_thread() -> None:
    with trio.fail_after(30):
        host = await load_host(scripted(pictures), executor=ThreadExecutor())
        for _ in range(20):
            async with open_session(host) as client:
                client.session.drain()
                await client.ended()


# ---- the models of Reactor's tutorial


@virtually
async def test_the_models_of_the_tutorial_run_with_their_imports_changed() -> None:
    """deploy-docs.reactor.inc/tutorial: interactive state, events and messages, the inference generator."""
    code = """
from dataclasses import dataclass
import numpy as np
from reactor_trio import (
    Idle, InputField, InputState, ModelMessage, Output, ReactorPipeline, Video, disconnected, event,
)

@dataclass
class MyOutput(Output):
    main_video: Video

@dataclass
class CurrentPrompt(ModelMessage):
    prompt: str

@dataclass
class Progress(ModelMessage):
    step: int
    total: int

@dataclass
class GameState(InputState):
    prompt: str = InputField(default="")
    action: str = InputField(default="idle", choices=["idle", "left", "right", "jump"])
    brightness: float = InputField(default=1.0, ge=0.0, le=2.0)
    _embedding: np.ndarray | None = None

class GameModel(ReactorPipeline):
    state: GameState
    buffer_size = 8

    def load(self, config):
        self.size = config.get("size", 16)

    @event(name="set_prompt", description="Change the scene prompt")
    def set_prompt(self, prompt: str = InputField(default="a sunny meadow")):
        self.state.prompt = prompt
        self.state._embedding = np.ones(3)

    @event(name="get_current_prompt", description="Return the current prompt")
    async def get_current_prompt(self):
        await self.send(CurrentPrompt(prompt=self.state.prompt))

    @disconnected
    async def on_disconnect(self):
        self.output_buffer.flush()

    def inference(self):
        while not self.state.prompt:
            yield Idle
        while True:
            value = int(100 * self.state.brightness)
            yield np.full((4, self.size, self.size, 3), value, np.uint8)

class Talking(GameModel):
    async def inference(self):
        step = 0
        while True:
            await self.send(Progress(step=step, total=100))
            step += 1
            yield MyOutput(main_video=np.zeros((16, 16, 3), np.uint8))
"""
    namespace = module_of(code)
    async with open_session(namespace["GameModel"]) as client:
        assert set(client.welcome.events) == {
            "set_prompt",
            "set_action",
            "set_brightness",
            "get_current_prompt",
        }
        await trio.sleep(1)
        assert client.session.output.statistics().emitted == 0
        await client.call("set_prompt", prompt="a dark forest")
        assert abs(int((await client.frame("main_video")).array().mean()) - 100) <= 1
        await client.call("set_brightness", brightness=0.5)
        while abs(int((await client.frame("main_video")).array().mean()) - 50) > 1:
            assert trio.current_time() < 2
        await client.call("set_action", action="jump")
        with pytest.raises(CommandError, match="must be one of"):
            await client.call("set_action", action="fly")
        await client.send("get_current_prompt")
        assert (await client.receive("current_prompt")).data == {"prompt": "a dark forest"}
    async with open_session(namespace["Talking"]) as client:
        assert [(await client.receive("progress")).data["step"] for _ in range(3)] == [0, 1, 2]
