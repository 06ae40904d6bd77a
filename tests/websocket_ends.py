"""A server's and a client's WebSocket that talk to each other, over any pair of streams."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from reactor_trio.errors import TransportClosed
from reactor_trio.wire.accept import accept_websocket
from reactor_trio.wire.connect import propose_websocket
from reactor_trio.wire.engine import Proposal
from reactor_trio.wire.streams import PatientStream
from reactor_trio.wire.websocket import WebSocketTransport

SUBPROTOCOL = "reactor.v1"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
MAX_MESSAGE_BYTES = 1000
SEND_TIMEOUT = 5.0
TEST_TIMEOUT = 60.0
MASK = b"\x01\x02\x03\x04"


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


def masked(first: int, payload: bytes) -> bytes:
    """A client's frame."""
    assert len(payload) < 126
    body = bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))
    return bytes((first, 0x80 | len(payload))) + MASK + body


def text(payload: bytes) -> bytes:
    return masked(0x81, payload)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return masked(0x88, struct.pack("!H", code) + reason)


class RawClient:
    """Reads the bytes that a server writes, frame by frame."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self.buffer += data
        head, self.buffer = self.buffer[:count], self.buffer[count:]
        return head

    async def head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await self.exactly(1)
        return head

    async def frame(self) -> tuple[int, bytes]:
        first, length = await self.exactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await self.exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.exactly(8))
        return first, await self.exactly(length)

    async def close_frame(self) -> tuple[int, str]:
        first, payload = await self.frame()
        assert first == 0x88
        return struct.unpack("!H", payload[:2])[0], payload[2:].decode()


@asynccontextmanager
async def raw_pair() -> AsyncIterator[tuple[WebSocketTransport, RawClient]]:
    """A server's transport, and the bare stream of its client."""
    ours, theirs = trio.testing.memory_stream_pair()
    stream = PatientStream(ours, send_timeout=SEND_TIMEOUT)
    async with accept_websocket(
        stream, key=KEY, subprotocol=None, max_message_bytes=MAX_MESSAGE_BYTES
    ) as transport:
        client = RawClient(theirs)
        await client.head()
        yield transport, client


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[WebSocketTransport, WebSocketTransport]]:
    """A server's transport and a client's, talking to each other."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with websockets(
        ours, theirs, send_timeout=SEND_TIMEOUT, max_message_bytes=MAX_MESSAGE_BYTES
    ) as ends:
        yield ends


async def closing(transport: WebSocketTransport) -> TransportClosed:
    """Receive until the connection has ended, and return how."""
    return await closing_after(transport, [])


async def closing_after(transport: WebSocketTransport, received: list[str | bytes]) -> TransportClosed:
    """The same as `closing`; appends the messages to `received`."""
    while True:
        try:
            received += await transport.receive()
        except TransportClosed as closed:
            return closed


async def ended_with(transport: WebSocketTransport, code: int) -> None:
    assert (await closing(transport)).code == code


@asynccontextmanager
async def socket_pair(
    *, send_timeout: float = SEND_TIMEOUT
) -> AsyncIterator[tuple[WebSocketTransport, RawClient]]:
    """The same as `raw_pair`, over sockets whose buffers get full."""
    left, right = trio.socket.socketpair()
    async with trio.SocketStream(right) as theirs:
        stream = PatientStream(trio.SocketStream(left), send_timeout=send_timeout)
        async with accept_websocket(
            stream, key=KEY, subprotocol=None, max_message_bytes=MAX_MESSAGE_BYTES
        ) as transport:
            client = RawClient(theirs)
            await client.head()
            yield transport, client
