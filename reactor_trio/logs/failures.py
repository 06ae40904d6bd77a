"""Tracebacks for log lines: bounded, and without the values of variables. To make one never raises."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import structlog.tracebacks

from reactor_trio.logs.values import MAX_TEXT, PASSES, attempt, cut, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from structlog.tracebacks import ExceptionDictTransformer

MAX_FRAMES = 40
"""At most so many lines of code of one exception are shown: the innermost."""
MAX_CHAIN = 16
"""At most so many exceptions are shown: causes, contexts, and members of groups."""
MAX_TRACEBACK = 24_000
"""At most so many characters of a traceback are shown; the middle is left out."""
_INDENT = "  "
"""Stands before each line, so that a message with line breaks cannot fake a log line."""


def exception_of(exc_info: object) -> BaseException | None:
    """The exception that a logger was given as `exc_info`: itself, a tuple as of `sys.exc_info`, or True."""
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as exc, _):
            return exc
        case None | False | (None, None, None):
            return None
    return sys.exc_info()[1]


def text_of(exc: BaseException) -> str:
    """The traceback as Python prints it, each line indented and free of control characters."""
    return indented(attempt(lambda: _joined(_formatted(exc)), f"{type(exc).__name__}, with no traceback"))


def indented(text: str) -> str:
    """Indent text of several lines, such as a traceback that was made elsewhere."""
    text = _without_middle(text, MAX_TRACEBACK)
    lines = text.replace("\t", "    ").rstrip("\n").split("\n")
    return "\n".join(f"{_INDENT}{printable(cut(line))}" for line in lines)


def data_of(exc: BaseException, transform: ExceptionDictTransformer) -> object:
    """The traceback as structlog makes it for JSON; as text if there are more than `MAX_CHAIN` exceptions."""
    if not _is_large(exc):
        try:
            return transform((type(exc), exc, exc.__traceback__))
        except PASSES:
            raise
        except BaseException:  # the exception's own text cannot be made; Python's way of printing copes  # noqa: ASYNC103  it awaits nothing
            pass
    return text_of(exc)


def transformer() -> ExceptionDictTransformer:
    """Make the transformer of `data_of`. It leaves local variables out, which may be requests with tokens."""
    return structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES)


def _formatted(exc: BaseException) -> Iterator[str]:
    if not _is_large(exc):
        yield from traceback.TracebackException(
            type(exc), exc, exc.__traceback__, limit=-MAX_FRAMES, compact=True
        ).format()
        return
    # Python would look at all exceptions before it writes the first line.
    for each in reversed(_chain(exc)):
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(each.__traceback__, limit=-MAX_FRAMES)
        yield from _said(each)
        yield "\n"
    yield "(more exceptions than are shown)\n"


def _said(exc: BaseException) -> Iterable[str]:
    if isinstance(exc, BaseExceptionGroup):
        return [f"{type(exc).__name__} of {len(exc.exceptions)} exceptions\n"]
    return traceback.format_exception_only(exc)


def _chain(exc: BaseException) -> list[BaseException]:
    """The last exception and those before it, at most `MAX_CHAIN`."""
    chain = [exc]
    while len(chain) < MAX_CHAIN:
        before = _before(chain[-1])
        if before is None or before in chain:
            break
        chain.append(before)
    return chain


def _before(exc: BaseException) -> BaseException | None:
    if exc.__cause__ is not None or exc.__suppress_context__:
        return exc.__cause__
    return exc.__context__


def _is_large(exc: BaseException) -> bool:
    """Whether more than `MAX_CHAIN` exceptions would be shown."""
    seen: set[int] = set()
    waiting = [exc]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if len(seen) > MAX_CHAIN:
            return True
        before = _before(each)
        if before is not None:
            waiting.append(before)
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(each.exceptions[: MAX_CHAIN + 1])
    return False


def _joined(parts: Iterable[str]) -> str:
    return "".join(_without_middle(part, 2 * MAX_TEXT) for part in parts)


def _without_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    begin, end = limit // 3, limit - limit // 3
    return f"{text[:begin]}\n... ({len(text) - limit} characters left out)\n{text[-end:]}"
