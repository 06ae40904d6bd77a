"""The rules for the fields of `reactor.*` texts of a client: each returns the fault of a value, or None."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reactor_trio.errors import MAX_FIELD_ERRORS, FieldError, InvalidPayload
from reactor_trio.protocol import names
from reactor_trio.protocol.text import MAX_SAFE_INTEGER

if TYPE_CHECKING:
    from reactor_trio.protocol.text import Id

MAX_NAME_LENGTH = 255
"""Characters of an upload's name, and of its MIME type."""
MAX_FPS = 1000
"""Frames a second that a client may name as its limit."""
MIN_WIDTH, MAX_WIDTH = 16, 16384
"""Pixels that a client may name as its limit."""

Rule = Callable[[object], str | None]
"""A function that returns the fault of a value in words, or None if the value is allowed."""
Rules = dict[str, Rule]
"""The rule of each field, by the name of the field."""


def number_fault(value: object) -> str | None:
    """The fault of a value that must be a number."""
    return None if type(value) in (int, float) else "must be a number"


def size_fault(value: object) -> str | None:
    """The fault of a value that must be a count; beyond 2^53 JavaScript's numbers are not exact."""
    if type(value) is not int:
        return "must be an integer"
    return None if 0 <= value <= MAX_SAFE_INTEGER else "must be between 0 and 2^53"


def label_fault(value: object) -> str | None:
    """The fault of a value that must be the name or the MIME type of an upload."""
    if type(value) is not str:
        return "must be a string"
    return None if len(value) <= MAX_NAME_LENGTH else f"must have at most {MAX_NAME_LENGTH} characters"


def upload_id_fault(value: object) -> str | None:
    """The fault of a value that must be the id of an upload."""
    if type(value) is not str:
        return "must be a string"
    if 1 <= len(value) <= names.MAX_UPLOAD_ID_LENGTH:
        return None
    return f"must have 1 to {names.MAX_UPLOAD_ID_LENGTH} characters"


def track_fault(value: object) -> str | None:
    """The fault of a value that must be the name of a track."""
    return None if type(value) is str and value else "must be the name of a track"


def codec_fault(value: object) -> str | None:
    """The fault of a value that must be a codec, or null."""
    return None if value is None or type(value) is str else "must be a string or null"


def max_fps_fault(value: object) -> str | None:
    """The fault of a value that must be a limit of the rate in frames a second, or null."""
    if value is None:
        return None
    if type(value) not in (int, float):
        return "must be a number or null"
    return None if 0 < value <= MAX_FPS else f"must be greater than 0 and at most {MAX_FPS}"  # type: ignore[operator]


def max_width_fault(value: object) -> str | None:
    """The fault of a value that must be a limit of the width in pixels, or null."""
    if value is None:
        return None
    if type(value) is not int:
        return "must be an integer or null"
    return None if MIN_WIDTH <= value <= MAX_WIDTH else f"must be between {MIN_WIDTH} and {MAX_WIDTH}"


def paused_fault(value: object) -> str | None:
    """The fault of a value that must be a boolean, or null."""
    return None if value is None or type(value) is bool else "must be true, false or null"


def check(
    type_: str, data: dict[str, Any], id_: Id | None, rules: Rules, optional: Rules | None = None
) -> None:
    """Check that the data of a message have every field of `rules`, no unknown one, and only allowed values.

    Fields of `optional` may be missing. Raises `InvalidPayload` with every fault at its path, `type_` as its
    `event`, `id_` as its `reply_to`, and the `upload_id` if the message has a valid one.
    """
    given = {name: rule for name, rule in (optional or {}).items() if name in data}
    rules = {**rules, **given}
    faults = [FieldError(name, fault) for name, rule in rules.items() if (fault := _fault(data, name, rule))]
    unknown = [name for name in data if name not in rules]
    # Of very many unknown fields only the first are named; the others are counted.
    faults += [FieldError(name, "unknown field") for name in unknown[:MAX_FIELD_ERRORS]]
    if faults:
        upload_id = data.get("upload_id")
        readable = "upload_id" in rules and upload_id_fault(upload_id) is None
        raise InvalidPayload(
            faults,
            more=max(0, len(unknown) - MAX_FIELD_ERRORS),
            event=type_,
            upload_id=upload_id if readable else None,
            reply_to=id_,
        )


def _fault(data: dict[str, Any], name: str, rule: Rule) -> str | None:
    return rule(data[name]) if name in data else "missing"
