"""Writes lines to a file descriptor: the caller never waits, and never sees an error.

The reader of a log may go away, its disk may be full, or it may just not read: a pipe takes 64 KiB and then
blocks its writer. So a thread writes, and lines that find the queue full are counted and lost.
"""

from __future__ import annotations

import os
import queue
import select
import stat
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_LINES = 10_000
MAX_BYTES = 4 * 1024 * 1024
"""At most so many lines and bytes wait to be written."""
MAX_WRITE = 64 * 1024
"""Bytes of one write."""
CLOSE_SECONDS = 1.0
"""Seconds that the end of a process waits for a reader that does not read."""
_PATIENCE = 0.25
"""Seconds that a line may wait that is written without the thread."""
_NOTICE_PERIOD = 1.0
"""Seconds between two questions for notices, while there may be some."""


class LineWriter:
    """A bounded queue of bytes, and the daemon thread that writes them to a copy of the descriptor `fd`.

    `put` may be called from any thread, a signal handler, a finaliser or a forked child. When the thread can
    write again, it writes the notice that `lost_notice` makes of the number of lost items. As long as
    `has_notices()` is true, it writes `notices()` once a second; an empty `put` makes it ask.
    """

    def __init__(
        self,
        fd: int,
        *,
        lost_notice: Callable[[int], bytes] = lambda lost: b"",
        notices: Callable[[], Iterable[bytes]] = tuple,
        has_notices: Callable[[], bool] = bool,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        # A copy: if the number were closed and given to a client's socket, the client would read the log.
        self._fd = os.dup(fd)
        weakref.finalize(self, os.close, self._fd).atexit = False
        self._lost_notice = lost_notice
        self._notices = notices
        self._has_notices = has_notices
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self.lost = 0
        """Items that were not written, or only in part."""
        # Lost items of which no notice has told yet. Only the thread takes from it.
        self._untold = 0
        # Whether lines are written without the thread: in a forked child, and after `close`.
        self._is_direct = False
        self._patience = _PATIENCE
        # Whether the last write was cut: then the next line begins with a line break.
        self._is_torn = False
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        # Reentrant: a finaliser may log while its thread is in `put`.
        self._lock = threading.RLock()
        # Reentrant too, as only a `SimpleQueue` is. None ends the thread; an event is set in its turn.
        self._queue: queue.SimpleQueue[bytes | threading.Event | None] = queue.SimpleQueue()
        self._bytes = 0
        self._thread: threading.Thread | None = None

    def put(self, data: bytes) -> None:
        """Have the data written. Never blocks, never raises; the data are lost if there is no room."""
        if self._is_direct:
            self._write_directly(data)
            return
        with self._lock:
            if self._bytes + len(data) > self._max_bytes or self._queue.qsize() >= self._max_lines:
                self._lose()
                return
            self._bytes += len(data)
            self._queue.put(data)
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="reactor-trio log", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter ends
            self._thread = None

    def _lose(self, count: int = 1) -> None:
        with self._lock:
            self.lost += count
            self._untold += count

    def flush(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Wait until all that was put before is written, at most `timeout` seconds; returns whether it is."""
        with self._lock:
            if self._thread is None or self._is_direct:
                return True
            reached = threading.Event()
            self._queue.put(reached)
        return reached.wait(timeout)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Flush, and end the thread. Lines that are put later are written at once, or lost."""
        with self._lock:
            thread, self._is_direct = self._thread, True
            self._queue.put(None)
        if thread is None:
            return
        thread.join(timeout)
        if thread.is_alive():
            # The thread is in a write that does not end, and keeps the copy of the descriptor.
            self._patience = 0.0
            self._lose(self._queue.qsize())

    # ---- the thread

    def _run(self) -> None:
        queue_ = self._queue
        while True:
            items = self._take(queue_)
            lines = [each for each in items if isinstance(each, bytes)]
            self._tell_lost()
            self._write_all(lines)
            if self._has_notices():
                self._write_all(list(self._notices()), is_notice=True)
            if lines:
                with self._lock:
                    self._bytes = max(0, self._bytes - sum(map(len, lines))) if queue_.qsize() else 0
            for each in items:
                if isinstance(each, threading.Event):
                    each.set()
            if None in items:
                return

    def _take(
        self, queue_: queue.SimpleQueue[bytes | threading.Event | None]
    ) -> list[bytes | threading.Event | None]:
        """Items that wait, as many as one write takes; none if it is time to ask for notices."""
        items: list[bytes | threading.Event | None] = []
        size = 0
        with suppress(queue.Empty):
            items.append(queue_.get(timeout=_NOTICE_PERIOD if self._untold or self._has_notices() else None))
            while size < MAX_WRITE and items[-1] is not None:
                items.append(queue_.get_nowait())
                size += len(items[-1]) if isinstance(items[-1], bytes) else 0
        return items

    def _tell_lost(self) -> None:
        with self._lock:
            untold, self._untold = self._untold, 0
        if untold and not self._write_all([self._lost_notice(untold)], is_notice=True):
            with self._lock:
                self._untold += untold

    def _write_all(self, lines: list[bytes], *, is_notice: bool = False) -> bool:
        if not lines:
            return True
        data = b"".join(lines)
        if self._is_torn:
            data = b"\n" + data
        written = _write(self._fd, data)
        self._is_torn = 0 < written < len(data) or (self._is_torn and written == 0)
        if written < len(data) and not is_notice:
            # Lines that were written whole are not lost.
            end = written - (len(data) - sum(map(len, lines)))
            for count, line in enumerate(lines):
                end -= len(line)
                if end < 0:
                    self._lose(len(lines) - count)
                    break
        return written == len(data)

    # ---- without the thread

    def _write_directly(self, data: bytes) -> None:
        done = write_within(self._fd, data, self._patience)
        if not done:
            self._lose()
        # A reader that did not read in time is not waited for again, until it reads.
        self._patience = _PATIENCE if done else 0.0

    def _after_fork(self) -> None:
        """Begin anew in the child: the thread is gone, and the parent writes the lines in the queue."""
        self._begin()
        self._is_direct = True


def _write(fd: int, data: bytes) -> int:
    """Write all data, however long that takes; returns how many bytes were written before it failed."""
    view, written = memoryview(data), 0
    while written < len(data):
        try:
            with suppress(BlockingIOError):  # another process with this descriptor has set O_NONBLOCK
                written += os.write(fd, view[written:])
                continue
            is_writable(fd, None)
        except OSError:
            break
    return written


def write_within(fd: int, data: bytes, seconds: float) -> bool:
    """Write the data in this thread, within so many seconds in all; returns whether all was written.

    Never raises. If the time is over, a part may have been written.
    """
    view = memoryview(data)
    deadline = time.monotonic() + seconds
    try:
        # A pipe that is writable takes `PIPE_BUF` bytes without blocking; a file may take all at once.
        piece = len(data) if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
        while view:
            if not is_writable(fd, max(0.0, deadline - time.monotonic())):
                return False
            with suppress(BlockingIOError):
                view = view[os.write(fd, view[:piece]) :]
    except (OSError, ValueError):
        return False
    return True


def is_writable(fd: int, seconds: float | None) -> bool:
    """Wait until data can be written or the reader is gone, at most so long. Raises `OSError`."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(None if seconds is None else 1000 * seconds))


_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()


def write_what_waits(timeout: float = CLOSE_SECONDS) -> None:
    """Flush all writers of the process, for at most so many seconds: before `os._exit`."""
    deadline = time.monotonic() + timeout
    for writer in tuple(_writers):
        writer.flush(max(0.0, deadline - time.monotonic()))


def _after_fork_in_child() -> None:
    for writer in _writers:
        writer._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
