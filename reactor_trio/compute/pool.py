"""A few threads that wait for work, for calls that are short and many: a JPEG is less than a millisecond.

`trio.to_thread` takes 55 us for the way to a thread and back: it names the thread for each call, for one.
This takes half of that, and less when there is much to do: a thread that ends a call finds the next one in
the queue, without asking the loop, and what several calls have given goes back to it in one go. In return,
what is called here cannot use `trio.from_thread`.
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
class PendingCall:
    """A call that a thread will make, or makes now."""

    _run: _Run
    # Holds it until somebody takes it out: the thread that makes it, or whoever gives it up.
    _call: list[Callable[[], Any]]
    _done: Callable[[outcome.Outcome[Any]], object]

    def give_up(self) -> bool:
        """Have it not made, and `done` not called; returns False if it is too late for that."""
        if self._taken() is None:
            return False
        self._run.calls -= 1
        return True

    def abandon(self) -> None:
        """Have it not made, or what comes of it thrown away. Its thread stays busy until it ends."""
        if not self.give_up():
            self._done = _ignore

    def _taken(self) -> Callable[[], Any] | None:
        """The call, for the first one who asks. From any thread."""
        try:
            return self._call.pop()
        except IndexError:
            return None


class ThreadPool:
    """At most `size` threads, each there as long as there is work. Calls begin in their order.

    Used in one Trio run at a time.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._run: _Run | None = None

    def begin(self, call: Callable[[], T], done: Callable[[outcome.Outcome[T]], object]) -> PendingCall:
        """Have a thread make the call; when it has ended, `done` is called on the loop with what came of it.

        `done` belongs to no task, and must not raise: that would end the whole Trio run. Raises
        `RuntimeError` if it needs another thread, and none can be started.
        """
        token = trio.lowlevel.current_trio_token()
        run = self._run
        if run is None or run.token is not token:  # the threads of a run that is over end by themselves
            run = self._run = _Run(token, self._size, self._name)
        pending = PendingCall(run, [call], done)
        run.begin(pending)
        return pending

    async def run(self, call: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
        """Make the call in a thread, in the caller's context, and return its result.

        If cancelled before it began, it is not made. If cancelled later, this waits for its end, and
        `Cancelled` comes at the next checkpoint. With `abandon_on_cancel` it does not wait, and what comes of
        the call is thrown away; its thread takes the next call when it has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        call = partial(contextvars.copy_context().run, call)
        pending = self.begin(call, partial(trio.lowlevel.reschedule, task))

        def abort(_: object) -> trio.lowlevel.Abort:
            if abandon_on_cancel:
                pending.abandon()
                return trio.lowlevel.Abort.SUCCEEDED
            return trio.lowlevel.Abort.SUCCEEDED if pending.give_up() else trio.lowlevel.Abort.FAILED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result


class _Run:
    """The threads of a pool in one Trio run."""

    def __init__(self, token: trio.lowlevel.TrioToken, size: int, name: str) -> None:
        self.token = token
        self.calls = 0
        """Calls that wait or are made, and whose result is not here yet. Belongs to the loop."""
        self._size = size
        self._name = name
        # Belongs to the loop.
        self._threads = 0
        # None ends the thread that takes it.
        self._jobs: SimpleQueue[PendingCall | None] = SimpleQueue()
        # What the loop has not been given yet, and whether it has been told that there is something.
        self._results: deque[tuple[PendingCall, outcome.Outcome[Any]]] = deque()
        self._is_told = False

    def begin(self, job: PendingCall) -> None:
        """Have a thread make the call, as soon as those before it have begun.

        Raises `RuntimeError` if it needs another thread, and none can be started.
        """
        if self._threads < min(self.calls + 1, self._size):
            # First, since it raises where no thread can be had: the caller does not wait then, and nobody may
            # wake it with a result.
            trio.lowlevel.start_thread_soon(self._work, _ended, self._name)
            self._threads += 1
        self.calls += 1
        self._jobs.put(job)

    def _work(self) -> None:
        """What a thread does."""
        with suppress(trio.RunFinishedError):
            while (job := self._next()) is not None:
                self._make(job)
                del job  # and what it refers to: a frame is large

    def _next(self) -> PendingCall | None:
        while True:
            try:
                return self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                self.token.run_sync_soon(self._dismiss)

    def _make(self, job: PendingCall) -> None:
        call = job._taken()
        if call is None:  # it was given up
            return
        self._results.append((job, outcome.capture(call)))
        if not self._is_told:
            self._is_told = True
            self.token.run_sync_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_told = False  # before it looks: a result that comes now is told of again
        while self._results:
            job, result = self._results.popleft()
            self.calls -= 1
            job._done(result)

    def _dismiss(self) -> None:
        if self.calls < self._threads:  # else there is something to do again
            self._threads -= 1
            self._jobs.put(None)


def _ignore(result: outcome.Outcome[Any]) -> None:
    pass


def _ended(result: outcome.Outcome[None]) -> None:
    result.unwrap()
