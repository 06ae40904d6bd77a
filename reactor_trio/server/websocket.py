"""The WebSocket seam: `Transport` over trio-websocket. No other module of the server imports that library.

What trio-websocket does not do, and a session needs, is done here:

- everything that one read brought is handed over as one batch, and a batch is written in one go;
- whoever waits in `receive` reads the stream itself: trio-websocket's reader task, and the channel from it,
  would cost a task switch for each message (its handlers are used, its loop is not);
- a ping that arrives while we close, or any other failure of reading, stays in here;
- invalid UTF-8, bad framing and messages that are too big are told to the peer (1007, 1002, 1009) so that
  it gets to read it, instead of a reset;
- how the connection ended is recorded once, by whoever knew first.

Its private names, all used in this module and guarded by `tests/test_websocket_transport.py`:
`_wsproto`, `_stream_lock`, `_send`, `_accept`, `_initial_request`, `_open_handshake`, `_close_handshake`,
`_message_size`, `_message_parts`, `_max_message_size`, and the handlers `_handle_*_event`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    TextMessage,
)
from wsproto.utilities import ProtocolError as EngineError
from wsproto.utilities import RemoteProtocolError

from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.protocol.names import CloseCode
from reactor_trio.server.frames import FrameReader, encode_frame
from reactor_trio.session.transport import whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from reactor_trio.server.streams import PatientStream
    from reactor_trio.session.transport import Outgoing

RECEIVE_BYTES = 128 * 1024
"""How much one read may bring, and so how much is decoded before other tasks run."""
MAX_HEAD_BYTES = 64 * 1024
"""How long the head of a server's answer may be."""
LINGER_SECONDS = 1.0
"""How long a peer that broke the rules may take to read why it is cut off."""


def _size(data: str | bytes | bytearray) -> int:
    """Bytes on the wire; a decoded text of n characters may have come as 4n bytes."""
    if isinstance(data, str) and not data.isascii():
        return len(data.encode())
    return len(data)


@attrs.frozen
class Closed:
    """How a connection ended."""

    code: int
    reason: str = ""


class Connection(WebSocketConnection):
    """trio-websocket's connection, with its gaps closed; see the module's docstring."""

    def __init__(self, stream: PatientStream, engine: WSConnection, **options: object) -> None:
        super().__init__(stream, engine, **options)  # type: ignore[arg-type]
        self.patient_stream = stream
        self.how: Closed | None = None
        self._frames = FrameReader(masked=not engine.client, max_message_bytes=self._max_message_size)
        self.received: list[str | bytes] = []
        """Whole messages that nobody has fetched yet."""
        self._has_events = False
        # The answer to a client's handshake, until it is whole.
        self._head = bytearray()
        self._handlers: dict[type, Callable[[Any], Awaitable[None]]] = {
            AcceptConnection: self._handle_accept_connection_event,
            BytesMessage: self._handle_message_event,
            CloseConnection: self._handle_close_connection_event,
            Ping: self._handle_ping_event,
            Pong: self._handle_pong_event,
            RejectConnection: self._handle_reject_connection_event,
            RejectData: self._handle_reject_data_event,
            TextMessage: self._handle_message_event,
        }

    def record(self, code: int, reason: str | None = None) -> None:
        """Remember how the connection ended; the first to know is right."""
        if self.how is None:
            self.how = Closed(int(code), reason or "")

    async def propose(self) -> None:
        """Send a client's handshake."""
        assert self._initial_request is not None
        await self._send(self._initial_request)

    async def read(self) -> bool:
        """Read once and handle what that brought; returns whether there may be more to read.

        If cancelled, nothing is lost: what was not handled is handled next.
        """
        if not await self._take_frames():
            return False
        data = await self.patient_stream.receive_some(RECEIVE_BYTES)
        if not data:  # which ends the body of a refusal that has no length
            refused = self._wsproto.state is ConnectionState.REJECTING
            return refused and await self._ask_engine(b"")
        if self._wsproto.state is ConnectionState.CONNECTING:
            return await self._take_handshake(data)
        if self._wsproto.state is ConnectionState.REJECTING:
            return await self._ask_engine(data)
        self._frames.feed(data)
        return await self._take_frames()

    async def _take_handshake(self, data: bytes | bytearray) -> bool:
        """A client's: the engine gets the head, and what comes behind it if the server refuses."""
        self._head += data
        if (end := self._head.find(b"\r\n\r\n") + 4) < 4:
            return len(self._head) < MAX_HEAD_BYTES
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        self._head.clear()
        try:
            if not await self._ask_engine(head):
                return False
        except RemoteProtocolError:  # no handshake at all
            return False
        if self._wsproto.state is ConnectionState.REJECTING:
            return not rest or await self._ask_engine(rest)  # no bytes would mean the end to the engine
        self._frames.feed(rest)
        return await self._take_frames()

    async def _take_frames(self) -> bool:
        if not await self._handle_events():
            return False
        while (frame := self._frames.next()) is not None:
            if isinstance(frame, bytearray):
                if not await self._ask_engine(frame):
                    return False
            elif self._wsproto.state is ConnectionState.OPEN:  # RFC 6455, 1.4: nothing after our close frame
                self.received.append(frame)
        return True

    async def _ask_engine(self, data: bytes | bytearray) -> bool:
        self._has_events = True
        self._wsproto.receive_data(bytes(data))
        return await self._handle_events()

    async def _handle_events(self) -> bool:
        if self._has_events:  # asking the engine costs more than reading a frame
            for event in self._wsproto.events():
                await self._handlers[type(event)](event)
            self._has_events = False
        return self._reader_running and self._wsproto.state is not ConnectionState.CLOSED

    async def _handle_message_event(self, event: TextMessage | BytesMessage) -> None:
        if self._wsproto.state is not ConnectionState.OPEN:
            return  # RFC 6455, 1.4: what comes after our close frame may be discarded
        self._message_size += _size(event.data)
        if self._message_size > self._max_message_size:
            self._message_parts = []
            await self._refuse(
                CloseCode.MESSAGE_TOO_BIG, f"a message may have {self._max_message_size} bytes"
            )
            return
        if event.data or not self._message_parts:  # empty fragments may come without end
            self._message_parts.append(event.data)  # type: ignore[arg-type]
        if event.message_finished:
            parts, self._message_parts, self._message_size = self._message_parts, [], 0
            self.received.append(parts[0] if len(parts) == 1 else type(parts[0])().join(parts))  # type: ignore[arg-type]

    async def _handle_ping_event(self, event: Ping) -> None:
        # A pong after our close frame would be an error of ours, and end the reading.
        if self._wsproto.state is ConnectionState.OPEN:
            await super()._handle_ping_event(event)

    async def _handle_close_connection_event(self, event: CloseConnection) -> None:
        if self._wsproto.state is ConnectionState.OPEN:
            # Not a close frame: the engine could not read what came.
            await self._refuse(event.code, event.reason)
        else:
            self.record(event.code, event.reason)
            await super()._handle_close_connection_event(event)

    async def _refuse(self, code: int, reason: str | None) -> None:
        """Say why the connection ends, and give the peer a moment to read it, then stop reading."""
        self.record(code, reason)
        self._reader_running = False
        await self._send(CloseConnection(code=code, reason=reason))
        with trio.move_on_after(LINGER_SECONDS):
            await self.patient_stream.drain()


class WebSocketTransport:
    """One WebSocket, seen as `session.transport.Transport`; see there for what each method promises.

    `running()` must surround its use: it closes the stream.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stream = connection.patient_stream
        # Set when nothing more is read; `aclose`, and a write that failed, wait for it.
        self._ended = trio.Event()
        self._is_receiving = False

    @classmethod
    def server(cls, stream: PatientStream, *, max_message_bytes: int) -> WebSocketTransport:
        """The server's side of a connection whose handshake is still to come."""
        engine = WSConnection(ConnectionType.SERVER)
        return cls(Connection(stream, engine, max_message_size=max_message_bytes))

    @classmethod
    def client(
        cls,
        stream: PatientStream,
        host: str,
        path: str,
        *,
        subprotocols: Iterable[str] = (),
        headers: Iterable[tuple[bytes, bytes]] = (),
        max_message_bytes: int,
    ) -> WebSocketTransport:
        """The client's side; `opened` makes the handshake."""
        return cls(
            Connection(
                stream,
                WSConnection(ConnectionType.CLIENT),
                host=host,
                path=path,
                client_subprotocols=list(subprotocols),
                client_extra_headers=list(headers),
                max_message_size=max_message_bytes,
            )
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[WebSocketTransport]:
        """On leaving, the stream is closed by force."""
        try:
            yield self
        finally:
            await trio.aclose_forcefully(self._stream)

    async def opened(self) -> None:
        """Make the opening handshake, a client's.

        Raises `trio_websocket.ConnectionRejected` if the server answered with another status than 101,
        `TransportClosed` if it went away or answered with something that is no handshake. If cancelled,
        the connection is of no more use.
        """
        try:
            await self._connection.propose()
        except ConnectionClosed:
            raise self._error() from None
        while not self._connection._open_handshake.is_set():
            await self._read()

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server chose."""
        return self._connection.subprotocol

    @property
    def last_received(self) -> float:
        """See `Transport`."""
        return self._stream.last_received if self._is_receiving else trio.current_time()

    async def receive(self) -> Sequence[str | bytes]:
        """See `Transport`. After `aclose` it waits for the connection's end, as `aclose` does."""
        connection = self._connection
        self._is_receiving = True
        try:
            while not connection.received:
                await self._read()
        finally:
            self._is_receiving = False
        batch, connection.received = connection.received, []
        return batch

    async def _read(self) -> None:
        """Read once. Raises `TransportClosed`, and what a refused handshake raises."""
        try:
            goes_on = not self._ended.is_set() and await self._connection.read()
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError, EngineError):
            goes_on = False
        if goes_on:
            return
        if self._connection.how is None and not self._stream.stalled:
            self._connection.record(CloseCode.ABNORMAL, "connection lost")
        self._connection._close_handshake.set()
        self._ended.set()
        if not self._connection.received:
            await trio.lowlevel.checkpoint()
            raise self._error()

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """See `Transport`."""
        engine = self._connection._wsproto
        if engine.state is not ConnectionState.OPEN:
            await trio.lowlevel.checkpoint()
            raise self._error()
        if engine.client:
            await self._write([engine.send(_event(message)) for message in messages])
            return
        parts = [part for message in messages for part in encode_frame(message)]
        if not self._connection._stream_lock.locked() and self._stream.send_nowait(parts):
            parts = []
        if parts or self._stream.has_rest:
            await self._write(parts)

    def send_nowait(self, messages: Sequence[Outgoing]) -> bool:
        """See `Transport`."""
        connection = self._connection
        engine = connection._wsproto
        if engine.client or engine.state is not ConnectionState.OPEN or connection._stream_lock.locked():
            return False
        return self._stream.send_nowait([part for message in messages for part in encode_frame(message)])

    @property
    def has_unsent(self) -> bool:
        """See `Transport`."""
        return self._stream.has_rest

    async def ping(self) -> None:
        """See `Transport`."""
        engine = self._connection._wsproto
        if engine.state is not ConnectionState.OPEN:
            await trio.lowlevel.checkpoint()
            raise self._error()
        await self._write([engine.send(Ping())])

    async def aclose(self, code: int, reason: str) -> None:
        """See `Transport`."""
        connection = self._connection
        try:
            if connection._wsproto.state is ConnectionState.OPEN:
                connection.record(code, reason)
                await self._write([connection._wsproto.send(CloseConnection(code=code, reason=reason))])
            while not connection._close_handshake.is_set():
                if self._is_receiving:
                    await connection._close_handshake.wait()
                else:
                    await self._read()
        except TransportClosed:
            pass
        finally:
            self._ended.set()
            await trio.aclose_forcefully(self._stream)

    async def abort(self) -> None:
        """See `Transport`."""
        self._connection.record(CloseCode.ABNORMAL, "closed by force")
        self._ended.set()
        await trio.aclose_forcefully(self._stream)

    async def _write(self, buffers: Iterable[bytes | bytearray | memoryview]) -> None:
        # Pongs and the answer to a close go out under the same lock. It is first come, first
        # served, so frames leave in the order in which the engine was told of them.
        lock = self._connection._stream_lock
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            try:
                lock.acquire_nowait()  # `acquire` would be a task switch
            except trio.WouldBlock:
                await lock.acquire()
            try:
                await self._stream.send_buffers(buffers)
            finally:
                lock.release()
            return
        # The reader may be about to read why: a close frame that came before the reset.
        if not self._stream.stalled:
            with trio.move_on_after(LINGER_SECONDS):
                await self._ended.wait()
        raise self._error()

    def _error(self) -> TransportClosed:
        how = self._connection.how
        if how is not None and not self._stream.stalled:
            return TransportClosed(how.code, how.reason)
        if self._stream.stalled:
            return TransportStalled(CloseCode.ABNORMAL, "the peer accepted nothing for too long")
        return TransportClosed(CloseCode.ABNORMAL, "connection lost")


def _event(message: Outgoing) -> TextMessage | BytesMessage:
    data = whole(message)
    return TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=data)


@asynccontextmanager
async def accept_websocket(
    stream: PatientStream, *, key: bytes, subprotocol: str | None, max_message_bytes: int
) -> AsyncIterator[WebSocketTransport]:
    """Answer an upgrade request that `server.http` has found good, and run the connection.

    `key` is the request's `Sec-WebSocket-Key`. Nothing else of the head reaches the engine, so nothing in
    it can trip the engine. Raises `TransportClosed` if the client is gone.
    """
    transport = WebSocketTransport.server(stream, max_message_bytes=max_message_bytes)
    connection = transport._connection
    head = [
        (b"Host", b"localhost"),
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key),
    ]
    if subprotocol is not None:
        head.append((b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")))
    connection._wsproto.initiate_upgrade_connection(head, "/ws")
    (request,) = connection._wsproto.events()
    try:
        await connection._accept(request, subprotocol, [])  # type: ignore[arg-type]
    except ConnectionClosed:
        raise transport._error() from None
    async with transport.running():
        yield transport
