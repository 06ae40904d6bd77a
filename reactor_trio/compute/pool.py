"""Threads that take calls from a queue, for a lane whose calls are short and many: a JPEG takes under 1 ms.

`trio.to_thread` takes 55 us for the way to a thread and back: it names the thread for each call, for one.
This takes half of that, and less when there is much to do: a thread that ends a call finds the next one in
the queue, without asking the loop, and the outcomes of several calls go back to the loop in one go. In
return, `trio.from_thread` does not work in a thread of a pool; in that of a worker (`worker.py`) it does.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactor_trio.compute.calls import Call

T = TypeVar("T")

IDLE_SECONDS = 2.0
"""How long a thread of a pool waits for the next call before it ends."""


class CallQueue:
    """Calls on their way to threads, and their outcomes on the way back to the loop. Of one Trio run."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self.token = token
        self.calls = 0
        """Calls that wait or run, and whose outcome is not here yet. Belongs to the loop."""
        # None ends the thread that takes it.
        self._calls: SimpleQueue[Call[Any] | None] = SimpleQueue()
        # Outcomes that the loop has not been given yet, and whether it has been told that there are any.
        self._outcomes: deque[tuple[Call[Any], outcome.Outcome[Any]]] = deque()
        self._is_told = False

    # ---- on the loop

    def put(self, call: Call[T], done: Callable[[outcome.Outcome[T]], object]) -> None:
        """Have a thread make the call, after those that were put before; `done` is called with its outcome.

        `done` is called on the loop, in no task. It must not raise: that would end the whole Trio run.
        """
        call.hand_over_to(done, self._given_up)
        self.calls += 1
        self._calls.put(call)

    async def run(self, call: Call[T]) -> T:
        """Put the call and wait for it; returns or raises its outcome. If cancelled, the call is."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.put(call, partial(trio.lowlevel.reschedule, trio.lowlevel.current_task()))

        def abort(_: object) -> trio.lowlevel.Abort:
            return trio.lowlevel.Abort.SUCCEEDED if call.cancel() else trio.lowlevel.Abort.FAILED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def dismiss(self) -> None:
        """End one of the threads, when it has made the calls that were put before."""
        self._calls.put(None)

    def _given_up(self) -> None:
        self.calls -= 1

    def _deliver(self) -> None:
        self._is_told = False  # before the loop looks: for an outcome that comes now it is told again
        while self._outcomes:
            call, result = self._outcomes.popleft()
            self.calls -= 1
            call.hand_over(result)

    # ---- in a thread

    def work(self, idle_seconds: float | None = None, on_idle: Callable[[], object] | None = None) -> None:
        """Make calls until the thread is dismissed, or the Trio run is over.

        `on_idle` is called on the loop whenever there was none for `idle_seconds`; None waits forever.
        """
        with suppress(trio.RunFinishedError):
            while True:
                try:
                    call = self._calls.get(timeout=idle_seconds)
                except Empty:
                    assert on_idle is not None
                    self.token.run_sync_soon(on_idle)
                    continue
                if call is None:
                    return
                self._make(call)
                del call  # and all that the call refers to: a frame is large

    def _make(self, call: Call[Any]) -> None:
        fn = call.take()
        if fn is None:  # it was cancelled
            return
        self._outcomes.append((call, outcome.capture(call.run, fn)))
        if not self._is_told:
            self._is_told = True
            self.token.run_sync_soon(self._deliver)


class ThreadPool:
    """At most `size` threads of this name, each of which ends when it is idle. Calls begin in their order.

    `on_idle` is called on the loop when the last thread has ended. Used in one Trio run at a time.
    """

    def __init__(self, size: int, name: str, on_idle: Callable[[], object] | None = None) -> None:
        self._size = size
        self._name = name
        self._on_idle = on_idle
        self._queue: _PoolQueue | None = None

    def begin(self, call: Call[T], done: Callable[[outcome.Outcome[T]], object]) -> None:
        """See `CallQueue.put`. Raises `RuntimeError` if it needs another thread, and none can be started."""
        self._queue_of_this_run().put(call, done)

    async def run(self, call: Call[T]) -> T:
        """See `CallQueue.run`; raises as `begin` as well."""
        return await self._queue_of_this_run().run(call)

    def _queue_of_this_run(self) -> _PoolQueue:
        token = trio.lowlevel.current_trio_token()
        queue = self._queue
        if queue is None or queue.token is not token:  # the threads of a run that is over end by themselves
            queue = self._queue = _PoolQueue(token, self._size, self._name, self._on_idle)
        return queue


class _PoolQueue(CallQueue):
    """The queue of a pool, which starts the threads that it needs."""

    def __init__(
        self, token: trio.lowlevel.TrioToken, size: int, name: str, on_idle: Callable[[], object] | None
    ) -> None:
        super().__init__(token)
        self._size = size
        self._name = name
        self._on_idle = on_idle
        # Belongs to the loop.
        self._threads = 0

    def put(self, call: Call[T], done: Callable[[outcome.Outcome[T]], object]) -> None:
        if self._threads < min(self.calls + 1, self._size):
            # First, since it raises where no thread can be started: then the caller does not wait, and must
            # not be woken by an outcome.
            work = partial(self.work, IDLE_SECONDS, self._dismiss_idle)
            trio.lowlevel.start_thread_soon(work, _ended, self._name)
            self._threads += 1
        super().put(call, done)

    def _dismiss_idle(self) -> None:
        if self.calls >= self._threads:  # there is something to do again
            return
        self._threads -= 1
        self.dismiss()
        if not self._threads and self._on_idle is not None:
            self._on_idle()


def _ended(result: outcome.Outcome[None]) -> None:
    result.unwrap()
