"""Where blocking work runs: worker threads, with one limiter a lane.

A lane is what may not run twice at a time: a device, the encoder, files. The executor is handed in from
outside, so a test under a mock clock needs no thread (`reactor_trio.testing` has the inline one).
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

from reactor_trio.compute.pool import PendingCall, ThreadPool
from reactor_trio.compute.worker import ThreadWorker, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")

HANDLERS = "handlers"
"""Lane of `@event(in_thread=True)` handlers."""
ENCODE = "encode"
"""Lane of media encoding."""
DECODE = "decode"
"""Lane of decoding what clients sent. A call that was cancelled is abandoned: nobody waits for its end."""
PAYLOADS = "payloads"
"""Lane of long texts, which are read and validated; one at a time, since Python's lock lets one alone."""
FILES = "files"
"""Lane of temporary files and of `load`."""


DEVICES = "device:"
"""What the lane of every device begins with."""
ENCODERS = "encoder:"
"""What the lane of every stream's encoder begins with."""


def device_lane(device: object) -> str:
    """Lane of a compute device, such as `cpu` or `cuda:1`: one call at a time."""
    return f"{DEVICES}{device}"


def encoder_lane(stream: str) -> str:
    """Lane of the encoder of one stream, such as H.264: one call at a time, and no one else's."""
    return f"{ENCODERS}{stream}"


class Executor(Protocol):
    """Runs a blocking function off the loop."""

    async def run(self, lane: str, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run `fn(*args, **kwargs)` under the lane's limiter and return its result.

        If cancelled while waiting for the lane, `fn` is not called. If cancelled later, the call waits
        for `fn` to end, since a thread cannot be stopped, and `Cancelled` comes at the next checkpoint. In
        the lane `DECODE` it does not wait, and what `fn` returns or raises is thrown away.
        """
        ...

    def begin(
        self,
        nursery: trio.Nursery,
        lane: str,
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

    def open_worker(self, lane: str, name: str) -> AbstractAsyncContextManager[Worker]:
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

    lane: str
    name: str
    asked: float
    """When `run` was called, in seconds of Trio's clock."""
    began: float
    """When the thread began with it."""


def begin_in_task(
    executor: Executor,
    nursery: trio.Nursery,
    lane: str,
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
    return any(call.lane.startswith(DEVICES) and now - call.began > timeout for call in executor.running())


class ThreadExecutor:
    """The executor of a server: Trio's worker threads.

    `cores` is how many processor cores they may use; by default those that the process may.
    """

    def __init__(self, *, cores: int | None = None) -> None:
        self._cores = cores or _available_cores()
        self._limiters: dict[str, trio.CapacityLimiter] = {
            FILES: trio.CapacityLimiter(8),
            HANDLERS: trio.CapacityLimiter(32),
            PAYLOADS: trio.CapacityLimiter(1),
        }
        # A call a frame and session: the others are few, or long, or want `trio.from_thread`.
        self._encoders = ThreadPool(self._cores, "reactor-trio encoder")
        # Of their own: what one client sends may take a decoder as long as 100 pictures of the others take an
        # encoder. And with a core to spare, so that the loop gets on.
        self._decoders = ThreadPool(max(1, self._cores - 1), "reactor-trio decoder")
        # What runs now: its lane, itself or its name, when it was asked for, when its thread began with it.
        self._calls: dict[int, tuple[str, str | Callable[..., object], float, float]] = {}
        self._keys: Iterator[int] = itertools.count()

    async def run(self, lane: str, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """See `Executor.run`."""
        call = self._noted(lane, partial(fn, *args, **kwargs))
        if lane == ENCODE:
            return await self._encoders.run(call)
        if lane == DECODE:
            return await self._decoders.run(call, abandon_on_cancel=True)
        limiter = self._limiter(lane)
        try:
            return await trio.to_thread.run_sync(call, limiter=limiter)
        finally:
            if lane.startswith(ENCODERS):
                self._forget_if_idle(lane, limiter)

    def begin(
        self,
        nursery: trio.Nursery,
        lane: str,
        fn: Callable[[], T],
        done: Callable[[outcome.Outcome[T]], object],
        /,
        *,
        short: bool = False,
    ) -> PendingCall | None:
        """See `Executor.begin`. It takes a task in all lanes but that of encoding.

        With a single core what is `short` is done right away: a thread would only take turns with the loop,
        and each change costs a tenth of a JPEG.
        """
        if short and self._cores == 1:
            done(outcome.capture(fn))
            return None
        if lane == ENCODE:
            return self._encoders.begin(self._noted(lane, fn), done)
        begin_in_task(self, nursery, lane, fn, done)
        return None

    @asynccontextmanager
    async def open_worker(self, lane: str, name: str) -> AsyncIterator[Worker]:
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

    def _limiter(self, lane: str) -> trio.CapacityLimiter:
        limiter = self._limiters.get(lane)
        if limiter is None:
            limiter = self._limiters[lane] = trio.CapacityLimiter(1)
        return limiter

    def _forget_if_idle(self, lane: str, limiter: trio.CapacityLimiter) -> None:
        # A stream's lane goes with its session, and nobody says when: an idle one is made anew if needed.
        numbers = limiter.statistics()
        if not numbers.borrowed_tokens and not numbers.tasks_waiting:
            self._limiters.pop(lane, None)

    def lanes(self) -> tuple[str, ...]:
        """The lanes that there are: the fixed ones, those of devices, and of streams that are in use."""
        return (ENCODE, DECODE, *self._limiters)

    def _noted(self, lane: str, fn: Callable[[], T]) -> Callable[[], T]:
        now = trio.lowlevel.current_clock().current_time
        return partial(self._call, lane, fn, fn, now, now())

    def _call(
        self,
        lane: str,
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
