"""Foreign exceptions and the errors that they become: the only such table of this room.

Sockets, OpenSSL, Trio's streams, trio-websocket, wsproto, h11 and ASGI servers raise exceptions of their own.
Each `Translation` below stands for one place where such exceptions enter, and each of its rows turns one type
into an error of this project. No other module of the room turns one exception into another;
`tests/test_foreign_errors.py` checks this, and every row.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import h11
import trio
from trio_websocket import ConnectionClosed
from wsproto.utilities import ProtocolError as EngineError

from reactor_trio.errors import HandshakeFailed, TransportClosed
from reactor_trio.protocol.names import CloseCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    Rows = Mapping[type[Exception], Callable[..., Exception]]


class Translation:
    """A context manager: a foreign exception of the body leaves it as the error that its row makes of it.

    The rows are tried in their order, and the first one whose type fits is used. Exceptions without a row,
    cancellation and `KeyboardInterrupt` pass unchanged. A translation has no state, so that all tasks share
    one object: a `with` costs 0.2 us.
    """

    __slots__ = ("_facts", "rows")

    def __init__(self, rows: Rows, *facts: object) -> None:
        self.rows = rows
        self._facts = facts

    def about(self, *facts: object) -> Translation:
        """The same rows with facts for their texts, such as a host or a file, given after the exception."""
        return Translation(self.rows, *facts)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        for foreign, translate in self.rows.items():
            if isinstance(error, foreign):
                raise translate(error, *self._facts) from None


def lost(_: Exception | None = None) -> TransportClosed:
    """The error for a connection that ended without a close frame (RFC 6455, section 7.1.5)."""
    return TransportClosed(CloseCode.ABNORMAL, "connection lost")


def _broken(error: OSError) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"the connection broke: {error.strerror}")


def _bad_request(error: h11.LocalProtocolError) -> ValueError:
    return ValueError(f"no HTTP request can ask for this: {error}")


def _unreachable(error: OSError, place: str) -> OSError:
    """The error in words. Trio's own says that all attempts failed; its cause is a group with the reasons."""
    attempts = error.__cause__
    causes = attempts.exceptions if isinstance(attempts, ExceptionGroup) else ()
    if causes and all(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return ConnectionRefusedError(f"nothing listens at {place}")
    if causes:
        reasons = dict.fromkeys(getattr(cause, "strerror", None) or str(cause) for cause in causes)
        return OSError(f"cannot reach {place}: {', '.join(reasons)}")
    return error


def _no_tls(error: trio.BrokenResourceError, authority: str) -> HandshakeFailed:
    return HandshakeFailed(f"no TLS with {authority}: {error.__cause__ or error}")


def _wrong_pair(error: ssl.SSLError, certfile: Path, keyfile: Path | None) -> ValueError:
    if error.reason == "KEY_VALUES_MISMATCH":
        said = f"the key in {keyfile or certfile} does not belong to the certificate in {certfile}"
    elif b"CERTIFICATE-----" not in certfile.read_bytes():
        said = f"{certfile} holds no certificate in PEM"
    elif b"PRIVATE KEY-----" not in (keyfile or certfile).read_bytes():
        said = f"{keyfile or certfile} holds no private key in PEM{'' if keyfile else ' (--keyfile)'}"
    else:
        said = f"{certfile} and {keyfile or 'its key'} are no certificate and key: {error.reason or error}"
    return ValueError(said)


def _unreadable(error: OSError, certfile: Path, _: Path | None) -> ValueError:
    return ValueError(f"cannot read {error.filename or certfile}: {error.strerror}")


DESCRIPTOR = Translation({OSError: _broken})
"""A read from a socket's descriptor. `PatientStream` is a stream of Trio's, so it raises Trio's exception."""
STREAM = Translation({trio.BrokenResourceError: lost, trio.ClosedResourceError: lost})
"""Any read or write of a connection's stream."""
ENGINE = Translation(
    {
        ConnectionClosed: lost,
        EngineError: lost,
        UnicodeDecodeError: lost,  # wsproto decodes some header fields of a server's answer as ASCII
    }
)
"""The engine, when it is given bytes, and when it writes a server's handshake."""
REQUEST = Translation({h11.LocalProtocolError: _bad_request})
"""The head of a client's handshake, composed from a URL and headers of the caller."""
CONNECTING = Translation({OSError: _unreachable})
"""Name look-up and TCP. The fact is the place, `host:port`."""
SECURING = Translation({trio.BrokenResourceError: _no_tls})
"""The TLS handshake of a client. The fact is the server's authority."""
ASGI_SEND = Translation({Exception: lost})
"""The `send` of an ASGI server. ASGI names `OSError` for a client that is gone; servers raise others too."""
TLS_FILES = Translation({ssl.SSLError: _wrong_pair, OSError: _unreadable})
"""The operator's certificate and key. The facts are the two paths. `SSLError`, an `OSError`, comes first."""
