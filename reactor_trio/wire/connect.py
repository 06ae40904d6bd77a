"""The way in of a client's WebSocket: URL, TCP, TLS, handshake."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs
import trio

from reactor_trio.errors import HandshakeFailed, TransportClosed
from reactor_trio.wire.engine import Engine, Proposal
from reactor_trio.wire.foreign_errors import CONNECTING, SECURING
from reactor_trio.wire.reader import WebSocketReader
from reactor_trio.wire.streams import PatientStream
from reactor_trio.wire.websocket import WebSocketTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP and TLS, and as many for the handshake: as many as a server gives a client for it."""
SEND_TIMEOUT = 10.0
"""Seconds in which the server must accept 64 KiB; a server that accepts less is taken for lost."""

_SCHEMES = {"ws": False, "http": False, "wss": True, "https": True}


@attrs.frozen
class Address:
    """The place that a URL names; `resource` is its path and query, `tls` says whether to encrypt."""

    host: str
    port: int
    resource: str
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL of scheme ws, wss, http or https.

        A URL whose path ends with a slash, or an http URL whose path does not end with `/ws`, names a
        server's page: the WebSocket is at `ws` below it.

        Raises `ValueError` for anything else.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise ValueError(f"not a URL such as ws://127.0.0.1:8080: {url!r}")
        if parts.username is not None:
            raise ValueError("a URL with a user name: hand in the token by itself")
        tls = _SCHEMES[parts.scheme]
        path, is_page = parts.path, parts.scheme.startswith("http") and not parts.path.endswith("/ws")
        if is_page or path.endswith("/") or not path:
            path = f"{path.rstrip('/')}/ws"
        resource = f"{path}?{parts.query}" if parts.query else path
        return cls(parts.hostname, parts.port or (443 if tls else 80), resource, tls)

    @property
    def authority(self) -> str:
        """The `Host` header (RFC 9110, section 7.2): without the port if it is the default of the scheme."""
        return self._bracketed if self.port == (443 if self.tls else 80) else self.place

    @property
    def place(self) -> str:
        """Host and port, as an error names them."""
        return f"{self._bracketed}:{self.port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


@asynccontextmanager
async def connect_websocket(
    address: Address,
    *,
    subprotocols: Iterable[str] = (),
    headers: Iterable[tuple[bytes, bytes]] = (),
    ssl_context: ssl.SSLContext | None = None,
    max_message_bytes: int,
) -> AsyncIterator[WebSocketTransport]:
    """Connect to a server, make the handshake, and run the connection.

    `ssl_context` replaces the default one for TLS. A message of the server may have `max_message_bytes`
    bytes. On leaving, the stream is closed by force.

    Raises `OSError` if the server cannot be reached, `TimeoutError` if that takes more than
    `CONNECT_TIMEOUT`, `HandshakeFailed` if the server refuses (then with a `status`) or does not speak TLS or
    WebSocket, and `ValueError` for an address or header that HTTP cannot carry.
    """
    stream = PatientStream(await _open_stream(address, ssl_context), send_timeout=SEND_TIMEOUT)
    proposal = Proposal(address.authority, address.resource, tuple(subprotocols), tuple(headers))
    async with propose_websocket(stream, proposal, max_message_bytes=max_message_bytes) as transport:
        yield transport


@asynccontextmanager
async def propose_websocket(
    stream: PatientStream, proposal: Proposal, *, max_message_bytes: int
) -> AsyncIterator[WebSocketTransport]:
    """Make a client's handshake on a stream, and run the connection: the other end of `accept_websocket`.

    Raises `HandshakeFailed`, also if there is no answer within `CONNECT_TIMEOUT`, and `ValueError` for a
    proposal that HTTP cannot carry.
    """
    reader = WebSocketReader(stream, Engine(proposal), max_message_bytes=max_message_bytes)
    async with WebSocketTransport(reader).running() as transport:
        await _shake_hands(reader)
        yield transport


async def _open_stream(address: Address, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    with trio.move_on_after(CONNECT_TIMEOUT):
        with CONNECTING.about(address.place):
            stream = await trio.open_tcp_stream(address.host, address.port)
        return await _secure(stream, address, ssl_context) if address.tls else stream
    raise TimeoutError(f"no connection to {address.authority} within {CONNECT_TIMEOUT:g} s")


async def _secure(
    stream: trio.SocketStream, address: Address, ssl_context: ssl.SSLContext | None
) -> trio.abc.Stream:
    secure = trio.SSLStream(
        stream,
        ssl_context or ssl.create_default_context(),
        server_hostname=address.host,
        https_compatible=True,  # no close_notify is awaited: the WebSocket has closed before TLS does
    )
    try:
        with SECURING.about(address.authority):
            await secure.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure


async def _shake_hands(reader: WebSocketReader) -> None:
    with trio.move_on_after(CONNECT_TIMEOUT):
        try:
            return await reader.propose()
        except TransportClosed:
            raise HandshakeFailed("the server closed without answering the WebSocket handshake") from None
    raise HandshakeFailed(f"no answer to the WebSocket handshake within {CONNECT_TIMEOUT:g} s")
