"""`AuthRequest` and `Identity`: the argument and the result of an operator's `authenticate`."""

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
    """An authenticated client: `self.client.identity`."""

    subject: str
    """The client's name, given by the issuer of its token: the claim `sub` of a JWT."""
    claims: Mapping[str, Any] = attrs.field(factory=dict, converter=_read_only, hash=False)
    """All claims of the token; read-only."""


@attrs.frozen
class AuthRequest:
    """The request of a client that wants to connect. Its repr shows neither the token nor the headers."""

    token: str | None = attrs.field(repr=False)
    """The bearer token, from a header or, for browsers, from a subprotocol; None if there is none."""
    headers: Mapping[str, str] = attrs.field(converter=_read_only, repr=False)
    """The headers of the request, names in lower case. Several headers of one name are joined by `, `."""
    address: str
    """The address of the client, such as `192.0.2.7:51234`, or `unix` on a unix socket. Behind a proxy, the
    proxy's address, unless the server trusts the proxy's headers (`--proxy-headers`)."""
    path: str
    """`/ws` or `/schema`."""
    query: Mapping[str, str] = attrs.field(factory=dict, converter=_read_only, repr=False)
    """The parameters after the `?` of the URL; the last value of each name."""
