"""A worker: one thread that makes all calls of one owner, such as the steps of a generator."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from reactor_trio.compute.pool import CallQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactor_trio.compute.calls import Call, Calls
    from reactor_trio.compute.lanes import Lane

T = TypeVar("T")


class Worker(Protocol):
    """One thread, and the lane in which it works; `Executor.open_worker` gives it."""

    async def run(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Run `fn(*args)` in the thread when it is the lane's turn. If cancelled: see `compute/calls.py`."""
        ...

    async def finish(self, fn: Callable[[], object], /) -> None:
        """Run a last call that must be made: if cancelled while it waits for the lane, it waits no longer."""


class ThreadWorker:
    """The worker of a `ThreadExecutor`: one long call in a thread of Trio's, which takes calls from a queue.

    So `trio.from_thread` works in it, on behalf of the task of `serve`, and thread-locals and context
    variables stay from call to call.
    """

    def __init__(self, lane: Lane, name: str, limiter: trio.CapacityLimiter, calls: Calls) -> None:
        self._lane = lane
        self._name = name
        self._limiter = limiter
        self._calls = calls
        self._queue = CallQueue(trio.lowlevel.current_trio_token())
        # Set by the thread when it takes calls.
        self.started = trio.Event()

    async def serve(self) -> None:
        """Keep the thread until `stop`, in a task of its own, even if that task is cancelled."""
        # The lanes limit how many calls run, the server's limit of sessions how many threads there are.
        limiter = trio.CapacityLimiter(1)
        await trio.to_thread.run_sync(self._take_calls, limiter=limiter)

    def _take_calls(self) -> None:
        self._queue.token.run_sync_soon(self.started.set)
        self._queue.work()

    def stop(self) -> None:
        """End the thread when it has made the calls in its queue."""
        self._queue.dismiss()

    async def run(self, fn: Callable[..., T], /, *args: Any) -> T:
        """See `Worker.run`."""
        call = self._call(partial(fn, *args))
        async with self._limiter:
            return await self._queue.run(call)

    async def finish(self, fn: Callable[[], object], /) -> None:
        """See `Worker.finish`."""
        call, has_turn = self._call(fn), False
        try:
            await self._limiter.acquire()
            has_turn = True
        finally:
            try:
                with trio.CancelScope(shield=True):
                    await self._queue.run(call)
            finally:
                if has_turn:
                    self._limiter.release()

    def _call(self, fn: Callable[[], T]) -> Call[T]:
        return self._calls.make(self._lane, fn, self._name)
