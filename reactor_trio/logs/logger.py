"""Loggers whose methods never raise, whatever structlog was told to do with their lines."""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

T = TypeVar("T", bound=type)
_METHODS = ("debug", "info", "warning", "warn", "error", "critical", "fatal", "exception", "msg", "log")


class Logger:
    """The runtime's own logger: `structlog.get_logger(name)` with these fields.

    An author may have configured structlog, so that its lines go to a file on a disk that is full: what fails
    there must not end a session. What travels on is `KeyboardInterrupt` and `trio.Cancelled`.
    """

    __slots__ = ("_fields", "_structlog")

    def __init__(self, name: str, fields: dict[str, object]) -> None:
        # A logger without fields is a module's, made before structlog is configured: it asks each time. One
        # with fields is a session's, and a line below the level must cost it next to nothing.
        self._structlog: FilteringBoundLogger = structlog.get_logger(name)
        self._fields = fields
        if fields:
            with suppress(Exception):
                self._structlog, self._fields = self._structlog.bind(**fields), {}

    def bind(self, **fields: object) -> Logger:
        """The same logger with more fields."""
        bound = Logger.__new__(Logger)
        bound._structlog, bound._fields = self._structlog, self._fields | fields
        return bound

    def debug(self, event: str, **fields: object) -> None:
        """Log at this level."""
        self._say("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log at this level."""
        self._say("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log at this level."""
        self._say("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log at this level."""
        self._say("error", event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log at level `error`, with the traceback of what is being handled."""
        self._say("error", event, {"exc_info": True, **fields})

    def _say(self, level: str, event: str, fields: dict[str, object]) -> None:
        try:
            getattr(self._structlog, level)(event, **self._fields, **fields)
        except (KeyboardInterrupt, trio.Cancelled):
            raise
        except BaseException:  # nowhere is left to say so
            return


def get_logger(name: str, **fields: object) -> Logger:
    """A logger of the runtime's."""
    return Logger(name, fields)


def never_raising(bound_logger: T) -> T:
    """The same class of structlog's, for authors' lines: one that cannot be made says what it was given."""
    methods = {
        name: _contained(method)
        for name in _METHODS
        if (method := getattr(bound_logger, name, None)) is not None
    }
    made: Any = type(bound_logger.__name__, (bound_logger,), methods)
    result: T = made
    return result


def _contained(method: Callable[..., Any]) -> Callable[..., Any]:
    if method.__name__ == "_nop":  # below the level
        return method

    @functools.wraps(method)
    def call(self: Any, *args: Any, **fields: Any) -> Any:
        try:
            return method(self, *args, **fields)
        except (KeyboardInterrupt, trio.Cancelled):
            raise
        except BaseException as failure:  # such as "%d" with no number for it
            return _say_what_was_given(self, failure, args, fields)

    return call


def _say_what_was_given(
    logger: Any, failure: BaseException, args: tuple[Any, ...], fields: dict[str, Any]
) -> None:
    try:
        event = args[0] if args else "a log line without an event"
        logger._proxy_to_logger(
            "error", event, arguments=args[1:], fields=fields, log_error=type(failure).__name__
        )
    except (KeyboardInterrupt, trio.Cancelled):
        raise
    except BaseException:
        return
