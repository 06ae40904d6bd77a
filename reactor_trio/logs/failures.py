"""Tracebacks for log lines: bounded, without the values of variables, and never a failure of their own."""

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
"""Lines of code of one exception; the innermost are kept."""
MAX_CHAIN = 16
"""Exceptions of which one was the cause or context of the next, and those in groups."""
MAX_TRACEBACK = 24_000
"""Characters of a traceback; the middle is left out."""
_INDENT = "  "
"""Before each line. A message with line breaks in it cannot look like a log line of its own."""


def exception_of(exc_info: object) -> BaseException | None:
    """What `exc_info` stands for in a call of a logger: an exception, a tuple as `sys.exc_info`, or True."""
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
    """Text of several lines, such as a traceback that was made elsewhere."""
    text = _without_middle(text, MAX_TRACEBACK)
    lines = text.replace("\t", "    ").rstrip("\n").split("\n")
    return "\n".join(f"{_INDENT}{printable(cut(line))}" for line in lines)


def data_of(exc: BaseException, transform: ExceptionDictTransformer) -> object:
    """What structlog makes of it for JSON; its text where it belongs to a chain that is too long."""
    if not _is_large(exc):
        try:
            return transform((type(exc), exc, exc.__traceback__))
        except PASSES:
            raise
        except BaseException:  # a panic in the exception's own text; Python's way of printing it bears that  # noqa: ASYNC103  it awaits nothing
            pass
    return text_of(exc)


def transformer() -> ExceptionDictTransformer:
    """For `data_of`. Local variables stay out of it: among them are requests, with their tokens."""
    return structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES)


def _formatted(exc: BaseException) -> Iterator[str]:
    if not _is_large(exc):
        yield from traceback.TracebackException(
            type(exc), exc, exc.__traceback__, limit=-MAX_FRAMES, compact=True
        ).format()
        return
    # Python would look at all of them before it writes the first line.
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
    """The last exception, and those before it, as many as are shown."""
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
