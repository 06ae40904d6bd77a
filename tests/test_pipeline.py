"""`ReactorPipeline`: a generator that is stepped, and handlers between its steps. In virtual time."""

from __future__ import annotations

import abc
import dataclasses
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import numpy as np
import pytest
import trio
import trio.testing

from pipelines import (
    BOTH,
    FRAME,
    STEP,
    Game,
    GameState,
    Picture,
    Quiet,
    Said,
    idles,
    module_of,
    pictures,
    scripted,
)
from reactor_trio import (
    BufferClosed,
    CommandError,
    Idle,
    InputField,
    InputState,
    ReactorPipeline,
    connected,
    disconnected,
    event,
)
from reactor_trio.compute.executor import is_stuck
from reactor_trio.compute.lanes import Device
from reactor_trio.testing import (
    DeviceCost,
    load_host,
    open_session,
    open_sessions,
)

# ---- state


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


async def test_a_field_may_be_an_upload() -> None:
    async with open_session(scripted(idles)) as client:
        photo = await client.upload(b"photo", name="a.png", mime_type="image/png")
        await client.call("set_reference", reference=photo)
        assert client.session.model.state.reference.data == b"photo"
        await client.call("set_reference", reference=None)
        assert client.session.model.state.reference is None
        with pytest.raises(CommandError, match="upload_type"):
            await client.call("set_reference", reference=await client.upload(b"x", name="b.txt"))


def only_even(state: Any, attribute: Any, value: int) -> None:
    if value % 2:
        raise ValueError(f"must be even, not {value}")
    if value > 100:
        raise LookupError("a bug of the validator's")


async def test_a_validator_of_the_author_may_refuse_and_the_state_stays_as_it_is(
    errors: list[dict[str, Any]],
) -> None:
    class Pairs(GameState):
        pairs: int = attrs.field(default=2, validator=only_even)

    class Model(Game):
        state: Pairs
        script = staticmethod(idles)

    async with open_session(Model) as client:
        await client.call("set_pairs", pairs=4)
        for wrong, why in [(5, "must be even, not 5"), (102, "is not accepted: LookupError")]:
            with pytest.raises(CommandError, match=why) as refused:
                await client.call("set_pairs", pairs=wrong)
            assert refused.value.code == "invalid_payload"
            assert [(fault.path, fault.message) for fault in refused.value.errors] == [("pairs", why)]
        assert client.session.model.state.pairs == 4
    assert errors == []


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


async def test_a_default_that_cannot_be_made_ends_the_session_before_connected(errors: list[Any]) -> None:
    class Broken(InputState):
        level: int = attrs.field(factory=lambda: 1 // 0)

    class Model(Game):
        state: Broken
        script = staticmethod(idles)

    async with open_session(Model) as client:
        assert (await client.ended()).reason == "model_error"
    assert isinstance(errors[0]["exc_info"], ZeroDivisionError)


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
    """Run the code in a module of its own, which has the names of this module, too."""
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


@pytest.mark.torch
def test_a_decorator_on_inference_is_looked_through() -> None:
    import torch

    class Model(ReactorPipeline):
        @torch.inference_mode()
        def inference(self) -> Iterator[Any]:
            yield

    assert Model.inference is not None


# ---- the values that `inference` yields


@BOTH
async def test_outputs_are_shown_at_the_models_rate(base: type[Game]) -> None:
    async with open_session(scripted(pictures, base)) as client:
        times = [(await client.frame("screen")).pts for _ in range(20)]
    assert np.allclose(np.diff(times), 0.1)


@BOTH
async def test_a_batch_an_array_a_tensor_and_a_message_may_be_yielded(base: type[Game]) -> None:
    def script(model: Game) -> Iterator[Any]:
        yield Said(text="first")
        yield Picture(screen=np.stack([FRAME] * 3))
        yield from idles(model)

    async with open_session(scripted(script, base)) as client:
        assert (await client.receive("said")).data == {"text": "first"}
        assert [(await client.frame("screen")).seq for _ in range(3)] == [0, 1, 2]


def single_track_module() -> type[ReactorPipeline]:
    """A model in a module that has one output, as an author's module does."""
    code = """
from __future__ import annotations
import numpy as np
from reactor_trio import Idle, Output, ReactorPipeline, Video

class Only(Output):
    main_video: Video

class Model(ReactorPipeline):
    def inference(self):
        yield np.zeros((8, 8, 3), np.uint8)
        yield np.zeros((2, 8, 8, 3), np.uint8)
        while True:
            yield Idle
"""
    model: type[ReactorPipeline] = module_of(code)["Model"]
    return model


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
    assert remedies == [
        "`yield` the message itself, or write `async def inference`",
        "`yield` the output itself",
        "call the function itself: a plain `inference` runs in a worker thread already",
    ]
    assert "yielded self.send(...), which is to be awaited" in str(
        next(error["exc_info"] for error in errors if "exc_info" in error)
    )


@BOTH
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
async def test_buffer_closed_is_no_failure(base: type[Game], errors: list[dict[str, Any]]) -> None:
    def script(model: Game) -> Iterator[Any]:
        yield Picture(screen=FRAME)
        raise BufferClosed

    async with open_session(scripted(script, base)) as client:
        assert (await client.ended()).reason == "finished"
    assert errors == []


# ---- idling, returning


@BOTH
async def test_idle_waits_for_a_frames_time_or_for_a_command(base: type[Game]) -> None:
    async with open_session(scripted(idles, base)) as client:
        await trio.sleep(0.35)
        await client.call("set_prompt", prompt="rain")
        await trio.sleep(0.2)
        log = client.session.model.log
        assert log == [0.0, 0.1, 0.2, 0.3, 0.35, 0.45, 0.55]


@pytest.mark.parametrize(
    "nothing",
    [None, Idle, Quiet(), Quiet(still=np.zeros((1, 0), np.int16))],
    ids=["None", "Idle", "an empty output", "no samples"],
)
@BOTH
async def test_nothing_to_show_is_no_busy_loop(base: type[Game], nothing: Any) -> None:
    await check_no_busy_loop(base, nothing)


@pytest.mark.torch
@BOTH
async def test_an_empty_tensor_is_no_busy_loop(base: type[Game]) -> None:
    import torch

    await check_no_busy_loop(base, Quiet(still=torch.zeros(0)))


async def check_no_busy_loop(base: type[Game], nothing: Any) -> None:
    steps = []

    def script(model: Game) -> Iterator[Any]:
        while True:
            steps.append(trio.current_time())
            assert len(steps) < 1000, "it spins"
            yield nothing

    async with open_session(scripted(script, base)):
        await trio.sleep(60)
    assert len(steps) == pytest.approx(600, abs=2)


def test_idle_is_false_and_says_its_name() -> None:
    assert not Idle
    assert repr(Idle) == "Idle"


@BOTH
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


async def test_a_plain_generator_may_set_the_rate() -> None:
    def script(model: Game) -> Iterator[Any]:
        model.output.fps = 2
        yield from pictures(model)

    async with open_session(scripted(script)) as client:
        assert np.diff([(await client.frame("screen")).pts for _ in range(3)]).tolist() == [0.5, 0.5]


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
        assert (call.lane, call.name) == (Device("cpu").lane, "Scripted.inference")
        assert not is_stuck(device, 10)
        device.fixed = 100.0
        await trio.sleep(50)
        assert is_stuck(device, 10), "a step is a call like any other"


# ---- the models of Reactor's tutorial


async def test_the_models_of_the_tutorial_run_with_their_imports_changed() -> None:
    """The code is from deploy-docs.reactor.inc/tutorial.

    Its parts there: interactive state, events and messages, the inference generator.
    """
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
