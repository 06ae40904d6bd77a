"""Translates ASGI scopes to the requests of `server.http`, and its answers to ASGI events. No I/O.

See https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from reactor_trio.server.arrival import UNIX, Arrival, is_prefix
from reactor_trio.server.http import Request
from reactor_trio.server.listeners import authority_of
from reactor_trio.server.routes import WEBSOCKET_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.server.http import Headers, Response
    from reactor_trio.wire.asgi_calls import Event

DENIAL: Final = "websocket.http.response"
"""The ASGI extension for refusing a WebSocket with an HTTP answer. Without it a refusal is an empty 403."""

_HOP_BY_HOP: Final = frozenset(
    ("connection", "upgrade", "sec-websocket-version", "sec-websocket-key", "sec-websocket-protocol")
)
# The headers that `routes` looks for. The ASGI server has checked them, or has none of them, as over HTTP/2.
_HANDSHAKE: Final[Headers] = (
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", WEBSOCKET_VERSION),
    ("sec-websocket-key", base64.b64encode(bytes(16)).decode("ascii")),
)


def request_of(scope: Mapping[str, Any]) -> Request:
    """The request that an `http` or `websocket` scope describes."""
    headers = [
        (bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in scope["headers"]
    ]
    kept = [(name.lower(), value) for name, value in headers if name.lower() not in _HOP_BY_HOP]
    method = scope.get("method", "GET")
    if scope["type"] == "websocket":
        offered = ", ".join(scope.get("subprotocols") or ())
        kept += [*_HANDSHAKE, *([("sec-websocket-protocol", offered)] if offered else [])]
    request = Request(method, _target_of(scope), tuple(kept))
    prefix = str(scope.get("root_path") or "").rstrip("/")
    return Request(
        method,
        request.target,
        request.headers,
        arrival=Arrival(_client_of(scope), host=request.host, prefix=prefix if is_prefix(prefix) else ""),
    )


def _target_of(scope: Mapping[str, Any]) -> str:
    raw: bytes | None = scope.get("raw_path")
    path = quote(scope["path"]) if raw is None else raw.decode("latin-1").partition("?")[0]
    query: bytes = scope.get("query_string") or b""
    return f"{path}?{query.decode('latin-1')}" if query else path


def _client_of(scope: Mapping[str, Any]) -> str:
    client = scope.get("client")
    if client:
        host, port = client
        return authority_of(host, port)
    return UNIX if _is_unix(scope) else ""


def _is_unix(scope: Mapping[str, Any]) -> bool:
    server = scope.get("server")
    return server is not None and server[1] is None


def server_of(scope: Mapping[str, Any]) -> str | None:
    """The address at which the client reached the server, without its port; `unix`; None if unknown."""
    server = scope.get("server")
    if not server:
        return None
    return UNIX if _is_unix(scope) else str(server[0])


def events_of(response: Response, scope: Mapping[str, Any]) -> list[Event]:
    """The events that answer the scope's request. For a WebSocket they are a refusal.

    If the answer has a `long_body`, the last event says that more of the body follows (`more_body`).
    """
    is_websocket = scope["type"] == "websocket"
    if is_websocket and DENIAL not in (scope.get("extensions") or {}):
        return [{"type": "websocket.close"}]
    kind = DENIAL if is_websocket else "http.response"
    # `Upgrade` is a header of HTTP/1.1 alone, and belongs to the ASGI server.
    fields = [(name.lower(), value) for name, value in response.fields.items() if name != "Upgrade"]
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    has_body = scope.get("method") != "HEAD"
    end: Event = {"type": f"{kind}.body", "body": response.body if has_body else b""}
    if has_body and response.long_body is not None and response.long_body.size:
        end["more_body"] = True
    return [{"type": f"{kind}.start", "status": response.status, "headers": headers}, end]
