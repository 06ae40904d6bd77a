"""Logging: structlog and the standard library to standard error, as text for people or JSON for machines."""

from __future__ import annotations

import logging
import math
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import structlog

from reactor_trio.logs.logger import never_raising
from reactor_trio.logs.process import LineLogger, Log, LogHandler, descriptor_of, process_hooks
from reactor_trio.logs.rendering import LineRenderer, LogFormat
from reactor_trio.logs.repeats import Repeats
from reactor_trio.logs.writer import is_writable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LEVELS", "LogFormat", "configure_logging", "logging_process", "plain_tracebacks"]

LEVELS = ("debug", "info", "warning", "error")
KIT_SECONDS = 1.0
"""Seconds that a test waits for the reader of its output."""

_handler: LogHandler | None = None


def configure_logging(log_format: LogFormat = "text", level: str = "info") -> Log:
    """Set up structlog and `logging` for the process. `level` is one of `LEVELS`.

    From now on no line raises or blocks, whatever it contains and however slowly it is read.
    """
    log = Log(log_format, sys.stderr)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            log.line,
        ],
        wrapper_class=never_raising(structlog.make_filtering_bound_logger(number)),
        logger_factory=lambda *_: LineLogger(log.write),
    )
    _take_over_stdlib(log, number)
    return log


def _take_over_stdlib(log: Log, level: int) -> None:
    global _handler
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
    _handler = LogHandler(log)
    root.addHandler(_handler)
    root.setLevel(level)


@contextmanager
def logging_process(log_format: LogFormat, level: str) -> Iterator[Log]:
    """Set up the log of a process that serves: `configure_logging`, warnings, `print` and uncaught errors.

    At the end of the block the lines that wait are written, for at most a second.
    """
    hold_standard_descriptors()
    log = configure_logging(log_format, level)
    with process_hooks(log):
        yield log


def hold_standard_descriptors() -> None:
    """Open those of standard input, output and error that are closed (`2>&-`).

    Otherwise the next socket would get the number, and its client all that C libraries print there.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def plain_tracebacks() -> None:
    """Keep structlog's default in a process that has not set it up, but show no values of variables.

    A line that cannot be written raises no error, and blocks a test for a second at most.
    """
    *before, _ = structlog.get_config()["processors"]
    line = LineRenderer(
        "text", colours=sys.stdout is not None and sys.stdout.isatty(), repeats=Repeats(burst=math.inf)
    )
    structlog.configure(
        processors=[*before, line],
        logger_factory=lambda *_: LineLogger(lambda text: _print(text, sys.stdout)),
    )


def _print(line: str, stream: TextIO | None) -> None:
    if stream is None:
        return
    fd = descriptor_of(stream)
    try:
        if fd is None or is_writable(fd, KIT_SECONDS):
            stream.write(f"{line}\n")
            stream.flush()
    except (OSError, ValueError):  # the reader is gone, the disk full, or the stream closed
        return
