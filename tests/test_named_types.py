"""Types under other names: `Annotated`, `NewType` and aliases mean the type behind the name, everywhere."""

from __future__ import annotations

import enum
import inspect
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
from reactor_trio.contract.schema import message_schema
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


# ---- rules inside a type

Byte = TypeAliasType("Byte", Annotated[int, InputField(ge=0, le=255, description="of a colour")])
Tag = NewType("Tag", Annotated[str, InputField(min_length=1, max_length=8)])  # type: ignore[valid-newtype]
Photo = Annotated[UploadedFile, InputField(mime_types=["image/*"], max_size=100)]


class Mood(enum.Enum):
    CALM = "calm"
    WILD = "wild"


@attrs.frozen
class Palette:
    colours: list[tuple[Byte, Byte, Byte]]
    names: dict[str, Tag] = attrs.field(factory=dict)


class Ruled(ReactorModel):
    @event
    def go(
        self,
        bytes_: Annotated[tuple[Byte, ...], InputField(max_length=3)] = (),
        pair: tuple[Byte, Tag] | None = None,
        tags: tuple[Tag, ...] = ("a",),
        either: Annotated[int, InputField(ge=0)] | Tag | None = None,
        palette: Palette | None = None,
        moods: list[Annotated[Mood, InputField(choices=[Mood.CALM])]] | None = None,
        files: list[Photo] | None = None,
    ) -> None: ...


def ruled(**data: Any) -> Any:
    return Ruled.__declarations__.events["go"].structure(data, {})


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"bytes_": [0, 256]}, "bytes_[1]: must be at most 255, not 256"),
        ({"bytes_": [0, 1, 2, 3]}, "bytes_: must have at most 3 items, not 4"),
        ({"pair": [-1, "x"]}, "pair[0]: must be at least 0, not -1"),
        ({"pair": [1, ""]}, "pair[1]: must have at least 1 character, not 0"),
        ({"tags": ["a", "123456789"]}, "tags[1]: must have at most 8 characters, not 9"),
        ({"either": -1}, "either: must be at least 0, not -1"),
        ({"either": ""}, "either: must have at least 1 character, not 0"),
        ({"either": 1.5}, "either: must be an integer, not 1.5"),
        ({"either": []}, "either: must be an integer, a string or null, not a list"),
        (
            {"palette": {"colours": [[0, 0, 0], [0, 0, 300]]}},
            "palette.colours[1][2]: must be at most 255, not 300",
        ),
        (
            {"palette": {"colours": [], "names": {"x": ""}}},
            "palette.names.x: must have at least 1 character, not 0",
        ),
        ({"moods": ["wild"]}, "moods[0]: must be one of 'calm', not the string 'wild'"),
    ],
)  # fmt: skip
def test_rules_hold_wherever_they_stand(data: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        ruled(**data)
    assert [f"{each.path}: {each.message}" for each in caught.value.errors] == [fault]


def test_what_keeps_the_rules_comes_through() -> None:
    made = ruled(
        bytes_=[0, 255], pair=[1, "x"], tags=["b"], either="x", moods=["calm"],
        palette={"colours": [[1, 2, 3]], "names": {"x": "red"}},
    )  # fmt: skip
    assert (made.bytes_, made.pair, made.tags, made.either) == ((0, 255), (1, "x"), ("b",), "x")
    assert made.palette == Palette([(1, 2, 3)], {"x": "red"})
    assert made.moods == [Mood.CALM]
    assert ruled(either=5).either == 5
    assert ruled(either=None).either is None


def test_the_schema_has_the_rules_where_they_stand() -> None:
    schema = Ruled.__declarations__.events["go"].schema["properties"]
    byte = {"type": "integer", "minimum": 0, "maximum": 255, "description": "of a colour"}
    tag = {"type": "string", "minLength": 1, "maxLength": 8}
    assert schema["bytes_"] == {"type": "array", "items": byte, "maxItems": 3, "default": []}
    assert schema["tags"] == {"type": "array", "items": tag, "default": ["a"]}
    assert schema["either"]["anyOf"] == [{"type": "integer", "minimum": 0}, tag, {"type": "null"}]
    assert schema["pair"]["anyOf"][0]["prefixItems"] == [byte, tag]
    [files, _] = schema["files"]["anyOf"]
    assert files["items"]["x-reactor-upload"] == {"max_size": 100, "mime_types": ["image/*"]}


def test_the_rules_of_a_file_in_a_list_hold() -> None:
    files = {
        "a": UploadedFile("a", "image/png", 1, b"x"),
        "b": UploadedFile("b", "text/plain", 1, b"x"),
    }
    structure = Ruled.__declarations__.events["go"].structure
    assert structure({"files": [{"upload_id": "a"}]}, files).files == [files["a"]]
    with pytest.raises(InvalidPayload, match=r"files\[0\]: must be a file of type image/\*"):
        structure({"files": [{"upload_id": "b"}]}, files)


def test_a_message_shows_the_rules_of_its_parts() -> None:
    class Shown(ModelMessage):
        values: list[Byte]
        either: Byte | Tag

    properties = message_schema(Shown)["properties"]
    assert properties["values"]["items"]["maximum"] == 255
    assert [each["type"] for each in properties["either"]["anyOf"]] == ["integer", "string"]


@pytest.mark.parametrize(
    ("annotation", "default", "told"),
    [
        (Json, ..., "is not supported"),
        (list[Annotated[int, InputField(pattern="x")]], ..., "pattern does not apply to int"),
        (list[Byte], [1], r"write tuple\[int, ...\] = \(1,\)"),
        (tuple[Byte, ...], ("x",), r"the default does not fit: \('x',\) is no tuple\[int, ...\]"),
        (dict[str, Byte] | None, 5, r"5 is no dict\[str, int\] \| None"),
    ],
)
def test_what_cannot_be_is_told(annotation: Any, default: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):

        class Wrong(ReactorModel):
            @event
            def go(self, x: annotation = inspect.Parameter.empty if default is ... else default) -> None: ...


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
