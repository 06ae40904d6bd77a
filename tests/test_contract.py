"""The description of a model in `reactor.welcome`."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from reactor_trio.contract.contract import read_contract
from reactor_trio.declare.decorators import event
from reactor_trio.declare.fields import InputField, MessageField
from reactor_trio.declare.tracks import Audio, Output, Video
from reactor_trio.declare.uploaded_file import UploadedFile
from reactor_trio.model.messages import ModelMessage
from reactor_trio.model.model import ReactorModel


class ModuleMessage(ModelMessage):
    """Said by all models of this module."""

    step: int = MessageField(description="how far")


class Picture(Output):
    main_video: Video


class Style(enum.Enum):
    OIL = "oil"


@dataclass
class Node:
    label: str = InputField(max_length=3)
    next: Node | None = None


class Painter:
    """Paints.

    Well.
    """

    class Nested(ModelMessage):
        node: Node

    @event(description="Do it", dedupe=True)
    def paint(
        self,
        node: Node,
        image: UploadedFile | None = InputField(default=None, max_size=5, mime_types=["image/*"]),
        style: Style = Style.OIL,
        strength: float = InputField(default=0.5, gt=0, le=1, description="how much"),
        mode: str | None = InputField(default=None, choices=["a", "b"]),
        tags: list[Literal["x", 1]] = InputField(min_length=1),
        pair: tuple[int, str] = (1, "a"),
        extra: dict[str, Any] | None = None,
    ) -> ModuleMessage: ...


def test_welcome_describes_the_model() -> None:
    welcome = read_contract(Painter).welcome()
    assert json.loads(json.dumps(welcome)) == welcome
    assert welcome["model"] == {"name": "Painter", "description": "Paints.\n\nWell."}
    assert welcome["tracks"] == [{"name": "main_video", "kind": "video", "direction": "out"}]
    assert [message["name"] for message in welcome["messages"]] == ["module_message", "nested"]
    assert welcome["messages"][0] == {
        "name": "module_message",
        "description": "Said by all models of this module.",
        "schema": {
            "title": "module_message",
            "type": "object",
            "properties": {"step": {"type": "integer", "description": "how far"}},
            "required": ["step"],
            "additionalProperties": False,
        },
    }
    (paint,) = welcome["events"]
    assert {key: paint[key] for key in paint if key != "schema"} == {
        "name": "paint",
        "description": "Do it",
        "dedupe": True,
    }


def test_the_schema_of_an_event_says_all_its_rules() -> None:
    schema = read_contract(Painter).welcome()["events"][0]["schema"]
    assert schema == {
        "title": "paint",
        "type": "object",
        "required": ["node", "tags"],
        "additionalProperties": False,
        "properties": {
            "node": {"$ref": "#/$defs/Node"},
            "image": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"upload_id": {"type": "string"}},
                        "required": ["upload_id"],
                        "additionalProperties": False,
                        "x-reactor-upload": {"max_size": 5, "mime_types": ["image/*"]},
                    },
                    {"type": "null"},
                ],
                "default": None,
            },
            "style": {"type": "string", "enum": ["oil"], "default": "oil"},
            "strength": {
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": 1,
                "description": "how much",
                "default": 0.5,
            },
            "mode": {
                "anyOf": [{"type": "string"}, {"type": "null"}],
                "enum": ["a", "b", None],
                "default": None,
            },
            "tags": {"type": "array", "items": {"enum": ["x", 1]}, "minItems": 1},
            "pair": {
                "type": "array",
                "items": False,
                "minItems": 2,
                "maxItems": 2,
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "default": [1, "a"],
            },
            "extra": {
                "anyOf": [{"type": "object", "additionalProperties": {}}, {"type": "null"}],
                "default": None,
            },
        },
        "$defs": {
            "Node": {
                "title": "Node",
                "type": "object",
                "properties": {
                    "label": {"type": "string", "maxLength": 3},
                    "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}], "default": None},
                },
                "required": ["label"],
                "additionalProperties": False,
            }
        },
    }


def test_a_model_made_in_a_function_finds_what_its_methods_use() -> None:
    class Local(ModelMessage):
        pass

    class Sound(Output):
        speech: Audio = Audio(sample_rate=16_000)

    class Model:
        @event
        def go(self) -> None:
            print(Local())  # noqa: T201

        def run(self) -> Any:
            return Sound

    contract = read_contract(Model, name="speaker")
    assert contract.name == "speaker"
    assert contract.messages["local"].message_class is Local
    assert {track.name: track.rate for track in contract.tracks} == {"main_video": None, "speech": 16_000}


def test_a_subclass_has_its_bases_messages() -> None:
    class Child(Painter):
        """A child."""

    assert "nested" in read_contract(Child).messages
    assert read_contract(Child).description == "A child."


def test_two_messages_of_one_name_are_told() -> None:
    class Model:
        class HTTPReady(ModelMessage):
            pass

        class HttpReady(ModelMessage):
            pass

    with pytest.raises(TypeError, match=r"two messages are named 'http_ready': .*HTTPReady and .*HttpReady"):
        read_contract(Model)


def test_two_tracks_of_one_name_and_different_kind_are_told() -> None:
    class Model:
        class Sound(Output):
            main_video: Audio

    with pytest.raises(
        TypeError, match=r"two tracks are named 'main_video' and differ: .*Sound \(audio, 48000 Hz\)"
    ):
        read_contract(Model)


def test_two_outputs_may_share_a_track() -> None:
    class Model:
        class Both(Output):
            main_video: Video
            depth: Video

    assert [track.name for track in read_contract(Model).tracks] == ["main_video", "depth"]


def test_a_message_with_an_annotation_that_means_nothing_is_told() -> None:
    class Model:
        class Broken(ModelMessage):
            value: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"Broken\.value: the annotation 'Nowhere' cannot be resolved"):
        read_contract(Model)


HALF = "caf\udce9"


def test_a_text_for_clients_that_is_no_unicode_is_refused_before_anyone_is_served() -> None:
    class Event(ReactorModel):
        @event(description=HALF)
        def go(self) -> None: ...

    class Field(ReactorModel):
        @event
        def go(self, name: str = InputField(default="a", description=HALF)) -> None: ...

    for model, place in ((Event, "events.go.description"), (Field, "name.description")):
        with pytest.raises(TypeError, match=f"{place}: a text for clients holds half a surrogate pair"):
            read_contract(model)
    with pytest.raises(TypeError, match="half a surrogate pair"):
        read_contract(ReactorModel, HALF)


def test_a_description_is_a_text() -> None:
    with pytest.raises(TypeError, match="a description is a str, not bytes"):

        class Event(ReactorModel):
            @event(description=b"x")  # type: ignore[arg-type]
            def go(self) -> None: ...
