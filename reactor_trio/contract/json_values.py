"""Values as JSON has them: what is equal, and how a member of an `Enum` is written."""

from __future__ import annotations

import enum
from types import NoneType
from typing import Any, Final

MAX_SAFE_INTEGER: Final = 2**53
"""Integers up to here are the same number in every JSON implementation (RFC 8259 §6)."""


ALL_JSON: Final[frozenset[type]] = frozenset((str, int, float, bool, NoneType, list, dict))
"""The types of JSON values in Python."""


def wire_value(value: Any) -> Any:
    """The JSON form of a `Literal`'s or `Enum`'s value."""
    return value.value if isinstance(value, enum.Enum) else value


def json_key(value: Any) -> tuple[str, Any]:
    """Equal for what is equal in JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return "boolean", value
    return ("number", value) if isinstance(value, int | float) else ("other", value)
