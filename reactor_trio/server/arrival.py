"""The client of a request, and how the request reached the server: an `Arrival`, made by `server.forwarded`.

Addresses are written as `192.0.2.7:51234`, `[2001:db8::7]:51234`, or `unix`. No I/O.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal

import attrs

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Scheme = Literal["http", "https"]

UNIX: Final = "unix"
"""The address of a peer on a unix socket."""
MAX_PREFIX = 256
"""The most characters of a path prefix."""

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%-]+)?(:[0-9]{0,5})?")
"""Host and port of a Host header (RFC 9110, section 7.2); it may be empty."""
PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*")
"""The path below which a server stands: no `..`, no character that a URL escapes, no slash at the end."""

# A node of RFC 7239, section 6, or an IPv6 address without brackets, as X-Forwarded-For has it.
_NODE = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<v4>[0-9.]{7,15}))(?::(?P<port>[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
    r"|(?P<bare>[0-9A-Fa-f]*:[0-9A-Fa-f:.]{1,44})"
)


@attrs.frozen
class Arrival:
    """The client of a request, and the scheme, host and prefix of the URL that the client used."""

    address: str = ""
    """The client's address, without a port where a proxy names none; empty if the client is gone."""
    scheme: Scheme | None = None
    """The scheme of the URL, if a trusted proxy names it."""
    host: str = ""
    """The host of the URL, with its port if that is not the scheme's; empty if it is not known."""
    prefix: str = ""
    """The path below which the client sees this server, such as `/app1`; empty for the root."""
    is_forwarded: bool = False
    """Whether a trusted proxy has named any of these."""

    @property
    def is_by_program(self) -> bool:
        """Whether a hostile page cannot have chosen the host.

        A page cannot make a browser connect to a unix socket, nor add the header of a proxy to a WebSocket.
        """
        return self.is_forwarded or self.address == UNIX

    @property
    def ip(self) -> IPAddress | None:
        """The client's IP address; None on a unix socket, and if the client is gone."""
        return ip_of(self.address)


def ip_of(address: str) -> IPAddress | None:
    """The IP address in `host:port`, `[host]:port` or `host`; None if there is none."""
    node = node_of(address)
    return None if node is None else node[0]


def is_prefix(path: str) -> bool:
    """Whether a server may stand below this path; the empty path is one."""
    return len(path) <= MAX_PREFIX and PREFIX.fullmatch(path) is not None


def node_of(text: str) -> tuple[IPAddress, int | None] | None:
    """The IP address and the port in a text that a proxy has written; None if there is no address."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    try:
        ip = ipaddress.ip_address(match["v6"] or match["v4"] or match["bare"])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # as a socket for both families writes it
    port = match["port"] or ""
    return ip, int(port) if port.isdecimal() and int(port) <= 65535 else None
