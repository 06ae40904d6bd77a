"""A client over a real network: URL -> TCP (and TLS) -> WebSocket handshake -> `Client`."""

from __future__ import annotations

import http.client
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs
import trio
from trio_websocket import ConnectionRejected

from reactor_trio.client.client import Client
from reactor_trio.client.errors import HandshakeFailed
from reactor_trio.errors import TransportClosed
from reactor_trio.protocol.names import SUBPROTOCOL
from reactor_trio.wire.streams import PatientStream
from reactor_trio.wire.websocket import WebSocketTransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP, TLS and the handshake together: the time a server gives a client for its own part."""
SEND_TIMEOUT = 10.0
"""Seconds in which the server must accept 64 KiB; one that accepts less is taken for lost."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""One message from the server: an uncompressed 4K frame has 25 MB."""

_SCHEMES = {"ws": False, "http": False, "wss": True, "https": True}


@attrs.frozen
class Address:
    """Where a URL leads."""

    host: str
    port: int
    resource: str
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL of scheme ws, wss, http or https.

        One that ends with a slash, or an http one with another path than `.../ws`, is that of a server's
        page: the WebSocket is at `ws` below it.

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
        """The `Host` header (RFC 9110, section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@asynccontextmanager
async def open_client(
    url: str,
    *,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    **options: Any,
) -> AsyncGenerator[Client]:
    """Connect to a server, `async with open_client("ws://127.0.0.1:8080") as client`; see `Client`.

    The URL may be ws, wss, http or https: that of the server, of its page (`https://example.com/app1/`), or
    of the WebSocket itself. `ssl_context` replaces the default one for
    wss; `options` are those of `Client.over`. Connecting takes at most 10 s; waiting in the line of a full
    server (`on_queued`) comes on top.

    Raises `OSError` if nothing listens there, `HandshakeFailed` if the server refuses (`status` 401: wrong
    token, 503: full) or is no reactor server, `ValueError` for another kind of URL, `TransportClosed` if
    the connection is lost before the welcome (code 1013: the server's line took too long). Nothing comes
    out in a group but what the body raised as one.
    """
    address = Address.parse(url)
    headers = [] if token is None else [(b"Authorization", _bearer(token))]
    stream = await _connect(address, ssl_context)
    transport = WebSocketTransport.client(
        PatientStream(stream, send_timeout=SEND_TIMEOUT),
        address.authority,
        address.resource,
        subprotocols=[SUBPROTOCOL],
        headers=headers,
        max_message_bytes=max_message_bytes,
    )
    async with transport.running():
        await _shake_hands(transport)
        async with Client.over(transport, **options) as client:
            yield client


def _bearer(token: str) -> bytes:
    if not (token.isascii() and token.isprintable() and token.strip()):
        raise ValueError("a token consists of printable ASCII characters")
    return f"Bearer {token}".encode("ascii")


async def _connect(address: Address, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    with trio.move_on_after(CONNECT_TIMEOUT):
        try:
            stream = await trio.open_tcp_stream(address.host, address.port)
        except OSError as error:
            raise _unreachable(error, address) from None
        return await _secure(stream, address, ssl_context) if address.tls else stream
    raise TimeoutError(f"no connection to {address.authority} within {CONNECT_TIMEOUT:g} s")


def _unreachable(error: OSError, address: Address) -> OSError:
    """The error in words; Trio's own says that all attempts failed, and why in a group behind it."""
    attempts = error.__cause__
    causes = attempts.exceptions if isinstance(attempts, ExceptionGroup) else ()
    place = f"[{address.host}]" if ":" in address.host else address.host
    if causes and all(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return ConnectionRefusedError(f"nothing listens at {place}:{address.port}")
    if causes:
        reasons = dict.fromkeys(getattr(cause, "strerror", None) or str(cause) for cause in causes)
        return OSError(f"cannot reach {place}:{address.port}: {', '.join(reasons)}")
    return error


async def _secure(
    stream: trio.SocketStream, address: Address, ssl_context: ssl.SSLContext | None
) -> trio.abc.Stream:
    secure = trio.SSLStream(
        stream,
        ssl_context or ssl.create_default_context(),
        server_hostname=address.host,
        https_compatible=True,  # no server waits for close_notify, RFC 6455 closes before it
    )
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise HandshakeFailed(f"no TLS with {address.authority}: {error.__cause__ or error}") from None
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure


async def _shake_hands(transport: WebSocketTransport) -> None:
    with trio.move_on_after(CONNECT_TIMEOUT):
        try:
            return await transport.opened()
        except ConnectionRejected as refusal:
            raise _refused(refusal) from None
        except TransportClosed:
            raise HandshakeFailed("the server closed without answering the WebSocket handshake") from None
    raise HandshakeFailed(f"no answer to the WebSocket handshake within {CONNECT_TIMEOUT:g} s")


def _refused(refusal: ConnectionRejected) -> HandshakeFailed:
    status = refusal.status_code
    wait = dict(refusal.headers).get(b"retry-after", b"").decode("latin-1")
    return HandshakeFailed(
        http.client.responses.get(status, "refused"),
        status=status,
        # Enough for a sentence, not for a proxy's whole error page.
        body=(refusal.body or b"")[:500].decode(errors="replace").strip(),
        retry_after=float(wait) if wait.isdecimal() else None,
    )
