"""Who a client is: what an operator's `authenticate` is asked, and what it answers."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping


def _read_only(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(mapping))


@attrs.frozen
class Identity:
    """A client that was let in: `self.client.identity`."""

    subject: str
    """Who it is, in the words of whoever vouches for it: the `sub` of a signed token."""
    claims: Mapping[str, Any] = attrs.field(factory=dict, converter=_read_only, hash=False)
    """What else is known of it; read-only."""


@attrs.frozen
class AuthRequest:
    """What `authenticate(request)` decides by. Neither token nor headers show in its repr."""

    token: str | None = attrs.field(repr=False)
    """The bearer token, by header or, from browsers, by subprotocol; None if there is none to be read."""
    headers: Mapping[str, str] = attrs.field(converter=_read_only, repr=False)
    """The request's headers, names in lower case; several lines of one name are joined by `, `."""
    address: str
    """Where the client connects from, such as `192.0.2.7:51234`; behind a proxy, the proxy's, unless
    the server believes it (`--proxy-headers`). `unix` on a unix socket."""
    path: str
    """`/ws` or `/schema`."""
    query: Mapping[str, str] = attrs.field(factory=dict, converter=_read_only, repr=False)
    """What stands after the `?` of the URL; of several values of a name, the last."""
