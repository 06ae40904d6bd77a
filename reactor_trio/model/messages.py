"""`ModelMessage`: the base of the messages that a model sends."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from typing import Any, dataclass_transform

import attrs

from reactor_trio.contract.serialise import message_record
from reactor_trio.declare.fields import MessageField
from reactor_trio.declare.hints import Unresolved, name_of, own_annotations
from reactor_trio.declare.messages import Message, cleaned_docstring, wire_name
from reactor_trio.declare.records import field_names, make_record, missing_annotation


@dataclass_transform(field_specifiers=(MessageField, attrs.field, dataclasses.field))
class ModelMessage(Message):
    """A message that a model sends: a subclass with annotated fields.

        class CurrentPrompt(ModelMessage):
            prompt: str

    The type of the message on the wire is the name of the class in snake_case, here `current_prompt`; the
    fields are those of the bases and of the class. The docstring of the class describes the message to
    clients.

    Raises `TypeError`, naming class and field, when the subclass is made, for a field type that has no
    JSON form, a mutable default, and a required field after one with a default.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Read before a dataclass on top writes a docstring of its own.
        description = cleaned_docstring(cls)
        check_annotated(cls)
        if not make_record(cls):
            return
        cls.__wire_name__ = wire_name(cls)
        cls.__message_fields__ = field_names(cls)
        cls.__message_description__ = description
        # An annotation may name a class further down in the file; `read_contract` looks again.
        with contextlib.suppress(Unresolved):
            message_record(cls)


def check_annotated(cls: type) -> None:
    """Raises `TypeError` for an `=` in the place of a colon: `prompt = str` makes a class attribute, no
    field."""
    annotated = own_annotations(cls)
    for name, value in vars(cls).items():
        is_nested = getattr(value, "__qualname__", "").startswith(f"{cls.__qualname__}.")
        is_type = isinstance(value, type) or typing.get_origin(value) is not None or value is Any
        # A name in capitals may be meant as an alias of the class.
        if is_type and name[0].islower() and name not in annotated and not is_nested:
            raise TypeError(missing_annotation(cls, name, f"{name}: {name_of(value)}"))
