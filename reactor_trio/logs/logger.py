"""Loggers with methods that never raise, however structlog is configured."""

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

    An author may have configured structlog to write to a file, and its disk may be full: such a failure must
    not end a session. Only `KeyboardInterrupt` and `trio.Cancelled` are passed on.
    """

    __slots__ = ("_fields", "_structlog")

    def __init__(self, name: str, fields: dict[str, object]) -> None:
        # A logger without fields belongs to a module and is made before structlog is configured, so it looks
        # the configuration up each time. One with fields belongs to a session: there a line below the level
        # must cost next to nothing.
        self._structlog: FilteringBoundLogger = structlog.get_logger(name)
        self._fields = fields
        if fields:
            with suppress(Exception):
                self._structlog, self._fields = self._structlog.bind(**fields), {}

    def bind(self, **fields: object) -> Logger:
        """Make a logger that adds these fields to each line."""
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
        """Log at level `error`, with the traceback of the exception that is being handled."""
        self._say("error", event, {"exc_info": True, **fields})

    def _say(self, level: str, event: str, fields: dict[str, object]) -> None:
        try:
            getattr(self._structlog, level)(event, **self._fields, **fields)
        except (KeyboardInterrupt, trio.Cancelled):
            raise
        except BaseException:  # there is no other place to report it
            return


def get_logger(name: str, **fields: object) -> Logger:
    """Make a logger for the runtime's own lines."""
    return Logger(name, fields)


def never_raising(bound_logger: T) -> T:
    """Derive a logger class for authors. In place of a line that cannot be made it logs the arguments."""
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
