"""TLS on the port: the operator's files become a context, a connection becomes a stream."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trio

from reactor_trio.wire.foreign_errors import TLS_FILES

if TYPE_CHECKING:
    from pathlib import Path


def load_context(certfile: Path, keyfile: Path | None = None) -> ssl.SSLContext:
    """A server's context for a certificate chain and its key, both PEM; the key may be in `certfile`.

    Raises `ValueError`, in words for the operator, for files that are not there, are none of that, do not
    belong together, or for a key with a password.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # Not every build of Python leaves the old versions out by itself (RFC 8996).
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

    A cancelled `send_all` leaves it broken for reading too: unlike on a socket, nothing of what the peer
    has sent can be read any more. It is half-closed by a FIN, without a `close_notify`, which would need
    the peer to go on with TLS: whoever reads a WebSocket, or an answer with a Content-Length, knows where
    it ends. For the same reason none is expected.
    """

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        self._socket = stream
        self._tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)

    async def do_handshake(self) -> None:
        """Agree with the client. Raises `trio.BrokenResourceError`. If cancelled, it is of no more use."""
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
