"""An executor without threads, for tests under a mock clock."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from reactor_trio.compute.executor import begin_in_task
from reactor_trio.compute.lanes import Device

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import outcome

    from reactor_trio.compute.executor import RunningCall
    from reactor_trio.compute.lanes import Lane
    from reactor_trio.compute.worker import Worker

T = TypeVar("T")


class InlineExecutor:
    """Runs blocking work where it is called: a mock clock would not wait for a thread.

    Work takes no virtual time, and no two calls overlap.
    """

    async def run(self, lane: Lane, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call `fn` after a checkpoint. If cancelled, it was not called."""
        await trio.lowlevel.checkpoint()
        return fn(*args, **kwargs)

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
    ) -> None:
        """See `Executor.begin`: by `run`, in a task of the nursery."""
        begin_in_task(self, nursery, lane, fn, done)

    @asynccontextmanager
    async def open_worker(self, lane: Lane, name: str) -> AsyncIterator[Worker]:
        """A worker without a thread: its calls are like `run`, but for the last one, which never waits."""
        yield _InlineWorker(self, lane)

    def running(self) -> tuple[RunningCall, ...]:
        """Nothing ever runs in a thread here."""
        return ()


class _InlineWorker:
    """What was the thread's own is that of the loop, and of all sessions: `torch.inference_mode`, for one."""

    def __init__(self, executor: InlineExecutor, lane: Lane) -> None:
        self._executor = executor
        self._lane = lane

    async def run(self, fn: Callable[..., T], /, *args: Any) -> T:
        return await self._executor.run(self._lane, fn, *args)

    async def finish(self, fn: Callable[[], object], /) -> None:
        fn()
