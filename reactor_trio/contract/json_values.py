"""JSON values: the types they have in Python, their equality, and the form of an `Enum`'s members."""

from __future__ import annotations

import enum
from types import NoneType
from typing import Any, Final

MAX_SAFE_INTEGER: Final = 2**53
"""Integers up to here are the same number in every JSON implementation (RFC 8259 §6)."""


ALL_JSON: Final[frozenset[type]] = frozenset((str, int, float, bool, NoneType, list, dict))
"""The types of JSON values in Python."""


def wire_value(value: Any) -> Any:
    """The JSON form of a value of a `Literal` or an `Enum`."""
    return value.value if isinstance(value, enum.Enum) else value


def json_key(value: Any) -> tuple[str, Any]:
    """A key that is equal for values that JSON takes for equal: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, bool):
        return "boolean", value
    return ("number", value) if isinstance(value, int | float) else ("other", value)
