"""The `receive` and `send` of one ASGI call, as a task on Trio uses them, whatever loop they belong to.

`TrioCalls` are those of an ASGI server on Trio. `AsyncioCalls` are those of one on asyncio, used from a Trio
run in another thread: what waits between the two loops is bounded both ways.
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
"""Of received messages that nobody has taken; from then on no more are received."""
EVENT_BYTES = 256
"""What an event counts besides its message, so that many empty ones are bounded too."""

DISCONNECT = "websocket.disconnect"


class Calls(Protocol):
    """The two callables of one ASGI call. All methods are called on Trio; any number of tasks may wait."""

    def take(self) -> list[Event]:
        """The events that have arrived, in order, and are not taken yet."""
        ...

    async def wait(self) -> None:
        """Wait until something has arrived, or until `wake`; it may return for nothing."""

    def wake(self) -> None:
        """Let `wait` return in all tasks that are in it."""

    async def send(self, events: Sequence[Event], timeout: float) -> None:  # noqa: ASYNC109  of each event
        """Send the events in order.

        Raises `trio.TooSlowError` if one of them was not accepted in `timeout` seconds, and `TransportClosed`
        if the server's `send` failed. If cancelled, some of the events may be sent.
        """


class _Waiting:
    """Tasks on Trio that wait for news."""

    def __init__(self) -> None:
        # Replaced when it is set.
        self._news = trio.Event()

    async def wait(self) -> None:
        await self._news.wait()

    def wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


class TrioCalls:
    """See `Calls`; `run` must run beside, and is cancelled at the end."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._waiting = _Waiting()
        # Replaced when it is set: `run` waits for it while too much waits to be taken.
        self._room = trio.Event()

    async def run(self) -> None:
        """Receive events until the client is gone, as far as they are taken."""
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
    """Events on their way to asyncio. The attributes are written there, and read on Trio."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.accepted = 0
        """How many of them `send` has returned for."""
        self.failure: Exception | None = None
        self.is_done = False
        self.task: asyncio.Task[None] | None = None


class AsyncioCalls:
    """See `Calls`. Made, and `run`, in the asyncio task of the ASGI call; used by the Trio run of `token`.

    The thread of asyncio appends to `_events` and `_received`, that of Trio pops and writes `_taken`: so no
    lock is needed.
    """

    def __init__(self, receive: Receive | None, send: Send, token: trio.lowlevel.TrioToken) -> None:
        self._receive = receive
        self._send = send
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._events: deque[Event] = deque()
        # Bytes since the beginning.
        self._received = 0
        self._taken = 0
        # Whether the task that receives waits for room.
        self._is_full = False
        self._room = asyncio.Event()
        self._waiting = _Waiting()

    async def run(self, ended: asyncio.Future[None]) -> None:
        """Receive events until the call's task on Trio, which `ended` stands for, has ended.

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
            self._is_full = True  # before it looks again: from now on `take` tells
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
        """See `Calls`: all events go to the other thread at once, and the answer comes back once."""
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
    """The next event. A `receive` that fails is the end of the connection."""
    try:
        return await receive()
    except Exception:  # of a server that ends; ASGI names none
        return {"type": DISCONNECT, "code": CloseCode.ABNORMAL}


def size_of(event: Event) -> int:
    """Bytes that an event counts while it waits; of a text its characters."""
    return EVENT_BYTES + len(event.get("bytes") or event.get("text") or b"")
