"""The WebSocket seam: `Transport` over trio-websocket. No other module of the server imports that library.

What trio-websocket does not do, and a session needs, is done here:

- everything that one read brought is handed over as one batch, and a batch is written in one go;
- whoever waits in `receive` reads the stream itself: trio-websocket's reader task, and the channel from it,
  would cost a task switch for each message (its handlers of the handshake are used, its loop is not);
- nothing that the peer asks for is written by the task that reads: a pong waits for no room, and whoever is
  writing takes it along;
- a ping that arrives while we close, or any other failure of reading, stays in here;
- invalid UTF-8, bad framing and messages that are too big are told to the peer (1007, 1002, 1009) so that
  it gets to read it, instead of a reset;
- how the connection ended is recorded once, by whoever knew first.

Its private names, all used in this module and guarded by `tests/test_websocket_transport.py`:
`_wsproto`, `_stream_lock`, `_send`, `_accept`, `_initial_request`, `_open_handshake`, `_close_handshake`,
`_reader_running`, `_max_message_size`, and the handlers `_handle_*_event`.
"""

from __future__ import annotations

from collections import deque
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
from reactor_trio.wire.framing import CLOSE, PING, Fault, FrameReader, encode_frame, encode_pong
from reactor_trio.wire.nursery import open_plain_nursery
from reactor_trio.wire.token_bucket import TokenBucket
from reactor_trio.wire.transport import whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from reactor_trio.wire.streams import PatientStream
    from reactor_trio.wire.transport import Outgoing

RECEIVE_BYTES = 128 * 1024
"""How much one read may bring: some 20,000 frames."""
FRAMING_SECONDS = 0.003
"""How long frames are read before other tasks run: what is done with them comes on top of it."""
FRAMES_BETWEEN_LOOKS = 32
"""How many are read between two looks at the clock."""
CONTROL_FRAMES_PER_SECOND = 1000
"""Pings and pongs that a peer may send; a peer that sends more is cut off (1008)."""
CONTROL_FRAMES_AT_ONCE = 5000
"""As many may come at once: some milliseconds' worth, and what piles up while a busy server does not read."""
MAX_PONGS = 16
"""Answers that may wait to be written; the newest are kept (RFC 6455, section 5.5.3)."""
MAX_HEAD_BYTES = 64 * 1024
"""How long the head of a server's answer may be."""
LINGER_SECONDS = 1.0
"""How long a peer that broke the rules may take to read why it is cut off."""


@attrs.frozen
class Closed:
    """How a connection ended."""

    code: int
    reason: str = ""


class Connection(WebSocketConnection):
    """The reading side: trio-websocket's connection, with its gaps closed; see the module's docstring.

    `pong` is called with each ping's payload, and must not wait.
    """

    def __init__(self, stream: PatientStream, engine: WSConnection, **options: object) -> None:
        super().__init__(stream, engine, **options)  # type: ignore[arg-type]
        self.patient_stream = stream
        self.how: Closed | None = None
        self._frames = FrameReader(masked=not engine.client, max_message_bytes=self._max_message_size)
        self._now = trio.lowlevel.current_clock().current_time
        self._control_bucket = TokenBucket(CONTROL_FRAMES_PER_SECOND, CONTROL_FRAMES_AT_ONCE, self._now())
        self.received: list[str | bytes] = []
        """Whole messages that nobody has fetched yet."""
        self.pings: deque[bytes] = deque(maxlen=MAX_PONGS)
        """Payloads of the pings that are yet to be answered."""
        self.is_listening = False
        """Whether the peer could be heard: a task waits for its bytes."""
        # There are frames left of what was read last, or something that ends the connection.
        self._has_more = False
        self._close_frame: bytearray | None = None
        # The answer to a client's handshake, until it is whole.
        self._head = bytearray()
        self._handlers: dict[type, Callable[[Any], Awaitable[None]]] = {
            AcceptConnection: self._handle_accept_connection_event,
            CloseConnection: self._handle_close_connection_event,
            RejectConnection: self._handle_reject_connection_event,
            RejectData: self._handle_reject_data_event,
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

        Always a checkpoint, and never longer than `FRAMING_SECONDS` without one. If cancelled, nothing is
        lost: what was not handled is handled next.
        """
        if self._has_more:
            # A peer that floods us while we wait for its close frame has only half of the time.
            await trio.sleep(FRAMING_SECONDS if self._frames.discards else 0)
            return await self._take_frames()
        self.is_listening = True
        try:
            data = await self.patient_stream.receive_some(RECEIVE_BYTES)
        finally:
            self.is_listening = False
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
        """Read the frames that are there, for some milliseconds; returns whether there may be more."""
        used_up = self._read_frames()
        fault = self._frames.fault or self._control_flood()
        is_over = fault is not None or self._close_frame is not None
        self._has_more = used_up or is_over
        if self.received and is_over:
            return True  # the session gets what came before first
        if fault is not None:
            await self._refuse(fault.code, fault.reason)
            return False
        if self._close_frame is not None:
            return await self._ask_engine(self._close_frame)
        if used_up:
            await trio.lowlevel.checkpoint()  # the session takes its own time for what it gets
        return True

    def _read_frames(self) -> bool:
        """Returns whether the time was used up."""
        frames, received = self._frames, self.received
        frames.discards = self._wsproto.state is not ConnectionState.OPEN  # RFC 6455, section 1.4
        ends, looks, controls = self._now() + FRAMING_SECONDS, FRAMES_BETWEEN_LOOKS, 0
        is_late = False
        while not is_late and self._close_frame is None and (frame := frames.next()) is not None:
            if not isinstance(frame, bytearray):
                received.append(frame)
            elif frame:
                controls += 1
                self._take_control(frame)
            looks -= 1
            if not looks:
                looks, is_late = FRAMES_BETWEEN_LOOKS, self._now() >= ends
        if controls:
            self._control_bucket.spend(self._now(), controls)
        return is_late

    def _take_control(self, frame: bytearray) -> None:
        if frame[0] == PING:
            self.pings.append(self._frames.payload_of(frame))
        elif frame[0] == CLOSE:
            self._close_frame = frame

    def _control_flood(self) -> Fault | None:
        if self._control_bucket.owes and self._control_bucket.debt(self._now()):
            return Fault(CloseCode.POLICY_VIOLATION, "too many pings and pongs")
        return None

    async def _ask_engine(self, data: bytes | bytearray) -> bool:
        self._wsproto.receive_data(bytes(data))
        for event in self._wsproto.events():
            await self._handlers[type(event)](event)
        return self._reader_running and self._wsproto.state is not ConnectionState.CLOSED

    async def _handle_close_connection_event(self, event: CloseConnection) -> None:
        match self._wsproto.state:
            case ConnectionState.OPEN:  # no close frame: the engine could not read what came
                await self._refuse(event.code, event.reason)
            case ConnectionState.REMOTE_CLOSING:
                self.record(event.code, event.reason)
                await self._say_last(event.response())
            case _:
                self.record(event.code, event.reason)
        self._close_handshake.set()

    async def _refuse(self, code: int, reason: str | None) -> None:
        """Say why the connection ends, and give the peer a moment to read it, then stop reading."""
        self.record(code, reason)
        self._reader_running = False
        await self._say_last(CloseConnection(code=code, reason=reason), drains=True)

    async def _say_last(self, event: CloseConnection, *, drains: bool = False) -> None:
        """Write a close frame, if there is room for it soon: nothing is to be read any more.

        A write that is under way goes first. The lock is kept, since nothing may follow (RFC 6455, 5.5.1).
        """
        if self._wsproto.state not in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            return
        data = self._wsproto.send(event)
        with trio.move_on_after(LINGER_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._stream_lock:
                await self.patient_stream.send_all(data)
                if drains:
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
        # `receive` and `aclose` both read, one at a time: the other one waits until a read has ended.
        self._is_reading = False
        self._readers = trio.lowlevel.ParkingLot()
        # Where pongs are written that need waiting while nobody else writes; opened by `running`.
        self._nursery: trio.Nursery | None = None

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
        """On leaving, the stream is closed by force, and nothing of the connection is left running."""
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
        return self._stream.last_received if self._connection.is_listening else trio.current_time()

    async def receive(self) -> Sequence[str | bytes]:
        """See `Transport`. After `aclose` it waits for the connection's end, as `aclose` does."""
        connection = self._connection
        while not connection.received:
            await self._read()
        batch, connection.received = connection.received, []
        return batch

    async def _read(self) -> None:
        """Read once, or wait until another task has. Raises `TransportClosed`, and what `opened` raises."""
        if self._is_reading:
            await self._readers.park()
            return
        self._is_reading = True
        try:
            goes_on = not self._ended.is_set() and await self._connection.read()
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError, EngineError):
            goes_on = False
        finally:
            self._is_reading = False
            if self._readers:
                self._readers.unpark_all()
            if self._connection.pings:
                self._answer_pings()
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

    def _answer_pings(self) -> None:
        """See to it that the pings that were read are answered; the task that reads does not wait for it."""
        connection = self._connection
        if connection._stream_lock.locked():
            return  # whoever holds the lock answers them before it lets go
        pongs = self._take_pongs()
        if self._stream.send_nowait(pongs):
            pongs = []
        if self._nursery is not None and (pongs or self._stream.has_rest):
            self._nursery.start_soon(self._write_all, pongs, name="websocket/pong")

    def _take_pongs(self) -> list[bytes]:
        engine, pings = self._connection._wsproto, self._connection.pings
        payloads = [*pings] if engine.state is ConnectionState.OPEN else []
        pings.clear()
        if engine.client:
            return [engine.send(Pong(payload)) for payload in payloads]
        return [encode_pong(payload) for payload in payloads]

    async def _write(self, buffers: Iterable[bytes | bytearray | memoryview]) -> None:
        if await self._write_all(buffers):
            return
        # What came before the reset may say why: a close frame. If nobody reads just now, this task does, up
        # to the next message, which is for others.
        if not self._stream.stalled:
            with trio.move_on_after(LINGER_SECONDS), suppress(TransportClosed):
                while not self._ended.is_set() and not self._connection.received:
                    await self._read()
        raise self._error()

    async def _write_all(self, buffers: Iterable[bytes | bytearray | memoryview]) -> bool:
        """Write the buffers, and the pongs that are due by then; returns False if the stream is broken."""
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
                while self._connection.pings:
                    await self._stream.send_buffers(self._take_pongs())
            finally:
                lock.release()
            return True
        return False

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
