"""The faults of a payload: a text for the author of the client, and a path to the place of each."""

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
"""The search for faults stops at this number: a megabyte of nulls would have many."""

INVALID_PAYLOAD: Final = "invalid_payload"
UNRESOLVED_UPLOAD: Final = "unresolved_upload"
UPLOAD_TYPE: Final = "upload_type"
UPLOAD_TOO_LARGE: Final = "upload_too_large"

_LONGEST_VALUE: Final = 40
_LONGEST_MESSAGE: Final = 300


class Misfit(ValueError):
    """A value that does not fit its type or a rule. The text goes to the client."""

    def __init__(self, message: str, code: str = INVALID_PAYLOAD) -> None:
        super().__init__(message)
        self.code = code


class StillArriving(Exception):
    """The value is an upload whose bytes have not all arrived yet."""

    def __init__(self, upload_id: str) -> None:
        super().__init__(upload_id)
        self.upload_id = upload_id


@attrs.frozen
class Fault:
    """One fault, or (with `pending`, its id) one upload that is still arriving."""

    path: str
    message: str
    code: str = INVALID_PAYLOAD
    pending: str | None = None


class ItemsDoNotFit(IterableValidationError):
    """The errors of the items of a list or a dict; `is_partial` if some items were not looked at."""

    is_partial = False


class Findings:
    """Collects the errors of the items of one list or dict."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []
        self._count = 0

    @property
    def is_enough(self) -> bool:
        """Whether `MAX_FAULTS` are found, so that the other items need not be looked at."""
        return self._count >= MAX_FAULTS

    def add(self, key: str | int, error: Exception) -> None:
        """Add the error of one item."""
        self._count += summary(error).count
        # The error of a union's member may have a note of an earlier try, under the same key.
        error.__notes__ = [IterableValidationNote("", key, Any)]
        self._errors.append(error.with_traceback(None))

    def error(self, *, is_partial: bool) -> ItemsDoNotFit:
        """The errors as one, for the caller to raise."""
        # pyright checks the arguments against those of ExceptionGroup.
        error = ItemsDoNotFit("items do not fit", self._errors, list)  # pyright: ignore[reportCallIssue]
        error.is_partial = is_partial
        return error


@attrs.frozen
class Summary:
    """The number and kind of the faults in an error."""

    count: int
    """Faults that were found."""
    is_partial: bool = False
    """Whether there may be more faults, as some items were not looked at."""
    only_pending: bool = False
    """Whether every fault is an upload that is still arriving."""


_ONE: Final = Summary(1)
_PENDING: Final = Summary(1, only_pending=True)


def summary(error: Exception) -> Summary:
    """The summary of an error that a hook raised. The error keeps it, as each level of nesting asks again.

    The tracebacks inside the error are dropped, since they make reference cycles.
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
    """The faults in an error that the hooks raised for `value`, each with its path."""
    if isinstance(error, BaseValidationError):
        for part in error.exceptions:
            note = _note(part)
            if note is None:
                yield from walk(part, value, payload_class, path)
                continue
            key = _key(note)
            where = child(path, key)
            if isinstance(part, KeyError) and isinstance(note, AttributeValidationNote):
                yield Fault(where, "is required")  # cattrs looked for the field in the payload
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
    """The path of an item of an object or a list: `boxes[2].width`, `palette["sky blue"]`."""
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
    for key in value:  # in the order of the payload; the caller stops at `MAX_FAULTS`
        if key in error.extra_fields:
            yield Fault(child(path, key), f"is not a field of {owner}; {known}")


def of_authors_code(error: BaseException) -> str:
    """The text of an error in an author's class: a validator's own, or the kind of the error for a crash."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, ValueError | TypeError | AssertionError) and error.args:
        # The validators of attrs have the attribute and the value in `args`, behind the text.
        return shorten(str(error.args[0]), _LONGEST_MESSAGE)
    return f"is not accepted: {type(error).__name__}"
