"""The time that the machine gave to the loop's thread, so that no line is blamed for time that it lacked.

A step that takes 200 ms may have waited for a processor all that time, or the whole process was stopped. The
kernel's counters of the thread tell such a step from a line that blocks: one is the thread's processor time,
the other the time in which it was ready to run and had no processor. `time.sleep` adds to neither of them:
the line of the call blocks.
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
    """The times of a thread since it began, in seconds."""

    running: float
    """Processor time."""
    queued: float = 0.0
    """Time in which it was ready to run and had no processor; 0 on systems that do not count it."""
    collecting: float = 0.0
    """Time in which Python's garbage collector has stopped all threads."""


@attrs.frozen
class Reading:
    """One reading of the watched thread's times, and of the lateness of the thread that watches it."""

    at: float
    usage: Usage
    late: float
    """Seconds, in all, by which the watching thread woke later than it had asked for: because it had no
    processor either, or had to wait for Python's lock."""


def excused(before: Reading, now: Reading) -> float:
    """Seconds between two readings in which the watched thread could not have run.

    The lateness of the watching thread counts only as far as the watched thread did not run either, since a
    line that holds Python's lock makes the watching thread late as well. In doubt the result is too large: a
    line that blocks is then reported the next time it does.
    """
    running = now.usage.running - before.usage.running
    queued = now.usage.queued - before.usage.queued
    return max(0.0, min(queued + now.late - before.late, now.at - before.at - running))


class ThreadUsage:
    """The clocks of the thread that makes this object. Any thread may read them while that thread lives."""

    def __init__(self) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._collecting = 0.0
        self._collection_began = 0.0
        # Linux alone. Kept open until `close`, as it is read twenty times a second.
        self._schedstat: int | None = None
        with suppress(OSError):
            self._schedstat = os.open(
                f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC
            )

    def read(self) -> Usage:
        """Read the times. Takes some microseconds."""
        queued = 0.0
        if self._schedstat is not None:
            with suppress(OSError, ValueError, IndexError):
                # proc_pid_schedstat(5): nanoseconds on a processor, and on a run queue.
                queued = int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9
        return Usage(time.clock_gettime(self._clock), queued, self._collecting)

    def close(self) -> None:
        """Close the file that `read` reads; `queued` is 0 from now on."""
        fd, self._schedstat = self._schedstat, None
        if fd is not None:
            os.close(fd)

    @contextmanager
    def counting_collections(self) -> Iterator[None]:
        """Count the time of the garbage collector in this block."""
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
