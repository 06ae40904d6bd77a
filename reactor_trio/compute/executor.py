"""Where blocking work runs: worker threads, with one limiter a lane.

A lane is what may not run twice at a time: a device, the encoder, files. The executor is handed in from
outside, so a test under a mock clock needs no thread (`reactor_trio.testing` has the inline one).
"""

from __future__ import annotations

import itertools
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

HANDLERS = "handlers"
"""Lane of `@event(in_thread=True)` handlers."""
ENCODE = "encode"
"""Lane of media encoding and decoding."""
FILES = "files"
"""Lane of temporary files and of `load`."""


DEVICES = "device:"
"""What the lane of every device begins with."""


def device_lane(device: object) -> str:
    """Lane of a compute device, such as `cpu` or `cuda:1`: one call at a time."""
    return f"{DEVICES}{device}"


class Executor(Protocol):
    """Runs a blocking function off the loop."""

    async def run(self, lane: str, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run `fn(*args, **kwargs)` under the lane's limiter and return its result.

        If cancelled while waiting for the lane, `fn` is not called. If cancelled later, the call waits
        for `fn` to end, since a thread cannot be stopped, and `Cancelled` comes at the next checkpoint.
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


def is_stuck(executor: Executor, timeout: float) -> bool:
    """Whether a call has kept a device for longer than `timeout` seconds."""
    now = trio.current_time()
    return any(call.lane.startswith(DEVICES) and now - call.began > timeout for call in executor.running())


class ThreadExecutor:
    """The executor of a server: Trio's worker threads."""

    def __init__(self, *, threads: int | None = None) -> None:
        cores = threads or os.cpu_count() or 1
        self._limiters: dict[str, trio.CapacityLimiter] = {
            ENCODE: trio.CapacityLimiter(cores),
            FILES: trio.CapacityLimiter(8),
            HANDLERS: trio.CapacityLimiter(32),
        }
        self._calls: dict[int, RunningCall] = {}
        self._keys: Iterator[int] = itertools.count()

    async def run(self, lane: str, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """See `Executor.run`."""
        limiter = self._limiters.get(lane)
        if limiter is None:
            limiter = self._limiters[lane] = trio.CapacityLimiter(1)
        name = getattr(fn, "__qualname__", None) or repr(fn)
        clock = trio.lowlevel.current_clock()
        describe = partial(RunningCall, lane, name, clock.current_time())
        return await trio.to_thread.run_sync(
            self._call, describe, clock, partial(fn, *args, **kwargs), limiter=limiter
        )

    def _call(self, describe: partial[RunningCall], clock: trio.abc.Clock, call: partial[T]) -> T:
        # In the worker thread. One dict item, set and deleted by one thread: safe under the GIL.
        key = next(self._keys)
        self._calls[key] = describe(clock.current_time())
        try:
            return call()
        finally:
            del self._calls[key]

    def running(self) -> tuple[RunningCall, ...]:
        """See `Executor.running`."""
        return tuple(self._calls.copy().values())
