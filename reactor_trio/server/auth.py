"""Authentication of a request: the hook `authenticate`, its argument, and the hook for a fixed token.

`server.reception` calls `identify` for each request to a guarded path.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import inspect
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import parse_qsl

import attrs
import trio

from reactor_trio.declare.identity import AuthRequest, Identity
from reactor_trio.logs.logger import get_logger
from reactor_trio.protocol.names import TOKEN_SUBPROTOCOL
from reactor_trio.server.http import Response, plain, unauthorised, unavailable
from reactor_trio.session.failures import contained

if TYPE_CHECKING:
    from reactor_trio.server.http import Request

Authenticate = Callable[[AuthRequest], "Identity | Awaitable[Identity | None] | None"]
"""A hook that returns the identity of a client, or None to refuse it. It must not block the loop."""

Algorithm = Literal["HS256", "HS384", "HS512", "RS256", "PS256", "ES256", "EdDSA"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
"""The algorithms of signed tokens (`server.signed_tokens`); `none` is not one of them."""

TOKEN_SUBJECT = "token"
"""`Identity.subject` of each client that shows the fixed token."""

log = get_logger(__name__)


@attrs.frozen
class Refused:
    """The client may not come in; `response` is its answer."""

    response: Response


def fixed_token(token: str) -> Authenticate:
    """A hook that lets in each client that shows this token. Tokens are compared in constant time."""
    wanted = token.encode()

    def authenticate(request: AuthRequest) -> Identity | None:
        if request.token is None or not hmac.compare_digest(request.token.encode(), wanted):
            return None
        return Identity(TOKEN_SUBJECT)

    return authenticate


def auth_request(request: Request, address: str) -> AuthRequest:
    """The hook's argument for this request; `address` is the client's."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    query = dict(parse_qsl(request.target.partition("?")[2], keep_blank_values=True))
    return AuthRequest(offered_token(request), headers, address, request.path, query)


def offered_token(request: Request) -> str | None:
    """The bearer token (RFC 6750, 2.1), else the token in a subprotocol; None if there is neither."""
    for value in request.all("authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            return token.strip() or None
    for name in request.items("sec-websocket-protocol"):
        if name.startswith(TOKEN_SUBPROTOCOL):
            return _decoded(name.removeprefix(TOKEN_SUBPROTOCOL))
    return None


def _decoded(text: str) -> str | None:
    text = text.rstrip("=")
    try:
        # Without `validate` characters that are not base64 would be skipped: two spellings of one token.
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return data.decode() or None
    except (binascii.Error, ValueError):
        return None


async def identify(
    authenticate: Authenticate, request: AuthRequest, *, deadline: float
) -> Identity | Refused:
    """Call the hook, which may take until `deadline` (seconds of Trio's clock).

    A checkpoint only if the hook is one. Errors of the hook are not raised: the client is answered 500 with
    no detail, and the traceback is logged without the token. If the hook takes too long, the client is
    answered 503.
    """
    result: Identity | Refused = Refused(plain(500, "the request could not be authenticated"))

    def failed(failure: BaseException) -> None:
        text = "".join(traceback.format_exception(failure))
        log.error("authenticate() failed", address=request.address, exception=_redacted(text, request))

    with contained(failed), trio.move_on_at(deadline) as scope:
        answer = authenticate(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is not None and not isinstance(answer, Identity):
            raise TypeError(f"authenticate() returns an Identity or None, not {type(answer).__name__}")
        result = Refused(unauthorised()) if answer is None else answer
    if scope.cancelled_caught:
        log.error("authenticate() took too long", address=request.address)
        return Refused(unavailable("the request could not be authenticated in time"))
    return result


def _redacted(text: str, request: AuthRequest) -> str:
    """The text without the token, and without the headers that carry it: a hook's error may quote them."""
    carriers = (request.headers.get(name) for name in ("authorization", "sec-websocket-protocol"))
    for secret in filter(None, (request.token, *carriers)):
        text = text.replace(secret, "[token]")
    return text
