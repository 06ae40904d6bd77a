"""A few threads that wait at a queue, for calls that are short and many: a JPEG is less than a millisecond.

`trio.to_thread` takes 55 us for the way to a thread and back: it names the thread for each call, for one.
This takes half of that, and less when several calls wait. In return, what is called here cannot use
`trio.from_thread`.
"""

from __future__ import annotations

import contextvars
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

IDLE_SECONDS = 2.0
"""How long a thread waits for the next call before it ends."""


@attrs.define(eq=False)
class _Job:
    call: Callable[[], Any]
    task: trio.lowlevel.Task
    token: trio.lowlevel.TrioToken
    ticket: list[None]
    """One item. Who takes it decides: a thread, that the call is made, or a cancellation, that it is not."""

    def is_mine(self) -> bool:
        try:
            self.ticket.pop()  # atomic
        except IndexError:
            return False
        return True

    def make(self) -> None:
        """Make the call and hand its result to the task, from a thread."""
        result = outcome.capture(self.call)
        with suppress(trio.RunFinishedError):  # it has crashed, and the task with it
            self.token.run_sync_soon(trio.lowlevel.reschedule, self.task, result)


class ThreadPool:
    """At most `size` threads, each there as long as there is work. Calls begin in the order of `run`."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        # Both under the lock: a thread that ends must not leave a job behind.
        self._threads = 0
        self._unfinished = 0
        self._lock = threading.Lock()

    async def run(self, call: Callable[[], T]) -> T:
        """Make the call in a thread, in the caller's context, and return its result.

        If cancelled before it began, it is not made. If cancelled later, this waits for its end, and
        `Cancelled` comes at the next checkpoint.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
        context = contextvars.copy_context()
        job = _Job(lambda: context.run(call), task, token, [None])

        def abort(_: object) -> trio.lowlevel.Abort:
            return trio.lowlevel.Abort.SUCCEEDED if job.is_mine() else trio.lowlevel.Abort.FAILED

        self._put(job)
        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def _put(self, job: _Job) -> None:
        with self._lock:
            if self._unfinished >= self._threads and self._threads < self._size:
                trio.lowlevel.start_thread_soon(self._work, _ended, self._name)
                self._threads += 1
            self._unfinished += 1
            self._jobs.put(job)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if not self._jobs.empty():
                        continue
                    self._threads -= 1
                    return
            if job.is_mine():
                job.make()
            del job  # and what it refers to: the last frame is large
            with self._lock:
                self._unfinished -= 1


def _ended(result: outcome.Outcome[None]) -> None:
    result.unwrap()
