"""The attributes of attrs classes and dataclasses, in one form: attrs' own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeGuard

import attrs

from reactor_trio.declare.uploaded_file import UploadedFile

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_record(tp: Any) -> TypeGuard[type]:
    """Whether a type is an attrs class or a dataclass, other than `UploadedFile`."""
    return isinstance(tp, type) and tp is not UploadedFile and (attrs.has(tp) or dataclasses.is_dataclass(tp))


def attributes(cls: type) -> Iterator[attrs.Attribute[Any]]:
    """All attributes of a record, also those that its constructor does not take."""
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


def input_names(cls: type) -> list[str]:
    """The names of the attributes that the constructor of a record takes."""
    fields = attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)
    return [field.name for field in fields if field.init]


def stored_names(cls: type) -> tuple[str, ...]:
    """The names of a record's attributes."""
    fields = attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)
    return tuple(field.name for field in fields)


def _attribute(name: str, default: Any, *, init: bool, metadata: dict[Any, Any]) -> attrs.Attribute[Any]:
    # attrs has no public constructor for an Attribute but to make a class of it.
    field = attrs.field(default=default, init=init, alias=name, kw_only=True, metadata=metadata)
    made = attrs.make_class("Fields", {name: field}, slots=False)
    return next(iter(attrs.fields(made)))
