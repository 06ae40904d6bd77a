"""Unions: the member that fits is found without trying all, and the cost grows only with the payload."""

from __future__ import annotations

import enum
import functools
import gc
import sys
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.contract.events import EventSpec, PendingUpload, PendingUploads, read_declarations
from reactor_trio.declare.decorators import event
from reactor_trio.declare.fields import InputField
from reactor_trio.declare.uploaded_file import UploadedFile
from reactor_trio.errors import InvalidPayload


class Kind(enum.Enum):
    LINE = "line"
    ARC = "arc"


@dataclass
class Circle:
    kind: Literal["circle"]
    r: float


@dataclass
class Rect:
    kind: Literal["rect", "square"]
    w: float
    h: float = 1.0


@attrs.define
class Line:
    kind: Literal[Kind.LINE]
    length: int


@dataclass
class Chosen:
    kind: str = InputField(choices=["chosen"])
    note: str = ""


@dataclass
class Tree:
    v: int | Tree | Other | None = None


@dataclass
class Other:
    v: Tree | Other | int | None = None


@dataclass
class Named:
    name: str
    size: int


@attrs.define
class Sized:
    size: int
    weight: float = 0.0


@attrs.define
class Twin:
    name: str
    size: int


@dataclass
class Nest:
    inner: list[Nest | Sized] | Named | Twin | dict[str, Nest] = field(default_factory=list)


SHAPES = Circle | Rect | Line | Chosen
ALL = (Circle, Rect, Line, Tree, Other, Named, Sized, Twin, Nest)


def make(tp: Any) -> EventSpec:
    return make_once(str(tp), tp)


@functools.lru_cache(maxsize=1000)
def make_once(_text: str, tp: Any) -> EventSpec:  # by text, since `A | B` equals `B | A`
    def handler(self: Any, x: Any) -> None: ...

    handler.__annotations__["x"] = tp
    return read_declarations(type("Model", (), {"handler": event(handler)})).events["handler"]


def fit(tp: Any, value: Any, files: Any = None) -> Any:
    return make(tp).structure({"x": value}, files or {}).x


def errors(tp: Any, value: Any) -> dict[str, str]:
    with pytest.raises(InvalidPayload) as caught:
        fit(tp, value)
    return {error.path: error.message for error in caught.value.errors}


# ---- the class is chosen by the object's tag, or by its keys


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"kind": "circle", "r": 1}, Circle("circle", 1.0)),
        ({"kind": "square", "w": 1}, Rect("square", 1.0)),
        ({"kind": "line", "length": 3}, Line(Kind.LINE, 3)),
        ({"kind": "chosen"}, Chosen("chosen", "")),
    ],
)
def test_a_tag_chooses_the_class(value: Any, expected: Any) -> None:
    assert fit(SHAPES, value) == expected
    assert fit(list[SHAPES], [value, value]) == [expected, expected]


def test_all_faults_of_the_chosen_class_are_listed() -> None:
    assert errors(list[SHAPES], [{"kind": "circle", "r": 1}, {"kind": "rect", "w": "1", "r": 2}]) == {
        "x[1].w": "must be a number, not the string '1'",
        "x[1].r": "is not a field of Rect; it has: kind, w, h",
    }
    assert errors(SHAPES, {"kind": "line"}) == {"x.length": "is required"}


def test_a_tag_of_no_class_is_the_fault() -> None:
    expected = "must be one of 'circle', 'rect', 'square', 'line', 'chosen', not the string 'oval'"
    assert errors(SHAPES, {"kind": "oval", "r": 1, "more": 2}) == {"x.kind": expected}
    assert list(errors(SHAPES, {"kind": ["circle"]})) == ["x.kind"]


def test_without_a_tag_the_keys_choose() -> None:
    assert fit(Named | Sized, {"size": 1}) == Sized(1)
    assert fit(Named | Sized, {"size": 1, "name": "a"}) == Named("a", 1)
    assert errors(Named | Sized, {"size": "1", "weight": None}) == {
        "x.size": "must be an integer, not the string '1'",
        "x.weight": "must be a number, not null",
    }


def test_of_classes_that_all_fit_by_their_keys_the_first_that_fits_is_taken() -> None:
    assert fit(Named | Twin, {"name": "a", "size": 1}) == Named("a", 1)
    assert fit(Twin | Named, {"name": "a", "size": 1}) == Twin("a", 1)
    assert errors(Twin | Named, {"name": 1, "size": 1}) == {"x.name": "must be a string, not 1"}


def test_where_no_class_fits_the_most_similar_one_says_why() -> None:
    assert errors(Named | Sized, {"name": "a", "sise": 1}) == {
        "x.size": "is required",
        "x.sise": "is not a field of Named; it has: name, size",
    }
    assert errors(Named | Sized, {"else": 1}) == {
        "x": "must be an object that is a Named or an object that is a Sized, not an object"
    }


def test_lists_of_several_kinds() -> None:
    tp = list[int] | list[str] | tuple[int, str]
    assert fit(tp, [1, 2]) == [1, 2]
    assert fit(tp, ["a"]) == ["a"]
    assert fit(tp, [1, "a"]) == (1, "a")
    assert errors(tp, [1, 2, None]) == {"x[2]": "must be an integer, not null"}
    assert errors(tp, ["a", "b", None]) == {"x[2]": "must be a string, not null"}


def test_a_class_beside_a_dict_or_an_upload() -> None:
    assert fit(Sized | dict[str, int], {"size": 1}) == Sized(1)
    assert fit(Sized | dict[str, int], {"sizes": 1}) == {"sizes": 1}
    assert errors(Sized | dict[str, int], {"size": "a"}) == {
        "x.size": "must be an integer, not the string 'a'"
    }
    pending = {"u": PendingUpload("u", "a.png", "image/png", 9)}
    with pytest.raises(PendingUploads):
        fit(UploadedFile | Sized, {"upload_id": "u"}, pending)
    with pytest.raises(PendingUploads):
        fit(UploadedFile | dict[str, int], {"upload_id": "u"}, pending)
    assert fit(UploadedFile | dict[str, str], {"upload_id": "u"}, pending) == {"upload_id": "u"}
    assert fit(UploadedFile | Sized, {"size": 2}, pending) == Sized(2)


# ---- the same values fit as when each member is tried in turn


class NoFit(Exception):
    """The naive structuring does not accept the value."""


def naive(tp: Any, value: Any) -> Any:
    """Try each member of a union in turn: slow, and plainly right."""
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if tp in (int, float, str, bool, None, type(None)) or origin is Literal or isinstance(tp, enum.EnumMeta):
        return naive_scalar(tp, value)
    if origin in (list, tuple, dict):
        if not isinstance(value, dict if origin is dict else list):
            raise NoFit
        if origin is dict:
            return {key: naive(args[1], each) for key, each in value.items()}
        kinds = args if origin is tuple else args * len(value)
        if len(kinds) != len(value):
            raise NoFit
        return origin(naive(kind, each) for kind, each in zip(kinds, value, strict=True))
    if isinstance(tp, type):
        return naive_record(tp, value)
    # A number is first tried as the member of its own type, then as others to which it would be converted.
    for member in sorted(args, key=lambda each: each is not type(value)) if is_number(value) else args:
        try:
            return naive(member, value)
        except NoFit:
            continue
    raise NoFit


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def naive_scalar(tp: Any, value: Any) -> Any:
    try:
        return make(tp).structure({"x": value}, {}).x  # tested by itself, in test_structure.py
    except InvalidPayload:
        raise NoFit from None


def naive_record(cls: type, value: Any) -> Any:
    if not isinstance(value, dict):
        raise NoFit
    hints = typing.get_type_hints(cls)
    known = attrs.fields(cls) if attrs.has(cls) else fields(cls)
    if not value.keys() <= {each.name for each in known}:
        raise NoFit
    try:
        return cls(**{name: naive(hints[name], each) for name, each in value.items()})
    except TypeError:  # a required field is missing
        raise NoFit from None


SCALARS = [int, float, str, bool, None, Literal["a", 1], Literal[1.5, True], Kind]


def extend(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        inner.map(lambda tp: list[tp]),
        inner.map(lambda tp: dict[str, tp]),
        st.tuples(inner, inner).map(lambda two: tuple[two]),
        st.lists(inner, min_size=2, max_size=4).map(lambda several: typing.Union[tuple(several)]),  # noqa: UP007
    )


RANDOM_TYPES = st.recursive(st.sampled_from([*SCALARS, *ALL, *ALL]), extend, max_leaves=5)
KEYS = st.sampled_from(["kind", "r", "w", "h", "length", "v", "name", "size", "weight", "inner"])
RANDOM_JSON = st.recursive(
    st.sampled_from([None, True, 1, 2.0, 2.5, "a", "circle", "rect", "square", "line", "arc"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


def deferred(tp: Any, depth: int) -> st.SearchStrategy[Any]:
    return st.deferred(lambda: likely(tp, depth - 1))


def likely(tp: Any, depth: int = 4) -> st.SearchStrategy[Any]:
    """JSON that is close to a type: it often fits, or its fault is deep inside."""
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if depth == 0 or tp in (None, type(None)):
        return RANDOM_JSON
    if tp in (int, float, str, bool):
        return st.sampled_from([1, 2.0, 2.5, "a", True, None])
    if origin is Literal or isinstance(tp, enum.EnumMeta):
        values = [getattr(each, "value", each) for each in (args if origin is Literal else tp)]
        return st.sampled_from([*values, "b"])
    if origin is list:
        return st.lists(deferred(args[0], depth), max_size=3)
    if origin is tuple:
        return st.tuples(*(likely(each, depth - 1) for each in args)).map(list)
    if origin is dict:
        return st.dictionaries(KEYS, deferred(args[1], depth), max_size=2)
    if isinstance(tp, type):
        hints = typing.get_type_hints(tp)
        inner = {name: deferred(hint, depth) for name, hint in hints.items()}
        return st.fixed_dictionaries({}, optional=inner) | st.fixed_dictionaries(inner)
    return st.one_of(*(deferred(each, depth) for each in args))


@given(st.data())
def test_what_fits_is_what_trying_each_member_in_turn_would_accept(data: st.DataObject) -> None:
    tp = data.draw(RANDOM_TYPES)
    value = data.draw(likely(tp) | RANDOM_JSON)
    try:
        expected = naive(tp, value)
    except NoFit:
        found = errors(tp, value)
        assert all(path.startswith("x") for path in found)
        return
    result = fit(tp, value)
    assert result == expected
    assert repr(result) == repr(expected)  # `==` does not tell 1 from 1.0, also in lists


# ---- the cost


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """Counts calls of Python functions: a measure of work that does not depend on the machine's load."""
    calls = [0]

    def profile(_frame: Any, what: str, _arg: Any) -> None:
        calls[0] += what == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def work(tp: Any, value: Any) -> int:
    spec = make(tp)
    with counted_calls() as calls:
        with suppress(InvalidPayload):
            spec.structure({"x": value}, {})
    return calls[0]


def count_values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count_values, inner))


def chain(depth: int, leaf: Any, key: str = "v") -> Any:
    for _ in range(depth):
        leaf = {key: leaf}
    return leaf


CALLS_FOR_EACH_VALUE = 150
"""A few calls for each member that is tried; a cost of 2 ** depth exceeds the bound at depths 16 and 64."""


@pytest.mark.parametrize("leaf", [3, "bad", None, {"w": 1}, []])
@pytest.mark.parametrize("depth", [4, 16, 64])
def test_a_recursive_union_costs_what_its_payload_is_long(depth: int, leaf: Any) -> None:
    value = chain(depth, leaf)
    assert work(Tree | Other, value) <= CALLS_FOR_EACH_VALUE * count_values(value)
    nested = value
    for _ in range(5):
        nested = {"inner": [nested, {"inner": {"name": "a", "size": "1"}}]}
    assert work(Nest, nested) <= CALLS_FOR_EACH_VALUE * count_values(nested)


@given(st.data())
def test_any_type_costs_what_its_payload_is_long(data: st.DataObject) -> None:
    tp = data.draw(st.sampled_from([Tree | Other, Nest, list[Nest | Tree | Named | Twin], SHAPES | Nest]))
    value = data.draw(likely(tp, 7))
    assert work(tp, value) <= CALLS_FOR_EACH_VALUE * count_values(value)


def test_a_long_list_of_a_union_costs_little_for_each_item() -> None:
    items = [{"kind": "chosen", "note": "n"}] * 1000
    assert work(list[SHAPES], items) < 15 * 1000
    assert work(list[SHAPES], [*items, {}]) < 15 * 1000
    assert work(list[Named | Twin], [{"name": 1, "size": 1}] * 1000) < 30 * 1000


def test_a_value_that_is_tried_in_vain_is_not_tried_for_each_level_above_it() -> None:
    made = []

    @dataclass
    class Leaf:
        n: int

        def __post_init__(self) -> None:
            made.append(self.n)
            raise ValueError("no leaf is good")

    @dataclass
    class One:
        next: One | Two | Leaf

    @dataclass
    class Two:
        next: Two | One | Leaf

    value: Any = {"n": 1}
    for _ in range(12):
        value = {"next": value}
    assert errors(One | Two, value) == {"x" + ".next" * 12: "no leaf is good"}
    assert len(made) <= 2  # once for each class that may hold the leaf, at any depth


@pytest.mark.parametrize(
    ("tp", "value"),
    [
        (list[Twin | Named], [{"name": "a", "size": 1}, {"name": 1, "size": "b"}] * 20),
        (list[Tree | Other], [chain(5, 1), chain(5, "bad")] * 20),
        (list[SHAPES], [{"kind": "circle", "r": "1"}, {"kind": "oval"}, 7, {}] * 20),
        (Nest, {"inner": [{"inner": {"name": 1}}, {"size": "x"}, {"else": 1}] * 20}),
    ],
)
def test_what_was_tried_and_what_was_wrong_leaves_no_circles_behind(tp: Any, value: Any) -> None:
    spec = make(tp)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            with suppress(InvalidPayload):
                spec.structure({"x": value}, {})
        assert gc.collect() < 20
    finally:
        gc.enable()
