"""The types that a field may have, and what can be said about one without a value.

Everything that walks over annotations (structuring, constraints, schema) asks the questions here, so what
counts as a list or a record is decided once.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import types
import typing
import uuid
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import numpy as np

from reactor_trio.declare.fields import INPUT_FIELD, MISSING, InputFieldInfo
from reactor_trio.declare.hints import Unresolved, class_hints, declared, name_of
from reactor_trio.declare.uploaded_file import UploadedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SAFE_INTEGER: Final = 2**53
"""Integers up to here are the same number in every JSON implementation (RFC 8259 §6)."""

NoneType: Final[Any] = types.NoneType
Direction = Literal["input", "message"]

_SCALARS: Final = (str, int, float, bool, NoneType)
_MESSAGE_SCALARS: Final = (datetime.datetime, datetime.date, datetime.time, uuid.UUID)
_NUMPY_SCALARS: Final[Any] = (np.bool_, np.integer, np.float16, np.float32, np.float64)


_BYTES: Final = "; bytes are sent as an UploadedFile"
_SUPPORTED: Final = (
    "; a field is int, float, str, bool, Literal, Enum, T | None, list[T], tuple, dict[str, V], "
    "an attrs class, a dataclass, UploadedFile or Any"
)


class Unsupported(Exception):  # it becomes a TypeError that says where
    """A type that a field cannot have."""


@attrs.frozen
class UploadRule:
    """`max_size` (bytes) and `mime_types` of an `InputField`, attached to the `UploadedFile` they rule."""

    max_size: int | None
    mime_types: tuple[str, ...]


@attrs.frozen
class RecordField:
    """A field of an attrs class or a dataclass."""

    name: str
    type: Any
    attribute: attrs.Attribute[Any]
    info: InputFieldInfo | None

    @property
    def says_default_itself(self) -> bool:
        """Whether an `InputField` stands in an author's own class, where it takes the default's place."""
        return isinstance(self.attribute.default, InputFieldInfo)

    @property
    def default(self) -> Any:
        """What is there if the payload leaves the field out: a value, an `attrs.Factory`, `attrs.NOTHING`."""
        if self.info is None or not self.says_default_itself:
            return self.attribute.default
        return attrs.NOTHING if self.info.default is MISSING else self.info.default

    @property
    def has_preset(self) -> bool:
        """Whether the default must be given to the class, which would take the `InputField` for it."""
        return self.says_default_itself and self.default is not attrs.NOTHING


def is_union(tp: Any) -> bool:
    """`A | B`, `Union[A, B]` or `Optional[A]`."""
    return typing.get_origin(tp) in (typing.Union, types.UnionType)


def is_list(tp: Any) -> bool:
    """`list` or `list[T]`."""
    return tp is list or typing.get_origin(tp) is list


def is_dict(tp: Any) -> bool:
    """`dict` or `dict[K, V]`."""
    return tp is dict or typing.get_origin(tp) is dict


def is_tuple(tp: Any) -> bool:
    """`tuple`, `tuple[T, ...]` or `tuple[A, B]`."""
    return tp is tuple or typing.get_origin(tp) is tuple


def is_literal(tp: Any) -> bool:
    """`Literal[...]`."""
    return typing.get_origin(tp) is Literal


def is_enum(tp: Any) -> bool:
    """A subclass of `Enum`."""
    return isinstance(tp, type) and issubclass(tp, enum.Enum)


def is_record(tp: Any) -> bool:
    """An attrs class or a dataclass, other than `UploadedFile`."""
    return isinstance(tp, type) and tp is not UploadedFile and (attrs.has(tp) or dataclasses.is_dataclass(tp))


def upload_rule(tp: Any) -> UploadRule | None:
    """The rule of an `UploadedFile`; None for every other type."""
    if tp is UploadedFile:
        return UploadRule(None, ())
    if typing.get_origin(tp) is typing.Annotated and isinstance(tp.__metadata__[0], UploadRule):
        return tp.__metadata__[0]
    return None


def item_of(tp: Any) -> Any:
    """`T` of `list[T]`, `Any` of `list`."""
    return (typing.get_args(tp) or (Any,))[0]


def value_of(tp: Any) -> Any:
    """`V` of `dict[str, V]`, `Any` of `dict`."""
    return (typing.get_args(tp) or (str, Any))[1]


def items_of(tp: Any) -> tuple[Any, ...] | None:
    """The types of a tuple of fixed length; None for one of any length."""
    if tp is tuple or typing.get_args(tp)[1:] == (...,):
        return None
    return typing.get_args(tp)


def record_fields(cls: type) -> tuple[RecordField, ...]:
    """The fields that a constructor takes. Raises `Unresolved` or `Unsupported`."""
    hints = class_hints(cls)
    return tuple(_record_field(cls, attribute, hints) for attribute in _attributes(cls) if attribute.init)


def all_fields(cls: type) -> tuple[RecordField, ...]:
    """All fields, also those that a constructor does not take. Raises `Unresolved` or `Unsupported`."""
    hints = class_hints(cls)
    return tuple(_record_field(cls, attribute, hints) for attribute in _attributes(cls))


def stored_names(cls: type) -> tuple[str, ...]:
    """The names of a record's attributes."""
    if attrs.has(cls):
        return tuple(attribute.name for attribute in attrs.fields(cls))
    return tuple(field.name for field in dataclasses.fields(cls))


def check_type(tp: Any, direction: Direction) -> None:
    """Raises `Unsupported` if a field cannot have the type, `Unresolved` if it names what is not there."""
    _check(tp, direction, set())


def has_uploads(tp: Any) -> bool:
    """Whether an `UploadedFile` is somewhere in it. The type has passed `check_type`."""
    return _has_uploads(tp, set())


def literal_values(tp: Any) -> tuple[Any, ...]:
    """What a `Literal` or an `Enum` can be, in order; an `Enum` gives its members."""
    return tuple(tp) if is_enum(tp) else typing.get_args(tp)


def wire_value(value: Any) -> Any:
    """The JSON form of a `Literal`'s or `Enum`'s value."""
    return value.value if isinstance(value, enum.Enum) else value


def json_key(value: Any) -> tuple[str, Any]:
    """Equal for what is equal in JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return "boolean", value
    return ("number", value) if isinstance(value, int | float) else ("other", value)


def _attributes(cls: type) -> Iterator[attrs.Attribute[Any]]:
    if attrs.has(cls):
        yield from attrs.fields(cls)
        return
    for field in dataclasses.fields(cls):
        default: Any = attrs.NOTHING
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = attrs.Factory(field.default_factory)
        yield _attribute(field.name, default, init=field.init, metadata=dict(field.metadata))


def _attribute(name: str, default: Any, *, init: bool, metadata: dict[Any, Any]) -> attrs.Attribute[Any]:
    # attrs has no public constructor for an Attribute but to make a class of it.
    field = attrs.field(default=default, init=init, alias=name, kw_only=True, metadata=metadata)
    made = attrs.make_class("Fields", {name: field}, slots=False)
    return next(iter(attrs.fields(made)))


def _record_field(cls: type, attribute: attrs.Attribute[Any], hints: dict[str, Any]) -> RecordField:
    tp = hints.get(attribute.name, attribute.type)
    if tp is None and attribute.name not in hints:
        raise Unsupported(f"{cls.__qualname__}.{attribute.name} has no annotation")
    tp, rules = declared(tp)
    if rules is not None and rules.default is not MISSING:
        where = f"{cls.__qualname__}.{attribute.name}"
        raise Unsupported(f"{where}: its default stands behind `=`, not in Annotated")
    info = attribute.metadata.get(INPUT_FIELD) or rules
    if isinstance(attribute.default, InputFieldInfo):
        info = attribute.default
    return RecordField(attribute.name, NoneType if tp is None else tp, attribute, info)


def _check(tp: Any, direction: Direction, seen: set[type]) -> None:
    if tp is Any or tp is None or tp in _SCALARS:
        return
    if is_enum(tp) or is_literal(tp):
        _check_values(tp)
    elif is_union(tp):
        _check_all(typing.get_args(tp), direction, seen)
    elif is_list(tp):
        _check(item_of(tp), direction, seen)
    elif is_dict(tp):
        if typing.get_args(tp) and typing.get_args(tp)[0] is not str:
            raise Unsupported(f"{name_of(tp)}: an object's keys are strings, so write dict[str, ...]")
        _check(value_of(tp), direction, seen)
    elif is_tuple(tp):
        _check_all([part for part in typing.get_args(tp) if part is not ...], direction, seen)
    elif is_record(tp):
        _check_record(tp, direction, seen)
    elif not _is_leaf(tp, direction):
        raise Unsupported(f"the type {name_of(tp)} is not supported{_instead(tp, direction)}")


def _instead(tp: Any, direction: Direction) -> str:
    if direction == "message":
        return ""  # its caller says what a message may hold
    return _BYTES if tp in (bytes, bytearray, memoryview) else _SUPPORTED


def _check_all(parts: typing.Iterable[Any], direction: Direction, seen: set[type]) -> None:
    for part in parts:
        _check(part, direction, seen)


def _check_record(cls: type, direction: Direction, seen: set[type]) -> None:
    if cls in seen:
        return
    seen.add(cls)
    try:
        if direction == "input":
            _check_init_vars(cls)
        for field in record_fields(cls) if direction == "input" else all_fields(cls):
            try:
                _check(field.type, direction, seen)
            except Unsupported as exc:
                raise Unsupported(f"{cls.__qualname__}.{field.name}: {exc}") from exc
    except Unresolved as exc:
        # One level up its name would be that of a field of the wrong class.
        raise Unresolved(f"{cls.__qualname__}.{exc.field}", exc.annotation, exc.cause) from exc


def _check_init_vars(cls: type) -> None:
    for name, hint in class_hints(cls).items():
        if hint is dataclasses.InitVar or isinstance(hint, dataclasses.InitVar):
            raise Unsupported(f"{cls.__qualname__}.{name}: an InitVar is no field; a client cannot send it")


def _check_values(tp: Any) -> None:
    values = [wire_value(value) for value in literal_values(tp)]
    if not values:
        raise Unsupported(f"{name_of(tp)} has no members")
    for value in values:
        if not isinstance(value, str | int | float | bool | NoneType):
            raise Unsupported(f"{name_of(tp)}: {value!r} is not a string, a number, a boolean or null")


def _is_leaf(tp: Any, direction: Direction) -> bool:
    if direction == "input":
        return upload_rule(tp) is not None
    return isinstance(tp, type) and (tp in _MESSAGE_SCALARS or issubclass(tp, _NUMPY_SCALARS))


def _has_uploads(tp: Any, seen: set[Any]) -> bool:
    if upload_rule(tp) is not None:
        return True
    if is_record(tp):
        if tp in seen:
            return False
        seen.add(tp)
        return any(_has_uploads(field.type, seen) for field in record_fields(tp))
    return not is_literal(tp) and any(_has_uploads(part, seen) for part in typing.get_args(tp))
