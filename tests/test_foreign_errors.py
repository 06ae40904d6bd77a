"""The table of foreign exceptions: each row is tested, and no other module of the room translates one."""

from __future__ import annotations

import ast
import ssl
from collections.abc import Iterator
from pathlib import Path

import h11
import pytest
import trio
import trio_websocket
import wsproto.utilities

from reactor_trio import wire
from reactor_trio.errors import HandshakeFailed, TransportClosed
from reactor_trio.wire import foreign_errors
from reactor_trio.wire.foreign_errors import (
    ASGI_SEND,
    CONNECTING,
    DESCRIPTOR,
    ENGINE,
    REQUEST,
    SECURING,
    STREAM,
    TLS_FILES,
    Translation,
)

ROOM = Path(wire.__path__[0])


def bad_answer() -> UnicodeDecodeError:
    return UnicodeDecodeError("ascii", b"\xff", 0, 1, "no ASCII")


def all_attempts_failed(*causes: Exception) -> OSError:
    """The error that `trio.open_tcp_stream` raises if all attempts fail."""
    error = OSError("all attempts to connect failed")
    error.__cause__ = ExceptionGroup("multiple connection attempts failed", causes)
    return error


def no_certificate() -> trio.BrokenResourceError:
    """The error that `trio.SSLStream` raises for a bad certificate."""
    error = trio.BrokenResourceError()
    error.__cause__ = ssl.SSLError("certificate verify failed")
    return error


def no_pem() -> ssl.SSLError:
    """The error that OpenSSL raises for a file that is not PEM."""
    with pytest.raises(ssl.SSLError) as caught:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(__file__)
    return caught.value


FILES = (Path(__file__), None)
ROWS: list[tuple[Translation, type[Exception], Exception, type[Exception], str]] = [
    (
        DESCRIPTOR,
        OSError,
        ConnectionResetError(104, "reset by peer"),
        trio.BrokenResourceError,
        "reset by peer",
    ),
    (STREAM, trio.BrokenResourceError, trio.BrokenResourceError(), TransportClosed, "1006"),
    (STREAM, trio.ClosedResourceError, trio.ClosedResourceError(), TransportClosed, "1006"),
    (
        ENGINE,
        trio_websocket.ConnectionClosed,
        trio_websocket.ConnectionClosed(trio_websocket.CloseReason(1006, None)),
        TransportClosed,
        "1006",
    ),
    (
        ENGINE,
        wsproto.utilities.ProtocolError,
        wsproto.utilities.RemoteProtocolError("Bad accept token"),
        TransportClosed,
        "1006",
    ),
    (
        ENGINE,
        wsproto.utilities.ProtocolError,
        wsproto.utilities.LocalProtocolError("Connection already closed."),
        TransportClosed,
        "1006",
    ),
    (ENGINE, UnicodeDecodeError, bad_answer(), TransportClosed, "1006"),
    (ASGI_SEND, Exception, OSError("the client is gone"), TransportClosed, "1006"),
    (REQUEST, h11.LocalProtocolError, h11.LocalProtocolError("illegal target"), ValueError, "illegal target"),
    (
        CONNECTING.about("a:1"),
        OSError,
        all_attempts_failed(ConnectionRefusedError(111, "refused"), ConnectionRefusedError(111, "refused")),
        ConnectionRefusedError,
        "nothing listens at a:1",
    ),
    (
        CONNECTING.about("a:1"),
        OSError,
        all_attempts_failed(ConnectionRefusedError(111, "refused"), OSError(113, "no route")),
        OSError,
        "cannot reach a:1: refused, no route",
    ),
    (CONNECTING.about("a:1"), OSError, OSError(-2, "unknown name"), OSError, "unknown name"),
    (
        SECURING.about("a"),
        trio.BrokenResourceError,
        no_certificate(),
        HandshakeFailed,
        "with a: .*verify",
    ),
    (
        TLS_FILES.about(*FILES),
        ssl.SSLError,
        no_pem(),
        ValueError,
        "holds no certificate",
    ),
    (TLS_FILES.about(*FILES), OSError, OSError(13, "denied", "key.pem"), ValueError, "read key.pem: denied"),
]


@pytest.mark.parametrize(("translation", "row", "foreign", "ours", "said"), ROWS)
def test_a_row(
    translation: Translation, row: type[Exception], foreign: Exception, ours: type[Exception], said: str
) -> None:
    assert isinstance(foreign, row)
    with pytest.raises(ours, match=said) as caught, translation:
        raise foreign
    assert type(caught.value) is ours
    assert caught.value.__suppress_context__ or caught.value is foreign


def test_every_row_is_tested() -> None:
    tables = [each for each in vars(foreign_errors).values() if isinstance(each, Translation)]
    tested = {(id(translation.rows), row) for translation, row, *_ in ROWS}
    assert {(id(table.rows), row) for table in tables for row in table.rows} == tested
    assert len(tables) == 8


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, TransportClosed])
def test_what_has_no_row_passes_unchanged(error: type[BaseException]) -> None:
    raised = error()
    with pytest.raises(error) as caught, STREAM:
        raise raised
    assert caught.value is raised
    with STREAM:
        pass


async def test_cancellation_passes_unchanged() -> None:
    with trio.fail_after(60), trio.CancelScope() as scope, STREAM:
        scope.cancel(reason="test")
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


OWN = ("TransportClosed", "HandshakeFailed")
"""Errors of the package: an `except` clause for one of them that raises another is no translation."""


def translations(tree: ast.Module) -> Iterator[int]:
    """The lines of `except` clauses that raise another exception for a foreign one."""
    for handler in ast.walk(tree):
        if not isinstance(handler, ast.ExceptHandler):
            continue
        if isinstance(handler.type, ast.Name) and handler.type.id in OWN:
            continue
        for node in ast.walk(handler):
            if isinstance(node, ast.Raise) and node.exc is not None:
                yield node.lineno


def test_a_translation_of_its_own_is_found() -> None:
    assert [*translations(ast.parse("try: f()\nexcept OSError as e: raise ValueError from e"))] == [2]
    assert [*translations(ast.parse("try: f()\nexcept OSError: raise"))] == []
    assert [*translations(ast.parse("try: f()\nexcept TransportClosed: raise again() from None"))] == []


@pytest.mark.parametrize("module", sorted(ROOM.glob("*.py")), ids=lambda module: module.name)
def test_no_module_of_the_room_has_a_translation_of_its_own(module: Path) -> None:
    assert [*translations(ast.parse(module.read_text()))] == []
