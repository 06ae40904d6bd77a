"""From an event to its line: the last of structlog's processors, which renders all other lines too."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Literal

import structlog

from reactor_trio.logs.failures import data_of, exception_of, indented, text_of, transformer
from reactor_trio.logs.repeats import Repeats
from reactor_trio.logs.values import MAX_ITEMS, Tidier, attempt, printable

if TYPE_CHECKING:
    from collections.abc import Hashable
    from types import CodeType, FrameType

    from structlog.typing import EventDict, WrappedLogger

LogFormat = Literal["text", "json"]

_OWN_COLUMNS = ("timestamp", "level", "logger", "logger_name")
"""Fields that structlog prints unquoted."""
_LEVELS = frozenset(structlog.dev.ConsoleRenderer.get_default_level_styles())
_PARTS = ("exc_info", "exception", "stack")
_LOGGING = ("structlog", "logging", "warnings", "reactor_trio.logs")
"""Modules that are skipped on the way to the line of code that logs."""
_QUOTED = frozenset(" =\"'")


class _Ready:
    """Text that structlog's renderer prints unquoted: it prints the `repr` of a value that is no string."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class LineRenderer:
    """Makes a line of an event; raises `structlog.DropEvent` if its place in the code has logged too much.

    Raises nothing else, whatever the event contains. In place of a line that cannot be made, a line says so.
    """

    def __init__(
        self, log_format: LogFormat, *, colours: bool = False, repeats: Repeats | None = None
    ) -> None:
        self.repeats = Repeats() if repeats is None else repeats
        self._is_json = log_format == "json"
        self._transform = transformer()
        self._console = structlog.dev.ConsoleRenderer(
            colors=colours, exception_formatter=structlog.dev.plain_traceback, sort_keys=not self._is_json
        )

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """Render the event, as a processor of structlog's."""
        exc = exception_of(event.get("exc_info"))
        place = self.repeats.place(_place(sys._getframe(1), exc), lambda: _what(event))
        if not self.repeats.admit(place):
            raise structlog.DropEvent
        if place.left_out:
            event["left_out"] = place.left_out
        line = self.render(event, exc)
        self.repeats.charge(place, len(line))
        return line

    def render(self, event: EventDict, exc: BaseException | None = None) -> str:
        """The line of an event from anywhere. It is not counted as a line of its place."""

        def rendered() -> str:
            return self._json(event, exc) if self._is_json else self._text(event, exc)

        line = attempt(rendered, "a line that could not be made")
        if line.startswith("<a line"):
            # Not by the renderer, which has just failed, and from plain text alone.
            text = f"{_what(event)} {line}"
            return json.dumps({"event": text, "level": "error"}) if self._is_json else printable(text)
        return line

    def _json(self, event: EventDict, exc: BaseException | None) -> str:
        tidier = Tidier()
        fields = _fields(event, tidier)
        for part in ("exception", "stack"):
            if part in event:
                fields[part] = indented(str(event[part]))
        if exc is not None:
            fields["exception"] = _bounded(data_of(exc, self._transform))
        # ASCII alone: all control characters of a terminal are written as \\uXXXX.
        return json.dumps(fields, allow_nan=False).replace("\x7f", "\\u007f")

    def _text(self, event: EventDict, exc: BaseException | None) -> str:
        fields: EventDict = {}
        for key, value in _fields(event, Tidier()).items():
            name = printable(key)
            if name in _OWN_COLUMNS or name == "event":
                fields[name] = printable(value if isinstance(value, str) else repr(value))
            else:
                fields[name] = _Ready(_shown(value))
        if fields.get("level") not in _LEVELS:
            fields["level"] = "notset"
        for part in ("exception", "stack"):
            if part in event:
                fields[part] = indented(str(event[part]))
        if exc is not None:
            fields["exception"] = text_of(exc)
        return self._console(None, "", fields)


def _fields(event: EventDict, tidier: Tidier) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for number, (key, value) in enumerate(event.items()):
        if key in _PARTS:
            continue
        if number >= MAX_ITEMS:
            fields["..."] = f"{len(event) - number} more"
            break
        fields[tidier.key(key)] = tidier.value(value)
    return fields


def _bounded(exception: object) -> object:
    return exception if isinstance(exception, str) else _tidied_traceback(exception)


def _tidied_traceback(value: Any) -> Any:
    """The traceback with its strings cut. The number of its strings is bounded already."""
    match value:
        case str():
            return Tidier().text(value)
        case dict():
            return {key: _tidied_traceback(each) for key, each in value.items()}
        case list() | tuple():
            return [_tidied_traceback(each) for each in value]
        case None | bool() | int():
            return value
    return Tidier().value(value)


def _shown(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and _QUOTED.isdisjoint(value):
        return value
    return repr(value)  # the value is plain, so all characters are printable


def _what(event: EventDict) -> str:
    return str(Tidier(200).value(event.get("event")))


def _place(frame: FrameType | None, exc: BaseException | None) -> Hashable:
    """The line of code that logs, and the line that raised the logged error: clients cannot invent any."""
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_LOGGING):
        frame = frame.f_back
    logs = None if frame is None else (frame.f_code, frame.f_lasti)
    return logs if exc is None else (logs, type(exc), _raised(exc))


def _raised(exc: BaseException) -> tuple[CodeType, int] | None:
    traceback = exc.__traceback__
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code, traceback.tb_lasti
