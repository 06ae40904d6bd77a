"""The rules of an `InputField`: whether they apply to a type, and the checks that they become."""

from __future__ import annotations

import math
import operator
import re
import typing
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from reactor_trio.contract.faults import (
    UPLOAD_TOO_LARGE,
    UPLOAD_TYPE,
    Misfit,
    listed,
    plainly,
    shown,
)
from reactor_trio.contract.patterns import BadPattern, compile_pattern
from reactor_trio.contract.types import (
    RecordField,
    UploadRule,
    is_dict,
    is_enum,
    is_list,
    is_literal,
    is_record,
    is_tuple,
    is_union,
    item_of,
    items_of,
    json_key,
    literal_values,
    record_fields,
    upload_rule,
    value_of,
    wire_value,
)
from reactor_trio.declare.hints import name_of
from reactor_trio.declare.uploaded_file import UploadedFile
from reactor_trio.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reactor_trio.declare.fields import InputFieldInfo

Check: TypeAlias = Callable[[Any], None]
"""Raises `Misfit` if the value, which has the field's type and is not None, breaks a rule."""

_BOUNDS: Final = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "greater than"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "less than"),
}
_MIME_PATTERN: Final = re.compile(r"[^/\s*]+/(\*|[^/\s*]+)|\*/\*")


class BadRule(Exception):  # it becomes a TypeError that says where
    """A rule that cannot be obeyed, or does not apply to the type of its field."""


def compile_checks(info: InputFieldInfo, tp: Any) -> tuple[Check, ...]:
    """The checks for a value of type `tp`, apart from those of uploads. Raises `BadRule`."""
    _applies(info, tp)
    checks: list[Check] = [_bound(name, limit) for name, limit in _bounds(info)]
    if info.min_length is not None or info.max_length is not None:
        checks.append(_length(info.min_length, info.max_length))
    if info.pattern is not None:
        checks.append(_pattern(info.pattern))
    if info.choices is not None:
        checks.append(_choices(info.choices, tp))
    return tuple(checks)


def ruled_type(tp: Any, info: InputFieldInfo) -> Any:
    """The type with `max_size` and `mime_types` attached to each `UploadedFile` in it. Raises `BadRule`."""
    if info.max_size is None and info.mime_types is None:
        return tp
    _check_count("max_size", info.max_size)
    rule = UploadRule(info.max_size, mime_patterns(info.mime_types))
    ruled = _with_rule(tp, rule)
    if ruled == tp:
        raise BadRule(f"max_size and mime_types are for an UploadedFile, not for {name_of(tp)}")
    return ruled


def mime_patterns(patterns: Any) -> tuple[str, ...]:
    """The patterns in lower case; one may stand alone. Raises `BadRule`."""
    if patterns is None:
        return ()
    found = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in found:
        if not isinstance(pattern, str) or not _MIME_PATTERN.fullmatch(pattern):
            raise BadRule(f"{pattern!r} is no MIME type and no pattern such as 'image/*'")
    if not found:
        raise BadRule("mime_types is empty, so no file would be accepted")
    return tuple(pattern.lower() for pattern in found)


def check_upload(rule: UploadRule, size: int, mime_type: str) -> None:
    """Raises `Misfit`. Only what was announced is needed, so this comes before the bytes."""
    if rule.max_size is not None and size > rule.max_size:
        raise Misfit(f"must be a file of at most {rule.max_size} bytes, not {size}", UPLOAD_TOO_LARGE)
    if rule.mime_types and not _matches(mime_type, rule.mime_types):
        allowed = listed(list(rule.mime_types))
        raise Misfit(f"must be a file of type {allowed}, not {shown(mime_type)}", UPLOAD_TYPE)


def plain_number(value: float) -> str:
    """Without the `.0` that a client did not write."""
    return (
        repr(int(value))
        if value.__class__ is float and abs(value) < 1e15 and value.is_integer()
        else repr(value)
    )


def conform(tp: Any, value: Any) -> Any:
    """The value as a field of type `tp` holds it; for defaults and choices, so not from JSON.

    An integer becomes a float where that is the type. Raises `Misfit`.
    """
    check_message_default(value, tp)
    if tp is Any:
        return value
    _check_finite(value)
    return float(value) if tp is float else value


def check_inner_rules(tp: Any) -> None:
    """Raises `BadRule` for an `InputField` in the author's own classes that the type is made of."""
    _check_inner_rules(tp, set())


def choice_values(info: InputFieldInfo) -> list[Any]:
    """The choices as JSON has them."""
    return [wire_value(choice) for choice in info.choices]


def _check_inner_rules(tp: Any, seen: set[type]) -> None:
    for part in () if is_literal(tp) else typing.get_args(tp):
        _check_inner_rules(part, seen)
    if not is_record(tp) or tp in seen:
        return
    seen.add(tp)
    for field in record_fields(tp):
        try:
            _check_field_rules(field)
        except (BadRule, Misfit) as exc:
            raise BadRule(f"{tp.__qualname__}.{field.name}: {exc}") from exc
        _check_inner_rules(field.type, seen)


def _check_field_rules(field: RecordField) -> None:
    if field.info is None:
        return
    checks = compile_checks(field.info, field.type)
    ruled_type(field.type, field.info)
    if field.has_preset:
        check_default(field.default, field.type, checks)


def check_message_default(default: Any, tp: Any) -> None:
    """Raises `Misfit`. A message, unlike a payload, may hold NaN, which becomes null."""
    if not _is_instance(tp, default):
        remedy = f"; write {name_of(tp)} | None" if default is None else ""
        raise Misfit(f"{default!r} is no {name_of(tp)}{remedy}")


def check_default(default: Any, tp: Any, checks: tuple[Check, ...]) -> Any:
    """The default as the handler gets it. Raises `Misfit`."""
    try:
        hash(default)
    except TypeError:
        raise Misfit(
            f"{default!r} is mutable, and would be shared by all calls; write {_unshared(default, tp)}"
        ) from None
    fitting = conform(tp, default)
    if fitting is not None:
        for check in checks:
            check(fitting)
    return fitting


def _unshared(default: Any, tp: Any) -> str:
    """What to write in the place of a mutable default."""
    optional = name_of(tp) if tp is Any or is_union(tp) else f"{name_of(tp)} | None"
    if not (is_list(tp) and isinstance(default, list)):
        return f"{optional} = None"
    fixed = name_of(tuple[item_of(tp), ...]) if typing.get_args(tp) else "tuple"  # type: ignore[misc]
    return f"{fixed} = {tuple(default)!r} or {optional} = None"


def _is_instance(tp: Any, value: Any) -> bool:
    if tp is Any:
        return True
    if is_union(tp):
        return any(_is_instance(member, value) for member in typing.get_args(tp))
    if is_literal(tp):
        return any(type(value) is type(each) and value == each for each in literal_values(tp))
    if is_tuple(tp):
        return isinstance(value, tuple) and _items_fit(tp, value)
    if is_list(tp) or is_dict(tp):
        return isinstance(value, list if is_list(tp) else dict)
    if tp is int or tp is float:
        return isinstance(value, int | float if tp is float else int) and not isinstance(value, bool)
    if upload_rule(tp) is not None:
        return isinstance(value, UploadedFile)
    return value is None if tp is type(None) else isinstance(value, tp)


def _items_fit(tp: Any, value: tuple[Any, ...]) -> bool:
    kinds = items_of(tp)
    if kinds is None:
        kind = (typing.get_args(tp) or (Any,))[0]
        return all(_is_instance(kind, each) for each in value)
    return len(kinds) == len(value) and all(map(_is_instance, kinds, value))


def _check_finite(value: Any) -> None:
    if isinstance(value, tuple):
        for each in value:
            _check_finite(each)
    if isinstance(value, float) and not math.isfinite(value):
        raise Misfit(f"{value!r} has no JSON form")


def _applies(info: InputFieldInfo, tp: Any) -> None:
    members = typing.get_args(tp) if is_union(tp) else (tp,)
    for name, applies in _APPLIES.items():
        if getattr(info, name) is not None and not any(map(applies, members)):
            raise BadRule(f"{name} does not apply to {name_of(tp)}")


def _is_number(tp: Any) -> bool:
    return tp is int or tp is float


def _is_string(tp: Any) -> bool:
    return tp is str


def _has_length(tp: Any) -> bool:
    return tp is str or is_list(tp) or is_dict(tp) or (is_tuple(tp) and items_of(tp) is None)


def _is_scalar(tp: Any) -> bool:
    return tp in (int, float, str, bool) or is_literal(tp) or is_enum(tp)


_APPLIES: Final = {
    **dict.fromkeys(_BOUNDS, _is_number),
    "min_length": _has_length,
    "max_length": _has_length,
    "pattern": _is_string,
    "choices": _is_scalar,
}


def _bounds(info: InputFieldInfo) -> Iterator[tuple[str, Any]]:
    for name in _BOUNDS:
        limit = getattr(info, name)
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, int | float) or math.isnan(limit):
            raise BadRule(f"{name} is a number, not {limit!r}")
        yield name, limit
    lowest = [limit for limit in (info.ge, info.gt) if limit is not None]
    highest = [limit for limit in (info.le, info.lt) if limit is not None]
    if lowest and highest and max(lowest) > min(highest):
        raise BadRule(f"no number is at least {max(lowest)} and at most {min(highest)}")


def _bound(name: str, limit: float) -> Check:
    holds, words = _BOUNDS[name]

    def check(value: Any) -> None:
        if value.__class__ in (int, float) and not holds(value, limit):
            raise Misfit(f"must be {words} {plain_number(limit)}, not {plain_number(value)}")

    return check


def _length(least: int | None, most: int | None) -> Check:
    _check_count("min_length", least)
    _check_count("max_length", most)
    if least is not None and most is not None and least > most:
        raise BadRule(f"min_length {least} is more than max_length {most}")

    def check(value: Any) -> None:
        if not isinstance(value, str | list | tuple | dict):
            return
        unit = "character" if isinstance(value, str) else "item"
        if least is not None and len(value) < least:
            raise Misfit(f"must have at least {_counted(least, unit)}, not {len(value)}")
        if most is not None and len(value) > most:
            raise Misfit(f"must have at most {_counted(most, unit)}, not {len(value)}")

    return check


def _pattern(pattern: str) -> Check:
    if not isinstance(pattern, str):
        raise BadRule(f"pattern is a string, not {pattern!r}")
    try:
        is_found = compile_pattern(pattern)
    except BadPattern as exc:
        raise BadRule(f"the pattern {pattern!r} {exc}") from exc

    def check(value: Any) -> None:
        if isinstance(value, str) and not is_found(value):
            raise Misfit(f"must match the pattern {shorten(pattern, 200)}, not be {shown(value)}")

    return check


def _choices(choices: Any, tp: Any) -> Check:
    if isinstance(choices, str) or not isinstance(choices, Collection) or not choices:
        raise BadRule(f"choices is a list of values, not {choices!r}")
    for choice in choices:
        try:
            conform(tp, choice)
        except Misfit as exc:
            raise BadRule(f"choices: {exc}") from exc
    allowed = {json_key(choice) for choice in choices}
    words = listed([plainly(wire_value(choice)) for choice in choices])

    def check(value: Any) -> None:
        if json_key(value) not in allowed:
            raise Misfit(f"must be one of {words}, not {shown(wire_value(value))}")

    return check


def _check_count(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise BadRule(f"{name} is a number of 0 or more, not {value!r}")


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def _with_rule(tp: Any, rule: UploadRule) -> Any:
    if tp is UploadedFile:
        return typing.Annotated[UploadedFile, rule]
    if is_union(tp):
        return typing.Union[tuple(_with_rule(part, rule) for part in typing.get_args(tp))]  # noqa: UP007
    if is_list(tp) and typing.get_args(tp):
        return list[_with_rule(typing.get_args(tp)[0], rule)]  # type: ignore[misc]
    if is_tuple(tp) and typing.get_args(tp):
        return tuple[tuple(part if part is ... else _with_rule(part, rule) for part in typing.get_args(tp))]  # type: ignore[misc]
    if is_dict(tp) and typing.get_args(tp):
        return dict[str, _with_rule(value_of(tp), rule)]  # type: ignore[misc]
    return tp


def _matches(mime_type: str, patterns: tuple[str, ...]) -> bool:
    # Parameters, as in `text/plain; charset=utf-8`, are no part of the type (RFC 9110 §8.3.1).
    plain = mime_type.partition(";")[0].strip().lower()
    family = plain.partition("/")[0] + "/*"
    return any(pattern in (plain, family, "*/*") for pattern in patterns)
