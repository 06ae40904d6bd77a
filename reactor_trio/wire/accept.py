"""The way in of a server's WebSocket: an upgrade request is answered, and the connection runs."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from reactor_trio.errors import TransportClosed
from reactor_trio.wire.engine import Engine
from reactor_trio.wire.reader import WebSocketReader
from reactor_trio.wire.websocket import WebSocketTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reactor_trio.wire.streams import PatientStream


@asynccontextmanager
async def accept_websocket(
    stream: PatientStream, *, key: bytes, subprotocol: str | None, max_message_bytes: int
) -> AsyncIterator[WebSocketTransport]:
    """Answer an upgrade request that the server has checked, and run the connection.

    `key` is the request's `Sec-WebSocket-Key`; `subprotocol` is chosen among those that the request offers. A
    message of the client may have `max_message_bytes` bytes. On leaving, the stream is closed by force.

    Raises `TransportClosed` if the client is gone.
    """
    engine = Engine()
    reader = WebSocketReader(stream, engine, max_message_bytes=max_message_bytes)
    try:
        await engine.accept(stream, key, subprotocol)
    except TransportClosed:
        raise reader.error() from None
    async with WebSocketTransport(reader).running() as transport:
        yield transport
