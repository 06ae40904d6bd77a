"""A worker thread of one's own: every call runs in it, for what belongs to its thread, as generators do."""

from __future__ import annotations

from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Worker(Protocol):
    """What `Executor.open_worker` gives: one thread, and the lane in which it works."""

    async def run(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Run `fn(*args)` in the thread, under the lane's limiter; see `Executor.run`."""
        ...

    async def finish(self, fn: Callable[[], object], /) -> None:
        """The same for a last call, which must happen: if cancelled while it waits, it waits no longer."""


class ThreadWorker:
    """The worker of a `ThreadExecutor`: one long call in a thread of Trio's, which other calls are handed to.

    So `trio.from_thread` works in it, and thread-locals and context variables stay from call to call.
    """

    def __init__(
        self, limiter: trio.CapacityLimiter, called: Callable[[float, Callable[[], Any]], Any]
    ) -> None:
        self._limiter = limiter
        # Makes a call in the thread, and notes that it is under way since when it was asked for.
        self._called = called
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # Set by the thread when it takes calls.
        self.started = trio.Event()

    async def serve(self) -> None:
        """Keep the thread until `stop`; a task of its own. If cancelled, it goes on until then."""
        token = trio.lowlevel.current_trio_token()
        # The lanes limit what runs, the server's limit of sessions how many threads there are.
        limiter = trio.CapacityLimiter(1)
        await trio.to_thread.run_sync(self._take_calls, token, limiter=limiter)

    def _take_calls(self, token: trio.lowlevel.TrioToken) -> None:
        token.run_sync_soon(self.started.set)
        while (call := self._calls.get()) is not None:
            call()
            del call  # and what it refers to: the last frame is large

    def stop(self) -> None:
        """Let the thread go when it has done what it was handed."""
        self._calls.put(None)

    async def run(self, fn: Callable[..., T], /, *args: Any) -> T:
        """See `Worker.run`."""
        asked = trio.current_time()
        async with self._limiter:
            return await self._call(asked, partial(fn, *args))

    async def finish(self, fn: Callable[[], object], /) -> None:
        """See `Worker.finish`."""
        asked, turn = trio.current_time(), False
        try:
            await self._limiter.acquire()
            turn = True
        finally:
            try:
                await self._call(asked, fn)  # noqa: ASYNC102  shielded in there, as a thread cannot be stopped
            finally:
                if turn:
                    self._limiter.release()

    async def _call(self, asked: float, fn: Callable[[], T]) -> T:
        token, done = trio.lowlevel.current_trio_token(), trio.Event()
        results: list[outcome.Outcome[T]] = []

        def call() -> None:
            results.append(outcome.capture(self._called, asked, fn))
            token.run_sync_soon(done.set)

        self._calls.put(call)
        with trio.CancelScope(shield=True):
            await done.wait()
        return results.pop().unwrap()
