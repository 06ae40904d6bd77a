"""Hooks: each takes a JSON value and gives what a handler gets, or raises `Misfit`. None converts.

They are called as cattrs calls its hooks, with a type behind the value that none looks at.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cattrs.errors import BaseValidationError

from reactor_trio.contract.faults import Misfit, StillArriving, listed, plainly, shown
from reactor_trio.contract.types import (
    MAX_SAFE_INTEGER,
    NoneType,
    is_enum,
    is_list,
    is_literal,
    is_record,
    is_tuple,
    is_union,
    json_key,
    literal_values,
    upload_rule,
    wire_value,
)

if TYPE_CHECKING:
    from reactor_trio.contract.constraints import Check

Hook: TypeAlias = Callable[[Any, Any], Any]
Collect: TypeAlias = Callable[[Iterable[tuple[str | int, Any, Hook]]], list[Any]]
"""Calls hooks on the items of a collection, given as key, value, hook."""

ALL_JSON: Final[frozenset[type]] = frozenset((str, int, float, bool, NoneType, list, dict))
_NUMBERS: Final[frozenset[type]] = frozenset((int, float))


def checked(hook: Hook, checks: tuple[Check, ...]) -> Hook:
    if not checks:
        return hook

    def structure(value: Any, _: Any) -> Any:
        fitting = hook(value, None)
        if fitting is not None:
            for check in checks:
                check(fitting)
        return fitting

    return structure


def collect_fast(pairs: Iterable[tuple[str | int, Any, Hook]]) -> list[Any]:
    return [hook(value, None) for _, value, hook in pairs]


def list_hook(item: Hook, collect: Collect) -> Hook:
    def structure(value: Any, _: Any) -> list[Any]:
        if value.__class__ is not list:
            raise Misfit(f"must be a list, not {shown(value)}")
        return collect((index, each, item) for index, each in enumerate(value))

    return structure


def tuple_hook(items: list[Hook], collect: Collect) -> Hook:
    wanted = f"a list of {len(items)} item{'' if len(items) == 1 else 's'}"

    def structure(value: Any, _: Any) -> tuple[Any, ...]:
        if value.__class__ is not list:
            raise Misfit(f"must be {wanted}, not {shown(value)}")
        if len(value) != len(items):
            raise Misfit(f"must be {wanted}, not of {len(value)}")
        return tuple(collect(zip(range(len(items)), value, items, strict=True)))

    return structure


def dict_hook(item: Hook, collect: Collect) -> Hook:
    def structure(value: Any, _: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Misfit(f"must be an object, not {shown(value)}")
        return dict(zip(value, collect((key, each, item) for key, each in value.items()), strict=True))

    return structure


def union_hook(hooks: dict[type, list[Hook]], described: str) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        candidates = hooks.get(value.__class__, ())
        if len(candidates) == 1:
            return candidates[0](value, None)
        pending = None
        for candidate in candidates:
            try:
                return candidate(value, None)
            except Exception as exc:
                if pending is None and only_pending(exc):
                    pending = exc
        if pending is not None:
            raise pending
        raise Misfit(f"must be {described}, not {shown(value)}")

    return structure


def values_hook(tp: Any) -> Hook:
    values = {json_key(wire_value(value)): value for value in literal_values(tp)}
    words = [plainly(wire_value(value)) for value in literal_values(tp)]
    wanted = f"one of {listed(words)}" if len(words) > 1 else words[0]

    def structure(value: Any, _: Any) -> Any:
        try:
            return values[json_key(value)]
        except (KeyError, TypeError):  # A list has no hash.
            raise Misfit(f"must be {wanted}, not {shown(value)}") from None

    return structure


def _structure_int(value: Any, _: Any) -> int:
    if value.__class__ is float:
        if not value.is_integer():
            raise Misfit(f"must be an integer, not {_shown_float(value)}")
        value = int(value)
    elif value.__class__ is not int:
        raise Misfit(f"must be an integer, not {shown(value)}")
    if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        raise Misfit("must be between -2^53 and 2^53")
    return int(value)


def _structure_float(value: Any, _: Any) -> float:
    if value.__class__ is int:
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            raise Misfit("must not be an integer beyond ±2^53")
        return float(value)
    if value.__class__ is not float:
        raise Misfit(f"must be a number, not {shown(value)}")
    if not math.isfinite(value):
        raise Misfit(f"must be a finite number, not {_shown_float(value)}")
    return value


def _structure_str(value: Any, _: Any) -> str:
    if value.__class__ is not str:
        raise Misfit(f"must be a string, not {shown(value)}")
    return value


def _structure_bool(value: Any, _: Any) -> bool:
    if value.__class__ is not bool:
        raise Misfit(f"must be true or false, not {shown(value)}")
    return value


def _structure_none(value: Any, _: Any) -> None:
    if value is not None:
        raise Misfit(f"must be null, not {shown(value)}")


def _structure_any(value: Any, _: Any) -> Any:
    # Without recursion: JSON may be nested deeper than Python's stack.
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if each.__class__ is dict:
            waiting.extend(each.values())
        elif each.__class__ is list:
            waiting.extend(each)
        elif each.__class__ is float:
            if not math.isfinite(each):
                raise Misfit(f"must hold finite numbers, not {_shown_float(each)}")
        elif each.__class__ is int:
            if not -MAX_SAFE_INTEGER <= each <= MAX_SAFE_INTEGER:
                raise Misfit("must hold no integer beyond ±2^53")
        elif each.__class__ not in ALL_JSON:
            raise Misfit(f"must be JSON, not {shown(each)}")
    return value


SIMPLE: Final[dict[Any, Hook]] = {
    int: _structure_int,
    float: _structure_float,
    str: _structure_str,
    bool: _structure_bool,
    NoneType: _structure_none,
    Any: _structure_any,
}


def _shown_float(value: float) -> str:
    return _NOT_FINITE.get(str(value)) or repr(value)


_NOT_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def only_pending(error: BaseException) -> bool:
    if isinstance(error, BaseValidationError):
        return all(map(only_pending, error.exceptions))
    return isinstance(error, StillArriving)


def exact_first(hooks: list[tuple[Any, Hook]], kind: type) -> list[tuple[Any, Hook]]:
    # So that 1.0 stays a float in `int | float`; otherwise the order is the author's.
    return sorted(hooks, key=lambda pair: pair[0] is not kind) if kind in _NUMBERS else hooks


def json_types(tp: Any) -> frozenset[type]:
    """Python's types of the JSON values that may fit."""
    if tp is Any:
        return ALL_JSON
    if is_union(tp):
        return frozenset().union(*map(json_types, typing.get_args(tp)))
    if is_literal(tp) or is_enum(tp):
        return frozenset().union(*(_with_numbers(type(wire_value(value))) for value in literal_values(tp)))
    if is_list(tp) or is_tuple(tp):
        return frozenset((list,))
    return _with_numbers(tp) if tp in ALL_JSON else frozenset((dict,))


def _with_numbers(kind: type) -> frozenset[type]:
    for each in (bool, int, float, str):
        if issubclass(kind, each):
            return _NUMBERS if each in _NUMBERS else frozenset((each,))
    return frozenset((kind,))


def describe(tp: Any) -> str:
    """What a member of a union is called in an error."""
    if is_literal(tp) or is_enum(tp):
        return listed([plainly(wire_value(value)) for value in literal_values(tp)])
    if is_list(tp) or is_tuple(tp):
        return "a list"
    if upload_rule(tp) is not None:
        return 'an upload ({"upload_id": "..."})'
    if is_record(tp):
        return f"an object that is a {tp.__name__}"
    return _DESCRIBED.get(tp, "an object")


_DESCRIBED: Final[dict[Any, str]] = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    NoneType: "null",
    Any: "anything",
}
