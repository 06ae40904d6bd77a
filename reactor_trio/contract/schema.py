"""Annotations -> JSON Schema (2020-12)."""

from __future__ import annotations

import datetime
import re
import typing
import uuid
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np

from reactor_trio.contract.constraints import choice_values, ruled_type
from reactor_trio.contract.serialise import to_json
from reactor_trio.contract.types import (
    NoneType,
    RecordField,
    all_fields,
    is_dict,
    is_enum,
    is_list,
    is_literal,
    is_record,
    is_tuple,
    is_union,
    item_of,
    items_of,
    literal_values,
    record_fields,
    upload_rule,
    value_of,
    wire_value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reactor_trio.declare.messages import Message

Schema = dict[str, Any]

_SIMPLE: Final[dict[Any, Schema]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    NoneType: {"type": "null"},
    Any: {},
    datetime.datetime: {"type": "string", "format": "date-time"},
    datetime.date: {"type": "string", "format": "date"},
    datetime.time: {"type": "string", "format": "time"},
    uuid.UUID: {"type": "string", "format": "uuid"},
}
_KEYWORDS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "pattern": "pattern",
}


def payload_schema(payload_class: type, *, title: str) -> Schema:
    """The schema of what a client sends."""
    return _Schemas(record_fields).document(payload_class, title)


def message_schema(cls: type[Message]) -> Schema:
    """The schema of what a client receives."""
    return _Schemas(all_fields).document(cls, cls.__wire_name__)


class _Schemas:
    """One document: the schema of a class, with those of the classes inside it under `$defs`."""

    def __init__(self, fields_of: Callable[[type], Iterable[RecordField]]) -> None:
        self._fields_of = fields_of
        self._names: dict[type, str] = {}
        self._defs: dict[str, Schema] = {}

    def document(self, cls: type, title: str) -> Schema:
        schema = {"title": title, **self._object(cls)}
        return {**schema, "$defs": self._defs} if self._defs else schema

    def of(self, tp: Any) -> Schema:
        if tp in _SIMPLE:
            return dict(_SIMPLE[tp])
        if upload_rule(tp) is not None:
            return _upload(tp)
        if is_literal(tp) or is_enum(tp):
            return _values([wire_value(value) for value in literal_values(tp)])
        if is_union(tp):
            return {"anyOf": [self.of(member) for member in typing.get_args(tp)]}
        if is_record(tp):
            return {"$ref": f"#/$defs/{self._define(tp)}"}
        if isinstance(tp, type) and issubclass(tp, np.generic):
            return _numpy(tp)
        return self._collection(tp)

    def _collection(self, tp: Any) -> Schema:
        if is_dict(tp):
            return {"type": "object", "additionalProperties": self.of(value_of(tp))}
        kinds = items_of(tp) if is_tuple(tp) else None
        if is_list(tp) or kinds is None:
            return {"type": "array", "items": self.of(item_of(tp))}
        fixed = {"type": "array", "items": False, "minItems": len(kinds), "maxItems": len(kinds)}
        # An empty `prefixItems` is not allowed (JSON Schema Core §10.3.1.1).
        return {**fixed, "prefixItems": [self.of(kind) for kind in kinds]} if kinds else fixed

    def _define(self, cls: type) -> str:
        if cls not in self._names:
            # The name is given before the fields are looked at, since the class may contain itself.
            self._names[cls] = name = self._free_name(cls)
            self._defs[name] = {"title": cls.__name__, **self._object(cls)}
        return self._names[cls]

    def _free_name(self, cls: type) -> str:
        taken = set(self._names.values())
        plain = re.sub(r"\W", "_", cls.__name__)
        candidates = (plain if number == 1 else f"{plain}{number}" for number in range(1, len(taken) + 2))
        return next(name for name in candidates if name not in taken)

    def _object(self, cls: type) -> Schema:
        fields = list(self._fields_of(cls))
        schema: Schema = {"type": "object", "properties": {each.name: self._field(each) for each in fields}}
        required = [each.name for each in fields if each.default is attrs.NOTHING]
        if required:
            schema["required"] = required
        return {**schema, "additionalProperties": False}

    def _field(self, field: RecordField) -> Schema:
        schema = self.of(field.type if field.info is None else ruled_type(field.type, field.info))
        description = field.attribute.metadata.get("description")
        if field.info is not None:
            schema.update(_rules(field))
            description = field.info.description
        if description:
            schema["description"] = description
        schema.update(_default(field.default))
        return schema


def _rules(field: RecordField) -> Schema:
    info = field.info
    assert info is not None
    rules = {
        keyword: getattr(info, name) for name, keyword in _KEYWORDS.items() if getattr(info, name) is not None
    }
    for limit, length in (("min", info.min_length), ("max", info.max_length)):
        if length is not None:
            rules.update({f"{limit}{unit}": length for unit in _length_units(field.type)})
    if info.choices is not None:
        nullable = is_union(field.type) and NoneType in typing.get_args(field.type)
        rules["enum"] = [*choice_values(info), *([None] if nullable else [])]
    return rules


def _length_units(tp: Any) -> list[str]:
    """What JSON Schema calls the length of a string, an array, an object."""
    members = typing.get_args(tp) if is_union(tp) else (tp,)
    units = {
        "Length": any(member is str for member in members),
        "Items": any(is_list(member) or is_tuple(member) for member in members),
        "Properties": any(map(is_dict, members)),
    }
    return [unit for unit, applies in units.items() if applies]


def _default(default: Any) -> Schema:
    if default is attrs.NOTHING:
        return {}
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        factory: Any = default
        if factory.takes_self or factory.factory not in (list, dict, tuple):
            return {}  # Another factory may count, or look at the time.
        default = factory.factory()
    try:
        return {"default": to_json(default)}
    except TypeError:
        return {}


def _upload(tp: Any) -> Schema:
    rule = upload_rule(tp)
    assert rule is not None
    limits: Schema = {}
    if rule.max_size is not None:
        limits["max_size"] = rule.max_size
    if rule.mime_types:
        limits["mime_types"] = list(rule.mime_types)
    return {
        "type": "object",
        "properties": {"upload_id": {"type": "string"}},
        "required": ["upload_id"],
        "additionalProperties": False,
        "x-reactor-upload": limits,
    }


def _values(values: list[Any]) -> Schema:
    kinds = {_JSON_TYPE.get(type(value)) for value in map(to_json, values)}
    schema: Schema = {"enum": [to_json(value) for value in values]}
    return {"type": kinds.pop(), **schema} if len(kinds) == 1 else schema


_JSON_TYPE: Final = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def _numpy(tp: type[np.generic]) -> Schema:
    if issubclass(tp, np.bool_):
        return {"type": "boolean"}
    return {"type": "integer" if issubclass(tp, np.integer) else "number"}
