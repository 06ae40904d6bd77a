"""`InputField(pattern=...)`: RE2 searches for the pattern, in a time proportional to the length of the text.

Python's own engine backtracks: `^(a+)+$` takes twice as long for each further `a`, while all clients wait. In
return RE2 has no back-references and no look-around. Its classes (`\\d`, `\\w`, `\\s`, `\\b`) are those of
ASCII, and `$` is the very end of the text, as in the schema, whose patterns are those of ECMA-262.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import re2

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES: Final = 8 * 1024 * 1024
"""Memory of one pattern, in bytes: its program, and the cache of the search."""

# One escape (`\\u00e9`, `\\Z`, any other), a class, or a count without its lower end.
_PIECE: Final = re.compile(
    r"\\u(?P<short>[0-9a-fA-F]{4})|\\U(?P<long>[0-9a-fA-F]{8})|(?P<end>\\Z)|\\."
    r"|(?P<open>\[\^?\]?)|(?P<close>\])|\{,(?P<most>\d+)\}",
    re.DOTALL,
)


class BadPattern(Exception):  # a caller makes a TypeError of it, and adds the place
    """A pattern that is no regular expression, or that RE2 cannot search for."""


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """A function that returns whether the pattern is found anywhere in a text. Raises `BadPattern`."""
    try:
        search = re2.compile(_translated(pattern).encode(), _options()).search
    except (re2.error, UnicodeEncodeError) as error:
        raise BadPattern(_reason(pattern, error)) from None

    def is_found(text: str) -> bool:
        # Received JSON has no lone surrogate; a default or a call in this process may have one.
        return search(text.encode(errors="surrogatepass")) is not None

    return is_found


def _options() -> re2.Options:
    options = re2.Options()
    options.max_mem = MAX_BYTES
    options.log_errors = False  # RE2 would write to standard error
    options.never_capture = True  # groups are not used, and cost a second search
    return options


def _translated(pattern: str) -> str:
    """The pattern for RE2: Python's `\\u00e9` is `\\x{e9}` there, `\\Z` is `\\z`, `{,3}` is `{0,3}`."""
    in_class = False

    def piece(match: re.Match[str]) -> str:
        nonlocal in_class
        point = match["short"] or match["long"]
        if point:
            return f"\\x{{{point}}}"
        if match["end"]:
            return "\\z"
        if match["open"] and not in_class:
            in_class = True
        elif match["close"]:
            in_class = False
        elif match["most"] and not in_class:
            return f"{{0,{match['most']}}}"
        return match[0]

    return _PIECE.sub(piece, pattern)


def _reason(pattern: str, error: Exception) -> str:
    detail = error.args[0] if isinstance(error, re2.error) and error.args else error
    found = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as wrong:
        # Unless it has a class such as `\\p{L}`, which RE2 knows and Python does not.
        if not re.search(r"\\[pP]", pattern):
            return f"is no regular expression: {wrong}"
    if "too large" in found or "repetition size" in found:
        return f"is too large for a search in linear time ({found}): give the length as max_length"
    return (
        f"cannot be searched in linear time ({found}): leave out back-references, look-around, and atomic or "
        "possessive groups, or check the value in the handler and raise CommandError"
    )
