"""A thread that runs Trio, for an ASGI server on asyncio. It serves all calls of one application.

Each call has a task on asyncio and a task on Trio. `wire.asgi_calls` carries the events between the two. If
the task on asyncio is cancelled, the task on Trio is cancelled.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import anyio.from_thread
import trio

from reactor_trio.wire.asgi_calls import AsyncioCalls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.from_thread import BlockingPortal

    from reactor_trio.wire.asgi_calls import Calls, Receive, Send

T = TypeVar("T")


class TrioThread:
    """The thread. Its methods are called on asyncio, on any loop. The first `run` or `serve` starts it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an async function on Trio and return its result. If cancelled, the function is cancelled."""
        portal, _ = await self._started()
        return await asyncio.wrap_future(portal.start_task_soon(function))

    async def serve(
        self, handle: Callable[[Calls], Awaitable[None]], receive: Receive | None, send: Send
    ) -> None:
        """Run `handle` on Trio with the callables of an ASGI call. Without `receive`, no event is received.

        If cancelled, `handle` is cancelled, and this does not wait for its end; `stop` does.
        """
        portal, token = await self._started()
        calls = AsyncioCalls(receive, send, token)
        await calls.run(asyncio.wrap_future(portal.start_task_soon(handle, calls)))

    async def stop(self) -> None:
        """Wait for the functions that still run in the thread, and end it."""
        await asyncio.to_thread(self._stop)

    async def _started(self) -> tuple[BlockingPortal, trio.lowlevel.TrioToken]:
        if self._portal is None or self._token is None:
            return await asyncio.to_thread(self._start)
        return self._portal, self._token

    def _start(self) -> tuple[BlockingPortal, trio.lowlevel.TrioToken]:
        with self._lock:  # two calls may be the first at once
            if self._portal is None or self._token is None:
                portal = self._stack.enter_context(anyio.from_thread.start_blocking_portal("trio"))
                self._portal, self._token = portal, portal.call(_token)
            return self._portal, self._token

    def _stop(self) -> None:
        with self._lock:
            self._portal = self._token = None
            self._stack.close()


async def _token() -> trio.lowlevel.TrioToken:
    await trio.lowlevel.checkpoint()
    return trio.lowlevel.current_trio_token()
