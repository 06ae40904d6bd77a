"""TLS on the port: the operator's files become a context, a connection becomes a stream."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trio

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
    for file in (certfile, keyfile):
        _check_readable(file)
    try:
        # Without a callback OpenSSL would ask for the password on the terminal.
        context.load_cert_chain(certfile, keyfile, password=_no_password)
    except _HasPasswordError:
        raise ValueError(f"{keyfile or certfile}: the key has a password; one without is needed") from None
    except ssl.SSLError as exc:
        raise ValueError(_what_is_wrong(exc, certfile, keyfile)) from None
    return context


class _HasPasswordError(Exception):
    pass


def _no_password() -> str:
    raise _HasPasswordError


def _check_readable(file: Path | None) -> None:
    if file is None:
        return
    try:
        with file.open("rb"):
            pass
    except OSError as exc:
        raise ValueError(f"cannot read {file}: {exc.strerror}") from None


def _what_is_wrong(exc: ssl.SSLError, certfile: Path, keyfile: Path | None) -> str:
    if exc.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {keyfile or certfile} does not belong to the certificate in {certfile}"
    if b"CERTIFICATE-----" not in certfile.read_bytes():
        return f"{certfile} holds no certificate in PEM"
    if b"PRIVATE KEY-----" not in (keyfile or certfile).read_bytes():
        return f"{keyfile or certfile} holds no private key in PEM{'' if keyfile else ' (--keyfile)'}"
    return f"{certfile} and {keyfile or 'its key'} are no certificate and key: {exc.reason or exc}"


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
