"""Where blocking work runs: worker threads, with one limiter a lane.

What a lane is stands in `compute/lanes.py`. The executor is handed in from outside, so a test under a mock
clock needs no thread (`reactor_trio.testing` has the inline one).
"""

from __future__ import annotations

import itertools
import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs
import outcome
import trio

from reactor_trio.compute.lanes import Device
from reactor_trio.compute.pool import PendingCall, ThreadPool
from reactor_trio.compute.worker import ThreadWorker, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from reactor_trio.compute.lanes import Lane

T = TypeVar("T")


class Executor(Protocol):
    """Runs a blocking function off the loop."""

    async def run(self, lane: Lane, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run `fn(*args, **kwargs)` under the lane's limiter and return its result.

        If cancelled while waiting for the lane, `fn` is not called. If cancelled later, the call waits
        for `fn` to end, since a thread cannot be stopped, and `Cancelled` comes at the next checkpoint. In
        a lane that `abandons` it does not wait, and what `fn` returns or raises is thrown away.
        """
        ...

    async def compute(self, device: object, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """`run` in the lane of a model's `device`: one call at a time for each device."""
        ...

    def begin(
        self,
        nursery: trio.Nursery,
        lane: Lane,
        fn: Callable[[], T],
        done: Callable[[outcome.Outcome[T]], object],
        /,
        *,
        short: bool = False,
    ) -> PendingCall | None:
        """Have `fn()` run as by `run`, without waiting for it; `done` is called on the loop with its outcome.

        That is a task less for what happens once a frame. `done` must not raise, and what it does is short.
        It may be called before this returns, if the call is `short` too: a millisecond or so.

        The call belongs to the caller, who gives it up or waits for `done` before `nursery` ends. Or None is
        returned: it was made already, or a task of `nursery` makes it; if that is cancelled, `done` is not
        called.
        """
        ...

    def open_worker(self, lane: Lane, name: str) -> AbstractAsyncContextManager[Worker]:
        """A thread of one's own for calls in this lane; `name` is what `running` shows.

        Leaving it waits for the thread.
        """
        ...

    def running(self) -> tuple[RunningCall, ...]:
        """The calls that are in a thread now, oldest first."""
        ...


@attrs.frozen
class RunningCall:
    """A call that occupies a worker thread."""

    lane: Lane
    name: str
    asked: float
    """When `run` was called, in seconds of Trio's clock."""
    began: float
    """When the thread began with it."""


def begin_in_task(
    executor: Executor,
    nursery: trio.Nursery,
    lane: Lane,
    fn: Callable[[], T],
    done: Callable[[outcome.Outcome[T]], object],
) -> None:
    """`Executor.begin` by `run`, in a task of the nursery.

    Its context is that of the nursery's task, for whoever begins it, be it no task at all, stands for that.
    """
    parent = nursery.parent_task

    async def run() -> None:
        try:
            result: outcome.Outcome[T] = outcome.Value(await executor.run(lane, fn))
        except (trio.Cancelled, KeyboardInterrupt):
            raise
        except BaseException as error:  # a library that is no Python may panic
            result = outcome.Error(error)
        done(result)

    parent.context.copy().run(partial(nursery.start_soon, run, name=f"{parent.name}/call"))


def is_stuck(executor: Executor, timeout: float) -> bool:
    """Whether a call has kept a device for longer than `timeout` seconds."""
    now = trio.current_time()
    return any(call.lane.is_device and now - call.began > timeout for call in executor.running())


class ThreadExecutor:
    """The executor of a server: Trio's worker threads.

    `cores` is how many processor cores they may use; by default those that the process may.
    """

    def __init__(self, *, cores: int | None = None) -> None:
        self._cores = cores or _available_cores()
        # What the lanes have that have been used: one or the other.
        self._limiters: dict[Lane, trio.CapacityLimiter] = {}
        self._pools: dict[Lane, ThreadPool] = {}
        # What runs now: its lane, itself or its name, when it was asked for, when its thread began with it.
        self._calls: dict[int, tuple[Lane, str | Callable[..., object], float, float]] = {}
        self._keys: Iterator[int] = itertools.count()

    async def run(self, lane: Lane, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """See `Executor.run`."""
        call = self._noted(lane, partial(fn, *args, **kwargs))
        if lane.has_own_threads:
            return await self._pool(lane).run(call, abandon_on_cancel=lane.abandons)
        limiter = self._limiter(lane)
        try:
            return await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=lane.abandons)
        finally:
            if not lane.is_lasting:
                self._forget_if_idle(lane, limiter)

    async def compute(self, device: object, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """See `Executor.compute`."""
        return await self.run(Device(device).lane, fn, *args, **kwargs)

    def begin(
        self,
        nursery: trio.Nursery,
        lane: Lane,
        fn: Callable[[], T],
        done: Callable[[outcome.Outcome[T]], object],
        /,
        *,
        short: bool = False,
    ) -> PendingCall | None:
        """See `Executor.begin`. It takes a task, unless the lane has threads of its own.

        With a single core what is `short` is done right away: a thread would only take turns with the loop,
        and each change costs a tenth of a JPEG.
        """
        if short and self._cores == 1:
            done(outcome.capture(fn))
            return None
        if lane.has_own_threads:
            return self._pool(lane).begin(self._noted(lane, fn), done)
        begin_in_task(self, nursery, lane, fn, done)
        return None

    @asynccontextmanager
    async def open_worker(self, lane: Lane, name: str) -> AsyncIterator[Worker]:
        """See `Executor.open_worker`."""
        now = trio.lowlevel.current_clock().current_time

        def called(asked: float, fn: Callable[[], Any]) -> Any:
            return self._call(lane, name, fn, now, asked)

        worker = ThreadWorker(self._limiter(lane), called)
        async with trio.open_nursery() as nursery:
            # Not `start`: if that were cancelled, nobody would tell the thread to stop.
            host = f"{trio.lowlevel.current_task().name}/thread"
            nursery.start_soon(worker.serve, name=host)  # noqa: ASYNC113
            try:
                await worker.started.wait()
                yield worker
            finally:
                worker.stop()

    def _limiter(self, lane: Lane) -> trio.CapacityLimiter:
        limiter = self._limiters.get(lane)
        if limiter is None:
            limiter = self._limiters[lane] = trio.CapacityLimiter(lane.size(self._cores))
        return limiter

    def _pool(self, lane: Lane) -> ThreadPool:
        pool = self._pools.get(lane)
        if pool is None:
            pool = self._pools[lane] = ThreadPool(lane.size(self._cores), f"reactor-trio {lane}")
        return pool

    def _forget_if_idle(self, lane: Lane, limiter: trio.CapacityLimiter) -> None:
        # Its session does not say when it ends; an idle lane is made anew if it is used again.
        numbers = limiter.statistics()
        if not numbers.borrowed_tokens and not numbers.tasks_waiting:
            self._limiters.pop(lane, None)

    def lanes(self) -> tuple[Lane, ...]:
        """The lanes that have been used, without those of sessions that are over."""
        return (*self._pools, *self._limiters)

    def _noted(self, lane: Lane, fn: Callable[[], T]) -> Callable[[], T]:
        now = trio.lowlevel.current_clock().current_time
        return partial(self._call, lane, fn, fn, now, now())

    def _call(
        self,
        lane: Lane,
        what: str | Callable[..., object],
        fn: Callable[[], T],
        now: Callable[[], float],
        asked: float,
    ) -> T:
        # In the worker thread. One dict item, set and deleted by one thread: safe under the GIL.
        key = next(self._keys)
        self._calls[key] = lane, what, asked, now()
        try:
            return fn()
        finally:
            del self._calls[key]

    def running(self) -> tuple[RunningCall, ...]:
        """See `Executor.running`."""
        calls = self._calls.copy().values()
        return tuple([RunningCall(lane, _name(what), asked, began) for lane, what, asked, began in calls])


def _available_cores() -> int:
    """Also where the process was bound to some of the machine's, as in `taskset` and many containers."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _name(fn: str | Callable[..., object]) -> str:
    if isinstance(fn, str):
        return fn
    while isinstance(fn, partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or repr(fn)
