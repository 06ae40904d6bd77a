"""Whether a page may connect, and whether a request names this server: the Origin and Host headers. No I/O.

See docs/design.md#safe-defaults.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from reactor_trio.server.http import Request

_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/@?#\s]+)")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@attrs.frozen
class Policy:
    """The origins whose pages may connect, and the names of this server."""

    allow_origins: frozenset[str] = frozenset()
    """Origins besides the server's own, such as `https://example.com`; `*` allows any."""
    own_names: frozenset[str] | None = None
    """Host names under which the server is its own origin, besides IP addresses and `localhost`.

    None: any name in the Host header is its own. A server whose only protection is its loopback address must
    not use None: a hostile page whose name resolves to 127.0.0.1 would be of the same origin (DNS rebinding).
    """
    allow_hosts: frozenset[str] = frozenset()
    """Further names for such a server that a Host header may have, in lower case."""


def is_host_allowed(request: Request, policy: Policy) -> bool:
    """Whether the Host header names this server.

    A hostile page can make its own name resolve to this server's address. A browser then takes page and
    server for one origin, and shows the page every answer (DNS rebinding). A name without a dot is always
    allowed: no stranger can own one.
    """
    if policy.own_names is None or "*" in policy.allow_origins or request.arrival.is_by_program:
        return True
    name = _without_port(request.host).rstrip(".")
    allowed = {_without_port(origin.lower().rpartition("/")[2]) for origin in policy.allow_origins}
    is_simple = "." not in name and ":" not in name
    return is_simple or name in allowed or name in policy.allow_hosts or _is_own_name(name, policy)


def _without_port(authority: str) -> str:
    return re.sub(r":\d*$", "", authority)


def is_origin_allowed(request: Request, policy: Policy) -> bool:
    """Whether the request's Origin may connect. A request without one comes from no browser and is allowed:

    only a browser can be made to connect against its user's will.
    """
    origins = request.all("origin")
    if "*" in policy.allow_origins or not origins:
        return True
    origin = ",".join(origins).lower()  # several headers joined by a comma are no origin
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
