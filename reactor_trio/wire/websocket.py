"""`Transport` over a WebSocket: it hands out the messages that its reader has read, and writes frames."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from reactor_trio.errors import TransportClosed
from reactor_trio.protocol.names import CloseCode
from reactor_trio.wire.foreign_errors import STREAM
from reactor_trio.wire.nursery import open_plain_nursery
from reactor_trio.wire.reader import LINGER_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from reactor_trio.wire.reader import WebSocketReader
    from reactor_trio.wire.streams import Buffer
    from reactor_trio.wire.transport import Outgoing


class WebSocketTransport:
    """One WebSocket; `Transport` says what each method promises.

    `accept_websocket` makes that of a server, `propose_websocket` that of a client. All use is inside
    `running()`, which closes the stream.
    """

    def __init__(self, reader: WebSocketReader) -> None:
        self._reader = reader
        self._engine = reader.engine
        self._stream = reader.stream
        # Set by a read that finds the end, by `aclose` and by `abort`: no more bytes are read.
        self._ended = trio.Event()
        # `receive` and `aclose` both read, one at a time: the other task waits here until a read has ended.
        self._is_reading = False
        self._readers = trio.lowlevel.ParkingLot()
        # Opened by `running`. A task here writes the pongs that must wait for room while no other task
        # writes.
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[WebSocketTransport]:
        """The connection's life. On leaving, the stream is closed by force, and no task is left running."""
        async with open_plain_nursery() as nursery:
            self._nursery = nursery
            try:
                yield self
            finally:
                self._nursery = None
                try:
                    await trio.aclose_forcefully(self._stream)
                finally:
                    nursery.cancel_scope.cancel(reason="the connection is over")

    # ---- reading

    @property
    def last_received(self) -> float:
        """See `Transport`."""
        return self._stream.last_received if self._reader.is_listening else trio.current_time()

    async def receive(self) -> Sequence[str | bytes]:
        """See `Transport`. After an `aclose` was begun, it waits for the end of the connection too."""
        reader = self._reader
        while not reader.received:
            await self._read()
        batch, reader.received = reader.received, []
        return batch

    async def _read(self) -> None:
        """Read once, or wait until another task has. Raises `TransportClosed`."""
        if self._is_reading:
            await self._readers.park()
            return
        self._is_reading = True
        try:
            with STREAM:
                goes_on = not self._ended.is_set() and await self._reader.read()
        except TransportClosed:
            goes_on = False
        finally:
            self._is_reading = False
            if self._readers:
                self._readers.unpark_all()
            if self._reader.pings:
                self._answer_pings()
        if goes_on:
            return
        if not self._stream.stalled:
            self._reader.record(CloseCode.ABNORMAL, "connection lost")
        self._reader.is_closed = True
        self._ended.set()
        if not self._reader.received:
            await trio.lowlevel.checkpoint()
            raise self._reader.error()

    # ---- writing

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """See `Transport`."""
        await self._check_open()
        parts = self._engine.messages(messages)
        if not self._reader.lock.locked() and self._stream.send_nowait(parts):
            parts = []
        if parts or self._stream.has_rest:
            await self._write(parts)

    def send_nowait(self, messages: Sequence[Outgoing]) -> bool:
        """See `Transport`. Always False for a client: masking is too dear to do twice if there is no room."""
        engine = self._engine
        if engine.is_client or not engine.is_open or self._reader.lock.locked():
            return False
        return self._stream.send_nowait(engine.messages(messages))

    @property
    def has_unsent(self) -> bool:
        """See `Transport`."""
        return self._stream.has_rest

    async def ping(self) -> None:
        """See `Transport`."""
        await self._check_open()
        await self._write([self._engine.ping()])

    async def aclose(self, code: int, reason: str) -> None:
        """See `Transport`."""
        try:
            if self._engine.is_open:
                self._reader.record(code, reason)
                await self._write([self._engine.close(code, reason)])
            while not self._reader.is_closed:
                await self._read()
        except TransportClosed:
            pass
        finally:
            self._ended.set()
            await trio.aclose_forcefully(self._stream)

    async def abort(self) -> None:
        """See `Transport`."""
        self._reader.record(CloseCode.ABNORMAL, "closed by force")
        self._ended.set()
        await trio.aclose_forcefully(self._stream)

    async def _check_open(self) -> None:
        """Raise `TransportClosed` unless messages may be sent. A checkpoint only if it raises."""
        if not self._engine.is_open:
            await trio.lowlevel.checkpoint()
            raise self._reader.error()

    def _answer_pings(self) -> None:
        """Write the pongs that are due if there is room, or have another task write them: never waits."""
        if self._reader.lock.locked():
            return  # the task that holds the lock writes them before it releases it
        pongs = self._take_pongs()
        if self._stream.send_nowait(pongs):
            pongs = []
        if self._nursery is not None and (pongs or self._stream.has_rest):
            self._nursery.start_soon(self._write_all, pongs, name="websocket/pong")

    def _take_pongs(self) -> list[bytes]:
        pings = self._reader.pings
        pongs = [self._engine.pong(payload) for payload in pings] if self._engine.is_open else []
        pings.clear()
        return pongs

    async def _write(self, buffers: Iterable[Buffer]) -> None:
        if await self._write_all(buffers):
            return
        # The peer may have sent a close frame before the reset, which says why. If no other task reads, this
        # one does, up to the next message, which is not its own.
        if not self._stream.stalled:
            with trio.move_on_after(LINGER_SECONDS), suppress(TransportClosed):
                while not self._ended.is_set() and not self._reader.received:
                    await self._read()
        raise self._reader.error()

    async def _write_all(self, buffers: Iterable[Buffer]) -> bool:
        """Write the buffers, and the pongs that are due by then; returns False if the stream is broken."""
        lock = self._reader.lock
        with suppress(TransportClosed), STREAM:
            try:
                lock.acquire_nowait()  # `acquire` would be a task switch
            except trio.WouldBlock:
                await lock.acquire()
            try:
                await self._stream.send_buffers(buffers)
                while self._reader.pings:
                    await self._stream.send_buffers(self._take_pongs())
            finally:
                lock.release()
            return True
        return False
