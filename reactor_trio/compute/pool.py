"""A few threads that wait for work, for calls that are short and many: a JPEG is less than a millisecond.

`trio.to_thread` takes 55 us for the way to a thread and back: it names the thread for each call, for one.
This takes half of that. In return, what is called here cannot use `trio.from_thread`.
"""

from __future__ import annotations

import contextvars
from collections import deque
from contextlib import suppress
from functools import partial
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


_Inbox = SimpleQueue[_Job | None]
"""What one thread takes its work from; None ends it."""


class ThreadPool:
    """At most `size` threads, each there as long as there is work. Calls begin in the order of `run`.

    Used in one Trio run at a time. All fields belong to its loop.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._token: trio.lowlevel.TrioToken | None = None
        self._threads = 0
        # Of the threads that have nothing to do.
        self._idle: list[_Inbox] = []
        # Only while every thread has something to do.
        self._waiting: deque[_Job] = deque()

    async def run(self, call: Callable[[], T]) -> T:
        """Make the call in a thread, in the caller's context, and return its result.

        If cancelled before it began, it is not made. If cancelled later, this waits for its end, and
        `Cancelled` comes at the next checkpoint.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Job(partial(contextvars.copy_context().run, call), trio.lowlevel.current_task())
        self._begin(job)

        def abort(_: object) -> trio.lowlevel.Abort:
            try:
                self._waiting.remove(job)
            except ValueError:
                return trio.lowlevel.Abort.FAILED
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def _begin(self, job: _Job) -> None:
        token = trio.lowlevel.current_trio_token()
        if token is not self._token:  # the threads of a run that is over end by themselves
            self._token, self._threads, self._idle = token, 0, []
        if self._idle:
            self._idle.pop().put(job)  # the one that was busy last: its caches are warm
        elif self._threads < self._size:
            work = partial(self._work, token, SimpleQueue(), job)
            trio.lowlevel.start_thread_soon(work, _ended, self._name)
            self._threads += 1
        else:
            self._waiting.append(job)

    def _work(self, token: trio.lowlevel.TrioToken, inbox: _Inbox, first: _Job) -> None:
        """What a thread does."""
        job: _Job | None = first
        del first
        with suppress(trio.RunFinishedError):
            while job is not None:
                done = partial(self._done, inbox, job.task, outcome.capture(job.call))
                job = None  # and what it refers to: a frame is large
                token.run_sync_soon(done)
                del done
                job = self._next(token, inbox)

    def _next(self, token: trio.lowlevel.TrioToken, inbox: _Inbox) -> _Job | None:
        while True:
            try:
                return inbox.get(timeout=IDLE_SECONDS)
            except Empty:
                token.run_sync_soon(self._dismiss, inbox)

    def _done(self, inbox: _Inbox, task: trio.lowlevel.Task, result: outcome.Outcome[Any]) -> None:
        trio.lowlevel.reschedule(task, result)
        if self._waiting:
            inbox.put(self._waiting.popleft())
        else:
            self._idle.append(inbox)

    def _dismiss(self, inbox: _Inbox) -> None:
        if inbox in self._idle:  # else it has been given something meanwhile
            self._idle.remove(inbox)
            self._threads -= 1
            inbox.put(None)


def _ended(result: outcome.Outcome[None]) -> None:
    result.unwrap()
