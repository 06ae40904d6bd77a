"""What the machine gave the loop's thread, so that a line is not blamed for time that it never had.

A step that takes 200 ms may have waited for a processor all that time, or the whole process was stopped. That
differs from a line that blocks in what the kernel counts for the thread: processor time, and time that it was
ready to run and had no processor. `time.sleep` uses neither; it is asleep, and so it is the line that blocks.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.frozen
class Usage:
    """What a thread has had since it began, in seconds."""

    running: float
    """Processor time."""
    queued: float = 0.0
    """Ready to run, with no processor to run on; 0 where the system does not tell."""
    collecting: float = 0.0
    """Time that Python's garbage collector has held all threads."""


@attrs.frozen
class Reading:
    """A look at a thread and at the one that watches it."""

    at: float
    usage: Usage
    late: float
    """Seconds, in all, that the watching thread woke later than it had asked for: it was not scheduled
    either, or had to wait for Python's lock."""


def excused(before: Reading, now: Reading) -> float:
    """Seconds between two readings in which the watched thread could not have run.

    Lateness of the one that watches counts only where the watched one did not run either: a line that holds
    Python's lock makes it late too. At most too much: a line that blocks is told another time.
    """
    running = now.usage.running - before.usage.running
    queued = now.usage.queued - before.usage.queued
    return max(0.0, min(queued + now.late - before.late, now.at - before.at - running))


class ThreadUsage:
    """The clocks of the thread that makes this; any thread may read them while that one lives."""

    def __init__(self) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._collecting = 0.0
        self._collection_began = 0.0
        # Linux alone. Kept open, as it is read twenty times a second; nobody else's number until `close`.
        self._schedstat: int | None = None
        with suppress(OSError):
            self._schedstat = os.open(
                f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC
            )

    def read(self) -> Usage:
        """The times now. Takes some microseconds."""
        queued = 0.0
        if self._schedstat is not None:
            with suppress(OSError, ValueError, IndexError):
                # proc_pid_schedstat(5): nanoseconds on a processor, and on a run queue.
                queued = int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9
        return Usage(time.clock_gettime(self._clock), queued, self._collecting)

    def close(self) -> None:
        """No more reading."""
        fd, self._schedstat = self._schedstat, None
        if fd is not None:
            os.close(fd)

    @contextmanager
    def counting_collections(self) -> Iterator[None]:
        """In this block the garbage collector's time is counted."""
        gc.callbacks.append(self._collects)
        try:
            yield
        finally:
            gc.callbacks.remove(self._collects)

    def _collects(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collection_began = time.perf_counter()
        elif self._collection_began:
            self._collecting += time.perf_counter() - self._collection_began
