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


def is_origin_allowed(request: Request, policy: Policy) -> bool:
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
