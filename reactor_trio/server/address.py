"""The network that a client's address belongs to. Limits by address count clients by their network."""

from __future__ import annotations

import ipaddress
import re

_V6_PREFIX = 64
"""Length of an IPv6 network's prefix in bits: a subscriber is assigned at least a /64 (RFC 6177)."""
_PORT = re.compile(r":\d+$")


def network_of(address: str) -> str | None:
    """The network by which a client is counted: its IPv4 address, or the network (/64) of its IPv6 address.

    `address` may have a port. Returns None if it is no IP address: the client is on a unix socket, or a proxy
    hides the client's address.
    """
    host = address.partition("]")[0].removeprefix("[") if address.startswith("[") else address
    try:
        found = ipaddress.ip_address(host if host.count(":") > 1 else _PORT.sub("", host))
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found.packed, _V6_PREFIX), strict=False))
    return str(found)
