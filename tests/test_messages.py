"""`ModelMessage`: declarations, names, and what goes over the wire."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import uuid
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
import pytest

from reactor_trio.contract.schema import message_schema
from reactor_trio.contract.serialise import dump, resolve_message_type
from reactor_trio.declare.fields import InputField, MessageField
from reactor_trio.declare.uploaded_file import UploadedFile
from reactor_trio.model.messages import ModelMessage, wire_name


class Mood(enum.Enum):
    CALM = "calm"


@attrs.define
class Point:
    x: int
    _y: float = 0.5


@dataclass(slots=True)
class SlottedBase:
    a: int = 1


@dataclass(slots=True)
class Slotted(SlottedBase):
    b: int = 2


class CurrentPrompt(ModelMessage):
    """What is painted now."""

    prompt: str


class Everything(ModelMessage):
    mood: Mood
    point: Point
    pair: tuple[int, str]
    slotted: Slotted
    scalar: np.float32
    number: np.int64
    when: datetime.datetime
    who: uuid.UUID
    nested: CurrentPrompt
    anything: Any
    table: dict[str, list[float | None]]
    choice: Literal["a", 1]


def wire(message: ModelMessage) -> Any:
    return json.loads(dump(message))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CurrentPrompt", "current_prompt"),
        ("HTTPServer", "http_server"),
        ("GPT4Output", "gpt4_output"),
        ("SetHTTPUrl", "set_http_url"),
        ("A", "a"),
        ("AB", "ab"),
        ("URL", "url"),
        ("Frame2Ready", "frame2_ready"),
        ("_Private", "private"),
        ("already_snake", "already_snake"),
        ("XMLHttpRequest2", "xml_http_request2"),
    ],
)
def test_the_name_on_the_wire(name: str, expected: str) -> None:
    assert wire_name(type(name, (), {})) == expected


def test_annotations_are_enough() -> None:
    message = CurrentPrompt(prompt="a meadow")
    assert CurrentPrompt.__wire_name__ == "current_prompt"
    assert dump(message) == b'{"prompt":"a meadow"}'
    assert message == CurrentPrompt("a meadow")
    assert repr(message) == "CurrentPrompt(prompt='a meadow')"
    with pytest.raises(TypeError):
        CurrentPrompt()  # type: ignore[call-arg]


def test_what_is_in_a_message_serialises() -> None:
    message = Everything(
        mood=Mood.CALM,
        point=Point(1, 2.5),
        pair=(1, "a"),
        slotted=Slotted(),
        scalar=np.float32(0.5),
        number=np.int64(7),
        when=datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        who=uuid.UUID(int=1),
        nested=CurrentPrompt("p"),
        anything=[Point(3), np.float16(1), np.bool_(True), np.arange(2), Mood.CALM],
        table={"a": [1.0, None, math.nan]},
        choice="a",
    )
    assert wire(message) == {
        "mood": "calm",
        "point": {"x": 1, "_y": 2.5},
        "pair": [1, "a"],
        "slotted": {"a": 1, "b": 2},
        "scalar": 0.5,
        "number": 7,
        "when": "2025-01-02T03:04:05+00:00",
        "who": "00000000-0000-0000-0000-000000000001",
        "nested": {"prompt": "p"},
        "anything": [{"x": 3, "_y": 0.5}, 1.0, True, [0, 1], "calm"],
        "table": {"a": [1.0, None, None]},
        "choice": "a",
    }


@pytest.mark.parametrize(
    "decorator",
    [
        lambda cls: cls,
        dataclass,
        dataclass(slots=True),
        dataclass(kw_only=True),
        attrs.define,
        attrs.define(slots=False),
        attrs.mutable,
    ],
)
def test_a_decorator_on_top_changes_nothing(decorator: Any) -> None:
    class Base(ModelMessage):
        name: str
        _rank: int = 1

    @decorator
    class Message(Base):
        """Said to the client."""

        kind: ClassVar[str] = "k"
        step: int = 0
        tags: list[str] = dataclasses.field(default_factory=list)
        notes: list[str] = attrs.field(factory=list)
        ratio: float = MessageField(default=0.5, description="of what")
        plain: tuple[int, ...] = dataclasses.field(default=())

    one, other = Message("a"), Message("b", 2, step=3, tags=["t"])
    one.notes.append("n")
    assert other.notes == []
    assert wire(one) == {
        "name": "a",
        "_rank": 1,
        "step": 0,
        "tags": [],
        "notes": ["n"],
        "ratio": 0.5,
        "plain": [],
    }
    assert wire(other) == {**wire(one), "name": "b", "_rank": 2, "step": 3, "tags": ["t"], "notes": []}
    assert one == Message("a", notes=["n"])

    class Child(Message):
        more: int = 1

    assert wire(Child("a")) == {**wire(one), "notes": [], "more": 1}
    assert Message.__wire_name__ == "message"
    assert Message.__message_description__ == "Said to the client."
    schema = message_schema(Message)
    assert schema["required"] == ["name"]
    assert schema["properties"]["ratio"] == {"type": "number", "description": "of what", "default": 0.5}
    assert schema["properties"]["tags"]["default"] == []


@pytest.mark.parametrize("decorator", [lambda cls: cls, dataclass, attrs.define])
def test_a_post_init_of_a_dataclass_is_called(decorator: Any) -> None:
    @decorator
    class Message(ModelMessage):
        step: int

        def __post_init__(self) -> None:
            self.step += 1

    assert Message(1).step == 2


@pytest.mark.parametrize(
    "decorator",
    [
        dataclass(frozen=True),
        dataclass(frozen=True, slots=True),
        attrs.frozen,
        attrs.define(frozen=True, slots=False),
    ],
)
def test_a_frozen_message_is_refused(decorator: Any) -> None:
    with pytest.raises(TypeError, match=r"Message is a message or an output, and frozen=True does not fit"):

        @decorator
        class Message(ModelMessage):
            step: int


@pytest.mark.parametrize("decorator", [lambda cls: cls, dataclass])
def test_a_required_field_after_an_inherited_default_is_refused(decorator: Any) -> None:
    class Base(ModelMessage):
        step: int = 0

    with pytest.raises(
        TypeError, match=r"Message\.name is required, but comes after 'step', which has a default"
    ):

        @decorator
        class Message(Base):
            name: str


@pytest.mark.parametrize("default", [[], {}, set(), MessageField(default=[]), attrs.field(default={})])
def test_a_mutable_default_is_refused(default: Any) -> None:
    with pytest.raises(TypeError, match=r"Message\.tags: the default .* would be shared"):

        class Message(ModelMessage):
            tags: Any = default


def test_the_field_of_a_payload_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Message\.step: InputField is for payloads; use MessageField"):

        class Message(ModelMessage):
            step: int = InputField(ge=1)


def test_a_field_without_an_annotation_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Message\.step has no annotation"):

        class Message(ModelMessage):
            step = MessageField(default=1)


@dataclass
class Holder:
    file: UploadedFile


@pytest.mark.parametrize(
    "annotation",
    [bytes, np.ndarray, np.complex64, object, set[int], dict[int, str], Holder, list[bytes], "bytes | None"],
)
def test_a_field_type_that_json_lacks_is_refused(annotation: Any) -> None:
    with pytest.raises(TypeError, match=r"^Message\.data: .*(not supported|keys are strings)"):
        type("Message", (ModelMessage,), {"__annotations__": {"data": annotation}})


def test_a_message_may_name_a_class_further_down() -> None:
    assert message_schema(Early)["$defs"]["Late"]["properties"] == {"value": {"type": "integer"}}


class Early(ModelMessage):
    late: Late
    more: list[Early] | None = None


@dataclass
class Late:
    value: int


def test_an_annotation_that_stays_unresolved_is_told_later() -> None:
    class Message(ModelMessage):
        late: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"Message\.late: the annotation 'Nowhere' cannot be resolved"):
        resolve_message_type(Message)


@pytest.mark.parametrize(
    "value", [b"a", {1, 2}, object(), {1: 2}, 2**70, "\ud800", Holder(UploadedFile("", "", 1, b"SECRET"))]
)
def test_a_value_that_cannot_be_serialised_is_told(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^Everything\.anything: ") as caught:
        dump(everything(value))
    assert "SECRET" not in str(caught.value)


def everything(anything: Any) -> Everything:
    values: dict[str, Any] = dict.fromkeys(Everything.__message_fields__)
    return Everything(**{**values, "anything": anything})


def test_a_message_that_contains_itself_is_told() -> None:
    message = everything([])
    message.anything.append(message.anything)
    with pytest.raises(TypeError, match=r"Everything\.anything"):
        dump(message)


def test_a_field_that_was_deleted_is_told() -> None:
    message = CurrentPrompt("a")
    del message.prompt
    with pytest.raises(TypeError, match=r"CurrentPrompt\.prompt"):
        dump(message)
