"""A client over a real network: a URL and a token become a `Client`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from reactor_trio.client.client import Client
from reactor_trio.protocol.names import SUBPROTOCOL
from reactor_trio.wire.connect import Address, connect_websocket

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Bytes of one message from the server at most: an uncompressed 4K frame has 25 MB."""


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
    of the WebSocket itself. `ssl_context` replaces the default one for wss; `options` are those of
    `Client.over`. Connecting takes at most 10 s, plus the time in the queue of a full server (`on_queued`).

    Raises `OSError` if nothing listens there, `HandshakeFailed` if the server refuses (`status` 401: wrong
    token, 503: full) or is no reactor server, `ValueError` for another kind of URL, `TransportClosed` if
    the connection is lost before the welcome (code 1013: the waiting in the server's queue took too long).
    Never raises an exception group, unless the body of the `with` block raised it.
    """
    address = Address.parse(url)
    headers = [] if token is None else [(b"Authorization", _bearer(token))]
    async with connect_websocket(
        address,
        subprotocols=[SUBPROTOCOL],
        headers=headers,
        ssl_context=ssl_context,
        max_message_bytes=max_message_bytes,
    ) as transport:
        async with Client.over(transport, **options) as client:
            yield client


def _bearer(token: str) -> bytes:
    if not (token.isascii() and token.isprintable() and token.strip()):
        raise ValueError("a token consists of printable ASCII characters")
    return f"Bearer {token}".encode("ascii")
