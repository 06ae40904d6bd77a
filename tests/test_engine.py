"""The use of trio-websocket and wsproto: only public names, and only in two modules of `wire`."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
import trio.testing
import trio_websocket
import wsproto

import reactor_trio
from reactor_trio.wire import engine, foreign_errors

ROOT = Path(reactor_trio.__file__).parent
LIBRARIES = ("trio_websocket", "wsproto")
THEIR_MODULES = {ROOT / "wire" / "engine.py", ROOT / "wire" / "foreign_errors.py"}
MODULES = sorted(ROOT.rglob("*.py"))


def private_names() -> set[str]:
    """The private names of the objects that the engine holds, and of the modules it imports from."""
    stream, _ = trio.testing.memory_stream_pair()
    server = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    socket = trio_websocket.WebSocketConnection(stream, server)
    request = trio_websocket.WebSocketRequest(socket, None)  # type: ignore[arg-type]
    frames = wsproto.connection.Connection(wsproto.ConnectionType.SERVER)
    things = (socket, request, server, server.handshake, frames, trio_websocket, wsproto)
    return {name for thing in things for name in dir(thing) if re.match(r"_[^_]", name)}


PRIVATE = private_names()


def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in LIBRARIES}


def reached_into(tree: ast.Module) -> set[str]:
    """Private names of the libraries that are read from another object than `self`, or named in a string."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self")):
                pass
            case ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                names.add(name)
    return names & PRIVATE


async def test_the_private_names_that_this_test_looks_for_are_those_of_the_libraries() -> None:
    assert {"_wsproto", "_send", "_accept", "_stream_lock", "_close_reason", "_h11_connection"} <= PRIVATE
    reaches = ast.parse("connection._wsproto.state\ngetattr(connection, '_accept')\nself._send()")
    assert reached_into(reaches) == {"_wsproto", "_accept"}
    assert imported(ast.parse("import wsproto.events\nfrom trio_websocket import WebSocketConnection")) == {
        "wsproto.events",
        "trio_websocket.WebSocketConnection",
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_only_the_engine_touches_the_libraries_and_nothing_private(module: Path) -> None:
    tree = ast.parse(module.read_text())
    theirs = imported(tree)
    assert (module in THEIR_MODULES) == bool(theirs)
    assert not [name for name in theirs if "._" in name]
    # A name such as `_events` may also be our own, so only modules that can hold their objects are checked.
    if module.parent.name == "wire":
        assert reached_into(tree) == set()


def test_the_count_in_the_engines_docstring_is_the_truth() -> None:
    count = len(reached_into(ast.parse(inspect.getsource(engine))))
    assert f"Private names of the two libraries that are used: {count}," in str(engine.__doc__)


def test_the_public_names_that_are_used_have_the_parameters_that_they_are_called_with() -> None:
    inspect.signature(trio_websocket.WebSocketConnection).bind("stream", "engine")
    inspect.signature(trio_websocket.WebSocketRequest).bind("connection", "request")
    inspect.signature(trio_websocket.WebSocketRequest.accept).bind("self", subprotocol=None)
    assert inspect.iscoroutinefunction(trio_websocket.WebSocketRequest.accept)
    for name in ("initiate_upgrade_connection", "send", "receive_data", "events"):
        assert callable(getattr(wsproto.WSConnection, name)), name
    assert isinstance(wsproto.WSConnection.state, property)
    states = wsproto.connection.ConnectionState
    assert {"CONNECTING", "OPEN", "REMOTE_CLOSING", "CLOSED", "REJECTING"} <= set(states.__members__)
    assert issubclass(foreign_errors.ConnectionClosed, Exception)
