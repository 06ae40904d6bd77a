"""What a request gets whose client may come in: a page, a document, or the upgrade to a WebSocket. No I/O.

See docs/design.md#http.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Literal

import attrs
import orjson

from reactor_trio.protocol.names import SUBPROTOCOL, TOKEN_SUBPROTOCOL
from reactor_trio.server.http import RETRY_SECONDS, Response, Upgrade, plain, unavailable
from reactor_trio.server.origins import is_host_allowed, is_origin_allowed
from reactor_trio.server.web import HEADERS as WEB_HEADERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.server.http import Request
    from reactor_trio.server.origins import Policy
    from reactor_trio.server.web import WebFile

WEBSOCKET_VERSION = "13"

Status = Literal["loading", "ready", "draining", "failed"]
"""Failed: a call on the model's device does not come back, so a new session would show nothing."""


@attrs.frozen
class State:
    """The server at the moment of a request."""

    status: Status
    model: str
    sessions: int
    waiting: int = 0
    """Clients in line for a session."""
    is_full: bool = False
    """Whether all sessions are taken, and the line is full too."""
    schema: bytes | None = None
    """The OpenAPI document, once the model is loaded."""
    web: Mapping[str, WebFile] = attrs.field(factory=dict, repr=False)
    """The files for browsers, by path (`server.web`); they are there whatever the status is."""
    metrics: Callable[[str], tuple[bytes, str]] | None = None
    """Body and content type of `/metrics`, given the Accept header; None: there is no such page."""


def is_guarded(request: Request) -> bool:
    """Whether the client must show who it is before it is told anything; see `server.auth`."""
    return request.path in _GUARDED and request.method in _METHODS


def answer(request: Request, policy: Policy, state: State) -> Response | Upgrade:
    """Decide what a request gets whose client may come in."""
    if not is_host_allowed(request, policy) and (request.path != "/ws" or is_origin_allowed(request, policy)):
        # RFC 9110, 15.5.20. A page is told 403, below, as any other is whose origin is not allowed.
        return plain(421, "this server is not asked by that name; its --allow-host would allow it")
    route = _ROUTES.get(request.path) or (_web_file if request.path in state.web else None)
    if route is None:
        return _below(request) or plain(404, "not found")
    if request.method not in _METHODS:
        return plain(405, "only GET and HEAD", ("Allow", "GET, HEAD"))
    return route(request, policy, state)


def _below(request: Request) -> Response | None:
    """The page stands below the prefix, and so do all addresses in it: `/app1` is `/app1/`."""
    path, prefix = request.full_path, request.arrival.prefix
    if not prefix or path != prefix or request.method not in _METHODS:
        return None
    # Relative, as another proxy before the one that is known may serve it below a longer path.
    location = f"{prefix.rpartition('/')[2]}/"
    _, mark, query = request.target.partition("?")
    return plain(307, f"it is at {location}", ("Location", f"{location}{mark}{query}"))


def _web_file(request: Request, policy: Policy, state: State) -> Response:
    file = state.web[request.path]
    headers = (*WEB_HEADERS, ("ETag", file.etag))
    # RFC 9110, 13.1.2: compared weakly.
    known = {tag.removeprefix("W/") for tag in request.items("if-none-match")}
    if "*" in known or file.etag in known:
        return Response(304, headers=headers)
    return Response(200, file.body, file.content_type, headers)


def _schema(request: Request, policy: Policy, state: State) -> Response:
    if state.schema is None:
        return unavailable(f"{state.model} is {state.status}")
    schema = state.schema
    if prefix := request.arrival.prefix:  # which needs no escaping
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
        return plain(404, "not found")
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


_METHODS = ("GET", "HEAD")
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
    # Nothing, or nothing but a token, which is not a protocol and must not be echoed. RFC 6455, 4.2.2 lets
    # the server choose none. Browsers then refuse if they offered any: they offer both.
    return Upgrade(keys[0].encode("ascii"), None)


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
