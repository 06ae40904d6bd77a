"""Classes whose namespace has no annotations, as in Python 3.14 (PEP 649); emulated on older Pythons."""

from __future__ import annotations

import inspect
import types
from typing import Any, ForwardRef

import numpy as np
import pytest

from reactor_trio import Input, InputField, InputState, ModelMessage, Output, ReactorModel, Video, event
from reactor_trio.contract.contract import read_contract
from reactor_trio.declare.hints import own_annotations
from reactor_trio.testing import open_session

real = inspect.get_annotations


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a class; only `inspect.get_annotations` knows the annotations of the class."""
    lazy: dict[str, dict[str, Any]] = {}

    def get_annotations(of: Any, **options: Any) -> dict[str, Any]:
        name = of.__name__ if isinstance(of, type) else None
        return dict(lazy[name]) if name in lazy else real(of, **options)

    def make(name: str, base: type, annotations: dict[str, Any], /, **body: Any) -> Any:
        lazy[name] = annotations
        namespace = {"__module__": __name__, **body}
        return types.new_class(name, (base,), exec_body=lambda ns: ns.update(namespace))

    monkeypatch.setattr(inspect, "get_annotations", get_annotations)
    return make


def test_an_output_has_its_tracks(make: Any) -> None:
    picture = make("Picture", Output, {"screen": Video})
    assert [track.name for track in picture.__tracks__] == ["screen"]
    assert picture(screen=np.zeros((2, 2, 3), np.uint8)).screen.shape == (2, 2, 3)


def test_an_input_has_its_tracks_and_a_model_binds_it(make: Any) -> None:
    camera = make("Camera", Input, {"webcam": Video})
    watcher = make("Watcher", ReactorModel, {"seen": camera})
    assert [(track.name, track.direction) for track in read_contract(watcher).tracks] == [("webcam", "in")]


def test_a_message_has_its_fields(make: Any) -> None:
    said = make("Said", ModelMessage, {"text": str, "loud": bool}, loud=False)
    assert said(text="x").loud is False


def test_a_state_has_its_fields(make: Any) -> None:
    state = make("Knobs", InputState, {"level": int}, level=InputField(default=3, ge=0))
    assert state().level == 3


def test_what_is_written_in_the_body_of_a_class_is_what_it_annotates_itself() -> None:
    class Base(ModelMessage):
        text: str

    class Sub(Base):
        number: int

    assert list(own_annotations(Sub)) == ["number"]
    assert own_annotations(types.new_class("Bare")) == {}


async def test_a_model_made_so_is_served(make: Any) -> None:
    said = make("Said", ModelMessage, {"text": str})

    class Speaker(ReactorModel):
        @event
        def say(self, text: str) -> said:
            return said(text=text)

    async with open_session(Speaker) as client:
        reply = await client.call("say", text="hello")
        assert reply is not None
        assert reply.data == {"text": "hello"}


# ---- annotations with an undefined name: a `ForwardRef` from Python 3.14 on


def refer(function: Any, **annotations: Any) -> Any:
    """Give a function annotations as in Python 3.14, which keeps an undefined name as a `ForwardRef`."""
    function.__annotations__ = {
        name: ForwardRef(each) if isinstance(each, str) else each for name, each in annotations.items()
    }
    return function


class Level(ModelMessage):
    value: int


def test_a_handler_is_read_where_its_annotations_were_not_there_yet() -> None:
    def set_level(self: Any, value: Any, client: Any) -> Any: ...

    set_level = refer(set_level, value="int | None", client="ClientInfo", **{"return": "Level"})
    knobs: Any = types.new_class(
        "Knobs", (ReactorModel,), exec_body=lambda ns: ns.update(set_level=event(set_level))
    )
    spec = knobs.__declarations__.events["set_level"]
    assert spec.schema["properties"] == {"value": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}
    assert (spec.wants_client, spec.reply) == (True, Level)


@pytest.mark.parametrize("annotation", ["list[Nowhere]", list[ForwardRef("Nowhere")]])  # type: ignore[misc]
def test_a_name_that_never_comes_is_said_as_it_is_written(annotation: Any) -> None:
    def set_level(self: Any, value: Any) -> None: ...

    body = {"set_level": event(refer(set_level, value=annotation))}
    with pytest.raises(TypeError, match=r"parameter 'value': the annotation 'list\[Nowhere\]' cannot be"):
        types.new_class("Knobs", (ReactorModel,), exec_body=lambda ns: ns.update(body))


def test_the_field_of_a_state_is_said_as_it_is_written(make: Any) -> None:
    with pytest.raises(TypeError, match=r"write `level: Level = \.\.\.`"):
        make("Knobs", InputState, {"level": ForwardRef("Level")})


def test_a_class_variable_is_no_field_where_its_type_is_not_there_yet(make: Any) -> None:
    said = make("Said", ModelMessage, {"text": str, "kind": ForwardRef("ClassVar[Nowhere]")}, kind=None)
    assert said("x").text == "x"
    assert list(said.__message_fields__) == ["text"]
