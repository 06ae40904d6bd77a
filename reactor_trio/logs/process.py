"""The log of a process: structlog, `logging`, warnings, uncaught errors and `print`, all without blocking.

One loop serves every client, so a log that stalls must not stop it (docs/design.md#the-process).
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import warnings
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import structlog
from structlog.contextvars import get_contextvars
from structlog.stdlib import ExtraAdder

from reactor_trio.logs.rendering import LineRenderer, LogFormat
from reactor_trio.logs.repeats import Repeats
from reactor_trio.logs.values import MAX_LINE, attempt, cut
from reactor_trio.logs.writer import LineWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from structlog.typing import EventDict

_NO_LOGGER = logging.getLogger(__name__)
_STDLIB_LEVELS = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}


class Log:
    """Makes lines of events and writes them to `stream`: in a thread if the stream has a file descriptor.

    A stream without one, such as a test's `StringIO`, is written to at once.
    """

    def __init__(self, log_format: LogFormat, stream: TextIO | None) -> None:
        self.log_format = log_format
        self.repeats = Repeats()
        self.line = LineRenderer(log_format, colours=_is_terminal(stream), repeats=self.repeats)
        self._stream = stream
        self._lost = 0
        self.outputs: list[LineWriter] = []
        """The writers of printed text that does not go into this log."""
        fd = descriptor_of(stream)
        self.writer: LineWriter | None = None
        if fd is not None:
            self.writer = LineWriter(
                fd,
                lost_notice=self._lost_notice,
                notices=self._notices,
                has_notices=lambda: self.repeats.owes,
            )
            self.repeats.on_owing = lambda: self.write("", end="")

    @property
    def lost(self) -> int:
        """Lines that could not be written, printed ones included."""
        writers = self.outputs if self.writer is None else [self.writer, *self.outputs]
        return self._lost + sum(writer.lost for writer in writers)

    def write(self, line: str, end: str = "\n") -> None:
        """Write a line. Never blocks, never raises."""
        if self.writer is not None:
            self.writer.put(f"{line}{end}".encode("utf-8", "backslashreplace"))
        elif self._stream is not None:
            try:
                self._stream.write(f"{line}{end}")
                self._stream.flush()
            except (OSError, ValueError):  # closed
                self._lost += 1

    def say(self, level: str, event: object, *, exc_info: object = None, **fields: object) -> None:
        """Log an event that does not come from structlog. Never blocks, never raises."""
        entry = {**get_contextvars(), **fields, "event": event, "exc_info": exc_info}
        with suppress(structlog.DropEvent):
            self.write(self.line(None, level, self._stamped(level, entry)))

    def _stamped(self, level: str, entry: EventDict) -> EventDict:
        return {**entry, "level": level, "timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"}

    def _notice(self, event: str, **fields: object) -> bytes:
        line = self.line.render(self._stamped("warning", {"event": event, **fields}))
        return f"{line}\n".encode()

    def _lost_notice(self, lost: int) -> bytes:
        return self._notice("log lines were lost", lines=lost, hint="standard error could not be written")

    def _notices(self) -> list[bytes]:
        return [
            self._notice("log lines were left out", like=what, lines=lines)
            for what, lines in self.repeats.settle()
        ]

    def close(self) -> None:
        """Write the lines that wait, for at most `CLOSE_SECONDS`."""
        if self.writer is not None:
            self.writer.close()


class LineLogger:
    """The logger to which structlog hands finished lines."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def msg(self, line: str) -> None:
        """Write a line."""
        self._write(line)

    log = debug = info = warn = warning = error = critical = fatal = failure = exception = msg


class LogHandler(logging.Handler):
    """Takes the records of the standard library's `logging`: those of authors, of libraries, and of Trio."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self._extra = ExtraAdder()

    def createLock(self) -> None:  # noqa: N802  logging's name
        """Use no lock: for one, a line on the loop would wait for a thread in the middle of a `repr`."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record without the lock, which Python 3.13 enters even where it is None."""
        passed = self.filter(record)
        if passed:
            self.emit(record if passed is True else passed)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record. Never raises."""
        event = attempt(record.getMessage, f"a message that does not fit: {cut(str(record.msg), 200)!r}")
        fields: EventDict = {"logger": record.name, "_record": record}
        fields = dict(self._extra(_NO_LOGGER, "", fields))
        del fields["_record"]
        for taken in ("event", "exc_info", "level"):
            if taken in fields:
                fields[f"extra_{taken}"] = fields.pop(taken)
        level = _STDLIB_LEVELS.get(min(50, record.levelno // 10 * 10), "debug")
        self._log.say(level, event, exc_info=record.exc_info, **{str(key): fields[key] for key in fields})


class _QueuedOutput(io.RawIOBase):
    """The lowest layer of a `sys.stdout` that never blocks, and that never raises if its reader is gone."""

    def __init__(self, fd: int, put: Callable[[bytes], object]) -> None:
        super().__init__()
        self._descriptor = fd
        self._put = put

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        self._put(bytes(data))
        return len(data)


def _queued_output(stream: TextIO, fd: int, put: Callable[[bytes], object]) -> io.TextIOWrapper:
    """Make a text stream that replaces `stream`, and hands printed text to `put`, line by line."""
    raw = io.BufferedWriter(_QueuedOutput(fd, put))
    return io.TextIOWrapper(
        raw, encoding=stream.encoding or "utf-8", errors="backslashreplace", line_buffering=True
    )


class _PrintedLines:
    """Makes a log event of each line that is printed, so that JSON is all that standard error shows."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._rest = b""

    def put(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        # A progress bar may print for ever without a line break.
        self._rest = rest[-MAX_LINE:]
        for line in lines:
            if line.strip():
                self._log.say("info", line.decode("utf-8", "backslashreplace"), logger="stderr")


def descriptor_of(stream: TextIO | None) -> int | None:
    """The file descriptor of a stream; None if it has none, or a closed one."""
    if stream is None:
        return None
    try:
        fd = stream.fileno()
        os.fstat(fd)
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
        return None
    return fd


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (ValueError, AttributeError):  # closed; or no file at all
        return False


# ---- hooks of the process, which are restored at the end


@contextmanager
def process_hooks(log: Log) -> Iterator[None]:
    """Take warnings, uncaught errors and printed text into the log, in this block.

    At the end of the block the lines that wait are written, for at most `CLOSE_SECONDS`, and all hooks are
    restored.
    """
    with ExitStack() as stack:
        stack.callback(log.close)
        for name in ("stdout", "stderr"):
            stack.enter_context(_printing_queued(name, log))
        stack.enter_context(_put(warnings, "showwarning", _showing_warnings(log)))
        stack.enter_context(_put(sys, "unraisablehook", _telling_unraisable(log)))
        stack.enter_context(_put(threading, "excepthook", _telling_of_threads(log)))
        yield


@contextmanager
def _put(where: Any, name: str, hook: object) -> Iterator[None]:
    before = getattr(where, name)
    setattr(where, name, hook)
    try:
        yield
    finally:
        setattr(where, name, before)


@contextmanager
def _printing_queued(name: str, log: Log) -> Iterator[None]:
    stream: TextIO | None = getattr(sys, name)
    fd = descriptor_of(stream)
    if stream is None or fd is None:
        yield
        return
    with suppress(OSError):
        stream.flush()
    with ExitStack() as stack:
        if name == "stdout" or log.writer is None:
            writer = LineWriter(fd)
            stack.callback(writer.close)
            log.outputs.append(writer)
            put = writer.put
        else:
            put = _PrintedLines(log).put if log.log_format == "json" else log.writer.put
        output = _queued_output(stream, fd, put)
        stack.callback(output.flush)
        stack.enter_context(_put(sys, name, output))
        yield


def _showing_warnings(log: Log) -> Callable[..., None]:
    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = attempt(lambda: str(message), "a warning without a text")
        log.say("warning", text, category=category.__name__, place=f"{filename}:{lineno}")

    return show


def _telling_unraisable(log: Log) -> Callable[[Any], None]:
    def tell(unraisable: Any) -> None:
        # Not the object itself: it may be half destroyed, and a reference would bring it back to life.
        where = attempt(lambda: repr(unraisable.object), "an object without a repr")
        text = unraisable.err_msg or "exception ignored"
        log.say("error", text, where=cut(where, 200), exc_info=unraisable.exc_value)

    return tell


def _telling_of_threads(log: Log) -> Callable[[threading.ExceptHookArgs], None]:
    def tell(args: threading.ExceptHookArgs) -> None:
        if issubclass(args.exc_type, SystemExit):
            return
        name = args.thread.name if args.thread is not None else None
        log.say("error", "a thread failed", thread=name, exc_info=args.exc_value)

    return tell
