"""Logging: structlog to standard error, as text for people or JSON for machines."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Literal

import structlog
import structlog.tracebacks

if TYPE_CHECKING:
    from structlog.typing import Processor

LogFormat = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")


def configure_logging(log_format: LogFormat = "text", level: str = "info") -> None:
    """Set up structlog for the process. `level` is one of `LEVELS`."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *(_json() if log_format == "json" else _text()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def plain_tracebacks() -> None:
    """For a process that has not set up structlog: its default, but without the values of variables."""
    *before, _ = structlog.get_config()["processors"]
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[*before, console])


def _json() -> list[Processor]:
    # Local variables stay out of it: among them are requests, with their tokens.
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer()]


def _text() -> list[Processor]:
    colours = sys.stderr.isatty()
    return [
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback),
    ]
