"""The rules of an `InputField`: whether they apply to a type, and the checks that they become."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from reactor_trio.contract import type_tree as tree
from reactor_trio.contract.faults import (
    UPLOAD_TOO_LARGE,
    UPLOAD_TYPE,
    Misfit,
    listed,
    plainly,
    shown,
)
from reactor_trio.contract.json_values import json_key, wire_value
from reactor_trio.contract.patterns import BadPattern, compile_pattern
from reactor_trio.declare.hints import name_of
from reactor_trio.declare.uploaded_file import UploadedFile
from reactor_trio.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reactor_trio.declare.fields import InputFieldInfo

Check: TypeAlias = Callable[[Any], None]
"""Raises `Misfit` for a value that breaks a rule. The value has the field's type, and is not None."""

_BOUNDS: Final = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "greater than"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "less than"),
}
_MIME_PATTERN: Final = re.compile(r"[^/\s*]+/(\*|[^/\s*]+)|\*/\*")


class BadRule(Exception):  # a caller makes a TypeError of it, and adds the place
    """A rule that cannot be obeyed, or does not apply to the type of its field."""


def with_rules(node: tree.Node, info: InputFieldInfo) -> tree.Node:
    """The node with the rules of an `InputField`. Raises `BadRule`.

    `max_size` and `mime_types` go to each `UploadedFile` in the type, the other rules to the type itself.
    """
    checks = _checks(info, node)
    if info.max_size is not None or info.mime_types is not None:
        _check_count("max_size", info.max_size)
        ruled = _with_upload_rule(node, tree.UploadRule(info.max_size, mime_patterns(info.mime_types)))
        if ruled is node:
            raise BadRule(f"max_size and mime_types are for an UploadedFile, not for {node.name}")
        node = ruled
    return attrs.evolve(node, rules=tree.Rules(info, checks))


def _checks(info: InputFieldInfo, node: tree.Node) -> tuple[Check, ...]:
    _applies(info, node)
    checks: list[Check] = [_bound(name, limit) for name, limit in _bounds(info)]
    if info.min_length is not None or info.max_length is not None:
        checks.append(_length(info.min_length, info.max_length))
    if info.pattern is not None:
        checks.append(_pattern(info.pattern))
    if info.choices is not None:
        checks.append(_choices(info.choices, node))
    return tuple(checks)


def mime_patterns(patterns: Any) -> tuple[str, ...]:
    """The patterns in lower case; a single string is one pattern. Raises `BadRule`."""
    if patterns is None:
        return ()
    found = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in found:
        if not isinstance(pattern, str) or not _MIME_PATTERN.fullmatch(pattern):
            raise BadRule(f"{pattern!r} is no MIME type and no pattern such as 'image/*'")
    if not found:
        raise BadRule("mime_types is empty, so no file would be accepted")
    return tuple(pattern.lower() for pattern in found)


def check_upload(rule: tree.UploadRule, size: int, mime_type: str) -> None:
    """Raises `Misfit` for a file that breaks a rule. Size and type are announced before the bytes arrive."""
    if rule.max_size is not None and size > rule.max_size:
        raise Misfit(f"must be a file of at most {rule.max_size} bytes, not {size}", UPLOAD_TOO_LARGE)
    if rule.mime_types and not _matches(mime_type, rule.mime_types):
        allowed = listed(list(rule.mime_types))
        raise Misfit(f"must be a file of type {allowed}, not {shown(mime_type)}", UPLOAD_TYPE)


def plain_number(value: float) -> str:
    """The number in an error's text, without the `.0` that a client did not write."""
    return (
        repr(int(value))
        if value.__class__ is float and abs(value) < 1e15 and value.is_integer()
        else repr(value)
    )


def conform(node: tree.Node, value: Any) -> Any:
    """A default or a choice, which is a Python value, as a field of the type holds it.

    An integer becomes a float where the type is `float`. Raises `Misfit` for a value of another type.
    """
    check_message_default(value, node)
    if isinstance(node, tree.Anything):
        return value
    _check_finite(value)
    return float(value) if node.type is float else value


def check_message_default(default: Any, node: tree.Node) -> None:
    """Raises `Misfit` for a value of another type. NaN is a float here: in a message it becomes null."""
    if not _is_instance(node, default):
        remedy = f"; write {node.name} | None" if default is None else ""
        raise Misfit(f"{default!r} is no {node.name}{remedy}")


def check_default(default: Any, node: tree.Node) -> Any:
    """The default as the handler gets it. Raises `Misfit` if it is mutable, or breaks the type or a rule."""
    try:
        hash(default)
    except TypeError:
        raise Misfit(
            f"{default!r} is mutable, and would be shared by all calls; write {_unshared(default, node)}"
        ) from None
    fitting = conform(node, default)
    if fitting is not None and node.rules is not None:
        for check in node.rules.checks:
            check(fitting)
    return fitting


def _unshared(default: Any, node: tree.Node) -> str:
    """The code that an author can write in the place of a mutable default."""
    has_none = isinstance(node, tree.Anything | tree.Union)
    optional = node.name if has_none else f"{node.name} | None"
    if not (isinstance(node, tree.List) and isinstance(default, list)):
        return f"{optional} = None"
    fixed = "tuple" if node.type is list else name_of(tuple[node.item.type, ...])  # type: ignore[name-defined]
    return f"{fixed} = {tuple(default)!r} or {optional} = None"


def _is_instance(node: tree.Node, value: Any) -> bool:
    match node:
        case tree.Anything():
            return True
        case tree.Union(members=members):
            return any(_is_instance(member, value) for member in members)
        case tree.Values(values=values, is_enum=False):
            return any(type(value) is type(each) and value == each for each in values)
        case tree.OpenTuple(item=item):
            return isinstance(value, tuple) and all(_is_instance(item, each) for each in value)
        case tree.FixedTuple(items=items):
            fits = isinstance(value, tuple) and len(items) == len(value)
            return fits and all(map(_is_instance, items, value))
        case tree.List():
            return isinstance(value, list)
        case tree.Dict():
            return isinstance(value, dict)
        case tree.Upload():
            return isinstance(value, UploadedFile)
    if node.type is int or node.type is float:
        kinds = int | float if node.type is float else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, node.type)


def _check_finite(value: Any) -> None:
    if isinstance(value, tuple):
        for each in value:
            _check_finite(each)
    if isinstance(value, float) and not math.isfinite(value):
        raise Misfit(f"{value!r} has no JSON form")


def _applies(info: InputFieldInfo, node: tree.Node) -> None:
    for name, applies in _APPLIES.items():
        if getattr(info, name) is not None and not any(map(applies, tree.members_of(node))):
            raise BadRule(f"{name} does not apply to {node.name}")


def _is_number(node: tree.Node) -> bool:
    return node.type is int or node.type is float


def _is_string(node: tree.Node) -> bool:
    return node.type is str


def _has_length(node: tree.Node) -> bool:
    return _is_string(node) or isinstance(node, tree.List | tree.Dict | tree.OpenTuple)


def _is_scalar(node: tree.Node) -> bool:
    return isinstance(node, tree.Values) or (isinstance(node, tree.Scalar) and not tree.is_null(node))


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


def _choices(choices: Any, node: tree.Node) -> Check:
    if isinstance(choices, str) or not isinstance(choices, Collection) or not choices:
        raise BadRule(f"choices is a list of values, not {choices!r}")
    for choice in choices:
        try:
            conform(node, choice)
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


def _with_upload_rule(node: tree.Node, rule: tree.UploadRule) -> tree.Node:
    """A copy in which each upload that has no rule has this one; the node itself if there is none."""
    match node:
        case tree.Upload() if node.rule == tree.UploadRule():
            return attrs.evolve(node, rule=rule)
        case tree.Union(members=parts):
            ruled = _all_with_upload_rule(parts, rule)
            return node if ruled is parts else attrs.evolve(node, members=ruled)
        case tree.FixedTuple(items=parts):
            ruled = _all_with_upload_rule(parts, rule)
            return node if ruled is parts else attrs.evolve(node, items=ruled)
        case tree.List(item=part) | tree.OpenTuple(item=part):
            inner = _with_upload_rule(part, rule)
            return node if inner is part else attrs.evolve(node, item=inner)
        case tree.Dict(value=part):
            inner = _with_upload_rule(part, rule)
            return node if inner is part else attrs.evolve(node, value=inner)
    return node


def _all_with_upload_rule(nodes: tuple[tree.Node, ...], rule: tree.UploadRule) -> tuple[tree.Node, ...]:
    ruled = tuple(_with_upload_rule(node, rule) for node in nodes)
    return nodes if all(now is before for now, before in zip(ruled, nodes, strict=True)) else ruled


def _matches(mime_type: str, patterns: tuple[str, ...]) -> bool:
    # Parameters, such as `; charset=utf-8`, are no part of the type (RFC 9110 §8.3.1).
    plain = mime_type.partition(";")[0].strip().lower()
    family = plain.partition("/")[0] + "/*"
    return any(pattern in (plain, family, "*/*") for pattern in patterns)
