"""Request heads and answers of HTTP/1.1: parsed and encoded. No I/O.

A connection has one request: every answer says `Connection: close`. See docs/design.md#http and
docs/design.md#safe-defaults.
"""

from __future__ import annotations

import http
import math
import re
from typing import Final, Protocol

import attrs
import h11

from reactor_trio.server.arrival import AUTHORITY, Arrival

Headers = tuple[tuple[str, str], ...]

METHODS: Final = ("GET", "HEAD")
"""The methods that every path has."""
MAX_HEAD_BYTES = 16 * 1024
"""The most bytes of the request line and all header lines together."""
RETRY_SECONDS = 5
"""`Retry-After` of every 503, in seconds."""


class HeadError(Exception):
    """The bytes that arrived are no request head; `response` is the answer."""

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
    """The client, host, scheme and prefix of the request; filled in after parsing (`server.forwarded`)."""

    @property
    def host(self) -> str:
        """Host and port that the request is meant for, in lower case; empty if it names none."""
        if self.arrival.host:
            return self.arrival.host
        # RFC 9112, 3.2.2: an absolute target takes precedence over the Host header.
        _, is_absolute, rest = self.target.partition("://")
        if is_absolute and not self.target.startswith("/"):
            return re.split(r"[/?#]", rest)[0].rpartition("@")[2].lower()
        return next(iter(self.all("host")), "").lower()

    @property
    def path(self) -> str:
        """The target without scheme, host, query and the prefix below which the server stands.

        A proxy may have taken the prefix away already. Not percent-decoded: no path of the runtime needs it.
        """
        path, prefix = self.full_path, self.arrival.prefix
        return path.removeprefix(prefix) if prefix and path.startswith(f"{prefix}/") else path

    @property
    def full_path(self) -> str:
        """The path of the target with its prefix: without scheme, host and query."""
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

    def has(self, etag: str) -> bool:
        """Whether the client has the content with this ETag (RFC 9110, 13.1.2: compared weakly)."""
        known = {tag.removeprefix("W/") for tag in self.items("if-none-match")}
        return "*" in known or etag.removeprefix("W/") in known


class BodyLost(Exception):
    """The rest of a `LongBody` cannot be read: the answer that was begun cannot be ended."""


class LongBody(Protocol):
    """A body that is not in memory: it is read in pieces while it is sent."""

    @property
    def size(self) -> int:
        """Bytes of all of it, known before the first is read."""
        ...

    async def read(self, offset: int) -> bytes:
        """The next bytes from `offset` on, at least one; `offset` is less than `size`.

        Raises `BodyLost`. May not be a checkpoint. If cancelled, it waits for the thread that reads.
        """
        ...


@attrs.frozen
class Response:
    """An answer. Its body is `body`, or `long_body` if there is one."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Headers = ()
    """Headers besides those that `encode` writes, or in their place; each name once."""
    long_body: LongBody | None = None

    @property
    def fields(self) -> dict[str, str]:
        """All header fields but `Connection`, which concerns the server that writes them."""
        size = len(self.body) if self.long_body is None else self.long_body.size
        # A 304 has no content, and a length or a type would be taken for those of the stored answer.
        of_the_body = {"Content-Type": self.content_type, "Content-Length": str(size)}
        return {
            **({} if self.status == 304 else of_the_body),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **dict(self.headers),
        }

    def encode(self, *, with_body: bool = True) -> bytes:
        """The head, and `body`; `with_body=False` leaves the body out, as for HEAD and a `long_body`."""
        connection = "close, Upgrade" if self.status == 426 else "close"
        headers = {"Connection": connection, **self.fields}
        lines = [
            f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return head + self.body if with_body else head


@attrs.frozen
class Upgrade:
    """A valid request for a WebSocket: the key of the handshake, and the subprotocol that is chosen."""

    key: bytes
    subprotocol: str | None


class HeadParser:
    """Parses one request head, which may arrive in any number of parts."""

    def __init__(self, *, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        self._max = max_head_bytes
        self._fed = 0
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)

    def feed(self, data: bytes | bytearray) -> Request | None:
        """Parse bytes that were read, at least one; returns the request once its head is complete.

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
        # h11 applies its limit to incomplete heads only: a head that arrived in one read may exceed it.
        if self._fed - len(self.rest) > self._max:
            raise HeadError(431, f"a request head may have {self._max} bytes")
        if not isinstance(event, h11.Request):
            return None
        if not event.http_version.startswith(b"1."):
            raise HeadError(505, "this server speaks HTTP/1.1")
        return _request(event)

    @property
    def rest(self) -> bytes:
        """The bytes after the head."""
        return self._h11.trailing_data[0]


def _request(event: h11.Request) -> Request:
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
    if not all(AUTHORITY.fullmatch(value) for name, value in headers if name == "host"):
        raise HeadError(400, "the Host header names no host")
    method, target = event.method.decode("ascii"), event.target.decode("latin-1")
    return Request(method, target, headers, event.http_version.decode("ascii"))


def plain(status: int, message: str, *headers: tuple[str, str]) -> Response:
    """An answer of one line of text."""
    return Response(status, f"{message}\n".encode(), headers=headers)


NOT_FOUND: Final = plain(404, "not found")


def method_not_allowed() -> Response:
    """405: nothing can be done but to read."""
    return plain(405, "only GET and HEAD", ("Allow", ", ".join(METHODS)))


def unavailable(message: str) -> Response:
    """503, with a Retry-After of `RETRY_SECONDS`."""
    return plain(503, message, ("Retry-After", str(RETRY_SECONDS)))


def too_many(message: str, seconds: float) -> Response:
    """429, with a Retry-After of so many seconds, rounded up."""
    return plain(429, message, ("Retry-After", str(math.ceil(seconds))))


def unauthorised() -> Response:
    """401: the request has no token, or a wrong one."""
    return plain(401, "a token is needed", ("WWW-Authenticate", "Bearer"))
