"""What is wrong with a payload, in the words that the author of a client reads, and where it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import attrs
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)

from reactor_trio.contract.attributes import input_names
from reactor_trio.errors import MAX_FIELD_ERRORS, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FAULTS: Final = MAX_FIELD_ERRORS
"""More than this are not looked for: a megabyte of nulls would be answered with many."""

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


class ItemsDoNotFit(IterableValidationError):
    """What is wrong inside a list or a dict; `is_partial` if nobody looked at the rest of it."""

    is_partial = False


class Findings:
    """Collects the faults of one list or dict; `is_enough` says that no more are looked for."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []
        self._count = 0

    @property
    def is_enough(self) -> bool:
        """Whether the answer is full."""
        return self._count >= MAX_FAULTS

    def add(self, key: str | int, error: Exception) -> None:
        """Note what is wrong with one item."""
        self._count += summary(error).count
        # One that comes from a union may have been noted before, under the same key.
        error.__notes__ = [IterableValidationNote("", key, Any)]
        self._errors.append(error.with_traceback(None))

    def error(self, *, is_partial: bool) -> ItemsDoNotFit:
        """All of it; the caller raises it."""
        # pyright takes the arguments of ExceptionGroup for those of its subclass.
        error = ItemsDoNotFit("items do not fit", self._errors, list)  # pyright: ignore[reportCallIssue]
        error.is_partial = is_partial
        return error


@attrs.frozen
class Summary:
    """What an error amounts to."""

    count: int
    """Faults, of those that were looked for."""
    is_partial: bool = False
    only_pending: bool = False
    """Whether uploads that are still arriving are all that is wrong."""


_ONE: Final = Summary(1)
_PENDING: Final = Summary(1, only_pending=True)


def summary(error: Exception) -> Summary:
    """What an error of the hooks amounts to. It is remembered: asked at each level, it is counted once.

    The tracebacks inside go, which refer to what refers to them.
    """
    if isinstance(error, ForbiddenExtraKeysError):
        return Summary(len(error.extra_fields))
    if not isinstance(error, BaseValidationError):
        return _PENDING if isinstance(error, StillArriving) else _ONE
    known: Summary | None = vars(error).get("summary")
    if known is None:
        parts = [summary(part.with_traceback(None)) for part in error.exceptions]
        known = Summary(
            sum(part.count for part in parts),
            any(part.is_partial for part in parts) or getattr(error, "is_partial", False),
            all(part.only_pending for part in parts),
        )
        vars(error)["summary"] = known
    return known


def walk(error: Exception, value: Any, payload_class: type, path: str = "") -> Iterator[Fault]:
    """The leaves of an error that the hooks raised for a value, each with its path."""
    if isinstance(error, BaseValidationError):
        for part in error.exceptions:
            note = _note(part)
            if note is None:
                yield from walk(part, value, payload_class, path)
                continue
            key = _key(note)
            where = child(path, key)
            if isinstance(part, KeyError) and isinstance(note, AttributeValidationNote):
                yield Fault(where, "is required")  # cattrs looked the field up in the payload.
            else:
                yield from walk(part, value[key], payload_class, where)
    elif isinstance(error, ForbiddenExtraKeysError):
        yield from _unknown_fields(error, value, payload_class, path)
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
    name = shorten(key, _LONGEST_VALUE)
    return f"{path}[{json.dumps(name, ensure_ascii=not name.isprintable())}]"


def shown(value: Any) -> str:
    """A JSON value in an error's text: `the string '5'`, `5`, `true`, `a list`."""
    if isinstance(value, str):
        return f"the string {shorten(value, _LONGEST_VALUE)!r}"
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
        return repr(shorten(value, _LONGEST_VALUE))
    if isinstance(value, int | float):
        # Python refuses to write integers of more than 4300 digits.
        return "a huge integer" if isinstance(value, int) and value.bit_length() > 128 else repr(value)
    return f"a {type(value).__name__}"


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


def _unknown_fields(
    error: ForbiddenExtraKeysError, value: dict[str, Any], payload_class: type, path: str
) -> Iterator[Fault]:
    names = input_names(error.cl)
    owner = "this event" if error.cl is payload_class else error.cl.__name__
    known = f"it has: {listed(names)}" if names else "it has none"
    for key in value:  # in the order of the payload; it is walked over only as far as it is listed
        if key in error.extra_fields:
            yield Fault(child(path, key), f"is not a field of {owner}; {known}")


def of_authors_code(error: BaseException) -> str:
    """The text of an author's own validator; a crash in one says no more than its kind."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, ValueError | TypeError | AssertionError) and error.args:
        # attrs' own validators put the attribute and the value behind their text.
        return shorten(str(error.args[0]), _LONGEST_MESSAGE)
    return f"is not accepted: {type(error).__name__}"
