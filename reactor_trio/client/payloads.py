"""Turns a caller's values into plain JSON values. Pure.

A value that JSON would change, such as NaN, is refused with its path.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import uuid
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from reactor_trio.client.messages import UploadHandle


def payload(data: object, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Make the payload of a command from a mapping, attrs or dataclass instance, and keyword fields.

    Raises `TypeError` for a value that JSON cannot carry and for a field given twice, `ValueError` for NaN
    and infinities; both name the path of the value.
    """
    base = {} if data is None else _plain(data, "")
    if not isinstance(base, dict):
        raise TypeError(f"the payload of a command is a mapping of its fields, not {type(data).__name__}")
    twice = base.keys() & fields.keys()
    if twice:
        raise TypeError(f"field given twice: {', '.join(sorted(twice))}")
    return base | {name: _plain(value, name) for name, value in fields.items()}


def _plain(value: Any, path: str) -> Any:
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool:
        return value
    if isinstance(value, UploadHandle):
        return {"upload_id": value.upload_id}
    # Before the numbers and strings: a member of an IntEnum or StrEnum is one of them too.
    if isinstance(value, enum.Enum):
        return _plain(value.value, path)
    if isinstance(value, np.generic):
        return _plain(value.item(), path)
    if isinstance(value, float):
        return _finite(value, path)
    if isinstance(value, (str, int)):
        return str(value) if isinstance(value, str) else int(value)
    return _plain_container(value, path)


def _plain_container(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return {
            _key(key, path): _plain(each, f"{path}.{key}" if path else key) for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(each, f"{path}[{index}]") for index, each in enumerate(value)]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), path)
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    names = _field_names(value)
    if names is not None:
        return _plain({name: getattr(value, name) for name in names}, path)
    hint = "; upload them and pass the handle" if isinstance(value, (bytes, bytearray, memoryview)) else ""
    raise TypeError(f"{path or 'payload'}: JSON has no {type(value).__name__}{hint}")


def _field_names(value: Any) -> list[str] | None:
    if attrs.has(type(value)):
        return [field.name for field in attrs.fields(type(value))]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in dataclasses.fields(value)]
    return None


def _finite(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{path}: JSON has no {value}")
    return float(value)


def _key(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{path or 'payload'}: the keys of a JSON object are strings, not {key!r}")
    return key
