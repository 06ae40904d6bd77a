"""The HTTP that shares the port with the WebSocket: a request head in, an answer out. No I/O.

One request a connection: every answer says `Connection: close`. See docs/design.md#http and
docs/design.md#safe-defaults.
"""

from __future__ import annotations

import base64
import binascii
import http
import ipaddress
import math
import re
from typing import TYPE_CHECKING, Literal

import attrs
import h11
import orjson

from reactor_trio.protocol.names import SUBPROTOCOL, TOKEN_SUBPROTOCOL
from reactor_trio.server.forwarded import AUTHORITY, Arrival
from reactor_trio.server.web import HEADERS as WEB_HEADERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.server.web import WebFile

Headers = tuple[tuple[str, str], ...]

MAX_HEAD_BYTES = 16 * 1024
"""The request line and all header lines."""
WEBSOCKET_VERSION = "13"
RETRY_SECONDS = 5
"""`Retry-After` of every 503."""

_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/@?#\s]+)")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class HeadError(Exception):
    """What arrived is no request head; `response` says so to the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.response = plain(status, message)


@attrs.frozen
class Request:
    """The head of a request; header names in lower case."""

    method: str
    target: str
    headers: Headers = ()
    http_version: str = "1.1"
    arrival: Arrival = attrs.field(factory=Arrival)
    """From whom it comes, and how it was asked for; the server sees to it (`server.forwarded`)."""

    @property
    def host(self) -> str:
        """Host and port that it is meant for, in lower case; empty if it says none."""
        if self.arrival.host:
            return self.arrival.host
        # RFC 9112, 3.2.2: the absolute form counts, whatever the Host header says.
        _, is_absolute, rest = self.target.partition("://")
        if is_absolute and not self.target.startswith("/"):
            return re.split(r"[/?#]", rest)[0].rpartition("@")[2].lower()
        return next(iter(self.all("host")), "").lower()

    @property
    def path(self) -> str:
        """The target without scheme, host, query and the prefix below which the server stands.

        A proxy may have taken the prefix away already. Not percent-decoded, as no path here needs it.
        """
        path, prefix = self.full_path, self.arrival.prefix
        return path.removeprefix(prefix) if prefix and path.startswith(f"{prefix}/") else path

    @property
    def full_path(self) -> str:
        """The same, with its prefix."""
        target = self.target
        if not target.startswith("/"):  # RFC 9112, 3.2.2: a server must take the absolute form too
            _, _, rest = target.partition("://")
            target = f"/{rest.partition('/')[2]}" if rest else target
        return target.partition("?")[0]

    def all(self, name: str) -> tuple[str, ...]:
        """The header's values, one for each of its lines."""
        return tuple(value for key, value in self.headers if key == name)

    def items(self, name: str) -> tuple[str, ...]:
        """The header's comma-separated items, those of all its lines."""
        return tuple(item.strip() for value in self.all(name) for item in value.split(",") if item.strip())


@attrs.frozen
class Response:
    """An answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Headers = ()
    """Further ones, or others than `encode` would write; each name once."""

    def encode(self, *, with_body: bool = True) -> bytes:
        """The bytes on the wire; `with_body=False` for HEAD."""
        # A 304 has no content, and a length or a type would be taken for those of the stored answer.
        of_the_body = {"Content-Type": self.content_type, "Content-Length": str(len(self.body))}
        headers = {
            **({} if self.status == 304 else of_the_body),
            "Connection": "close, Upgrade" if self.status == 426 else "close",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **dict(self.headers),
        }
        lines = [
            f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return head + self.body if with_body else head


@attrs.frozen
class Upgrade:
    """A request for a WebSocket that is to be granted."""

    key: bytes
    subprotocol: str | None


class HeadParser:
    """Reads one request head, however the network cuts it."""

    def __init__(self, *, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        self._max = max_head_bytes
        self._fed = 0
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)

    def feed(self, data: bytes | bytearray) -> Request | None:
        """Take what was read; returns the request once its head is complete. `data` is not empty.

        Raises `HeadError` (400, 431 or 505).
        """
        self._fed += len(data)
        self._h11.receive_data(bytes(data))
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as exc:
            if exc.error_status_hint == 431 or self._fed > self._max:
                raise HeadError(431, f"a request head may have {self._max} bytes") from None
            raise HeadError(400, "this is no HTTP request") from None
        # h11 applies its limit to incomplete heads only; one that arrived in one read slips through.
        if self._fed - len(self.rest) > self._max:
            raise HeadError(431, f"a request head may have {self._max} bytes")
        if not isinstance(event, h11.Request):
            return None
        if not event.http_version.startswith(b"1."):
            raise HeadError(505, "this server speaks HTTP/1.1")
        return _request(event)

    @property
    def rest(self) -> bytes:
        """What followed the head."""
        return self._h11.trailing_data[0]


def _request(event: h11.Request) -> Request:
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
    if not all(AUTHORITY.fullmatch(value) for name, value in headers if name == "host"):
        raise HeadError(400, "the Host header names no host")
    method, target = event.method.decode("ascii"), event.target.decode("latin-1")
    return Request(method, target, headers, event.http_version.decode("ascii"))


@attrs.frozen
class Policy:
    """Whose pages may connect."""

    allow_origins: frozenset[str] = frozenset()
    """Origins besides the server's own, such as `https://example.com`; `*` allows any."""
    own_names: frozenset[str] | None = None
    """Host names under which the server is its own origin, besides IP addresses and `localhost`.

    None: whatever the Host header says. A server that only trusts its loopback address must not: a
    hostile page whose name is made to resolve to 127.0.0.1 is of the "same origin" then (DNS rebinding).
    """
    allow_hosts: frozenset[str] = frozenset()
    """Further names under which such a server may be asked, in lower case."""


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


def plain(status: int, message: str, *headers: tuple[str, str]) -> Response:
    """An answer of one line of text."""
    return Response(status, f"{message}\n".encode(), headers=headers)


def is_guarded(request: Request) -> bool:
    """Whether the client must show who it is before it is told anything; see `server.auth`."""
    return request.path in _GUARDED and request.method in _METHODS


def answer(request: Request, policy: Policy, state: State) -> Response | Upgrade:
    """Decide what a request gets whose client may come in."""
    if not is_host_allowed(request, policy) and (
        request.path != "/ws" or _is_origin_allowed(request, policy)
    ):
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
    if not _is_origin_allowed(request, policy):
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


def unavailable(message: str) -> Response:
    """503, and when to come again."""
    return plain(503, message, ("Retry-After", str(RETRY_SECONDS)))


def too_many(message: str, seconds: float) -> Response:
    """429, and when to come again."""
    return plain(429, message, ("Retry-After", str(math.ceil(seconds))))


def unauthorised() -> Response:
    """401: no token, or a wrong one."""
    return plain(401, "a token is needed", ("WWW-Authenticate", "Bearer"))


def is_host_allowed(request: Request, policy: Policy) -> bool:
    """Whether the request names this server, and not a name that a hostile page has made to resolve to it.

    Such a page is of the "same origin" as the server, so a browser shows it every answer (DNS rebinding).
    A name without a dot is none that a stranger can have.
    """
    if policy.own_names is None or "*" in policy.allow_origins or request.arrival.is_by_program:
        return True
    name = _without_port(request.host).rstrip(".")
    allowed = {_without_port(origin.lower().rpartition("/")[2]) for origin in policy.allow_origins}
    is_simple = "." not in name and ":" not in name
    return is_simple or name in allowed or name in policy.allow_hosts or _is_own_name(name, policy)


def _without_port(authority: str) -> str:
    return re.sub(r":\d*$", "", authority)


def _is_origin_allowed(request: Request, policy: Policy) -> bool:
    """Only browsers send an Origin; they alone can be made to connect against their user's will."""
    origins = request.all("origin")
    if "*" in policy.allow_origins or not origins:
        return True
    origin = ",".join(origins).lower()  # of several, none: their list is no origin
    if origin in {allowed.lower().rstrip("/") for allowed in policy.allow_origins}:
        return True
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return False
    scheme, authority = match["scheme"], match["authority"]
    arrival = request.arrival
    if arrival.scheme is not None and arrival.scheme != scheme:
        return False
    if _with_port(request.host, scheme) != _with_port(authority, scheme):
        return False
    return arrival.is_by_program or _is_own_name(authority, policy)


def _with_port(authority: str, scheme: str) -> str:
    return authority if re.search(r":\d+$", authority) else f"{authority}:{_DEFAULT_PORTS[scheme]}"


def _is_own_name(authority: str, policy: Policy) -> bool:
    if policy.own_names is None:
        return True
    name = _without_port(authority)
    if name == "localhost" or name.endswith(".localhost") or name in policy.own_names:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
