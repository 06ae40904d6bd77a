"""Messages -> JSON. The hot path is one call of orjson."""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
import orjson

from reactor_trio.contract.constraints import check_message_default
from reactor_trio.contract.faults import Misfit
from reactor_trio.contract.types import Unsupported, all_fields, check_type, is_record, stored_names
from reactor_trio.declare.hints import Unresolved

if TYPE_CHECKING:
    from reactor_trio.declare.messages import Message

_FACTORY: Final[Any] = attrs.Factory  # mypy takes it for a function

# Of its own accord orjson would write a dataclass without the base fields of a slotted one and without
# those whose name begins with an underscore; both come back through `_plain`.
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


def check_message_type(cls: type[Message]) -> None:
    """Raises `TypeError`, naming class and field, for a type that has no JSON form, or a default not of it.

    Raises `Unresolved` if an annotation names a class that is not there yet.
    """
    try:
        for field in all_fields(cls):
            try:
                check_type(field.type, "message")
                if field.default is not attrs.NOTHING and not isinstance(field.default, _FACTORY):
                    check_message_default(field.default, field.type)
            except Misfit as exc:
                text = f"{cls.__qualname__}.{field.name}: the default does not fit: {exc}"
                raise TypeError(text) from None
            except Unsupported as exc:
                raise Unsupported(f"{cls.__qualname__}.{field.name}: {exc}") from exc
    except Unsupported as exc:
        raise TypeError(f"{exc}; a message holds what JSON can say") from None


def resolve_message_type(cls: type[Message]) -> None:
    """As `check_message_type`, but a class that is not there is a `TypeError` too."""
    try:
        check_message_type(cls)
    except Unresolved as exc:
        raise TypeError(f"{cls.__qualname__}.{exc.field}: {exc.reason}") from None


def _fields(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__message_fields__}


def _plain(value: Any) -> Any:
    """What orjson asks about values that it does not know."""
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
