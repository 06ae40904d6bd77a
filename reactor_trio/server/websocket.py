"""The WebSocket seam: `Transport` over trio-websocket. No other module of the server imports that library.

What trio-websocket does not do, and a session needs, is done here:

- everything that one read brought is handed over as one batch, and a batch is written in one go;
- a ping that arrives while we close, or any other failure of its reader task, stays in here;
- invalid UTF-8, bad framing and messages that are too big are told to the peer (1007, 1002, 1009) so that
  it gets to read it, instead of a reset;
- how the connection ended is recorded once, by whoever knew first.

Its private names, all used in this module and guarded by `tests/test_websocket_transport.py`:
`_wsproto`, `_stream_lock`, `_recv_channel`, `_send_channel`, `_send`, `_accept`, `_reader_task`,
`_reader_running`, `_open_handshake`, `_close_handshake`, `_message_size`, `_message_parts`,
`_max_message_size`, and the overridden `_handle_message_event`, `_handle_ping_event`,
`_handle_close_connection_event`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import attrs
import structlog
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.utilities import ProtocolError as EngineError

from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.protocol.names import CloseCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from reactor_trio.server.streams import PatientStream

RECEIVE_BYTES = 128 * 1024
"""How much one read may bring."""
QUEUED_MESSAGES = 64
"""Messages that the reader may be ahead of `receive`. Also how many it decodes before other tasks run."""
LINGER_SECONDS = 1.0
"""How long a peer that broke the rules may take to read why it is cut off."""

_TEXT, _BINARY = 0x81, 0x82  # RFC 6455, section 5.2: FIN and the opcode

log = structlog.get_logger(__name__)


def encode_frame(message: str | bytes) -> tuple[bytes, bytes]:
    """Header and payload of an unmasked, unfragmented data frame, as a server sends it (RFC 6455, 5.2).

    wsproto builds the same bytes with four copies of the payload.
    """
    first, payload = (_TEXT, message.encode()) if isinstance(message, str) else (_BINARY, message)
    length = len(payload)
    if length < 126:
        return bytes((first, length)), payload
    if length < 1 << 16:
        return bytes((first, 126)) + length.to_bytes(2, "big"), payload
    return bytes((first, 127)) + length.to_bytes(8, "big"), payload


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
        super().__init__(
            stream,
            engine,
            message_queue_size=QUEUED_MESSAGES,
            receive_buffer_size=RECEIVE_BYTES,
            **options,  # type: ignore[arg-type]
        )
        self.patient_stream = stream
        self.how: Closed | None = None

    def record(self, code: int, reason: str | None = None) -> None:
        """Remember how the connection ended; the first to know is right."""
        if self.how is None:
            self.how = Closed(int(code), reason or "")

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
            await self._deliver(parts[0] if len(parts) == 1 else type(parts[0])().join(parts))  # type: ignore[arg-type]

    async def _deliver(self, message: str | bytes) -> None:
        try:
            self._send_channel.send_nowait(message)
        except trio.WouldBlock:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._send_channel.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # `aclose` discards what was not received

    async def _handle_ping_event(self, event: Ping) -> None:
        # A pong after our close frame would be an error of ours, and end the reader.
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
        await trio.aclose_forcefully(self.patient_stream)  # the reader reads once more, and must not wait


class WebSocketTransport:
    """One WebSocket, seen as `session.transport.Transport`; see there for what each method promises.

    `running()` must surround its use: it holds the task that reads.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stream = connection.patient_stream
        # Set by the reader task when it ends, or by `aclose`; `receive` waits for it after `aclose`.
        self._ended = trio.Event()
        self._failure: Exception | None = None

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
        """The client's side; the reader sends the handshake, `opened` waits for the answer."""
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
        """Run the reader task; on leaving, the stream is closed by force.

        What the body raises leaves as it is, not in a group.
        """
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, name="websocket/reader")
            try:
                yield self
            except trio.Cancelled:
                raise
            except BaseException as exc:  # raised again below; an interrupt too must not get into a group
                error = exc
            finally:
                # In a scope of its own: under the nursery's, its checkpoint would replace what is raised.
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(self._stream)
                nursery.cancel_scope.cancel(reason="the transport is no longer used")
        if error is not None:
            raise error

    async def opened(self) -> None:
        """Wait for the opening handshake, a client's.

        Raises `trio_websocket.ConnectionRejected` if the server answered with another status than 101,
        `TransportClosed` if it went away or answered with something that is no handshake.
        """
        async with trio.open_nursery() as nursery:

            async def watch(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel(reason="the handshake has ended")

            nursery.start_soon(watch, self._connection._open_handshake)
            nursery.start_soon(watch, self._ended)
        if not self._connection._open_handshake.is_set():
            raise self._failure if isinstance(self._failure, ConnectionRejected) else self._error()

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server chose."""
        return self._connection.subprotocol

    @property
    def last_received(self) -> float:
        """See `Transport`."""
        return self._stream.last_received

    async def receive(self) -> Sequence[str | bytes]:
        """See `Transport`. After `aclose` it waits for the connection's end, as `aclose` does."""
        channel = self._connection._recv_channel
        batch: list[str | bytes] = []
        closed_by_us = False
        try:
            batch.append(await channel.receive())
        except trio.EndOfChannel:
            raise self._error() from None
        except trio.ClosedResourceError:
            closed_by_us = True
        if closed_by_us:
            await self._ended.wait()
            raise self._error()
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                batch.append(channel.receive_nowait())
        return batch

    async def send(self, messages: Sequence[str | bytes]) -> None:
        """See `Transport`."""
        engine = self._connection._wsproto
        if engine.state is not ConnectionState.OPEN:
            await trio.lowlevel.checkpoint()
            raise self._error()
        if engine.client:
            await self._write([engine.send(_event(message)) for message in messages])
        else:
            await self._write([part for message in messages for part in encode_frame(message)])

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
                # A reader that waits for room would not see the peer's answer.
                connection._recv_channel.close()
                await self._write([connection._wsproto.send(CloseConnection(code=code, reason=reason))])
            await connection._close_handshake.wait()
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

    async def _write(self, buffers: Iterable[bytes | bytearray]) -> None:
        # The reader's pongs and its answer to a close go out under the same lock. It is first come, first
        # served, so frames leave in the order in which the engine was told of them.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._connection._stream_lock:
                await self._stream.send_buffers(buffers)
            return
        # The reader may be about to read why: a close frame that came before the reset.
        if not self._stream.stalled:
            with trio.move_on_after(LINGER_SECONDS):
                await self._ended.wait()
        raise self._error()

    async def _read(self) -> None:
        """The reader task. Nothing but cancellation leaves it."""
        try:
            await self._connection._reader_task()
        except ConnectionRejected as exc:
            self._failure = exc
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError, EngineError) as exc:
            self._failure = exc
        except Exception as exc:
            self._failure = exc
            log.exception("websocket reader failed")
        finally:
            if self._connection.how is None and not self._stream.stalled:
                self._connection.record(CloseCode.ABNORMAL, "connection lost")
            self._connection._close_handshake.set()
            self._ended.set()

    def _error(self) -> TransportClosed:
        how = self._connection.how
        if how is not None and not self._stream.stalled:
            return TransportClosed(how.code, how.reason)
        if self._stream.stalled:
            return TransportStalled(CloseCode.ABNORMAL, "the peer accepted nothing for too long")
        return TransportClosed(CloseCode.ABNORMAL, "connection lost")


def _event(message: str | bytes) -> TextMessage | BytesMessage:
    return TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)


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
