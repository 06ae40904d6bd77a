"""The values of a log line: bounded ones that JSON can hold, and text without control characters.

Any object may be logged, also one with a `__repr__` that raises, a string of 20 MB, or a string by which a
client would move the cursor of the terminal that shows it. The functions here raise nothing but `PASSES`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import islice
from typing import TypeAlias

import trio

MAX_TEXT = 2000
"""Characters of one string."""
MAX_ITEMS = 50
"""Items of a container, and fields of a line."""
MAX_DEPTH = 5
"""Depth of containers in containers."""
MAX_LINE = 16_000
"""Characters of all strings of a line together, its traceback left out."""
_FEWEST = 20
"""Characters that a string keeps when its line is full."""

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"
"""A value that JSON can hold."""

PASSES = (KeyboardInterrupt, trio.Cancelled)
"""The exceptions that every function here lets through."""


def attempt(function: Callable[[], str], otherwise: str) -> str:
    """The text that a foreign function returns; `otherwise` if it raises."""
    try:
        text = function()
    except PASSES:
        raise
    except BaseException as failure:  # noqa: ASYNC103  it awaits nothing
        return f"<{otherwise}: {type(failure).__name__}>"  # noqa: ASYNC104  it awaits nothing
    # A `str` and not a subclass, with methods that are foreign too.
    return text if type(text) is str else str.__str__(text)


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """The beginning of the text, and how many characters are missing."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"


def printable(text: str) -> str:
    """The text with a backslash sequence for each character that is not printable.

    Those are line breaks, ESC and the other control characters, C1 too; marks that turn the direction of text
    round; lone surrogates; and spaces that are not U+0020.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else escape(each) for each in text)


def escape(character: str) -> str:
    """The backslash sequence of a character, as in Python's source."""
    return character.encode("unicode_escape").decode("ascii")


class Tidier:
    """Makes the values of one line plain, and bounds the length of the line."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._left = limit

    def text(self, text: str) -> str:
        """Cut a string. Lone surrogates, which JSON cannot hold, become backslash sequences."""
        text = cut(text, min(MAX_TEXT, max(self._left, _FEWEST)))
        self._left -= len(text)
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()

    def value(self, value: object, depth: int = 0) -> Plain:
        """Make any value plain; one that JSON cannot express becomes its `repr`."""
        # By the exact type: a subclass may override any method.
        match value:
            case None:
                return None
            case bool():
                return value is True
            case str():
                return self.text(str.__str__(value))
            case int() if type(value) is int:
                return value if -(2**63) <= value < 2**63 else self.text(_large(value))
            case float() if type(value) is float:
                return value if math.isfinite(value) else repr(value)
            case bytes() | bytearray() | memoryview():
                return self._bytes(value)
        if depth >= MAX_DEPTH or self._left <= 0:
            return "..."
        if type(value) is dict:
            return self._mapping(value, depth)
        if type(value) in (list, tuple, set, frozenset):
            assert isinstance(value, Sequence | Set)
            return self._items(value, depth)
        return self.text(attempt(lambda: repr(value), f"a {type(value).__name__} without a repr"))

    def _bytes(self, value: bytes | bytearray | memoryview) -> str:
        def show() -> str:
            data = value.cast("B") if isinstance(value, memoryview) else value
            more = f"... ({len(data) - 100} more bytes)" if len(data) > 100 else ""
            return f"{bytes(data[:100])!r}{more}"

        return self.text(attempt(show, "bytes that cannot be read"))

    def _mapping(self, value: Mapping[object, object], depth: int) -> Plain:
        pairs = list(islice(_copy(value).items(), MAX_ITEMS))
        tidied = {self.key(key): self.value(each, depth + 1) for key, each in pairs}
        if len(value) > len(pairs):
            tidied["..."] = f"{len(value) - len(pairs)} more"
        return tidied

    def _items(self, value: Sequence[object] | Set[object], depth: int) -> Plain:
        tidied = [self.value(each, depth + 1) for each in islice(tuple(value), MAX_ITEMS)]
        if len(value) > len(tidied):
            tidied.append(f"... ({len(value) - len(tidied)} more)")
        return tidied

    def key(self, key: object) -> str:
        """Make the name of a field plain."""
        plain = self.value(key, MAX_DEPTH)
        return plain if isinstance(plain, str) else repr(plain)


def _copy(value: Mapping[object, object]) -> dict[object, object]:
    # In one step of C, since another thread may change the mapping.
    return dict(value)


def _large(value: int) -> str:
    # Python refuses to write out more than 4300 digits, and is slow with fewer.
    digits = value.bit_length() * math.log10(2)
    if digits > min(MAX_TEXT, sys.int_info.str_digits_check_threshold):
        return f"<an integer of about {digits:.0f} digits>"
    return str(value)
