"""TLS of a server: the operator's files become a context, and a socket becomes an encrypted stream."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trio

from reactor_trio.wire.foreign_errors import TLS_FILES

if TYPE_CHECKING:
    from pathlib import Path


def load_context(certfile: Path, keyfile: Path | None = None) -> ssl.SSLContext:
    """The context of a server for a certificate chain and its key, both in PEM; `certfile` may hold the key.

    Raises `ValueError`, in words for the operator, if a file cannot be read, holds no certificate or no key,
    if the two do not belong together, or if the key has a password.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # Some builds of Python allow the old versions by default (RFC 8996 forbids them).
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])  # a WebSocket begins as an HTTP/1.1 request (RFC 6455, 1.2)

    def no_password() -> str:
        raise ValueError(f"{keyfile or certfile}: the key has a password; one without is needed")

    with TLS_FILES.about(certfile, keyfile):
        for file in filter(None, (certfile, keyfile)):
            with file.open("rb"):  # OpenSSL would not say which of the two cannot be read
                pass
        # Without a callback OpenSSL would ask for the password on the terminal.
        context.load_cert_chain(certfile, keyfile, password=no_password)
    return context


class TLSStream(trio.abc.HalfCloseableStream):
    """The server's side of TLS over a socket.

    A cancelled `send_all` leaves the stream broken for reading too: unlike on a socket, bytes that the peer
    has sent cannot be read any more. The stream is half-closed by a FIN, without a `close_notify`, which the
    peer would have to answer; a WebSocket, or an HTTP answer with a Content-Length, shows by itself where it
    ends. For the same reason no `close_notify` of the peer is expected.
    """

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        self._socket = stream
        self._tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)

    async def do_handshake(self) -> None:
        """Make the TLS handshake with the client.

        Raises `trio.BrokenResourceError` if the client is gone or does not speak TLS. If cancelled, the
        stream is of no more use.
        """
        await self._tls.do_handshake()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        await self._tls.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self._tls.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See `trio.abc.ReceiveStream`. If cancelled, no byte is lost."""
        return await self._tls.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """See `trio.abc.HalfCloseableStream`."""
        await self._socket.send_eof()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._tls.aclose()
