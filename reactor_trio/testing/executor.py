"""An executor without threads, for tests under a mock clock."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import outcome
import trio

from reactor_trio.compute.executor import check_has_own_threads
from reactor_trio.compute.lanes import Device

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from reactor_trio.compute.calls import PendingCall, RunningCall
    from reactor_trio.compute.lanes import Lane
    from reactor_trio.compute.worker import Worker

T = TypeVar("T")


class InlineExecutor:
    """Makes blocking calls in the task that asks for them, since a mock clock does not wait for a thread.

    A call takes no virtual time, and no two calls overlap.
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
        lane: Lane,
        fn: Callable[[], T],
        done: Callable[[outcome.Outcome[T]], object],
        /,
        *,
        short: bool = False,
    ) -> PendingCall | None:
        """See `Executor.begin`: by `run`, in a task that belongs to the Trio run."""
        check_has_own_threads(lane)
        call = _TaskCall(done)
        trio.lowlevel.spawn_system_task(call.make, partial(self.run, lane, fn), name="reactor-trio/call")
        return call

    @asynccontextmanager
    async def open_worker(self, lane: Lane, name: str) -> AsyncIterator[Worker]:
        """Open a worker without a thread: `run` makes its calls, but for the last one, which never waits."""
        yield _InlineWorker(self, lane)

    def running(self) -> tuple[RunningCall, ...]:
        """Return nothing: there are no threads."""
        return ()


class _TaskCall:
    """A call of `begin`, which a task makes in place of a thread."""

    def __init__(self, done: Callable[[outcome.Outcome[Any]], object]) -> None:
        self._done: Callable[[outcome.Outcome[Any]], object] | None = done
        self._scope = trio.CancelScope()
        self._over = trio.Event()

    async def make(self, run: Callable[[], Awaitable[Any]]) -> None:
        try:
            with self._scope:
                try:
                    result: outcome.Outcome[Any] = outcome.Value(await run())
                except BaseException as error:  # noqa: ASYNC103  a kept `Cancelled` is its outcome
                    # A `Cancelled` that the function kept from elsewhere is its error, as in a thread.
                    if isinstance(error, trio.Cancelled) and _is_cancelled():
                        raise
                    result = outcome.Error(error)
                if self._done is not None:
                    self._done(result)
        finally:
            self._over.set()

    async def end(self) -> None:
        self._done = None
        self._scope.cancel(reason="nobody wants the outcome of this call any more")
        with trio.CancelScope(shield=True):
            await self._over.wait()


def _is_cancelled() -> bool:
    return trio.current_effective_deadline() == -math.inf


class _InlineWorker:
    """The worker of an `InlineExecutor`.

    What a call sets for its thread, such as `torch.inference_mode`, is set for the thread of the loop, and so
    for all sessions.
    """

    def __init__(self, executor: InlineExecutor, lane: Lane) -> None:
        self._executor = executor
        self._lane = lane

    async def run(self, fn: Callable[..., T], /, *args: Any) -> T:
        return await self._executor.run(self._lane, fn, *args)

    async def finish(self, fn: Callable[[], object], /) -> None:
        fn()
