"""Annotations -> trees of types (`type_tree.py`). A type that a field cannot have is refused here."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import operator
import types
import typing
import uuid
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import numpy as np

from reactor_trio.contract import type_tree as tree
from reactor_trio.contract.attributes import attributes, is_record
from reactor_trio.contract.constraints import BadRule, check_default, with_rules
from reactor_trio.contract.faults import Misfit
from reactor_trio.contract.json_values import wire_value
from reactor_trio.declare.fields import INPUT_FIELD, MISSING, InputFieldInfo
from reactor_trio.declare.hints import Unresolved, class_hints, declared, name_of
from reactor_trio.declare.uploaded_file import UploadedFile

if TYPE_CHECKING:
    from collections.abc import Sequence

Direction = Literal["input", "message"]

_SCALARS: Final[tuple[Any, ...]] = (str, int, float, bool, types.NoneType)
_MESSAGE_SCALARS: Final = (datetime.datetime, datetime.date, datetime.time, uuid.UUID)
_NUMPY_SCALARS: Final[Any] = (np.bool_, np.integer, np.float16, np.float32, np.float64)

_BYTES: Final = "; bytes are sent as an UploadedFile"
_SUPPORTED: Final = (
    "; a field is int, float, str, bool, Literal, Enum, T | None, list[T], tuple, dict[str, V], "
    "an attrs class, a dataclass, UploadedFile or Any"
)


class Unsupported(Exception):  # a caller makes a TypeError of it, and adds the place
    """A type that a field cannot have."""


def parse_type(tp: Any, info: InputFieldInfo | None = None) -> tree.Node:
    """The tree of a type that clients send, with the rules of `info`.

    Raises `Unsupported` for a type that a field cannot have, `BadRule` for a rule that does not fit its type,
    both also for a class inside the type, and `Unresolved` if an annotation in such a class names something
    that is not there.
    """
    node = _Parser("input").node(tp)
    return node if info is None else with_rules(node, info)


def parse_message(cls: type) -> tree.Record:
    """The tree of a message class. Raises as `parse_type`, but no `BadRule`: a message is not checked."""
    parser = _Parser("message")
    parser.known[cls] = ()
    parser.known[cls] = parser.fields(cls)
    return tree.Record(type=cls, known=parser.known)


def payload_record(cls: type, nodes: dict[str, tree.Node]) -> tree.Record:
    """The tree of the class of a payload, whose fields have been parsed."""
    fields = [
        tree.Field(name=each.name, node=nodes[each.name], attribute=each, default=each.default)
        for each in attributes(cls)
    ]
    return tree.Record(type=cls, known={cls: tuple(fields)})


class _Parser:
    """Parses one tree. It keeps the records, which may contain themselves."""

    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self.known: dict[type, tuple[tree.Field, ...]] = {}

    def node(self, tp: Any) -> tree.Node:
        tp, info = _declared(tp)
        return self._ruled(self._plain(tp), info)

    def _ruled(self, node: tree.Node, info: InputFieldInfo | None) -> tree.Node:
        if info is None:
            return node
        # The values of a message are not checked: its rules are for the schema alone.
        return with_rules(node, info) if self._direction == "input" else tree.described(node, info)

    def _plain(self, tp: Any) -> tree.Node:
        if tp is Any:
            return tree.Anything(type=Any)
        if tp is None or tp in _SCALARS:
            return tree.Scalar(type=types.NoneType if tp is None else tp)
        if isinstance(tp, type) and issubclass(tp, enum.Enum):
            return _values(tp, tuple(tp), is_enum=True)
        origin, arguments = typing.get_origin(tp), typing.get_args(tp)
        if origin is Literal:
            return _values(tp, arguments, is_enum=False)
        if origin in (typing.Union, types.UnionType):
            members = tuple(map(self.node, arguments))
            return tree.Union(type=_bare(tp, members), members=members)
        if (origin or tp) in (list, dict, tuple):
            return self._collection(tp, origin or tp, arguments)
        return self._record(tp) if is_record(tp) else self._leaf(tp)

    def _collection(self, tp: Any, kind: type, arguments: tuple[Any, ...]) -> tree.Node:
        if kind is dict:
            if arguments and arguments[0] is not str:
                raise Unsupported(f"{name_of(tp)}: an object's keys are strings, so write dict[str, ...]")
            value = self.node(arguments[1] if arguments else Any)
            return tree.Dict(type=_bare(tp, [value], skip=1), value=value)
        if kind is tuple and tp is not tuple and arguments[1:] != (...,):
            items = tuple(map(self.node, arguments))
            return tree.FixedTuple(type=_bare(tp, items), items=items)
        item = self.node(arguments[0] if arguments else Any)
        made = tree.List if kind is list else tree.OpenTuple
        return made(type=_bare(tp, [item]), item=item)

    def _record(self, cls: type) -> tree.Record:
        if cls not in self.known:
            self.known[cls] = ()  # until they are parsed: the class may contain itself
            try:
                if self._direction == "input":
                    _check_init_vars(cls)
                self.known[cls] = self.fields(cls)
            except Unresolved as exc:
                # One level up its name would be that of a field of the wrong class.
                raise Unresolved(f"{cls.__qualname__}.{exc.field}", exc.annotation, exc.cause) from exc
        return tree.Record(type=cls, known=self.known)

    def fields(self, cls: type) -> tuple[tree.Field, ...]:
        hints = class_hints(cls)
        takes_all = self._direction == "message"
        return tuple(self._field(cls, each, hints) for each in attributes(cls) if each.init or takes_all)

    def _field(self, cls: type, attribute: attrs.Attribute[Any], hints: dict[str, Any]) -> tree.Field:
        where = f"{cls.__qualname__}.{attribute.name}"
        hint = hints.get(attribute.name, attribute.type)
        if hint is None and attribute.name not in hints:
            raise Unsupported(f"{where} has no annotation")
        try:
            return self._made_field(attribute, hint)
        except Unsupported as exc:
            raise Unsupported(f"{where}: {exc}") from exc
        except (BadRule, Misfit) as exc:
            raise BadRule(f"{where}: {exc}") from exc

    def _made_field(self, attribute: attrs.Attribute[Any], hint: Any) -> tree.Field:
        tp, rules = _declared(hint)
        default, preset = attribute.default, MISSING
        if isinstance(default, InputFieldInfo):
            rules = default
            default = attrs.NOTHING if rules.default is MISSING else rules.default
        else:
            rules = attribute.metadata.get(INPUT_FIELD) or rules
        node = self._ruled(self._plain(tp), rules)
        if default is not attribute.default and default is not attrs.NOTHING and self._direction == "input":
            preset = check_default(default, node)
        return tree.Field(name=attribute.name, node=node, attribute=attribute, default=default, preset=preset)

    def _leaf(self, tp: Any) -> tree.Node:
        if self._direction == "input":
            if tp is UploadedFile:
                return tree.Upload(type=tp)
            instead = _BYTES if tp in (bytes, bytearray, memoryview) else _SUPPORTED
            raise Unsupported(f"the type {name_of(tp)} is not supported{instead}")
        if isinstance(tp, type) and (tp in _MESSAGE_SCALARS or issubclass(tp, _NUMPY_SCALARS)):
            return tree.Scalar(type=tp)
        # The caller adds that a message holds JSON.
        raise Unsupported(f"the type {name_of(tp)} is not supported")


def _declared(tp: Any) -> tuple[Any, InputFieldInfo | None]:
    tp, info = declared(tp)
    if info is not None and info.default is not MISSING:
        raise Unsupported("its default stands behind `=`, not in Annotated")
    return tp, info


def _values(tp: Any, values: tuple[Any, ...], *, is_enum: bool) -> tree.Values:
    if not values:
        raise Unsupported(f"{name_of(tp)} has no members")
    for value in map(wire_value, values):
        if not isinstance(value, str | int | float | bool | types.NoneType):
            raise Unsupported(f"{name_of(tp)}: {value!r} is not a string, a number, a boolean or null")
    return tree.Values(type=tp, values=values, is_enum=is_enum)


def _check_init_vars(cls: type) -> None:
    for name, hint in class_hints(cls).items():
        if hint is dataclasses.InitVar or isinstance(hint, dataclasses.InitVar):
            raise Unsupported(f"{cls.__qualname__}.{name}: an InitVar is no field; a client cannot send it")


def _bare(tp: Any, parts: Sequence[tree.Node], skip: int = 0) -> Any:
    """The type without the rules inside it. `parts` are its arguments, except the first `skip` ones."""
    arguments = typing.get_args(tp)
    bare = (*arguments[:skip], *(part.type for part in parts), *arguments[skip + len(parts) :])
    if not arguments or all(now is before for now, before in zip(bare, arguments, strict=True)):
        return tp
    origin = typing.get_origin(tp)
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, bare)
    return origin[bare]
