"""Where blocking work runs: worker threads, as the lane of the work says (`compute/lanes.py`).

There are three ways into a thread, for three kinds of callers: `run`, for a task that waits for the result;
`begin`, for a call for each frame, where a task for each would cost too much; and the worker of
`open_worker`, for calls that have to be made in one and the same thread. One rule holds for a call that is
cancelled (`compute/calls.py`). The executor is handed in from outside, so a test under a mock clock needs no
thread (`reactor_trio.testing` has the inline one).
"""

from __future__ import annotations

import contextvars
import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import outcome
import trio

from reactor_trio.compute.calls import Calls, name_of
from reactor_trio.compute.lanes import Device
from reactor_trio.compute.pool import ThreadPool
from reactor_trio.compute.worker import ThreadWorker, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from reactor_trio.compute.calls import PendingCall, RunningCall
    from reactor_trio.compute.lanes import Lane

T = TypeVar("T")


class Executor(Protocol):
    """Runs blocking functions off the loop."""

    async def run(self, lane: Lane, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run `fn(*args, **kwargs)` when it is the lane's turn, in the caller's context; returns its result.

        If cancelled before it runs, `fn` is not called. If cancelled later, this waits for `fn` to end, since
        a thread cannot be stopped, and returns its result: `Cancelled` comes at the next checkpoint. In a
        lane that `abandons` calls it does not wait, and what `fn` returns or raises is thrown away.
        """
        ...

    async def compute(self, device: object, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """`run` in the lane of a model's `device`: one call at a time for each device."""
        ...

    def begin(
        self,
        lane: Lane,
        fn: Callable[[], T],
        done: Callable[[outcome.Outcome[T]], object],
        /,
        *,
        short: bool = False,
    ) -> PendingCall | None:
        """Have `fn()` run, in no context, and `done` called with its outcome; no task waits for that.

        Only for lanes that have threads of their own (`ValueError`). `done` is called on the loop, in no
        task; it must not raise, and what it does is short. A call that is `short` too, a millisecond or so,
        may be over before this returns, and None is returned then.

        The call belongs to its caller, who has it `end` if `done` has not been called.
        """
        ...

    def open_worker(self, lane: Lane, name: str) -> AbstractAsyncContextManager[Worker]:
        """Open a thread of the caller's own, for calls in this lane. `running` shows the calls by `name`.

        Leaving the context waits for the thread.
        """
        ...

    def running(self) -> tuple[RunningCall, ...]:
        """The calls that run now, in the order in which they began. From any thread."""
        ...


def check_has_own_threads(lane: Lane) -> None:
    """Raises `ValueError` if `Executor.begin` is not for this lane."""
    if not lane.has_own_threads:
        raise ValueError(f"lane {lane} has no threads of its own: use run()")


def is_stuck(executor: Executor, timeout: float) -> bool:
    """Whether a call has kept a device for longer than `timeout` seconds."""
    now = trio.current_time()
    return any(call.lane.is_device and now - call.began > timeout for call in executor.running())


class ThreadExecutor:
    """The executor of a server.

    `cores` is how many processor cores the threads may use; by default those that the process may.
    """

    def __init__(self, *, cores: int | None = None) -> None:
        self._cores = cores or _available_cores()
        self._calls = Calls()
        # A lane has one or the other.
        self._limiters: dict[Lane, trio.CapacityLimiter] = {}
        self._pools: dict[Lane, ThreadPool] = {}

    async def run(self, lane: Lane, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """See `Executor.run`."""
        work = partial(fn, *args, **kwargs)
        if lane.has_own_threads:
            call = self._calls.make(lane, partial(contextvars.copy_context().run, work), name_of(fn))
            return await self._pool(lane).run(call)
        call = self._calls.make(lane, work)
        return await trio.to_thread.run_sync(
            call.run, work, limiter=self._limiter(lane), abandon_on_cancel=lane.abandons
        )

    async def compute(self, device: object, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """See `Executor.compute`."""
        return await self.run(Device(device).lane, fn, *args, **kwargs)

    def begin(
        self,
        lane: Lane,
        fn: Callable[[], T],
        done: Callable[[outcome.Outcome[T]], object],
        /,
        *,
        short: bool = False,
    ) -> PendingCall | None:
        """See `Executor.begin`. Raises `RuntimeError` if it needs a thread, and none can be started.

        With a single core a call that is `short` is made right away, on the loop: a thread would only take
        turns with the loop, and each turn costs a tenth of a JPEG.
        """
        check_has_own_threads(lane)
        if short and self._cores == 1:
            done(outcome.capture(fn))
            return None
        call = self._calls.make(lane, fn)
        self._pool(lane).begin(call, done)
        return call

    @asynccontextmanager
    async def open_worker(self, lane: Lane, name: str) -> AsyncIterator[Worker]:
        """See `Executor.open_worker`."""
        worker = ThreadWorker(lane, name, self._limiter(lane), self._calls)
        async with trio.open_nursery() as nursery:
            # Not `start`: if it were cancelled, the thread would never be told to stop.
            host = f"{trio.lowlevel.current_task().name}/thread"
            nursery.start_soon(worker.serve, name=host)  # noqa: ASYNC113
            try:
                await worker.started.wait()
                yield worker
            finally:
                worker.stop()

    def running(self) -> tuple[RunningCall, ...]:
        """See `Executor.running`."""
        return self._calls.running()

    def lanes(self) -> tuple[Lane, ...]:
        """The lanes that have been used; one with threads of its own as long as it has any."""
        return (*self._pools, *self._limiters)

    def _limiter(self, lane: Lane) -> trio.CapacityLimiter:
        limiter = self._limiters.get(lane)
        if limiter is None:
            limiter = self._limiters[lane] = trio.CapacityLimiter(lane.size(self._cores))
        return limiter

    def _pool(self, lane: Lane) -> ThreadPool:
        pool = self._pools.get(lane)
        if pool is None:
            # Forgotten when it is idle: the lane of a media stream is never used again after its session.
            forget = partial(self._pools.pop, lane, None)
            pool = ThreadPool(lane.size(self._cores), f"reactor-trio {lane}", forget)
            self._pools[lane] = pool
        return pool


def _available_cores() -> int:
    """The processor cores that the process may use: fewer than the machine's under `taskset`, for example."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
