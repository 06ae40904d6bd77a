"""The `receive` and `send` of one ASGI call, as a task on Trio uses them, on Trio or on asyncio.

`TrioCalls` are those of an ASGI server on Trio. `AsyncioCalls` are those of a server on asyncio, used from a
Trio run in another thread. The events that wait between the two loops are bounded in both directions.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import trio

from reactor_trio.protocol.names import CloseCode
from reactor_trio.wire.foreign_errors import ASGI_SEND

if TYPE_CHECKING:
    from collections.abc import Sequence

Event = MutableMapping[str, Any]
"""One event of ASGI: a dict with a `type`."""
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

MAX_WAITING_BYTES = 256 * 1024
"""Bytes of received messages that may wait to be taken; then no more are received until some are."""
EVENT_BYTES = 256
"""Bytes that an event counts besides its message, so that the number of empty events is bounded too."""

DISCONNECT = "websocket.disconnect"


class Calls(Protocol):
    """The two callables of one ASGI call. All methods are called on Trio; any number of tasks may wait."""

    def take(self) -> list[Event]:
        """Take the events that have arrived, in order."""
        ...

    async def wait(self) -> None:
        """Wait until an event has arrived, or until `wake`. May return without either."""

    def wake(self) -> None:
        """Let `wait` return in all tasks that wait."""

    async def send(self, events: Sequence[Event], timeout: float) -> None:  # noqa: ASYNC109  of each event
        """Send the events in order.

        Raises `trio.TooSlowError` if one of them was not accepted in `timeout` seconds, and `TransportClosed`
        if the server's `send` failed. If cancelled, some of the events may be sent.
        """


class _Waiting:
    """Tasks on Trio that wait for an event to arrive."""

    def __init__(self) -> None:
        # A new one takes its place when it is set.
        self._news = trio.Event()

    async def wait(self) -> None:
        await self._news.wait()

    def wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


class TrioCalls:
    """See `Calls`. A task must be in `run` all the time, and is cancelled at the end."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._waiting = _Waiting()
        # `run` waits for it while too many bytes wait to be taken. A new one takes its place for each wait.
        self._room = trio.Event()

    async def run(self) -> None:
        """Receive events until the client is gone. Waits while too many bytes wait to be taken."""
        while True:
            event = await _received(self._receive)
            self._events.append(event)
            self._bytes += size_of(event)
            self._waiting.wake()
            if event["type"] == DISCONNECT:
                return
            while self._bytes > MAX_WAITING_BYTES:
                self._room = trio.Event()
                await self._room.wait()

    def take(self) -> list[Event]:
        """See `Calls`."""
        events = [*self._events]
        self._events.clear()
        self._bytes = 0
        self._room.set()
        return events

    async def wait(self) -> None:
        """See `Calls`."""
        if not self._events:
            await self._waiting.wait()

    def wake(self) -> None:
        """See `Calls`."""
        self._waiting.wake()

    async def send(self, events: Sequence[Event], timeout: float) -> None:  # noqa: ASYNC109  of each event
        """See `Calls`."""
        await trio.lowlevel.checkpoint()
        for event in events:
            with trio.fail_after(timeout), ASGI_SEND:
                await self._send(event)


class _Batch:
    """Events on their way to asyncio. Asyncio's thread writes the attributes, Trio's reads them."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.accepted = 0
        """How many of the events the server's `send` has accepted."""
        self.failure: Exception | None = None
        self.is_done = False
        self.task: asyncio.Task[None] | None = None


class AsyncioCalls:
    """See `Calls`. The asyncio task of the ASGI call makes and runs it; the Trio run of `token` uses it.

    The thread of asyncio appends to `_events` and writes `_received`. The thread of Trio pops from `_events`
    and writes `_taken`. So no lock is needed.
    """

    def __init__(self, receive: Receive | None, send: Send, token: trio.lowlevel.TrioToken) -> None:
        self._receive = receive
        self._send = send
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._events: deque[Event] = deque()
        # Bytes that were received, and bytes that were taken, since the beginning.
        self._received = 0
        self._taken = 0
        # Whether the task that receives waits for room.
        self._is_full = False
        self._room = asyncio.Event()
        self._waiting = _Waiting()

    async def run(self, ended: asyncio.Future[None]) -> None:
        """Receive events until `ended` is done, which stands for the call's task on Trio.

        If cancelled, so is that task.
        """
        if self._receive is None:
            await ended
            return
        receiving = asyncio.create_task(self._receive_all(self._receive))
        try:
            await ended
        finally:
            receiving.cancel()
            await asyncio.wait([receiving])  # noqa: ASYNC102  no Trio runs here

    async def _receive_all(self, receive: Receive) -> None:
        while True:
            event = await _received(receive)
            self._received += size_of(event)
            self._events.append(event)
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self.wake, idempotent=True)
            if event["type"] == DISCONNECT:
                return
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        while self._received - self._taken > MAX_WAITING_BYTES:
            self._room.clear()
            self._is_full = True  # set before the second look: from now on `take` sets `_room`
            if self._received - self._taken > MAX_WAITING_BYTES:
                await self._room.wait()
            self._is_full = False

    def take(self) -> list[Event]:
        """See `Calls`."""
        events: list[Event] = []
        with suppress(IndexError):
            while True:
                events.append(self._events.popleft())
        self._taken += sum(map(size_of, events))
        if self._is_full:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._room.set)
        return events

    async def wait(self) -> None:
        """See `Calls`."""
        if not self._events:
            await self._waiting.wait()

    def wake(self) -> None:
        """See `Calls`."""
        self._waiting.wake()

    async def send(self, events: Sequence[Event], timeout: float) -> None:  # noqa: ASYNC109  of each event
        """See `Calls`. All events go to the other thread at once, and one answer comes back for all."""
        batch, done = _Batch(events), trio.Event()
        with ASGI_SEND:  # a loop that is closed is a RuntimeError
            self._loop.call_soon_threadsafe(self._begin, batch, done)
        try:
            accepted = -1
            while not done.is_set():
                if accepted == batch.accepted:
                    raise trio.TooSlowError
                accepted = batch.accepted
                with trio.move_on_after(timeout):
                    await done.wait()
            await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            if not batch.is_done:
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(_give_up, batch)
        if batch.failure is not None:
            with ASGI_SEND:
                raise batch.failure

    # ---- on asyncio

    def _begin(self, batch: _Batch, done: trio.Event) -> None:
        batch.task = self._loop.create_task(self._send_all(batch, done), context=self._context)

    async def _send_all(self, batch: _Batch, done: trio.Event) -> None:
        try:
            for event in batch.events:
                await self._send(event)
                batch.accepted += 1
        except Exception as exc:  # `send` raises it on Trio
            batch.failure = exc
        finally:
            batch.is_done = True
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(done.set)


def _give_up(batch: _Batch) -> None:
    if batch.task is not None:
        batch.task.cancel()


async def _received(receive: Receive) -> Event:
    """The next event. If `receive` fails, the connection has ended."""
    try:
        return await receive()
    except Exception:  # ASGI names none, but a server that ends may raise one
        return {"type": DISCONNECT, "code": CloseCode.ABNORMAL}


def size_of(event: Event) -> int:
    """Bytes that an event counts while it waits. Of a text the characters are counted."""
    return EVENT_BYTES + len(event.get("bytes") or event.get("text") or b"")
