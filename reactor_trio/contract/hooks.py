"""Hooks: functions that take a JSON value, and return the value for a handler or raise its faults.

They are strict: no hook converts a value of another type. cattrs calls them with a type behind the value,
which they ignore. One walk over a payload makes the values and collects the faults; a hook that finds a fault
goes on with the next item, and no value is looked at twice. A fault is a `Misfit`, a `StillArriving`, or any
error of an author's class. The faults inside an object or a list are raised in the groups of cattrs.
"""

from __future__ import annotations

import math
from itertools import repeat
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from reactor_trio.contract.faults import Findings, Misfit, listed, plainly, shown
from reactor_trio.contract.json_values import ALL_JSON, MAX_SAFE_INTEGER, json_key, wire_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reactor_trio.contract.constraints import Check

Hook: TypeAlias = "Callable[[Any, Any], Any]"


def checked(hook: Hook, checks: tuple[Check, ...]) -> Hook:
    """The hook, followed by the checks of an `InputField`."""
    if not checks:
        return hook

    def structure(value: Any, _: Any) -> Any:
        fitting = hook(value, None)
        if fitting is not None:
            for check in checks:
                check(fitting)
        return fitting

    return structure


def list_hook(item: Hook) -> Hook:
    """The hook of a list, from the hook of its items."""
    is_plain = _PLAIN.get(item)

    def structure(value: Any, _: Any) -> list[Any]:
        if value.__class__ is not list:
            raise Misfit(f"must be a list, not {shown(value)}")
        if is_plain is not None and is_plain(value):
            return list(value)
        return _items(value, repeat(item))

    return structure


def tuple_hook(items: list[Hook]) -> Hook:
    """The hook of a tuple of fixed length, from the hooks of its items."""
    wanted = f"a list of {len(items)} item{'' if len(items) == 1 else 's'}"

    def structure(value: Any, _: Any) -> tuple[Any, ...]:
        if value.__class__ is not list:
            raise Misfit(f"must be {wanted}, not {shown(value)}")
        if len(value) != len(items):
            raise Misfit(f"must be {wanted}, not of {len(value)}")
        return tuple(_items(value, items))

    return structure


def _items(values: list[Any], hooks: Iterable[Hook]) -> list[Any]:
    fitting: list[Any] = []
    found: Findings | None = None
    for each, hook in zip(values, hooks, strict=False):  # the hook of a list is repeated for ever
        try:
            fitting.append(hook(each, None))
        except Exception as error:
            found = found or Findings()
            found.add(len(fitting), error)
            fitting.append(None)
            if found.is_enough:
                break
    if found is None:
        return fitting
    raise found.error(is_partial=len(fitting) < len(values))


def dict_hook(item: Hook) -> Hook:
    """The hook of a dict, from the hook of its values."""

    def structure(value: Any, _: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Misfit(f"must be an object, not {shown(value)}")
        fitting: dict[str, Any] = {}
        found: Findings | None = None
        key: Any = None
        for key, each in value.items():
            try:
                fitting[key] = item(each, None)
            except Exception as error:
                found = found or Findings()
                found.add(key, error)
                if found.is_enough:
                    break
        if found is None:
            return fitting
        raise found.error(is_partial=key != next(reversed(value)))

    return structure


def values_hook(members: tuple[Any, ...]) -> Hook:
    """The hook of a `Literal` or an `Enum`, from its members."""
    values: dict[tuple[str, Any] | None, Any] = {json_key(wire_value(value)): value for value in members}
    words = [plainly(wire_value(value)) for value in members]
    wanted = f"one of {listed(words)}" if len(words) > 1 else words[0]

    def structure(value: Any, _: Any) -> Any:
        # A list has no hash.
        key = None if value.__class__ in (list, dict) else json_key(value)
        if key not in values:
            raise Misfit(f"must be {wanted}, not {shown(value)}")
        return values[key]

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


def structure_any(value: Any, _: Any) -> Any:
    """The hook of `Any`."""
    # Level by level, not by recursion, and all values of a kind at once: a megabyte of JSON may hold 350,000
    # lists.
    level = [value]
    while level:
        kinds = set(map(type, level))
        if not kinds <= ALL_JSON:
            odd = next(each for each in level if type(each) not in ALL_JSON)
            raise Misfit(f"must be JSON, not {shown(odd)}")
        if float in kinds:
            _check_finite([each for each in level if type(each) is float])
        if int in kinds:
            _check_safe([each for each in level if type(each) is int])
        inner = [item for each in level if type(each) is list for item in each] if list in kinds else []
        if dict in kinds:
            inner += [item for each in level if type(each) is dict for item in each.values()]
        level = inner
    return value


def _check_finite(numbers: list[float]) -> None:
    if not all(map(math.isfinite, numbers)):
        odd = next(each for each in numbers if not math.isfinite(each))
        raise Misfit(f"must hold finite numbers, not {_shown_float(odd)}")


def _check_safe(numbers: list[int]) -> None:
    if not -MAX_SAFE_INTEGER <= min(numbers) <= max(numbers) <= MAX_SAFE_INTEGER:
        raise Misfit("must hold no integer beyond ±2^53")


_SCALARS: Final[dict[type, Hook]] = {
    int: _structure_int,
    float: _structure_float,
    str: _structure_str,
    bool: _structure_bool,
    NoneType: _structure_none,
}


def scalar_hook(tp: type) -> Hook:
    """The hook of a scalar type that clients can send."""
    return _SCALARS[tp]


def _only(kind: type) -> Callable[[list[Any]], bool]:
    def only(values: list[Any]) -> bool:
        return set(map(type, values)) <= {kind}

    return only


def _safe_integers(values: list[Any]) -> bool:
    if not _ONLY_INTEGERS(values):
        return False
    return not values or -MAX_SAFE_INTEGER <= min(values) <= max(values) <= MAX_SAFE_INTEGER


def _finite_numbers(values: list[Any]) -> bool:
    return _ONLY_NUMBERS(values) and all(map(math.isfinite, values))


_ONLY_INTEGERS: Final = _only(int)
_ONLY_NUMBERS: Final = _only(float)
_PLAIN: Final[dict[Hook, Callable[[list[Any]], bool]]] = {
    _structure_int: _safe_integers,
    _structure_float: _finite_numbers,
    _structure_str: _only(str),
    _structure_bool: _only(bool),
}
"""By hook: a function that checks all items of a list at once. It is faster than the hook."""


def _shown_float(value: float) -> str:
    return _NOT_FINITE.get(str(value)) or repr(value)


_NOT_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
