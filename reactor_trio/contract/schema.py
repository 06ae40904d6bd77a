"""Annotations -> JSON Schema (2020-12)."""

from __future__ import annotations

import datetime
import re
import uuid
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np

from reactor_trio.contract import type_tree as tree
from reactor_trio.contract.json_values import wire_value
from reactor_trio.contract.serialise import message_record, to_json

if TYPE_CHECKING:
    from reactor_trio.declare.messages import Message

Schema = dict[str, Any]

_SCALARS: Final[dict[type, Schema]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
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


def payload_schema(payload: tree.Record, *, title: str) -> Schema:
    """The schema of a payload, which a client sends."""
    return _Schemas().document(payload, title)


def message_schema(cls: type[Message]) -> Schema:
    """The schema of a message, which a client receives."""
    return _Schemas().document(message_record(cls), cls.__wire_name__)


class _Schemas:
    """One document: the schema of a class, with the schemas of the classes inside it under `$defs`."""

    def __init__(self) -> None:
        self._names: dict[type, str] = {}
        self._defs: dict[str, Schema] = {}

    def document(self, record: tree.Record, title: str) -> Schema:
        schema = {"title": title, **self._object(record)}
        return {**schema, "$defs": self._defs} if self._defs else schema

    def of(self, node: tree.Node) -> Schema:
        schema = self._plain(node)
        if node.rules is not None:
            schema.update(_rules(node))
            if node.rules.info.description:
                schema["description"] = node.rules.info.description
        return schema

    def _plain(self, node: tree.Node) -> Schema:
        match node:
            case tree.Anything():
                return {}
            case tree.Scalar(type=tp):
                return _numpy(tp) if issubclass(tp, np.generic) else dict(_SCALARS[tp])
            case tree.Values(values=values):
                return _values([wire_value(value) for value in values])
            case tree.Upload(rule=rule):
                return _upload(rule)
            case tree.Union(members=members):
                return {"anyOf": [self.of(member) for member in members]}
            case tree.Record():
                return {"$ref": f"#/$defs/{self._define(node)}"}
            case tree.Dict(value=value):
                return {"type": "object", "additionalProperties": self.of(value)}
            case tree.List(item=item) | tree.OpenTuple(item=item):
                return {"type": "array", "items": self.of(item)}
            case tree.FixedTuple(items=items):
                return self._fixed(items)
        raise TypeError(f"there is no schema for {node!r}")

    def _fixed(self, items: tuple[tree.Node, ...]) -> Schema:
        fixed = {"type": "array", "items": False, "minItems": len(items), "maxItems": len(items)}
        # An empty `prefixItems` is not allowed (JSON Schema Core §10.3.1.1).
        return {**fixed, "prefixItems": [self.of(item) for item in items]} if items else fixed

    def _define(self, record: tree.Record) -> str:
        cls = record.type
        if cls not in self._names:
            # The name is given before the fields are looked at, since the class may contain itself.
            self._names[cls] = name = self._free_name(cls)
            self._defs[name] = {"title": cls.__name__, **self._object(record)}
        return self._names[cls]

    def _free_name(self, cls: type) -> str:
        taken = set(self._names.values())
        plain = re.sub(r"\W", "_", cls.__name__)
        candidates = (plain if number == 1 else f"{plain}{number}" for number in range(1, len(taken) + 2))
        return next(name for name in candidates if name not in taken)

    def _object(self, record: tree.Record) -> Schema:
        fields = record.fields
        schema: Schema = {"type": "object", "properties": {each.name: self._field(each) for each in fields}}
        required = [each.name for each in fields if each.default is attrs.NOTHING]
        if required:
            schema["required"] = required
        return {**schema, "additionalProperties": False}

    def _field(self, field: tree.Field) -> Schema:
        schema = self.of(field.node)
        if field.description:
            schema["description"] = field.description
        schema.update(_default(field.default))
        return schema


def _rules(node: tree.Node) -> Schema:
    assert node.rules is not None
    info = node.rules.info
    rules = {
        keyword: getattr(info, name) for name, keyword in _KEYWORDS.items() if getattr(info, name) is not None
    }
    for limit, length in (("min", info.min_length), ("max", info.max_length)):
        if length is not None:
            rules.update({f"{limit}{unit}": length for unit in _length_units(node)})
    if info.choices is not None:
        nullable = any(map(tree.is_null, tree.members_of(node)))
        rules["enum"] = [*map(wire_value, info.choices), *([None] if nullable else [])]
    return rules


def _length_units(node: tree.Node) -> list[str]:
    """The endings of JSON Schema's keywords for the length of a string, an array, an object."""
    members = tree.members_of(node)
    units = {
        "Length": any(member.type is str for member in members),
        "Items": any(isinstance(member, tree.List | tree.OpenTuple | tree.FixedTuple) for member in members),
        "Properties": any(isinstance(member, tree.Dict) for member in members),
    }
    return [unit for unit, applies in units.items() if applies]


def _default(default: Any) -> Schema:
    if default is attrs.NOTHING:
        return {}
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        factory: Any = default
        if factory.takes_self or factory.factory not in (list, dict, tuple):
            return {}  # Another factory may return another value with each call.
        default = factory.factory()
    try:
        return {"default": to_json(default)}
    except TypeError:
        return {}


def _upload(rule: tree.UploadRule) -> Schema:
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
