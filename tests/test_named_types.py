"""Types under other names: `Annotated`, `NewType` and aliases mean what they stand for, everywhere."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NewType, TypeVar, Union

import attrs
import pytest
from typing_extensions import TypeAliasType

from reactor_trio import (
    ClientInfo,
    Input,
    InputField,
    InputState,
    ModelMessage,
    Output,
    ReactorModel,
    ReactorPipeline,
    UploadedFile,
    Video,
    event,
)
from reactor_trio.declare.hints import plain_type
from reactor_trio.errors import InvalidPayload
from reactor_trio.testing import open_session

T = TypeVar("T")
Seed = NewType("Seed", int)
Level = TypeAliasType("Level", Annotated[int, "how bright"])
Levels = TypeAliasType("Levels", list[Level])
Pair = TypeAliasType("Pair", tuple[T, T], type_params=(T,))
Name = NewType("Name", Annotated[str, "any"])  # type: ignore[valid-newtype]
Json = TypeAliasType("Json", "dict[str, Json] | None")  # type: ignore[misc]


class Box(Generic[T]):
    pass


@pytest.mark.parametrize(
    ("named", "plain"),
    [
        (Seed, int),
        (Level, int),
        (Levels, list[int]),
        (Pair[Seed], tuple[int, int]),
        (Name, str),
        (Annotated[int, "seconds", 3], int),
        (dict[str, Annotated[Seed, "x"]], dict[str, int]),
        (Seed | None, int | None),
        (Union[Seed, Name], int | str),  # noqa: UP007
        (tuple[Seed, ...], tuple[int, ...]),
        (Box[Seed], Box[int]),
    ],
)
def test_what_a_name_stands_for(named: Any, plain: Any) -> None:
    assert plain_type(named) == plain


@pytest.mark.parametrize("tp", [int, list[int], dict[str, Any], int | None, Any, None, tuple[int, ...]])
def test_what_has_no_other_name_stays_the_very_same(tp: Any) -> None:
    assert plain_type(tp) is tp


@dataclass
class Point:
    x: Annotated[int, InputField(ge=0, le=10)]
    y: Annotated[Seed, InputField(ge=0)] = Seed(1)


@attrs.frozen
class Line:
    ends: Pair[Point]
    name: Name = "line"


class Told(ModelMessage):
    values: list[Any]


class Knobs(InputState):
    level: Annotated[Level, InputField(ge=0, le=9)] = 3


class Picture(Output):
    screen: Annotated[Video, "of the room"]


class Camera(Input):
    webcam: Annotated[Video, "of the door"]


class Model(ReactorModel):
    input: Camera

    @event
    def draw(
        self,
        line: Line,
        seed: Annotated[Seed, InputField(default=7)],
        client: Annotated[ClientInfo, "who"],
        brightness: Annotated[int, "of 255", InputField(ge=0, le=255, description="how bright")] = 5,
        file: Annotated[UploadedFile, InputField(mime_types=["text/*"])] | None = None,
    ) -> Annotated[Told, "all of it"]:
        ends = line.ends
        return Told(values=[ends[0].x, ends[1].y, line.name, seed, brightness, client.id, file])


class Pipeline(ReactorPipeline):
    state: Annotated[Knobs, "what clients may turn"]

    def inference(self) -> Any:
        yield None


async def test_they_are_served_as_what_they_stand_for() -> None:
    async with open_session(Model) as client:
        line = {"ends": [{"x": 3}, {"x": 4, "y": 5}]}
        reply = await client.call("draw", line=line)
        assert reply is not None
        assert reply.data["values"] == [3, 5, "line", 7, 5, client.welcome.session_id, None]
        with pytest.raises(Exception, match="brightness: must be at most 255, not 256"):
            await client.call("draw", line=line, brightness=256)
        with pytest.raises(Exception, match=r"line\.ends\[0\]\.x: must be at most 10, not 11"):
            await client.call("draw", line={"ends": [{"x": 11}, {"x": 1}]})


def test_the_schema_is_that_of_what_they_stand_for() -> None:
    schema = Model.__declarations__.events["draw"].schema["properties"]
    assert schema["brightness"] == {
        "type": "integer", "minimum": 0, "maximum": 255, "description": "how bright", "default": 5
    }  # fmt: skip
    assert schema["seed"]["default"] == 7
    assert Pipeline.__declarations__.events["set_level"].schema["properties"]["level"]["maximum"] == 9


async def test_a_states_field_has_its_rules() -> None:
    async with open_session(Pipeline) as client:
        await client.call("set_level", level=9)
        with pytest.raises(Exception, match="level: must be at most 9"):
            await client.call("set_level", level=10)


def test_a_parameter_has_one_input_field() -> None:
    with pytest.raises(TypeError, match=r"Twice\.go, parameter 'x': has two InputFields"):

        class Twice(ReactorModel):
            @event
            def go(self, x: Annotated[int, InputField(ge=0)] = InputField(le=3)) -> None: ...


def test_a_default_that_breaks_the_rule_is_told() -> None:
    with pytest.raises(TypeError, match="parameter 'x'"):

        class Wrong(ReactorModel):
            @event
            def go(self, x: Annotated[int, InputField(ge=0)] = -1) -> None: ...


def test_the_default_of_a_classs_field_stands_behind_it() -> None:
    @dataclass
    class Odd:
        x: Annotated[int, InputField(default=3)]

    with pytest.raises(TypeError, match="its default stands behind `=`, not in Annotated"):

        class Wrong(ReactorModel):
            @event
            def go(self, odd: Odd) -> None: ...


@pytest.mark.parametrize(
    ("annotation", "told"),
    [(Json, "is not supported"), (list[Annotated[int, InputField(ge=0)]], "is not supported")],
)
def test_what_cannot_be_is_told(annotation: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):

        class Wrong(ReactorModel):
            @event
            def go(self, x: annotation) -> None: ...


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement is new in Python 3.12")
def test_the_statement_of_python_3_12() -> None:
    code = """
from typing import Literal
from reactor_trio import ReactorModel, event
type Style = Literal["silk", "neon"]
type Styles[T] = list[T]
class M(ReactorModel):
    @event
    def set_style(self, style: Style, others: Styles[Style] = []) -> None: ...
"""
    module = types.ModuleType("aliases")
    sys.modules["aliases"] = module
    exec(code.replace("= []", ""), vars(module))
    structure = module.M.__declarations__.events["set_style"].structure
    assert structure({"style": "neon", "others": ["silk"]}, {}).others == ["silk"]
    with pytest.raises(InvalidPayload):
        structure({"style": "gold", "others": []}, {})
