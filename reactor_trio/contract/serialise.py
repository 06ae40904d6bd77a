"""Messages -> JSON. The hot path is one call of orjson."""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
import orjson

from reactor_trio.contract.attributes import is_record, stored_names
from reactor_trio.contract.constraints import check_message_default
from reactor_trio.contract.faults import Misfit
from reactor_trio.contract.type_parser import Unsupported, parse_message
from reactor_trio.declare.hints import Unresolved

if TYPE_CHECKING:
    from reactor_trio.contract.type_tree import Record
    from reactor_trio.declare.messages import Message

_RECORD: Final = "__message_record__"
"""Attribute of a message class: its tree."""
_FACTORY: Final[Any] = attrs.Factory  # mypy takes it for a function

# orjson by itself would leave out the inherited fields of a slotted dataclass, and fields whose names begin
# with an underscore. So dataclasses are passed to `_plain`.
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_SERIALIZE_NUMPY


def dump(message: Message) -> bytes:
    """The JSON object of a message's fields; NaN and infinities become `null`.

    Raises `TypeError`, naming the message and the field, for a value that has no JSON form.
    """
    try:
        return orjson.dumps(_fields(message), _plain, _OPTIONS)
    except (TypeError, AttributeError) as exc:
        raise TypeError(f"{type(message).__qualname__}{_culprit(message)}") from exc


def to_json(value: Any) -> Any:
    """The JSON form of one value, as Python's own types. Raises `TypeError` if it has none."""
    return orjson.loads(orjson.dumps(value, _plain, _OPTIONS))


def message_record(cls: type[Message]) -> Record:
    """The tree of a message class, which is parsed once.

    Raises `TypeError`, naming class and field, for a type that has no JSON form, or a default not of it, and
    `Unresolved` if an annotation names a class that is not there yet.
    """
    known: Record | None = vars(cls).get(_RECORD)
    if known is None or known.type is not cls:  # `slots=True` on top copies the class and its attributes
        known = _parsed(cls)
        setattr(cls, _RECORD, known)
    return known


def _parsed(cls: type[Message]) -> Record:
    try:
        record = parse_message(cls)
    except Unsupported as exc:
        raise TypeError(f"{exc}; a message holds what JSON can say") from None
    for field in record.fields:
        if field.default is not attrs.NOTHING and not isinstance(field.default, _FACTORY):
            try:
                check_message_default(field.default, field.node)
            except Misfit as exc:
                text = f"{cls.__qualname__}.{field.name}: the default does not fit: {exc}"
                raise TypeError(text) from None
    return record


def resolve_message_type(cls: type[Message]) -> None:
    """As `message_record`, but raises `TypeError` also for an annotation that cannot be resolved."""
    try:
        message_record(cls)
    except Unresolved as exc:
        raise TypeError(f"{cls.__qualname__}.{exc.field}: {exc.reason}") from None


def _fields(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__message_fields__}


def _plain(value: Any) -> Any:
    """The form of a value that orjson does not know. Raises `TypeError` if there is none."""
    cls = type(value)
    if is_record(cls):
        return {name: getattr(value, name) for name in _names(cls)}  # type: ignore[arg-type]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{cls.__qualname__} has no JSON form")


@lru_cache(maxsize=1024)
def _names(cls: type) -> tuple[str, ...]:
    return getattr(cls, "__message_fields__", None) or stored_names(cls)


def _culprit(message: Message) -> str:
    for name in message.__message_fields__:
        try:
            orjson.dumps(getattr(message, name), _plain, _OPTIONS)
        except (TypeError, AttributeError) as exc:
            return f".{name}: {exc.__cause__ or exc}"
    return ": cannot be serialised"
