"""Small ASGI servers in memory, on Trio and on asyncio.

`TrioServer` carries messages over a `MemoryTransport`; the test's client has the other end. `AsyncioServer`
has the client's methods too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from reactor_trio.errors import TransportClosed
from reactor_trio.testing import MemoryTransport
from reactor_trio.wire.asgi_calls import AsyncioCalls, Event

App = Callable[[Event, Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[None]]


def scope_of(path: str = "/ws", *, kind: str = "websocket", **more: Any) -> Event:
    """An ASGI scope on loopback, as servers make it; `more` adds keys, or replaces them."""
    scope: Event = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8000")],
        "client": ("127.0.0.1", 51234),
        "server": ("127.0.0.1", 8000),
        "extensions": {"websocket.http.response": {}},
    }
    scope |= {"subprotocols": ["reactor.v1"]} if kind == "websocket" else {"method": "GET"}
    return scope | more


class TrioServer:
    """Calls `app` for one WebSocket, and carries its messages over `transport`."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport
        self._is_connecting = True
        self._messages: list[str | bytes] = []
        self._is_over = False
        self._has_accepted = trio.Event()
        self.accepted: Event | None = None
        """The event with which the application accepted the WebSocket."""
        self.answer: list[Event] = []
        """The events with which the application refused the WebSocket."""

    async def call(self, app: App, scope: Event) -> None:
        """Serve the call to its end; a connection that is not closed by then is closed by force."""
        try:
            await app(scope, self.receive, self.send)
        finally:
            await self._transport.abort()

    async def receive(self) -> Event:
        if self._is_connecting:
            self._is_connecting = False
            return {"type": "websocket.connect"}
        await self._has_accepted.wait()
        try:
            while not self._messages:
                self._messages += await self._transport.receive()
        except TransportClosed as closed:
            if self._is_over:
                await trio.sleep_forever()
            self._is_over = True
            return {"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason}
        message = self._messages.pop(0)
        kind = "text" if isinstance(message, str) else "bytes"
        return {"type": "websocket.receive", "bytes": None, "text": None} | {kind: message}

    async def send(self, event: Event) -> None:
        match event["type"]:
            case "websocket.accept":
                self.accepted = event
                self._has_accepted.set()
            case "websocket.send":
                message = event["bytes"] if event.get("text") is None else event["text"]
                await self._carry(self._transport.send([message]))
            case "websocket.close" if self.accepted is not None:
                await self._transport.aclose(event["code"], event["reason"])
            case _:
                self.answer.append(event)

    async def _carry(self, writing: Awaitable[None]) -> None:
        try:
            await writing
        except TransportClosed as closed:
            raise OSError("the client is gone") from closed


class AsyncioServer:
    """An ASGI server on asyncio, in a thread, and its client: the test calls the client's methods."""

    def __init__(self, token: trio.lowlevel.TrioToken, *, buffer_bytes: int) -> None:
        self.received: list[str | bytes] = []
        """The messages that the client has read."""
        self.calls: AsyncioCalls
        self._token = token
        self._buffer_bytes = buffer_bytes
        self._buffered: list[str | bytes] = []
        self._is_gone = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` is called."""
        ready = trio.Event()

        def began() -> None:
            self._token.run_sync_soon(ready.set)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, asyncio.run, self._main(began))
            await ready.wait()
            task_status.started()

    async def _main(self, began: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._reads = asyncio.Event()
        self._reads.set()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self.calls = AsyncioCalls(self._events.get, self._send, self._token)
        began()
        await self.calls.run(self._ended)

    def stop(self) -> None:
        self._soon(self._ended.set_result, None)

    def _soon(self, function: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon_threadsafe(function, *args)

    async def _send(self, event: Event) -> None:
        if self._is_gone:
            raise OSError("the client is gone")
        if event["type"] == "websocket.close":
            await self._reads.wait()  # a paused client answers the close when it reads on
            self._leave(event["code"])
            return
        message = event["bytes"] if event.get("text") is None else event["text"]
        while not self._reads.is_set() and sum(map(len, self._buffered)) + len(message) > self._buffer_bytes:
            await self._reads.wait()
        (self.received if self._reads.is_set() else self._buffered).append(message)

    def _leave(self, code: int) -> None:
        self._is_gone = True
        self._events.put_nowait({"type": "websocket.disconnect", "code": code})

    # ---- the client

    async def say(self, *messages: str | bytes) -> None:
        for message in messages:
            kind = "text" if isinstance(message, str) else "bytes"
            self._soon(self._events.put_nowait, {"type": "websocket.receive", kind: message})
        await trio.lowlevel.checkpoint()

    def pause(self) -> None:
        self._in_order(self._reads.clear)

    def resume(self) -> None:
        def read() -> None:
            self.received += self._buffered
            self._buffered.clear()
            self._reads.set()

        self._in_order(read)

    def _in_order(self, function: Callable[[], object]) -> None:
        done = threading.Event()
        self._soon(lambda: (function(), done.set()))
        assert done.wait(60)

    async def hang_up(self, code: int) -> None:
        self._soon(self._leave, code)
        await trio.lowlevel.checkpoint()

    async def vanish(self) -> None:
        await self.hang_up(1006)
