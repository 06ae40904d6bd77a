"""The paths of the runtime, and the answer to a request for each of them. No I/O.

`server.reception` calls `answer` after the client was authenticated. See docs/design.md#http.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final, Literal

import attrs
import orjson

from reactor_trio.protocol.names import SUBPROTOCOL, TOKEN_SUBPROTOCOL
from reactor_trio.server.http import (
    METHODS,
    NOT_FOUND,
    RETRY_SECONDS,
    Response,
    Upgrade,
    method_not_allowed,
    plain,
    unavailable,
)
from reactor_trio.server.origins import is_host_allowed, is_origin_allowed
from reactor_trio.server.web import HEADERS as WEB_HEADERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.server.http import Request
    from reactor_trio.server.origins import Policy
    from reactor_trio.server.web import WebFile

WEBSOCKET_VERSION = "13"
NO_ROUTE: Final = plain(404, "not found")
"""The answer for a path that is none of the runtime's: the author's page may have a file there."""

Status = Literal["loading", "ready", "draining", "failed"]
"""`failed`: a call on the model's device does not return, so a new session could show nothing."""


@attrs.frozen
class State:
    """The state of the server at the moment of a request."""

    status: Status
    model: str
    sessions: int
    waiting: int = 0
    """Clients in the queue for a session."""
    is_full: bool = False
    """Whether all sessions are taken, and the queue is full too."""
    schema: bytes | None = None
    """The OpenAPI document, once the model is loaded."""
    web: Mapping[str, WebFile] = attrs.field(factory=dict, repr=False)
    """The files for browsers, by path (`server.web`); they are served in every status."""
    metrics: Callable[[str], tuple[bytes, str]] | None = None
    """Returns body and content type of `/metrics` for an Accept header; None: `/metrics` is 404."""


def is_guarded(request: Request) -> bool:
    """Whether the client must be authenticated before the request is answered; see `server.auth`."""
    return request.path in _GUARDED and request.method in METHODS


def answer(request: Request, policy: Policy, state: State) -> Response | Upgrade:
    """The answer to the request of an authenticated client; `NO_ROUTE` if its path is no route."""
    if not is_host_allowed(request, policy) and (request.path != "/ws" or is_origin_allowed(request, policy)):
        # RFC 9110, 15.5.20. A WebSocket of a page whose origin is not allowed is answered 403, below.
        return plain(421, "this server is not asked by that name; its --allow-host would allow it")
    route = _ROUTES.get(request.path) or (_web_file if request.path in state.web else None)
    if route is None:
        return _below(request) or NO_ROUTE
    if request.method not in METHODS:
        return method_not_allowed()
    return route(request, policy, state)


def _below(request: Request) -> Response | None:
    """A redirect from the prefix itself to its slash, `/app1` to `/app1/`, where relative links are right."""
    path, prefix = request.full_path, request.arrival.prefix
    if not prefix or path != prefix or request.method not in METHODS:
        return None
    # A relative location is right also if another proxy before the known one adds to the prefix.
    location = f"{prefix.rpartition('/')[2]}/"
    _, mark, query = request.target.partition("?")
    return plain(307, f"it is at {location}", ("Location", f"{location}{mark}{query}"))


def _web_file(request: Request, policy: Policy, state: State) -> Response:
    file = state.web[request.path]
    headers = (*WEB_HEADERS, ("ETag", file.etag))
    if request.has(file.etag):
        return Response(304, headers=headers)
    return Response(200, file.body, file.content_type, headers)


def _schema(request: Request, policy: Policy, state: State) -> Response:
    if state.schema is None:
        return unavailable(f"{state.model} is {state.status}")
    schema = state.schema
    if prefix := request.arrival.prefix:  # `arrival.PREFIX` has no character that JSON escapes
        schema = b'{"servers":[{"url":"%b"}],%b' % (prefix.encode("ascii"), schema[1:])
    return Response(200, schema, "application/json")


def _health(request: Request, policy: Policy, state: State) -> Response:
    body = orjson.dumps(
        {"status": state.status, "model": state.model, "sessions": state.sessions, "waiting": state.waiting}
    )
    if state.status == "ready":
        return Response(200, body, "application/json")
    return Response(503, body, "application/json", (("Retry-After", str(RETRY_SECONDS)),))


def _metrics(request: Request, policy: Policy, state: State) -> Response:
    if state.metrics is None:
        return NOT_FOUND
    body, content_type = state.metrics(", ".join(request.items("accept")))
    return Response(200, body, content_type)


def _websocket(request: Request, policy: Policy, state: State) -> Response | Upgrade:
    if not is_origin_allowed(request, policy):
        return plain(403, "this origin is not allowed; the server's --allow-origin would")
    if not _asks_for_websocket(request):
        return plain(
            426,
            "this is a WebSocket",
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", WEBSOCKET_VERSION),
        )
    upgrade = _upgrade(request)
    if isinstance(upgrade, Response):
        return upgrade
    if state.status != "ready":
        return unavailable(f"{state.model} is {state.status}")
    if state.is_full:
        return unavailable(
            f"all {state.sessions} sessions are taken, and {state.waiting} clients wait already"
            if state.waiting
            else f"all {state.sessions} sessions are taken"
        )
    return upgrade


_GUARDED = ("/ws", "/schema", "/metrics")
_ROUTES: dict[str, Callable[[Request, Policy, State], Response | Upgrade]] = {
    "/ws": _websocket,
    "/schema": _schema,
    "/health": _health,
    "/metrics": _metrics,
}


def _asks_for_websocket(request: Request) -> bool:
    # RFC 6455, 4.2.1; RFC 9110, 7.8: an Upgrade in HTTP/1.0 is to be ignored.
    return (
        request.method == "GET"
        and request.http_version == "1.1"
        and "websocket" in map(str.lower, request.items("upgrade"))
        and "upgrade" in map(str.lower, request.items("connection"))
        and request.all("sec-websocket-version") == (WEBSOCKET_VERSION,)
    )


def _upgrade(request: Request) -> Upgrade | Response:
    keys = request.all("sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return plain(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    if request.all("transfer-encoding") or set(request.all("content-length")) - {"0"}:
        return plain(400, "an upgrade request has no body")
    offered = [
        name for name in request.items("sec-websocket-protocol") if not name.startswith(TOKEN_SUBPROTOCOL)
    ]
    if SUBPROTOCOL in offered:
        return Upgrade(keys[0].encode("ascii"), SUBPROTOCOL)
    if offered:
        return plain(400, f"the subprotocol is {SUBPROTOCOL}")
    # The client offers no protocol, or only a token, which is no protocol and must not be sent back. The
    # server may choose none (RFC 6455, 4.2.2). A browser refuses that if it offered any, so pages offer both.
    return Upgrade(keys[0].encode("ascii"), None)


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
