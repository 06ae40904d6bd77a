"""What is wrong with a payload, in the words that the author of a client reads, and where it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import attrs

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


class Faults(Exception):
    """What is wrong inside an object or a list, part by part, in order.

    `more` is the number of faults beside these that are known, `is_partial` whether there may be others, for
    nobody looked at the rest.
    """

    def __init__(self, parts: list[tuple[str | int, Exception]], *, more: int, is_partial: bool) -> None:
        super().__init__()
        self.parts = parts
        self.more = more
        self.is_partial = is_partial
        self.count = more
        """All that are known."""
        self.only_pending = not more and all(only_pending(error) for _, error in parts)
        for _, error in parts:
            if isinstance(error, Faults):
                self.count += error.count
                self.is_partial = self.is_partial or error.is_partial
            else:
                self.count += 1


class Findings:
    """Collects the faults of one object or list; `is_enough` says that no more are looked for."""

    def __init__(self) -> None:
        self._parts: list[tuple[str | int, Exception]] = []
        self._count = 0

    @property
    def is_enough(self) -> bool:
        """Whether the answer is full."""
        return self._count >= MAX_FAULTS

    def add(self, key: str | int, error: Exception) -> None:
        """Note what is wrong with one part."""
        # Its traceback would hold the frames that hold this.
        self._parts.append((key, error.with_traceback(None)))
        self._count += error.count if isinstance(error, Faults) else 1

    def by_key(self) -> dict[str | int, Exception]:
        """What is wrong with each part."""
        return dict(self._parts)

    def error(self, *, more: int = 0, is_partial: bool = False) -> Faults:
        """All of it; the caller raises it."""
        return Faults(self._parts, more=more, is_partial=is_partial)


def walk(error: Exception, path: str = "") -> Iterator[Fault]:
    """The leaves of an error that a hook raised, each with its path."""
    if isinstance(error, Faults):
        for key, part in error.parts:
            yield from walk(part, child(path, key))
    elif isinstance(error, StillArriving):
        yield Fault(path, "is still arriving", UNRESOLVED_UPLOAD, pending=error.upload_id)
    elif isinstance(error, Misfit):
        yield Fault(path, str(error), error.code)
    else:
        yield Fault(path, of_authors_code(error))


def only_pending(error: Exception) -> bool:
    """Whether uploads that are still arriving are all that is wrong."""
    return error.only_pending if isinstance(error, Faults) else isinstance(error, StillArriving)


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


def of_authors_code(error: BaseException) -> str:
    """The text of an author's own validator; a crash in one says no more than its kind."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, ValueError | TypeError | AssertionError) and error.args:
        # attrs' own validators put the attribute and the value behind their text.
        return shorten(str(error.args[0]), _LONGEST_MESSAGE)
    return f"is not accepted: {type(error).__name__}"
