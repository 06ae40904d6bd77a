"""The declarations of `@event` and the hooks, and the mistakes that are reported when a class is made."""

from __future__ import annotations

import enum
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import attrs
import pytest

from reactor_trio.contract.events import read_declarations
from reactor_trio.declare.client_info import ClientInfo
from reactor_trio.declare.decorators import connected, disconnected, event, file_uploaded
from reactor_trio.declare.fields import InputField, MessageField
from reactor_trio.declare.uploaded_file import UploadedFile
from reactor_trio.model.messages import ModelMessage

CLIENT = ClientInfo("s1", 1.5, "192.0.2.1:5")
FILE = UploadedFile("a.png", "image/png", 3, b"abc")


class Reply(ModelMessage):
    text: str


class LoudReply(Reply):
    volume: int = 11


class Other(ModelMessage):
    text: str


class Mode(enum.Enum):
    FAST = "fast"


class NoMembers(enum.Enum):
    pass


class Complex(enum.Enum):
    ONE = (1, 2)


@dataclass
class BadInside:
    size: int = InputField(ge="1")  # type: ignore[arg-type]


@dataclass
class BadDefaultInside:
    size: int = InputField(default=0, ge=1)


@dataclass
class BytesInside:
    data: bytes


@attrs.define
class Untyped:
    value = attrs.field()


@dataclass
class Lost:
    value: Nowhere  # type: ignore[name-defined]  # noqa: F821


class Base:
    __reserved__ = frozenset({"send", "run"})

    def __init_subclass__(cls) -> None:
        cls.declarations = read_declarations(cls)  # type: ignore[attr-defined]


def declared(cls: Any) -> Any:
    return cls.declarations


def test_a_signature_becomes_an_event() -> None:
    class Painter(Base):
        @event(name="set_prompt", description="Change it", dedupe=True)
        async def change(self, prompt: str, client: ClientInfo, seed: int = 3) -> None: ...

        @event
        def reset(self) -> None: ...

        @event()
        def stop_all_now(self, *, client) -> Reply | None: ...  # type: ignore[no-untyped-def]

        def helper(self) -> None: ...

    events = declared(Painter).events
    assert list(events) == ["set_prompt", "reset", "stop_all_now"]
    spec = events["set_prompt"]
    assert (spec.method, spec.description, spec.dedupe, spec.in_thread) == (
        "change",
        "Change it",
        True,
        False,
    )
    assert (spec.is_async, spec.wants_client, spec.has_uploads, spec.reply) == (True, True, False, None)
    assert spec.payload_class.__name__ == "SetPrompt"
    assert list(spec.schema["properties"]) == ["prompt", "seed"]
    assert (events["reset"].is_async, events["reset"].wants_client) == (False, False)
    assert events["stop_all_now"].reply is Reply


def test_a_payload_is_frozen_and_slotted() -> None:
    class Painter(Base):
        @event
        def set_prompt(self, prompt: str) -> None: ...

    payload = declared(Painter).events["set_prompt"].structure({"prompt": "a"}, {})
    assert not hasattr(payload, "__dict__")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        payload.prompt = "b"


def test_a_handler_is_called_with_its_fields_and_the_client() -> None:
    class Painter(Base):
        @event
        def draw(self, _x: int, client: ClientInfo, *, mode: Mode = Mode.FAST) -> Any:
            return (self, _x, client, mode)

        draw.__annotations__.pop("return")

        @event
        def reset(self) -> None:
            self.done = True

    model, spec = Painter(), declared(Painter).events["draw"]
    assert spec.call(model, spec.structure({"_x": 1}, {}), CLIENT) == (model, 1, CLIENT, Mode.FAST)
    reset = declared(Painter).events["reset"]
    reset.call(model, reset.structure({}, {}), CLIENT)
    assert model.done


async def test_an_async_handler_gives_its_coroutine() -> None:
    class Painter(Base):
        @event
        async def draw(self, x: int) -> None:
            self.x = x

    model, spec = Painter(), declared(Painter).events["draw"]
    await spec.call(model, spec.structure({"x": 4}, {}), CLIENT)
    assert model.x == 4


def test_a_wrapped_handler_keeps_its_signature() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class Painter(Base):
        @event
        @logged
        async def above(self, x: int) -> None: ...

        @logged
        @event
        async def below(self, mode: Mode) -> None: ...

    events = declared(Painter).events
    assert [list(spec.schema["properties"]) for spec in events.values()] == [["x"], ["mode"]]
    assert all(spec.is_async for spec in events.values())


def test_annotations_of_local_classes_are_found() -> None:
    class Local(enum.Enum):
        A = "a"

    class Local2(ModelMessage):
        pass

    class Painter(Base):
        class Nested(enum.Enum):
            B = "b"

        @event
        def list(self, local: Local, nested: Nested, items: list[Local]) -> Local2: ...

    spec = declared(Painter).events["list"]
    payload = spec.structure({"local": "a", "nested": "b", "items": ["a"]}, {})
    assert (payload.local, payload.nested, payload.items) == (Local.A, Painter.Nested.B, [Local.A])
    assert spec.reply is Local2


def make_base() -> Any:
    class Hidden(enum.Enum):
        A = "a"

    class Painter(Base):
        @event
        def choose(self, hidden: Hidden) -> None: ...

    return Painter


def test_a_subclass_may_be_made_where_its_bases_annotations_mean_nothing() -> None:
    base = make_base()

    class Child(base):
        @event
        def other(self) -> None: ...

    assert list(declared(Child).events) == ["choose", "other"]


def test_a_subclass_overrides_and_removes_events() -> None:
    class Painter(Base):
        @event
        def one(self) -> None: ...

        @event
        def two(self, x: int) -> None: ...

        @event
        def three(self) -> None: ...

    class Child(Painter):
        def one(self) -> None: ...

        @event
        def two(self, y: str) -> None: ...  # type: ignore[override]

        three = None  # type: ignore[assignment]

    assert list(declared(Painter).events) == ["one", "two", "three"]
    assert list(declared(Child).events) == ["two"]
    assert list(declared(Child).events["two"].schema["properties"]) == ["y"]


def test_hooks() -> None:
    class Painter(Base):
        @connected
        async def hello(self, client: ClientInfo) -> Any:
            return client

        @disconnected()
        def bye(self) -> str:
            return "bye"

        @file_uploaded
        def got(self, client: ClientInfo, uploaded_file: UploadedFile) -> Any:
            return (client, uploaded_file)

    found = declared(Painter)
    assert (found.connected.kind, found.connected.method, found.connected.is_async) == (
        "connected",
        "hello",
        True,
    )
    assert found.connected.wants_client
    assert found.disconnected.call(Painter(), CLIENT) == "bye"
    assert found.file_uploaded.call(Painter(), CLIENT, FILE) == (CLIENT, FILE)
    assert not found.events


def test_a_subclass_has_its_own_hooks_whatever_they_are_called() -> None:
    class Painter(Base):
        @connected
        def hello(self) -> None: ...

        @disconnected
        def bye(self) -> None: ...

    class Child(Painter):
        @connected
        def welcome(self) -> None: ...

        def bye(self) -> None: ...

    assert declared(Child).connected.method == "welcome"
    assert declared(Child).disconnected is None


def test_what_a_handler_may_return() -> None:
    class Painter(Base):
        @event
        def free(self): ...  # type: ignore[no-untyped-def]

        @event
        def nothing(self) -> None: ...

        @event
        def reply(self) -> Reply: ...

        @event
        def perhaps(self) -> Reply | None: ...

    allowed = {
        name: [value for value in (None, Reply("a"), LoudReply("a"), Other("a"), "a") if accepts(spec, value)]
        for name, spec in declared(Painter).events.items()
    }
    assert allowed == {
        "free": [None, Reply("a"), LoudReply("a"), Other("a")],
        "nothing": [None],
        "reply": [Reply("a"), LoudReply("a")],
        "perhaps": [None, Reply("a"), LoudReply("a")],
    }
    with pytest.raises(TypeError, match="reply returned str; it may return Reply"):
        declared(Painter).events["reply"].check_result("a")


def accepts(spec: Any, value: Any) -> bool:
    try:
        assert spec.check_result(value) is value
    except TypeError:
        return False
    return True


def one_event(annotation: Any, default: Any = ..., **options: Any) -> None:
    """Make a class with one event `do`, which has one field `x`."""

    def do(self: Any, x: Any) -> None: ...

    do.__annotations__["x"] = annotation
    if default is not ...:
        do.__defaults__ = (default,)
    type("Model", (Base,), {"do": event(**options)(do)})


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (bytes, "the type bytes is not supported"),
        (set[int], r"the type set\[int\] is not supported"),
        (object, "the type object is not supported"),
        (list[Annotated[bytes, InputField(ge=0)]], "the type bytes is not supported"),
        (list[Annotated[int, InputField(pattern="a")]], "pattern does not apply to int"),
        (dict[str, Annotated[int, InputField(default=1)]], "its default stands behind `=`, not in Annotated"),
        (Callable[[], int], "not supported"),
        (dict[int, str], "an object's keys are strings"),
        (NoMembers, "NoMembers has no members"),
        (Complex, r"Complex: \(1, 2\) is not a string"),
        (Literal[b"a"], "b'a' is not a string"),
        (list[BytesInside], "BytesInside.data: the type bytes is not supported"),
        (Untyped, "Untyped.value has no annotation"),
        (BadInside, "BadInside.size: ge is a number, not '1'"),
        (BadDefaultInside, "BadDefaultInside.size: must be at least 1, not 0"),
        ("Nowhere", "the annotation 'Nowhere' cannot be resolved: name 'Nowhere' is not defined"),
        ("1 +", "cannot be resolved"),
        (Lost, r"Lost.value: the annotation 'Nowhere' cannot be resolved"),
        (BadInside | bytes, "BadInside.size: ge is a number, not '1'"),
        (bytes | BadInside, "bytes is not supported"),
    ],
)
def test_a_type_that_a_field_cannot_have_is_told(annotation: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=rf"^Model\.do, parameter 'x': .*{reason}"):
        one_event(annotation)


@pytest.mark.parametrize(
    ("annotation", "default", "reason"),
    [
        (int, "5", "the default does not fit: '5' is no int"),
        (int, True, "True is no int"),
        (int, None, "None is no int"),
        (int, 2.5, "2.5 is no int"),
        (float, float("nan"), "nan has no JSON form"),
        (list[int], [], r"\[\] is mutable"),
        (dict[str, int], {}, "mutable"),
        (Any, [], "mutable"),
        (tuple[int, ...], ("a",), "is no tuple"),
        (Mode, "fast", "'fast' is no Mode"),
        (Literal["a", "b"], "c", "'c' is no Literal"),
        (UploadedFile, None, "None is no UploadedFile"),
        (int, InputField(default=0, ge=1), "the default does not fit: must be at least 1, not 0"),
        (str, InputField(default="c", choices=["a"]), "must be one of 'a'"),
        (int, MessageField(default=1), "MessageField is for messages; use InputField"),
        (str, InputField(ge=1), "ge does not apply to str"),
        (int, InputField(max_size=1), "max_size and mime_types are for an UploadedFile, not for int"),
        (UploadedFile, InputField(max_length=1), "max_length does not apply to UploadedFile"),
        (bool, InputField(le=1), "le does not apply to bool"),
        (list[int], InputField(ge=1), r"ge does not apply to list\[int\]"),
        (list[str], InputField(choices=["a"]), "choices does not apply"),
        (tuple[int, int], InputField(min_length=1), "min_length does not apply"),
        (int, InputField(pattern="a"), "pattern does not apply to int"),
        (str, InputField(pattern="("), "is no regular expression"),
        (str, InputField(min_length=-1), "min_length is a number of 0 or more, not -1"),
        (str, InputField(min_length=3, max_length=2), "min_length 3 is more than max_length 2"),
        (int, InputField(ge=3, le=2), "no number is at least 3 and at most 2"),
        (int, InputField(ge=True), "ge is a number, not True"),
        (str, InputField(choices=[]), "choices is a list of values"),
        (str, InputField(choices="abc"), "choices is a list of values"),
        (int, InputField(choices=[1, "2"]), "choices: '2' is no int"),
        (int, InputField(choices=[True]), "choices: True is no int"),
        (UploadedFile, InputField(max_size=-1), "max_size is a number of 0 or more"),
        (UploadedFile, InputField(mime_types=["image"]), "'image' is no MIME type"),
        (UploadedFile, InputField(mime_types=[]), "mime_types is empty"),
    ],
)
def test_a_default_or_a_rule_that_does_not_fit_is_told(annotation: Any, default: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=rf"^Model\.do, parameter 'x': .*{reason}"):
        one_event(annotation, default)


@pytest.mark.parametrize("name", ["", "Set", "1a", "a-b", "a.b", "reactor.x", "ä", 3])
def test_an_event_name_that_is_not_allowed_is_told(name: Any) -> None:
    with pytest.raises(TypeError, match=r"^Model\.do: an event's name is"):
        one_event(int, name=name)


def model(**members: Any) -> Any:
    return type("Model", (Base,), members)


def with_varargs(self: Any, *args: int) -> None: ...
def with_kwargs(self: Any, **kwargs: int) -> None: ...
def positional_only(self: Any, x: int, /) -> None: ...
def unannotated(self: Any, x) -> None: ...  # type: ignore[no-untyped-def]
def selfless() -> None: ...
def plain(self: Any) -> None: ...
async def asynchronous(self: Any) -> None: ...
async def asynchronous_generator(self: Any) -> AsyncIterator[int]:
    yield 1


def generator(self: Any) -> Iterator[int]:
    yield 1


def returns_text(self: Any) -> str: ...
def returns_two(self: Any) -> Reply | Other: ...
def returns_any_message(self: Any) -> ModelMessage: ...
def returns_nowhere(self: Any) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821
def takes_more(self: Any, more: int) -> None: ...
def takes_unannotated_file(self: Any, uploaded_file) -> None: ...  # type: ignore[no-untyped-def]
def takes_other_file(self: Any, uploaded_file: bytes) -> None: ...


class Callable_:  # noqa: N801
    def __call__(self, x: int) -> None: ...


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (lambda: event(with_varargs), r"\*args cannot be described"),
        (lambda: event(with_kwargs), r"\*\*kwargs cannot be described"),
        (lambda: event(positional_only), "parameter 'x': a field cannot be positional-only"),
        (lambda: event(unannotated), "parameter 'x': a field needs an annotation"),
        (lambda: event(selfless), "a method's first parameter is self"),
        (lambda: event(generator), "cannot be a generator"),
        (lambda: event(asynchronous_generator), "cannot be a generator"),
        (lambda: event(in_thread=True)(asynchronous), "in_thread=True is for a def handler"),
        (lambda: event(returns_text), "a handler returns None, one ModelMessage subclass, .* not str"),
        (lambda: event(returns_two), "a handler returns"),
        (lambda: event(returns_any_message), "a handler returns"),
        (lambda: event(returns_nowhere), "the result: the annotation 'Nowhere' cannot be resolved"),
        (lambda: event(staticmethod(plain)), "@event marks a method, not a staticmethod"),
        (lambda: staticmethod(event(plain)), "@event marks a method, not a staticmethod"),
        (lambda: classmethod(connected(plain)), "@connected marks a method, not a classmethod"),
        (lambda: property(event(plain)), "@event marks a method, not a property"),
        (lambda: event(Callable_()), "@event marks a method, not <"),
        (lambda: connected(takes_more), "parameter 'more': @connected takes no parameter but client"),
        (lambda: connected(asynchronous_generator), "cannot be a generator"),
        (lambda: file_uploaded(plain), "@file_uploaded needs the parameter uploaded_file: UploadedFile"),
        (
            lambda: file_uploaded(takes_unannotated_file),
            "parameter 'uploaded_file': is to be annotated UploadedFile",
        ),
        (
            lambda: file_uploaded(takes_other_file),
            "parameter 'uploaded_file': is to be annotated UploadedFile",
        ),
    ],
)
def test_a_method_that_cannot_be_called_is_told(member: Callable[[], Any], reason: str) -> None:
    handler = member()
    try:
        with pytest.raises(TypeError, match=rf"^Model\.do(:|,) .*{reason}"):
            model(do=handler)
    finally:
        # The functions belong to this module, and a function can be marked only once: the mark is removed.
        for each in (handler, getattr(handler, "__func__", None), getattr(handler, "fget", None)):
            if hasattr(each, "__reactor_marker__"):
                del each.__reactor_marker__


def test_what_is_no_method_cannot_be_marked() -> None:
    with pytest.raises(TypeError, match="@event marks a method, not"):
        event(property(plain))  # type: ignore[type-var]
    with pytest.raises(TypeError, match="marked already"):

        class Painter:
            @event
            @connected
            def hello(self) -> None: ...


def test_a_name_of_the_runtimes_own_is_told() -> None:
    with pytest.raises(TypeError, match=r"Painter\.send: 'send' is a name of the runtime's own"):

        class Painter(Base):
            @event(name="other")
            def send(self) -> None: ...

    with pytest.raises(TypeError, match=r"Painter2\.run: 'run' is a name"):

        class Painter2(Base):
            @connected
            def run(self) -> None: ...


def test_two_events_of_one_name_are_told() -> None:
    with pytest.raises(TypeError, match=r"Painter\.two: there is another event named 'one': .*Painter\.one"):

        class Painter(Base):
            @event
            def one(self) -> None: ...

            @event(name="one")
            def two(self) -> None: ...


def test_two_hooks_of_one_kind_are_told() -> None:
    with pytest.raises(
        TypeError, match=r"Painter\.two: a class has at most one @connected hook, and .*Painter\.one"
    ):

        class Painter(Base):
            @connected
            def one(self) -> None: ...

            @connected
            def two(self) -> None: ...
