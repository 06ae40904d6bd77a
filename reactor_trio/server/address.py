"""Clients by where they come from: one machine, or one subscriber's network, is one client of the limits."""

from __future__ import annotations

import ipaddress
import re

_V6_PREFIX = 64
"""Bits of an IPv6 address that are its network's: a subscriber has all the others to himself (RFC 6177)."""
_PORT = re.compile(r":\d+$")


def network_of(address: str) -> str | None:
    """What is counted as one: an IPv4 address, or the network (/64) of an IPv6 one.

    `address` may have a port. None: there is nothing to count by, as on a unix socket, or where a proxy hides
    who its client is.
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
