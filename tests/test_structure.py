"""JSON in, the annotated types out; every fault at its path, and nothing converted."""

from __future__ import annotations

import contextlib
import enum
import functools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.contract.events import EventSpec, PendingUpload, PendingUploads, read_declarations
from reactor_trio.declare.decorators import event
from reactor_trio.declare.fields import InputField
from reactor_trio.declare.uploaded_file import UploadedFile
from reactor_trio.errors import InvalidPayload


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@attrs.define
class Box:
    width: int
    height: int = 1


@attrs.define
class Even:
    number: int = attrs.field()

    @number.validator
    def _even(self, _attribute: object, value: int) -> None:
        if value % 2:
            raise ValueError(f"{value} is odd")


@dataclass
class Scene:
    title: str
    boxes: list[Box] = field(default_factory=list)
    color: Color = Color.RED


@dataclass(slots=True)
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


@dataclass
class Ruled:
    width: int = InputField(ge=1)
    weight: float = InputField(default=2, gt=0)
    color: Color = InputField(default=Color.BLUE)
    name: str = "plain"


@attrs.define
class Strange:
    value: int
    _hidden: int = 3

    def __attrs_post_init__(self) -> None:
        if self.value == 1:
            raise KeyError("secret of the server")


@dataclass
class Styled:
    image: UploadedFile
    strength: float = 1.0


class Crash(enum.Enum):
    TRUE = True
    ONE_AND_A_HALF = 1.5
    NOTHING = None


def make(tp: Any, default: Any = ...) -> EventSpec:
    """The spec of an event with one field, `x`."""

    def handler(self: Any, x: Any) -> None: ...

    handler.__annotations__["x"] = tp
    if default is not ...:
        handler.__defaults__ = (default,)
    return read_declarations(type("Model", (), {"handler": event(handler)})).events["handler"]


def fit(tp: Any, value: Any) -> Any:
    return make(tp).structure({"x": value}, {}).x


def errors(spec: EventSpec, data: Any, files: Any = None) -> dict[str, str]:
    with pytest.raises(InvalidPayload) as caught:
        spec.structure(data, files or {})
    assert caught.value.event == spec.name
    return {error.path: error.message for error in caught.value.errors}


def fault(tp: Any, value: Any, default: Any = ...) -> str:
    found = errors(make(tp, default), {"x": value})
    assert list(found) == ["x"]
    return found["x"]


@pytest.mark.parametrize(
    ("tp", "value", "expected"),
    [
        (int, 5, 5),
        (int, 107.0, 107),
        (int, -0.0, 0),
        (int, 2**53, 2**53),
        (float, 5, 5.0),
        (float, 1e300, 1e300),
        (str, "", ""),
        (bool, False, False),
        (None, None, None),
        (Literal["a", 1], 1.0, 1),
        (Color, "red", Color.RED),
        (Level, 2, Level.HIGH),
        (Level, 2.0, Level.HIGH),
        (Crash, True, Crash.TRUE),
        (Crash, None, Crash.NOTHING),
        (Literal[Color.RED], "red", Color.RED),
        (int | None, None, None),
        (list[int], [1, 2.0], [1, 2]),
        (list, [1, "a"], [1, "a"]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [], ()),
        (tuple, [None], (None,)),
        (tuple[()], [], ()),
        (dict[str, int], {"a b": 1}, {"a b": 1}),
        (dict, {"a": [1]}, {"a": [1]}),
        (Any, {"a": [None, 1.5]}, {"a": [None, 1.5]}),
        (int | float, 2.0, 2.0),
        (float | int, 2, 2),
        (int | str, "2", "2"),
        (Box | Even, {"number": 2}, Even(2)),
        (list[int] | int, 4, 4),
        (Literal["auto"] | int | None, "auto", "auto"),
        (Box, {"width": 2}, Box(2)),
        (Scene, {"title": "t", "boxes": [{"width": 1}]}, Scene("t", [Box(1)])),
        (Tree, {"name": "a", "children": [{"name": "b"}]}, Tree("a", [Tree("b")])),
        (Ruled, {"width": 1}, Ruled(1, 2.0, Color.BLUE, "plain")),
        (Strange, {"value": 2, "_hidden": 4}, Strange(2, 4)),
    ],
)
def test_what_fits_becomes_the_annotated_type(tp: Any, value: Any, expected: Any) -> None:
    found = fit(tp, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("tp", "value", "message"),
    [
        (int, "5", "must be an integer, not the string '5'"),
        (int, True, "must be an integer, not true"),
        (int, 2.5, "must be an integer, not 2.5"),
        (int, math.nan, "must be an integer, not NaN"),
        (int, None, "must be an integer, not null"),
        (int, [], "must be an integer, not a list"),
        (int, 2**53 + 1, "must be between -2^53 and 2^53"),
        (int, 1e300, "must be between -2^53 and 2^53"),
        (float, math.inf, "must be a finite number, not Infinity"),
        (float, 2**60, "must not be an integer beyond ±2^53"),
        (float, False, "must be a number, not false"),
        (str, 5, "must be a string, not 5"),
        (str, {}, "must be a string, not an object"),
        (bool, 1, "must be true or false, not 1"),
        (list[int], "ab", "must be a list, not the string 'ab'"),
        (tuple[int, int], [1], "must be a list of 2 items, not of 1"),
        (tuple[int], 1, "must be a list of 1 item, not 1"),
        (dict[str, int], [1], "must be an object, not a list"),
        (Box, "abc", "must be an object, not the string 'abc'"),
        (Color, "green", "must be one of 'red', 'blue', not the string 'green'"),
        (Color, ["red"], "must be one of 'red', 'blue', not a list"),
        (Level, True, "must be one of 1, 2, not true"),
        (Literal["a"], "b", "must be 'a', not the string 'b'"),
        (Literal[1], True, "must be 1, not true"),
        (Crash, 1, "must be one of true, 1.5, null, not 1"),
        (int | str | None, 2.5, "must be an integer, not 2.5"),
        (int | str, None, "must be an integer or a string, not null"),
        (int | str | None, [], "must be an integer, a string or null, not a list"),
        (Any, {"a": [math.nan]}, "must hold finite numbers, not NaN"),
        (Any, 2**60, "must hold no integer beyond ±2^53"),
        (Even, {"number": 3}, "3 is odd"),
        (Strange, {"value": 1}, "is not accepted: KeyError"),
        (UploadedFile, "f1", 'must be an upload, as in {"upload_id": "..."}, not the string \'f1\''),
        (UploadedFile, {}, 'must be an upload, as in {"upload_id": "..."}; upload_id is missing'),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(tp: Any, value: Any, message: str) -> None:
    assert fault(tp, value) == message


def test_a_long_value_is_shortened() -> None:
    assert len(fault(int, "x" * 10_000)) < 100
    assert fault(int, 10**5000) == "must be between -2^53 and 2^53"
    assert fault(str, 10**5000) == "must be a string, not a huge integer"


def test_all_faults_are_listed_each_at_its_path() -> None:
    class Model:
        @event
        def draw(
            self,
            scene: Scene,
            boxes: list[Box],
            palette: dict[str, int],
            pair: tuple[int, str],
            strength: int = InputField(le=10),
            prompt: str = InputField(min_length=1),
        ) -> None: ...

    data = {
        "scene": {"boxes": [{"width": 1}, {"width": "1"}], "color": "pink"},
        "boxes": [{"width": 1, "depth": 2}, 7, {"height": 2}],
        "palette": {"sky": "blue", "sky blue": None},
        "pair": [1, 2],
        "strength": 11,
        "prompt": "",
        "colour": 1,
    }
    assert errors(read_declarations(Model).events["draw"], data) == {
        "scene.title": "is required",
        "scene.boxes[1].width": "must be an integer, not the string '1'",
        "scene.color": "must be one of 'red', 'blue', not the string 'pink'",
        "boxes[0].depth": "is not a field of Box; it has: width, height",
        "boxes[1]": "must be an object, not 7",
        "boxes[2].width": "is required",
        "palette.sky": "must be an integer, not the string 'blue'",
        'palette["sky blue"]': "must be an integer, not null",
        "pair[1]": "must be a string, not 2",
        "strength": "must be at most 10, not 11",
        "prompt": "must have at least 1 character, not 0",
        "colour": "is not a field of this event; it has: scene, boxes, palette, pair, strength, prompt",
    }


def test_an_event_without_fields_refuses_any() -> None:
    class Model:
        @event
        def reset(self) -> None: ...

    spec = read_declarations(Model).events["reset"]
    assert spec.structure({}, {}) == spec.payload_class()
    assert errors(spec, {"now": 1}) == {"now": "is not a field of this event; it has none"}


def test_the_number_of_faults_that_are_listed_is_bounded() -> None:
    assert len(errors(make(list[int]), {"x": [None] * 10_000})) == 100
    assert len(errors(make(int), {f"f{number}": 1 for number in range(10_000)})) == 100
    assert len(errors(make(list[list[int]]), {"x": [[None] * 300] * 300})) == 100


def test_the_message_says_how_many_faults_are_not_listed() -> None:
    def message(tp: Any, data: Any) -> str:
        with pytest.raises(InvalidPayload) as caught:
            make(tp).structure(data, {})
        assert len(caught.value.errors) <= 100
        return caught.value.message.partition(" (")[2]

    assert message(int, {f"f{number}": 1 for number in range(60_000)}) == "and 60000 more)"  # `x` is missing
    assert message(list[int], {"x": [None] * 3}) == "and 2 more)"
    assert message(list[int], {"x": [None] * 100}) == "and 99 more)"
    assert message(list[int], {"x": [None] * 101}) == "and at least 99 more)"
    assert message(dict[str, list[int]], {"x": {"a": [None] * 90, "b": [None] * 90, "c": [None]}}) == (
        "and at least 179 more)"
    )


def test_what_a_client_wrote_makes_no_text_long_and_no_terminal_blink() -> None:
    key, long = "\x1b[5m\u202e\x9b", "k" * 1_000_000
    data = {"x": {key: {long: {key: [long, key]}}}, key: 1, long: 2}
    with pytest.raises(InvalidPayload) as caught:
        make(dict[str, dict[str, dict[str, list[int]]]]).structure(data, {})
    for error in caught.value.errors:
        assert len(error.path) <= 200
        assert len(error.message) <= 300
        assert str(error).isprintable()
    deep: Any = 1
    for _ in range(90):
        deep = {"name": "n" * 39, "children": [deep]}
    assert all(len(path) <= 200 for path in errors(make(Tree), {"x": deep}))


def test_a_payload_that_is_nested_too_deeply_is_refused() -> None:
    data: dict[str, Any] = {"name": "leaf"}
    for _ in range(100_000):
        data = {"name": "node", "children": [data]}
    found = errors(make(Tree), {"x": data})
    assert len(found) == 1
    assert "nested too deeply" in next(iter(found.values()))
    while data.get("children"):  # Python would overflow its stack if it freed all levels at once.
        data = data["children"].pop()


@pytest.mark.parametrize(
    ("tp", "rules", "good", "bad", "message"),
    [
        (int, {"ge": 1}, 1, 0, "must be at least 1, not 0"),
        (int, {"gt": 1}, 2, 1, "must be greater than 1, not 1"),
        (float, {"le": 0.5}, 0.5, 1, "must be at most 0.5, not 1"),
        (float, {"lt": 0.5}, 0.25, 0.5, "must be less than 0.5, not 0.5"),
        (str, {"min_length": 2}, "ab", "a", "must have at least 2 characters, not 1"),
        (list[int], {"max_length": 1}, [1], [1, 2], "must have at most 1 item, not 2"),
        (dict[str, int], {"min_length": 1}, {"a": 1}, {}, "must have at least 1 item, not 0"),
        (str, {"pattern": "b+"}, "abc", "ac", "must match the pattern b+, not be the string 'ac'"),
        (str, {"choices": ["a", "b"]}, "a", "c", "must be one of 'a', 'b', not the string 'c'"),
        (int, {"choices": {1}}, 1, 2, "must be one of 1, not 2"),
        (Color, {"choices": [Color.RED]}, "red", "blue", "must be one of 'red', not the string 'blue'"),
        (int | str, {"ge": 1}, "", 0, "must be at least 1, not 0"),
        (int | None, {"ge": 1}, None, 0, "must be at least 1, not 0"),
        (str | None, {"choices": ["a"]}, None, "b", "must be one of 'a', not the string 'b'"),
    ],
)
def test_rules_hold(tp: Any, rules: dict[str, Any], good: Any, bad: Any, message: str) -> None:
    make(tp, InputField(**rules)).structure({"x": good}, {})
    assert fault(tp, bad, InputField(**rules)) == message


def test_defaults_are_what_the_annotation_says() -> None:
    class Model:
        @event
        def draw(
            self, size: float = 2, color: Color = Color.BLUE, tags: tuple[str, ...] = ("a",)
        ) -> None: ...

    payload = read_declarations(Model).events["draw"].structure({}, {})
    assert (payload.size, payload.color, payload.tags) == (2.0, Color.BLUE, ("a",))
    assert type(payload.size) is float


def test_rules_hold_in_the_authors_own_classes() -> None:
    assert errors(make(list[Ruled]), {"x": [{"width": 0, "weight": -1}, {}]}) == {
        "x[0].width": "must be at least 1, not 0",
        "x[0].weight": "must be greater than 0, not -1",
        "x[1].width": "is required",
    }


def test_an_authors_validator_speaks_at_the_objects_path() -> None:
    assert errors(make(dict[str, list[Even]]), {"x": {"a": [{"number": 2}, {"number": 3}]}}) == {
        "x.a[1]": "3 is odd"
    }


def test_no_member_of_a_union_fits() -> None:
    assert fault(Box | Even, {}) == (
        "must be an object that is a Box or an object that is a Even, not an object"
    )


FILE = UploadedFile("a.png", "image/png", 3, b"\x89PN")
PENDING = PendingUpload("p", "b.png", "image/png", 30)
FILES = {"f": FILE, "p": PENDING}


def ref(upload_id: str) -> dict[str, str]:
    return {"upload_id": upload_id}


def refusal(spec: EventSpec, data: Any) -> InvalidPayload:
    with pytest.raises(InvalidPayload) as caught:
        spec.structure(data, FILES)
    return caught.value


def test_an_upload_is_the_file_itself() -> None:
    assert make(UploadedFile).structure({"x": ref("f")}, FILES).x is FILE
    assert make(UploadedFile | None).structure({"x": None}, FILES).x is None
    assert make(list[UploadedFile]).structure({"x": [ref("f")]}, FILES).x == [FILE]
    assert make(Styled).structure({"x": {"image": ref("f")}}, FILES).x == Styled(FILE)
    assert make(UploadedFile | Box).structure({"x": {"width": 1}}, FILES).x == Box(1)
    assert "PN" not in repr(FILE)


def test_an_upload_that_is_still_arriving_is_waited_for() -> None:
    for tp, value in (
        (UploadedFile, ref("p")),
        (UploadedFile | Box, ref("p")),
        (list[Styled], [{"image": ref("p")}, {"image": ref("f")}, {"image": ref("p")}]),
    ):
        with pytest.raises(PendingUploads) as caught:
            make(tp).structure({"x": value}, FILES)
        assert caught.value.upload_ids == ("p",)


def test_other_faults_come_before_an_upload_that_is_still_arriving() -> None:
    error = refusal(make(list[Styled]), {"x": [{"image": ref("p")}, {"image": ref("f"), "strength": "1"}]})
    assert [each.path for each in error.errors] == ["x[1].strength"]
    assert error.code == "invalid_payload"


def test_faults_of_uploads_have_their_own_codes() -> None:
    rules = InputField(max_size=10, mime_types=["image/png", "VIDEO/*"])
    assert refusal(make(UploadedFile), {"x": ref("?")}).code == "unresolved_upload"
    too_large = refusal(make(UploadedFile | None, rules), {"x": ref("p")})
    assert too_large.code == "upload_too_large"
    assert str(too_large) == "upload_too_large: x: must be a file of at most 10 bytes, not 30"
    wrong = refusal(make(UploadedFile, InputField(mime_types="video/*")), {"x": ref("p")})
    assert wrong.code == "upload_type"
    assert str(wrong) == "upload_type: x: must be a file of type video/*, not the string 'image/png'"
    mixed = refusal(make(list[UploadedFile], rules), {"x": [ref("p"), ref("?"), ref("f")]})
    assert mixed.code == "invalid_payload"
    assert [error.path for error in mixed.errors] == ["x[0]", "x[1]"]


def test_the_files_of_one_payload_are_forgotten_with_it() -> None:
    spec = make(UploadedFile)
    spec.structure({"x": ref("f")}, FILES)
    assert refusal(make(UploadedFile), {"x": ref("gone")}).code == "unresolved_upload"
    with pytest.raises(InvalidPayload):
        spec.structure({"x": ref("f")}, {})


def test_mime_parameters_and_case_do_not_matter() -> None:
    file = UploadedFile("a", "Text/Plain; charset=utf-8", 1, b"a")
    spec = make(UploadedFile, InputField(mime_types=["text/plain"]))
    assert spec.structure({"x": ref("a")}, {"a": file}).x is file


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.sampled_from(["x", "width", "title", "boxes", "upload_id", "number", "children", "name", "color"])
LIKELY = st.recursive(
    st.none() | st.sampled_from([1, "red", True, 2.0, "f"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)

# Types, each with a strategy for its values.
TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**53), 2**53)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, st.text(st.characters(exclude_categories=("Cs",)))),
    (bool, st.booleans()),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Literal["a", 2, None], st.sampled_from(["a", 2, None])),
    (Box, st.builds(Box, st.integers(-9, 9), st.integers(-9, 9))),
]


def extend(
    inner: tuple[Any, st.SearchStrategy[Any]],
) -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    tp, values = inner
    keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=4)
    return st.sampled_from(
        [
            (list[tp], st.lists(values, max_size=4)),
            (dict[str, tp], st.dictionaries(keys, values, max_size=4)),
            (tuple[tp, ...], st.lists(values, max_size=4).map(tuple)),
            (tuple[tp, int], st.tuples(values, st.integers(-9, 9))),
            (tp | None, st.none() | values),
        ]
    )


TYPED = st.recursive(st.sampled_from(TYPES), lambda types: types.flatmap(extend), max_leaves=3)


def plain(value: Any) -> Any:
    return attrs.asdict(value) if attrs.has(type(value)) else value


@given(st.data())
def test_values_survive_the_way_through_json(data: st.DataObject) -> None:
    tp, values = data.draw(TYPED)
    value = data.draw(values)
    text = orjson.dumps({"x": value}, default=plain)
    assert make(tp).structure(orjson.loads(text), {}).x == value


UNIONS = st.sampled_from(
    [
        Scene,
        Tree,
        Ruled,
        Strange,
        Styled,
        Crash,
        UploadedFile | None,
        Box | Even | UploadedFile | None,
        list[int | str | Box] | dict[str, float] | bool,
        tuple[Any, Level] | Literal["red", 1],
    ]
)
make_once = functools.cache(make)


@given(UNIONS, JSON | LIKELY, JSON | LIKELY)
def test_no_json_raises_anything_but_what_is_documented(tp: Any, value: Any, other: Any) -> None:
    spec = make_once(tp)
    payload = {"x": value, **(other if isinstance(other, dict) else {})}
    with contextlib.suppress(InvalidPayload, PendingUploads):
        spec.structure(payload, FILES)


@given(UNIONS, LIKELY)
def test_a_refusal_says_something_about_the_payload(tp: Any, value: Any) -> None:
    try:
        make_once(tp).structure({"x": value}, FILES)
    except InvalidPayload as exc:
        found = exc.errors
    except PendingUploads as exc:
        found = exc.upload_ids
    else:
        return
    assert found == ("p",) or all(error.path.startswith("x") and len(error.message) < 600 for error in found)
