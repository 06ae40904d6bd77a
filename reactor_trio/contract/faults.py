"""What is wrong with a payload, in the words that the author of a client reads, and where it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import attrs
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

from reactor_trio.contract.types import record_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FAULTS: Final = 100
"""More than this are not listed: a megabyte of nulls would be answered with many."""

INVALID_PAYLOAD: Final = "invalid_payload"
UNRESOLVED_UPLOAD: Final = "unresolved_upload"
UPLOAD_TYPE: Final = "upload_type"
UPLOAD_TOO_LARGE: Final = "upload_too_large"

_LONGEST_VALUE: Final = 40
_LONGEST_MESSAGE: Final = 300


class Misfit(ValueError):
    """A value that does not fit where it stands; the text goes to the client."""

    def __init__(self, message: str, code: str = INVALID_PAYLOAD) -> None:
        super().__init__(message)
        self.code = code


class StillArriving(Exception):
    """The value is an upload whose bytes are not all there yet."""

    def __init__(self, upload_id: str) -> None:
        super().__init__(upload_id)
        self.upload_id = upload_id


@attrs.frozen
class Fault:
    """One leaf of what was found: a fault, or (`pending`) an upload that is still arriving."""

    path: str
    message: str
    code: str = INVALID_PAYLOAD
    pending: str | None = None


def walk(error: BaseException, payload_class: type, path: str = "") -> Iterator[Fault]:
    """The leaves of an error that the detailed converter raised, each with its path."""
    if isinstance(error, BaseValidationError):
        for part in error.exceptions:
            note = _note(part)
            where = path if note is None else child(path, _key(note))
            if isinstance(part, KeyError) and isinstance(note, AttributeValidationNote):
                yield Fault(where, "is required")  # cattrs looked the field up in the payload.
            else:
                yield from walk(part, payload_class, where)
    elif isinstance(error, ForbiddenExtraKeysError):
        yield from _unknown_fields(error, payload_class, path)
    elif isinstance(error, StillArriving):
        yield Fault(path, "is still arriving", UNRESOLVED_UPLOAD, pending=error.upload_id)
    elif isinstance(error, Misfit):
        yield Fault(path, str(error), error.code)
    else:
        yield Fault(path, of_authors_code(error))


def child(path: str, key: str | int) -> str:
    """The path of what an object or a list holds: `boxes[2].width`, `palette["sky blue"]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if key.isidentifier() and len(key) <= _LONGEST_VALUE:
        return f"{path}.{key}" if path else key
    return f"{path}[{json.dumps(shorten(key), ensure_ascii=False)}]"


def shown(value: Any) -> str:
    """A JSON value in an error's text: `the string '5'`, `5`, `true`, `a list`."""
    if isinstance(value, str):
        return f"the string {shorten(value)!r}"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return plainly(value)


def plainly(value: Any) -> str:
    """A scalar as JSON writes it, a string in quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(shorten(value))
    if isinstance(value, int | float):
        # Python refuses to write integers of more than 4300 digits.
        return "a huge integer" if isinstance(value, int) and value.bit_length() > 128 else repr(value)
    return f"a {type(value).__name__}"


def shorten(text: str, longest: int = _LONGEST_VALUE) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def listed(words: list[str]) -> str:
    """The words between commas, a long list cut off."""
    head = ", ".join(words[:20])
    return head if len(words) <= 20 else f"{head}, … ({len(words)} in all)"


def _note(error: BaseException) -> AttributeValidationNote | IterableValidationNote | None:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote | IterableValidationNote):
            return note
    return None


def _key(note: AttributeValidationNote | IterableValidationNote) -> str | int:
    return note.name if isinstance(note, AttributeValidationNote) else note.index


def _unknown_fields(error: ForbiddenExtraKeysError, payload_class: type, path: str) -> Iterator[Fault]:
    names = [field.name for field in record_fields(error.cl)]
    owner = "this event" if error.cl is payload_class else error.cl.__name__
    known = f"it has: {listed(names)}" if names else "it has none"
    for key in sorted(error.extra_fields)[:MAX_FAULTS]:
        yield Fault(child(path, key), f"is not a field of {owner}; {known}")


def of_authors_code(error: BaseException) -> str:
    """The text of an author's own validator; a crash in one says no more than its kind."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, ValueError | TypeError | AssertionError) and error.args:
        # attrs' own validators put the attribute and the value behind their text.
        return shorten(str(error.args[0]), _LONGEST_MESSAGE)
    return f"is not accepted: {type(error).__name__}"
