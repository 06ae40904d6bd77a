"""Connections for the tests of the contract of `Transport`: one entry for each implementation.

For another implementation, add an entry to `IMPLEMENTATIONS`. If the other end of its connection is a
`Transport`, too, `meeting` makes the peer. `tests/test_transport_contract.py` then tests the implementation.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import attrs
import trio
import trustme

from asgi_servers import AsyncioServer, TrioServer
from reactor_trio.errors import TransportClosed
from reactor_trio.testing import Network, memory_transport_pair
from reactor_trio.wire.asgi import AsgiTransport
from reactor_trio.wire.asgi_calls import Calls, TrioCalls
from reactor_trio.wire.tls import TLSStream
from reactor_trio.wire.transport import Transport
from strict_transport import StrictTransport
from websocket_ends import websockets

MAX_MESSAGE_BYTES = 1 << 20
BUFFER_BYTES = 100_000
"""Bytes that an end in memory holds for a peer that does not read."""
PATIENCE = 600.0
"""Seconds that an ASGI server waits for its client: longer than any test."""


class Peer(Protocol):
    """The other end, played by the test."""

    @property
    def received(self) -> list[str | bytes]: ...
    async def say(self, *messages: str | bytes) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    async def hang_up(self, code: int) -> None: ...
    async def vanish(self) -> None: ...


class TransportPeer:
    """A peer that is itself one end of the same kind of connection."""

    def __init__(self, transport: Transport) -> None:
        self.received: list[str | bytes] = []
        self.transport = transport
        self._scope = trio.CancelScope()
        self._reads = trio.Event()
        self._reads.set()

    async def run(self) -> None:
        try:
            while True:
                await self._reads.wait()
                with trio.CancelScope() as self._scope:
                    while True:
                        self.received += await self.transport.receive()
        except TransportClosed:
            pass

    async def say(self, *messages: str | bytes) -> None:
        await self.transport.send(messages)

    def pause(self) -> None:
        self._reads = trio.Event()
        self._scope.cancel(reason="the peer pauses")

    def resume(self) -> None:
        self._reads.set()

    async def hang_up(self, code: int) -> None:
        await self.transport.aclose(code, "left")

    async def vanish(self) -> None:
        await self.transport.abort()


class StrictPeer:
    """The peer of a `StrictTransport`, whose own methods play the client."""

    def __init__(self, transport: StrictTransport) -> None:
        self.transport = transport

    @property
    def received(self) -> list[str | bytes]:
        return [message for _, message in self.transport.read]

    async def say(self, *messages: str | bytes) -> None:
        self.transport.arrive(*messages)
        await trio.lowlevel.checkpoint()

    def pause(self) -> None:
        self.transport.pause()

    def resume(self) -> None:
        self.transport.resume()

    async def hang_up(self, code: int) -> None:
        self.transport.hang_up(code)
        await trio.lowlevel.checkpoint()

    async def vanish(self) -> None:
        self.transport.cut()
        await trio.lowlevel.checkpoint()


# ---- the implementations

Ends = AbstractAsyncContextManager[tuple[Transport, Peer]]


@attrs.frozen
class Implementation:
    """An implementation of `Transport`: how its ends are made, and whether it sees every byte.

    `make` is given `send_timeout` (seconds). Its context manager gives the end under test and a `Peer` at the
    other end of the connection.
    """

    make: Callable[[float], Ends]
    sees_every_byte: bool = True
    """Whether the end sees pongs, too; if not, its `last_received` is always the current time."""


@asynccontextmanager
async def meeting(ours: Transport, theirs: Transport) -> AsyncIterator[tuple[Transport, Peer]]:
    peer = TransportPeer(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        yield ours, peer
        await ours.abort()
        await theirs.abort()
        nursery.cancel_scope.cancel(reason="the test is over")


@asynccontextmanager
async def over_streams(
    left: trio.abc.Stream, right: trio.abc.Stream, send_timeout: float, *, server_is_ours: bool
) -> AsyncIterator[tuple[Transport, Peer]]:
    async with websockets(left, right, send_timeout=send_timeout, max_message_bytes=MAX_MESSAGE_BYTES) as (
        server,
        client,
    ):
        ours, theirs = (server, client) if server_is_ours else (client, server)
        async with meeting(ours, theirs) as ends:
            yield ends


@asynccontextmanager
async def over_sockets(send_timeout: float, *, server_is_ours: bool) -> AsyncIterator[tuple[Transport, Peer]]:
    left, right = map(trio.SocketStream, trio.socket.socketpair())
    async with over_streams(left, right, send_timeout, server_is_ours=server_is_ours) as ends:
        yield ends


AUTHORITY = trustme.CA()
SERVER_CONTEXT = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
AUTHORITY.issue_cert("localhost").configure_cert(SERVER_CONTEXT)
CLIENT_CONTEXT = ssl.create_default_context()
AUTHORITY.configure_trust(CLIENT_CONTEXT)


@asynccontextmanager
async def over_tls(send_timeout: float, *, server_is_ours: bool) -> AsyncIterator[tuple[Transport, Peer]]:
    left, right = trio.socket.socketpair()
    server_side = TLSStream(trio.SocketStream(left), SERVER_CONTEXT)
    client_side = trio.SSLStream(
        trio.SocketStream(right), CLIENT_CONTEXT, server_hostname="localhost", https_compatible=True
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server_side.do_handshake)
        nursery.start_soon(client_side.do_handshake)
    async with over_streams(server_side, client_side, send_timeout, server_is_ours=server_is_ours) as ends:
        yield ends


@asynccontextmanager
async def in_memory(
    send_timeout: float, network: Network, *, server_is_ours: bool
) -> AsyncIterator[tuple[Transport, Peer]]:
    client, server = memory_transport_pair(send_timeout=send_timeout, network=network)
    ours, theirs = (server, client) if server_is_ours else (client, server)
    async with meeting(ours, theirs) as ends:
        yield ends


@asynccontextmanager
async def strict(send_timeout: float, *, short_writes: bool) -> AsyncIterator[tuple[Transport, Peer]]:
    transport = StrictTransport(send_timeout=send_timeout, capacity=BUFFER_BYTES, short_writes=short_writes)
    yield transport, StrictPeer(transport)
    assert [fault for fault in transport.faults if fault not in NOTED] == []


@asynccontextmanager
async def over_asgi(send_timeout: float) -> AsyncIterator[tuple[Transport, Peer]]:
    """An end that an ASGI server calls on Trio; a connection in memory joins the server and the peer."""
    client, server = memory_transport_pair(send_timeout=PATIENCE, network=NEAR)
    asgi_server = TrioServer(server)
    calls = TrioCalls(asgi_server.receive, asgi_server.send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(calls.run)
        while not calls.take():  # the event of the connection
            await calls.wait()
        await calls.send([{"type": "websocket.accept"}], PATIENCE)
        async with meeting(ReturningTransport(calls, send_timeout, server.abort), client) as ends:
            yield ends
        nursery.cancel_scope.cancel(reason="the test is over")


@asynccontextmanager
async def over_asgi_on_asyncio(send_timeout: float) -> AsyncIterator[tuple[Transport, Peer]]:
    """An end that an ASGI server calls on asyncio, in another thread."""
    server = AsyncioServer(trio.lowlevel.current_trio_token(), buffer_bytes=BUFFER_BYTES)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        try:
            yield ReturningTransport(server.calls, send_timeout, trio.lowlevel.checkpoint), server
        finally:
            server.stop()


class ReturningTransport(AsgiTransport):
    """After `abort` the ASGI call returns, and `returned` closes the socket, as the ASGI server then does."""

    def __init__(self, calls: Calls, send_timeout: float, returned: Callable[[], Awaitable[None]]) -> None:
        super().__init__(calls, send_timeout=send_timeout, max_message_bytes=MAX_MESSAGE_BYTES)
        self._returned = returned

    async def abort(self) -> None:
        await super().abort()
        await self._returned()


NOTED = ("receive after abort", "write after abort", "two tasks receive at a time")
"""Faults that `StrictTransport` notes, and that this suite makes on purpose."""

NEAR = Network(buffer_bytes=BUFFER_BYTES)
FAR = Network(delay=0.002, jitter=0.002, bandwidth=20_000_000, buffer_bytes=BUFFER_BYTES)
IMPLEMENTATIONS: dict[str, Implementation] = {
    "websocket server": Implementation(lambda send_timeout: over_sockets(send_timeout, server_is_ours=True)),
    "websocket client": Implementation(lambda send_timeout: over_sockets(send_timeout, server_is_ours=False)),
    "websocket server over TLS": Implementation(
        lambda send_timeout: over_tls(send_timeout, server_is_ours=True)
    ),
    "websocket client over TLS": Implementation(
        lambda send_timeout: over_tls(send_timeout, server_is_ours=False)
    ),
    "memory server": Implementation(lambda send_timeout: in_memory(send_timeout, NEAR, server_is_ours=True)),
    "memory client": Implementation(lambda send_timeout: in_memory(send_timeout, NEAR, server_is_ours=False)),
    "network server": Implementation(lambda send_timeout: in_memory(send_timeout, FAR, server_is_ours=True)),
    "network client": Implementation(lambda send_timeout: in_memory(send_timeout, FAR, server_is_ours=False)),
    "ASGI": Implementation(over_asgi, sees_every_byte=False),
    "ASGI on asyncio": Implementation(over_asgi_on_asyncio, sees_every_byte=False),
    "strict": Implementation(lambda send_timeout: strict(send_timeout, short_writes=False)),
    "strict with short writes": Implementation(lambda send_timeout: strict(send_timeout, short_writes=True)),
}
