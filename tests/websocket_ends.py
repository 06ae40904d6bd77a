"""A server's and a client's WebSocket that talk to each other, over any pair of streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from reactor_trio.wire.accept import accept_websocket
from reactor_trio.wire.connect import propose_websocket
from reactor_trio.wire.engine import Proposal
from reactor_trio.wire.streams import PatientStream
from reactor_trio.wire.websocket import WebSocketTransport

SUBPROTOCOL = "reactor.v1"


async def read_key(stream: trio.abc.ReceiveStream) -> bytes:
    """Read the head of a client's handshake; returns its `Sec-WebSocket-Key`."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await stream.receive_some()
        assert data, "a client that goes on"
        head += data
    (key,) = (
        line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
    )
    return key


@asynccontextmanager
async def websockets(
    left: trio.abc.Stream, right: trio.abc.Stream, *, send_timeout: float, max_message_bytes: int
) -> AsyncIterator[tuple[WebSocketTransport, WebSocketTransport]]:
    """The server's transport on `left` and the client's on `right`, after their handshake."""
    servers: list[WebSocketTransport] = []
    accepted = trio.Event()

    async def serve() -> None:
        async with accept_websocket(
            PatientStream(left, send_timeout=send_timeout),
            key=await read_key(left),
            subprotocol=SUBPROTOCOL,
            max_message_bytes=max_message_bytes,
        ) as server:
            servers.append(server)
            accepted.set()
            await trio.sleep_forever()

    proposal = Proposal("localhost", "/ws", subprotocols=(SUBPROTOCOL,))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        stream = PatientStream(right, send_timeout=send_timeout)
        async with propose_websocket(stream, proposal, max_message_bytes=1 << 20) as client:
            await accepted.wait()
            yield servers[0], client
        nursery.cancel_scope.cancel(reason="the test is over")
