"""`DeviceCost`: a compute device whose calls take virtual time; a test says how much."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from reactor_trio.compute.calls import Call, Calls, RunningCall
from reactor_trio.testing.executor import InlineExecutor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from reactor_trio.compute.lanes import Lane
    from reactor_trio.compute.worker import Worker

T = TypeVar("T")


class DeviceCost(InlineExecutor):
    """An executor without threads, in which work on a device costs virtual seconds.

    A call costs `fixed + per_item * items(*args, **kwargs)` seconds. `items` is given the arguments of the
    call, without the function, and says how many items there are, for example those of a batch:

        open_session(Painter, executor=DeviceCost(0.080))
        DeviceCost(fixed=0.010, per_item=0.005, items=lambda batch: len(batch))

    Without `items` each call is one item. Either number may be changed while a test runs. As on a real
    device calls run one at a time for each lane, first come, first served, for all sessions together. Work
    that is not for a device (encoding, files, handlers in threads) takes no time.

    Raises `ValueError` if a cost is negative or not finite; what `items` raises, `run` raises.
    """

    def __init__(
        self, fixed: float = 0.0, per_item: float = 0.0, *, items: Callable[..., int] | None = None
    ) -> None:
        self.fixed = _check("fixed", fixed)
        """Seconds that each call takes."""
        self.per_item = _check("per_item", per_item)
        """Seconds more for each item."""
        self._items = items
        # Trio's lock also keeps the order of those who wait for it.
        self._lanes: dict[Lane, trio.Lock] = {}
        self._calls = Calls()
        self.busy: dict[str, float] = {}
        """Seconds of work of each lane so far, by its name. A call counts in full from its beginning."""

    def cost(self, *args: Any, **kwargs: Any) -> float:
        """Seconds that a call with these arguments takes."""
        count = 1 if self._items is None else self._items(*args, **kwargs)
        return _check("cost", self.fixed + self.per_item * count)

    async def run(self, lane: Lane, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Wait for the lane, let the time pass, then call `fn` inline.

        If cancelled while it waits for the lane, `fn` is not called. If cancelled later, `run` waits for the
        end of the call and returns its result, as with a thread; the next checkpoint raises `Cancelled`.
        """
        if not lane.is_device:
            return await super().run(lane, fn, *args, **kwargs)
        work = partial(fn, *args, **kwargs)
        call = self._calls.make(lane, work)
        async with self._lane(lane):
            return await self._work(call, work, self.cost(*args, **kwargs))

    @asynccontextmanager
    async def open_worker(self, lane: Lane, name: str) -> AsyncIterator[Worker]:
        """A worker without a thread. Each call is one item, whatever `items` says; the last one is free."""
        yield _DeviceWorker(self, lane, name)

    def _lane(self, lane: Lane) -> trio.Lock:
        return self._lanes.setdefault(lane, trio.Lock())

    async def _work(self, call: Call[T], fn: Callable[[], T], seconds: float) -> T:
        lane = call.lane.name
        self.busy[lane] = self.busy.get(lane, 0.0) + seconds
        with call.runs():
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)
            return fn()

    def running(self) -> tuple[RunningCall, ...]:
        """The calls that a device works on now, in the order in which they began; see `Executor.running`."""
        return self._calls.running()


class _DeviceWorker:
    """The worker of a `DeviceCost`."""

    def __init__(self, device: DeviceCost, lane: Lane, name: str) -> None:
        self._device = device
        self._lane = lane
        self._name = name

    async def run(self, fn: Callable[..., T], /, *args: Any) -> T:
        device, work = self._device, partial(fn, *args)
        call = device._calls.make(self._lane, work, self._name)
        async with device._lane(self._lane):
            return await device._work(call, work, _check("cost", device.fixed + device.per_item))

    async def finish(self, fn: Callable[[], object], /) -> None:
        try:
            async with self._device._lane(self._lane):
                pass
        finally:
            fn()


def _check(name: str, seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{name} must be a number of seconds >= 0, not {seconds!r}")
    return seconds
