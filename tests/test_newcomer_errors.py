"""The mistakes of new authors and of new clients, and the text of the error for each."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
import pytest
import structlog
import trio

from reactor_trio import (
    ClientInfo,
    Input,
    InputField,
    InputState,
    MessageField,
    ModelMessage,
    Output,
    ReactorModel,
    ReactorPipeline,
    UploadedFile,
    Video,
    connected,
    event,
    file_uploaded,
)
from reactor_trio.client import open_client
from reactor_trio.declare.tracks import Audio
from reactor_trio.errors import BadModelSetting, CommandError, FieldError, InvalidPayload
from reactor_trio.server.settings import ServerSettings
from reactor_trio.testing import load_host, open_session
from serving import PROCESS_TIMEOUT, ROOT

LINES = Path(__file__).read_text().splitlines()


class Said(ModelMessage):
    text: str


class Picture(Output):
    main_video: Video


# ---- the parameter `client`


@pytest.mark.parametrize(
    "annotation", [..., ClientInfo, "ClientInfo", "reactor_trio.ClientInfo", "Elsewhere.ClientInfo"]
)
@pytest.mark.parametrize("decorator", [event, connected])
def test_client_may_be_left_bare_or_be_annotated_client_info(annotation: Any, decorator: Any) -> None:
    def go(self: Any, client: Any) -> None: ...

    go.__annotations__ = {} if annotation is ... else {"client": annotation}
    assert type("Model", (ReactorModel,), {"go": decorator(go)})


@pytest.mark.parametrize("annotation", [int, str, Any, ClientInfo | None, "int", "Nowhere"])
@pytest.mark.parametrize("decorator", [event, connected, file_uploaded])
def test_client_annotated_otherwise_is_told(annotation: Any, decorator: Any) -> None:
    def go(self: Any, client: Any, uploaded_file: Any) -> None: ...

    go.__annotations__ = {"client": annotation, "uploaded_file": UploadedFile}
    with pytest.raises(TypeError, match=r"^Model\.go, parameter 'client': is given the ClientInfo"):
        type("Model", (ReactorModel,), {"go": decorator(go)})


# ---- `=` where `:` was meant


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (Video, "main: Video"),
        (Video(), "main: Video"),
        (Audio, "main: Audio"),
        (Audio(sample_rate=24_000), "main: Audio = Audio(sample_rate=24000)"),
    ],
)
def test_a_track_without_annotation_is_told(value: Any, remedy: str) -> None:
    with pytest.raises(TypeError) as caught:
        type("Picture", (Output,), {"main": value})
    assert str(caught.value) == f"Picture.main has no annotation: write `{remedy}`, with a colon"


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (str, "`prompt: str`, with a colon"),
        (list[int], "`prompt: list[int]`, with a colon"),
        (int | None, "`prompt: int | None`, with a colon"),
        (ClientInfo, "`prompt: ClientInfo`, with a colon"),
        (MessageField(default=1), "`prompt: TYPE = MessageField(...)`"),
        (dataclasses.field(default=1), "`prompt: TYPE = field(...)`"),
        (attrs.field(default=1), "`prompt: TYPE = field(...)`"),
    ],
)
def test_a_message_field_without_annotation_is_told(value: Any, remedy: str) -> None:
    with pytest.raises(TypeError) as caught:
        type("Said", (ModelMessage,), {"prompt": value})
    assert str(caught.value) == f"Said.prompt has no annotation: write {remedy}"


def test_what_else_a_message_may_have_in_its_body() -> None:
    class Message(ModelMessage):
        class Mood(enum.Enum):
            CALM = "calm"

        kinds: ClassVar[type] = str
        Alias = Said
        _private = str
        limit = 5
        mood: Mood = Mood.CALM

        def shout(self) -> str:
            return "!"

    assert Message.__message_fields__ == ("mood",)


# ---- `run`, `load` and the settings: no events, but the runtime uses them


def plain_run(self: Any) -> None: ...
def generator_run(self: Any) -> Any:
    yield 1


async def async_generator(self: Any, config: Any = None) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"run": plain_run}, "Model.run is awaited: write `async def run(self)`"),
        (
            {"run": generator_run},
            "Model.run cannot have a `yield`: frames go out with `await self.emit(...)`",
        ),
        (
            {"run": async_generator},
            "Model.run cannot have a `yield`: frames go out with `await self.emit(...)`",
        ),
        ({"load": async_generator}, "Model.load cannot have a `yield`: it is called, not iterated over"),
        ({"load": generator_run}, "Model.load cannot have a `yield`: it is called, not iterated over"),
        ({"fps": "30"}, "Model.fps is a finite number > 0, in frames per second, not '30'"),
        ({"fps": 0}, "Model.fps is a finite number > 0, in frames per second, not 0"),
        ({"fps": math.nan}, "Model.fps is a finite number > 0, in frames per second, not nan"),
        ({"fps": math.inf}, "Model.fps is a finite number > 0, in frames per second, not inf"),
        ({"fps": True}, "Model.fps is a finite number > 0, in frames per second, not True"),
        ({"fps": None}, "Model.fps is a finite number > 0, in frames per second, not None"),
        ({"buffer_size": 0}, "Model.buffer_size is a whole number of frames, 1 or more, not 0"),
        ({"buffer_size": 2.0}, "Model.buffer_size is a whole number of frames, 1 or more, not 2.0"),
        ({"buffer_size": True}, "Model.buffer_size is a whole number of frames, 1 or more, not True"),
    ],
)
def test_a_run_a_load_or_a_setting_that_cannot_work_is_told(members: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        type("Model", (ReactorModel,), members)
    assert str(caught.value) == message


def test_what_run_load_and_the_settings_may_be() -> None:
    class Computed(ReactorModel):
        fps = np.float32(24)
        buffer_size = np.int64(2)

        def load(self, config: dict[str, Any]) -> None: ...

        async def run(self) -> None: ...

    class Child(Computed):
        @property
        def fps(self) -> float:  # type: ignore[override]
            return 12

        @property
        def buffer_size(self) -> int:  # type: ignore[override]
            return 2

    class Mixin:
        async def run(self) -> None: ...

    class Mixed(Mixin, ReactorModel): ...


class Late(ReactorModel):
    def load(self, config: dict[str, Any]) -> None:
        vars(self).update(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"buffer_size": 0}, "Late.buffer_size is a whole number of frames, 1 or more, not 0"),
        ({"buffer_size": "4"}, "Late.buffer_size is a whole number of frames, 1 or more, not '4'"),
        ({"fps": 0}, "Late.fps is a finite number > 0, in frames per second, not 0"),
        ({"fps": "24"}, "Late.fps is a finite number > 0, in frames per second, not '24'"),
    ],
)
async def test_a_setting_that_load_spoils_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadModelSetting) as caught:
        await load_host(Late, values)
    assert str(caught.value) == message


# ---- tracks, states and generators


class Camera(Input):
    webcam: Video
    mic: Audio = Audio(sample_rate=16_000)


class GameState(InputState):
    level: int = 5


def yields_with_it(self: Any, it: Any) -> Any:
    yield it


def inference(self: Any) -> Any:
    yield None


async def run_with_client(self: Any, client: Any, more: int = 1) -> None: ...
async def run_without_self() -> None: ...


NO_INPUT = "which is no Input: write `class Camera(Input)` with the tracks, and `input: Camera` here"


@pytest.mark.parametrize(
    ("base", "members", "message"),
    [
        (
            ReactorModel,
            {"input": Camera},
            "Model.input has no annotation: write `input: Camera`, with a colon",
        ),
        (ReactorModel, {"__annotations__": {"input": Video}}, f"Model.input is annotated Video, {NO_INPUT}"),
        (ReactorModel, {"__annotations__": {"mic": Audio}}, f"Model.mic is annotated Audio, {NO_INPUT}"),
        (
            ReactorModel,
            {"__annotations__": {"input": Picture}},
            f"Model.input is annotated Picture, {NO_INPUT}",
        ),
        (
            ReactorModel,
            {"__annotations__": {"state": GameState}},
            "Model.state is annotated GameState, an InputState, which only a ReactorPipeline has",
        ),
        (
            ReactorPipeline,
            {"__annotations__": {"params": GameState}, "inference": inference},
            "Model.params is annotated GameState, an InputState: write `state: GameState`",
        ),
        (
            ReactorPipeline,
            {"inference": yields_with_it},
            "Model.inference is called without arguments: write `inference(self)`, not `inference(self, it)`",
        ),
        (
            ReactorModel,
            {"run": run_with_client},
            "Model.run is called without arguments: write `run(self)`, not `run(self, client)`",
        ),
        (
            ReactorModel,
            {"run": run_without_self},
            "Model.run is called without arguments: write `run(self)`, not `run()`",
        ),
    ],
)
def test_what_nobody_would_bind_or_call_is_told(base: Any, members: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        type("Model", (base,), members)
    assert str(caught.value) == message


def test_what_may_be_annotated_and_called_all_the_same() -> None:
    class Model(ReactorModel):
        last: Picture  # for example the picture that was emitted last
        settings: GameState

        async def run(self, *args: Any, steps: int = 1, **kwargs: Any) -> None: ...

    class Pipeline(ReactorPipeline):
        state: GameState
        before: GameState

        def inference(self, steps: int = 1) -> Iterator[Any]:
            yield None


class Raised(ReactorModel):
    """A model whose handler makes one of three mistakes."""

    input: Camera

    @event
    async def do(self, wrong: Literal["array", "nothing", "track"]) -> None:
        if wrong == "track":
            self.input.wbcam  # type: ignore[attr-defined]  # noqa: B018
        await self.emit(np.zeros((8, 8, 3), np.uint8) if wrong == "array" else None)  # type: ignore[arg-type]


NO_OUTPUT = "emit() takes an Output, as in `await self.emit(Picture(main_video=frame))`"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("array", f"{NO_OUTPUT}, not a value of type ndarray"),
        ("nothing", f"{NO_OUTPUT}, not a value of type NoneType"),
        ("track", "Camera has no track 'wbcam'; it has: webcam, mic"),
    ],
)
async def test_no_output_and_no_track_are_told(wrong: str, message: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with open_session(Raised) as client:
            with pytest.raises(CommandError):
                await client.call("do", wrong=wrong)
    [failed] = [entry for entry in logs if entry["log_level"] == "error"]
    assert str(failed["exc_info"]) == message


class Plain(ReactorPipeline):
    wrong: Any = 5

    def inference(self) -> Iterator[Any]:
        yield self.wrong  # YIELDED plain


class Async(ReactorPipeline):
    async def inference(self) -> AsyncIterator[Any]:
        yield Picture(main_video=np.zeros((8, 8), np.uint8))  # YIELDED async


@pytest.mark.parametrize("model", [Plain, Async])
async def test_what_cannot_be_shown_is_told_with_the_line_that_yielded_it(model: type[ReactorModel]) -> None:
    ending = f"# YIELDED {model.__name__.lower()}"
    line = next(number for number, line in enumerate(LINES, 1) if line.endswith(ending))
    with structlog.testing.capture_logs() as logs:
        async with open_session(model) as client:
            assert (await client.ended()).reason == "model_error"
    [failed] = [entry for entry in logs if entry["log_level"] == "error"]
    assert failed["exc_info"].__notes__ == [f"{model.__name__}.inference yielded it at {__file__}:{line}"]


class Local(ReactorModel):
    async def run(self) -> None:
        local = "the value of a variable"
        raise RuntimeError("wrong" if local else "")


async def test_a_traceback_in_a_test_has_no_values_of_variables(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    structlog.reset_defaults()
    try:
        async with open_session(Local) as client:
            await client.ended()
    finally:
        structlog.configure(**before)
    printed = capsys.readouterr().out
    assert printed.count("RuntimeError: wrong") == 1
    assert printed.count("the value of a variable") == 0


@pytest.mark.parametrize("rate", [0, -1, "48000", 44_100.5, True])
def test_a_sample_rate_that_is_none_is_told(rate: Any) -> None:
    with pytest.raises(TypeError, match=r"^Audio\(sample_rate=.*\): a sample rate is a whole number > 0"):
        Audio(sample_rate=rate)


# ---- a forgotten `await`


class Forgetful(ReactorModel):
    async def run(self) -> None:
        await self.connected.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.send, Said("from a nursery"))
            await trio.sleep_forever()

    @event
    def forget_send(self) -> None:
        self.send(Said("lost"))  # FORGOTTEN send

    @event
    async def forget_emit(self) -> None:
        for _ in range(3):
            self.emit(Picture(main_video=np.zeros((1, 1, 3), np.uint8)))  # FORGOTTEN emit

    @event
    def forget_compute(self) -> None:
        later = self.compute(sum, [1, 2])  # FORGOTTEN compute
        del later

    @event
    async def remember(self) -> None:
        await self.send(Said(str(await self.compute(sum, [1, 2]))))

    @event
    def hand_on(self) -> Any:
        return self.reply()

    async def reply(self) -> None:
        await self.send(Said("handed on"))

    del hand_on.__annotations__["return"]


@pytest.mark.parametrize(
    ("method", "lost"),
    [
        ("send", "the message was not sent"),
        ("emit", "nothing was shown"),
        ("compute", "nothing was computed"),
    ],
)
async def test_a_forgotten_await_is_told_once_with_its_place(method: str, lost: str) -> None:
    line = next(number for number, line in enumerate(LINES, 1) if line.endswith(f"# FORGOTTEN {method}"))
    with warnings.catch_warnings(record=True) as warned, structlog.testing.capture_logs() as logs:
        warnings.simplefilter("always")
        async with open_session(Forgetful) as client:
            await client.receive("said")
            await client.call(f"forget_{method}")
    assert [entry for entry in logs if entry["log_level"] == "error"] == [
        {
            "event": f"`await` is missing before self.{method}(...): {lost}",
            "log_level": "error",
            "model": "Forgetful",
            "session_id": "session-1",
            "where": f"{__file__}:{line}",
            "remedy": f"write `await self.{method}(...)`, in an `async def` method",
        }
    ]
    assert not [each for each in warned if "never awaited" in str(each.message)]


async def test_what_is_awaited_is_not_complained_of() -> None:
    with structlog.testing.capture_logs() as logs:
        async with open_session(Forgetful) as client:
            assert (await client.receive("said")).data == {"text": "from a nursery"}
            await client.call("remember")
            assert (await client.receive("said")).data == {"text": "3"}
            await client.call("hand_on")
            assert (await client.receive("said")).data == {"text": "handed on"}
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_a_call_may_be_driven_by_hand_or_closed() -> None:
    model = Forgetful()
    with structlog.testing.capture_logs() as logs:
        model.send(Said("closed")).close()
        thrown = model.send(Said("thrown at"))
        with pytest.raises(KeyError):
            thrown.throw(KeyError())
        del thrown
    assert not logs
    again = model.send(Said("no session"))
    with pytest.raises(Exception, match="needs a session"):
        await again
    with pytest.raises(RuntimeError, match="already awaited"):
        await again


# ---- the text of an error names the remedy


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(TypeError) as caught:
        make()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def with_field(annotation: Any, default: Any = ...) -> str:
    def go(self: Any, x: Any) -> None: ...

    go.__annotations__ = {"x": annotation}
    if default is not ...:
        go.__defaults__ = (default,)
    text = refusal(lambda: type("Model", (ReactorModel,), {"go": event(go)}))
    return text.removeprefix("Model.go, parameter 'x': ")


def test_a_name_goes_to_event_by_keyword() -> None:
    assert refusal(lambda: event("go")) == '@event marks a method; its name is said so: @event(name="go")'  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("annotation", "default", "remedy"),
    [
        (list[int], [], "write tuple[int, ...] = () or list[int] | None = None"),
        (list[int], [1, 2], "write tuple[int, ...] = (1, 2) or list[int] | None = None"),
        (list, [], "write tuple = () or list | None = None"),
        (dict[str, int], {}, "write dict[str, int] | None = None"),
        (list[int] | None, [], "write list[int] | None = None"),
        (Any, [], "write Any = None"),
    ],
)
def test_a_mutable_default_has_its_remedy(annotation: Any, default: Any, remedy: str) -> None:
    text = with_field(annotation, default)
    assert (
        text
        == f"the default does not fit: {default!r} is mutable, and would be shared by all calls; {remedy}"
    )


def test_none_for_what_is_not_optional_has_its_remedy() -> None:
    assert with_field(int, None) == "the default does not fit: None is no int; write int | None"
    assert with_field(int, InputField(default=None)).endswith("None is no int; write int | None")


def test_bytes_are_an_upload() -> None:
    assert with_field(bytes) == "the type bytes is not supported; bytes are sent as an UploadedFile"
    assert with_field(list[bytearray]).endswith("bytes are sent as an UploadedFile")


def test_other_types_list_what_is_supported() -> None:
    assert with_field(set[str]) == (
        "the type set[str] is not supported; a field is int, float, str, bool, Literal, Enum, T | None, "
        "list[T], tuple, dict[str, V], an attrs class, a dataclass, UploadedFile or Any"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_field("Nowhere"),
        lambda: with_field(str, InputField(pattern="(")),
        lambda: with_field(int, InputField(choices=["a"])),
        lambda: refusal(lambda: type("Said", (ModelMessage,), {"__annotations__": {"x": set[int]}})),
        lambda: refusal(lambda: type("Picture", (Output,), {"__annotations__": {"x": "Nowhere"}})),
    ],
)
def test_a_mistake_shows_no_error_of_ours_behind_it(make: Callable[[], str]) -> None:
    assert make()


# ---- messages and nested classes


@pytest.mark.parametrize(
    ("annotation", "default", "message"),
    [
        (int, "5", "Said.x: the default does not fit: '5' is no int"),
        (int, None, "Said.x: the default does not fit: None is no int; write int | None"),
        (tuple[int, ...], ("a",), "Said.x: the default does not fit: ('a',) is no tuple[int, ...]"),
        (int, MessageField(default=True), "Said.x: the default does not fit: True is no int"),
        (str, dataclasses.field(default=1), "Said.x: the default does not fit: 1 is no str"),
        (np.float32, "a", "Said.x: the default does not fit: 'a' is no float32"),
    ],
)
def test_a_default_of_a_message_is_checked(annotation: Any, default: Any, message: str) -> None:
    members = {"__annotations__": {"x": annotation}, "x": default}
    assert refusal(lambda: type("Said", (ModelMessage,), members)) == message


def test_defaults_that_a_message_may_have() -> None:
    class Fine(ModelMessage):
        ratio: float = 1
        lost: float = math.nan
        inside: list[float] = dataclasses.field(default_factory=lambda: [math.inf])
        pair: tuple[float, float] = (math.nan, 1)
        scalar: np.float32 = np.float32(1)
        maybe: int | None = None
        anything: Any = None
        never: Any = attrs.field(default=attrs.Factory(lambda self: self.ratio, takes_self=True))

    assert Fine().ratio == 1


@dataclasses.dataclass
class Seeded:
    size: int
    seed: dataclasses.InitVar[int]


@dataclasses.dataclass
class SeededByDefault:
    size: int
    seed: dataclasses.InitVar[int] = 3


@pytest.mark.parametrize("cls", [Seeded, SeededByDefault])
def test_an_init_var_is_told(cls: Any) -> None:
    assert with_field(cls) == f"{cls.__name__}.seed: an InitVar is no field; a client cannot send it"


# ---- errors that a client reads


class Wordy(ReactorModel):
    @event
    def say(self, text: str = InputField(min_length=2), times: int = InputField(ge=1)) -> None: ...

    @event
    def stop(self) -> None: ...


async def test_an_unknown_event_is_told_which_there_are() -> None:
    async with open_session(Wordy) as client:
        with pytest.raises(CommandError) as caught:
            await client.call("sya")
    assert str(caught.value) == "unknown_event: this model has no event 'sya'; it has: say, stop"


async def test_a_model_without_events_says_so_and_many_are_cut_off() -> None:
    async with open_session(ReactorModel) as client:
        with pytest.raises(CommandError, match=r"no event 'say'; it has none$"):
            await client.call("say")
    members = {f"event_{number}": event(name=f"event_{number}")(lambda self: None) for number in range(25)}
    async with open_session(type("Many", (ReactorModel,), members)) as client:
        with pytest.raises(CommandError, match=r"event_18, event_19, … \(25 in all\)$"):
            await client.call("say")


async def test_each_fault_is_said_once() -> None:
    async with open_session(Wordy) as client:
        with pytest.raises(CommandError) as one:
            await client.call("say", text="", times=1)
        with pytest.raises(CommandError) as three:
            await client.call("say", text="", times=0, loud=True)
    assert str(one.value) == "invalid_payload: text: must have at least 2 characters, not 0"
    assert str(three.value).splitlines() == [
        "invalid_payload: text: must have at least 2 characters, not 0 (and 2 more)",
        "  text: must have at least 2 characters, not 0",
        "  times: must be at least 1, not 0",
        "  loud: is not a field of this event; it has: text, times",
    ]


def test_the_list_of_faults_is_printed_where_it_says_more() -> None:
    fault, other = FieldError("a", "is wrong"), FieldError("b", "is wrong too")
    assert InvalidPayload([fault]).message == "a: is wrong"
    assert InvalidPayload([fault, other]).message == "a: is wrong (and 1 more)"
    assert InvalidPayload([]).message == ""
    assert str(CommandError("c", "a: is wrong", errors=[fault])) == "c: a: is wrong"
    assert str(CommandError("c", "no", errors=[fault])) == "c: no\n  a: is wrong"


async def test_a_model_without_tracks_sends_no_video() -> None:
    silent = type("Silent", (ReactorModel,), {"__module__": "a_module_without_outputs"})
    async with open_session(silent) as client:
        with pytest.raises(ValueError, match=r"^this model sends no video$"):
            await client.frame()
        with pytest.raises(ValueError, match=r"^no track 'main'; the model sends none$"):
            await client.frame("main")


@pytest.mark.real_time
async def test_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with trio.fail_after(PROCESS_TIMEOUT):
            with pytest.raises(OSError, match=rf"^nothing listens at 127.0.0.1:{port}$") as caught:
                async with open_client(f"ws://127.0.0.1:{port}"):
                    pass
            assert caught.value.__suppress_context__


# ---- run() before @connected


class Hasty(ReactorModel):
    @connected
    def on_connect(self) -> None:
        self.step = 1

    async def run(self) -> None:
        self.send_step = self.step


class Broken(Hasty):
    async def run(self) -> None:
        await self.connected.wait()
        self.send_step = self.stpe  # type: ignore[attr-defined]


class Other(Hasty):
    async def run(self) -> None:
        self.send_step = "text".step  # type: ignore[attr-defined]


@pytest.mark.parametrize(("model", "hinted"), [(Hasty, True), (Broken, False), (Other, False)])
async def test_run_before_connected_has_its_hint(model: type[ReactorModel], hinted: bool) -> None:
    with structlog.testing.capture_logs() as logs:
        async with open_session(model) as client:
            await client.ended()
    [failed] = [entry for entry in logs if entry["event"] == "run() failed"]
    hint = "run() starts before @connected: await self.connected.wait() first"
    assert failed.get("hint") == (hint if hinted else None)


# ---- the command line


def serve_fails(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "reactor_trio", "serve", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=PROCESS_TIMEOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


def test_a_mistake_in_a_class_shows_the_authors_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "from reactor_trio import ReactorModel, event\n"
        "def make():\n"
        "    class Bad(ReactorModel):\n"
        "        @event\n"
        "        def go(self, speed): ...\n"
        "make()\n"
    )
    status, lines = serve_fails(tmp_path, "bad.py")
    assert status == 1
    assert [line.strip() for line in lines if line.startswith("  File")] == [
        f'File "{path}", line 6, in <module>',
        f'File "{path}", line 3, in make',
    ]
    assert lines[-1] == "TypeError: make.<locals>.Bad.go, parameter 'speed': a field needs an annotation"


@pytest.mark.parametrize("setting", ["buffer_size", "fps"])
def test_a_setting_that_load_spoils_is_a_short_text(tmp_path: Path, setting: str) -> None:
    (tmp_path / "bad.py").write_text(
        "from reactor_trio import ReactorModel\n"
        "class Bad(ReactorModel):\n"
        "    def load(self, config):\n"
        f"        self.{setting} = 0\n"
    )
    status, lines = serve_fails(tmp_path, "bad.py", "--port", "0")
    assert status == 1
    assert lines[-1].startswith(f"Error: Bad.{setting} is a ")
    assert not any("Traceback" in line for line in lines)


def test_a_mistake_between_classes_is_a_short_text(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from reactor_trio import ModelMessage, ReactorModel\n"
        "class HTTPState(ModelMessage): ...\n"
        "class HttpState(ModelMessage): ...\n"
        "class Bad(ReactorModel): ...\n"
    )
    status, lines = serve_fails(tmp_path, "bad.py", "--port", "0")
    assert status == 1
    assert lines[-1].startswith("Error: two messages are named 'http_state'")
    assert not any("Traceback" in line for line in lines)


def test_an_option_is_named_as_it_is_typed(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(
        "from reactor_trio import ReactorModel\nclass Good(ReactorModel): ...\n"
    )
    status, lines = serve_fails(tmp_path, "good.py", "--heartbeat", "0")
    assert status == 2
    assert lines[-1] == "Error: --heartbeat must be > 0: 0.0"


@pytest.mark.parametrize("origin", ["example.com", "https://example.com/page", "https//example.com", ""])
def test_what_is_no_origin_is_told(origin: str) -> None:
    with pytest.raises(ValueError, match=r"is no origin: write it as in https://example.com, without a path"):
        ServerSettings(allow_origins=(origin,))


@pytest.mark.parametrize(
    "origin",
    ["https://example.com", "http://localhost:3000/", "http://[::1]:80", "tauri://localhost", "null", "*"],
)
def test_what_is_an_origin(origin: str) -> None:
    assert ServerSettings(allow_origins=(origin,)).policy.allow_origins == {origin}
