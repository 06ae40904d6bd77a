"""From whom a request comes, for which host and by which scheme: the one place where that is decided. No I/O.

Behind a reverse proxy the connection's peer is the proxy. What it says of its own client is taken if the
proxy is trusted, and only as far as trusted proxies say it:

- `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix`, the customary ones; or
- `Forwarded` (RFC 7239), if none of these is there. A proxy that knows nothing of `Forwarded` hands on what
  a client has put into it, and most do not know it: so the customary ones win.

Each proxy appends the address of its peer. They are read from the right, and the first one that is not itself
a trusted proxy is the client: what stands left of it was written by the client. Whatever cannot be read
counts as unknown, and an unknown client has the address of the proxy that told of it. Nothing here raises.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reactor_trio.server.http import Request

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Scheme = Literal["http", "https"]

UNIX: Final = "unix"
"""The address of a peer on a unix socket."""
LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
"""The proxies that are trusted where the operator names none."""
MAX_HOPS = 32
"""Proxies on the way to one server. What stands left of so many is not read."""
MAX_ELEMENT = 1024
"""Characters of one proxy's part of `Forwarded`."""
MAX_COMMAS = 256
"""In one line of `Forwarded`."""
MAX_PREFIX = 256
"""Characters of a path prefix."""

# RFC 9110, section 7.2; it may be empty.
AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%-]+)?(:[0-9]{0,5})?")
PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*")
"""A path below which a server stands: no `..`, nothing to be escaped, no slash at the end."""

# RFC 7239, section 6, and an IPv6 address without brackets, as X-Forwarded-For has it.
_NODE = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<v4>[0-9.]{7,15}))(?::(?P<port>[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
    r"|(?P<bare>[0-9A-Fa-f]*:[0-9A-Fa-f:.]{1,44})"
)
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
# An element of the list, up to its comma or the end; possessive, so that it is read once.
_ELEMENT = re.compile(rf'(?:[^",]++|{_QUOTED})*+(?=,|\Z)')
_PAIR = re.compile(rf"[ \t]*+([A-Za-z0-9!#$%&'*+.^_`|~-]++)=([^\s\",;]*+|{_QUOTED})[ \t]*+(?:;|\Z)")
_SCHEMES: Final[dict[str, Scheme]] = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


@attrs.frozen
class Arrival:
    """From whom a request comes, and how it was asked for."""

    address: str = ""
    """The client: `192.0.2.7:51234`, without a port where a proxy names none; `unix`; empty if it is gone."""
    scheme: Scheme | None = None
    """By which the client asked, as a proxy says; None: none does."""
    host: str = ""
    """For which the client asked, with its port if it is not the scheme's; empty: nobody says so."""
    prefix: str = ""
    """The path below which the client sees this server, such as `/app1`."""
    is_forwarded: bool = False
    """Whether a trusted proxy says any of it."""

    @property
    def is_by_program(self) -> bool:
        """Whether the host is one that a hostile page cannot have chosen.

        It cannot make a browser connect to a unix socket, nor say that a WebSocket was forwarded.
        """
        return self.is_forwarded or self.address == UNIX

    @property
    def ip(self) -> IPAddress | None:
        """The client's address alone; None on a unix socket, and if it is gone."""
        return ip_of(self.address)


def ip_of(address: str) -> IPAddress | None:
    """The IP address of `host:port`, `[host]:port`, or a host alone; None if it is none."""
    node = _node(address)
    return None if node is None else node[0]


@attrs.frozen
class TrustedProxies:
    """Whose word on its clients is taken: these networks, and whoever may connect to a unix socket."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

    @classmethod
    def named(cls, names: Iterable[str]) -> TrustedProxies:
        """Addresses and networks, such as `10.0.0.7` and `fd00::/8`; `*` is all. Raises `ValueError`."""
        every = [each for name in names for each in (("0.0.0.0/0", "::/0") if name == "*" else (name,))]
        try:
            return cls(tuple(ipaddress.ip_network(name, strict=False) for name in every))
        except ValueError as exc:
            raise ValueError(f"{exc}: write it as 10.0.0.7 or 10.0.0.0/8 (--trusted-proxy)") from None

    def trusts(self, address: str) -> bool:
        """Whether the peer of this address, as `Arrival` writes it, is such a proxy."""
        return address == UNIX or self._has(ip_of(address))

    def _has(self, ip: IPAddress | None) -> bool:
        return ip is not None and any(ip in network for network in self.networks)


def arrival_of(request: Request, peer: str, proxies: TrustedProxies | None, root_path: str = "") -> Arrival:
    """What is known of a request whose connection is that of `peer`; None: no proxy is trusted."""
    own = Arrival(peer, host=request.host, prefix=root_path)
    if proxies is None or not proxies.trusts(peer):
        return own
    told = _customary(request, own, proxies)
    return _standard(request, own, proxies) if told is None else told


def _customary(request: Request, own: Arrival, proxies: TrustedProxies) -> Arrival | None:
    """By `X-Forwarded-*`; None without one that `Forwarded` would say too, as it does not know prefixes."""
    addresses = request.items("x-forwarded-for")
    protos, hosts = request.items("x-forwarded-proto"), request.items("x-forwarded-host")
    if not (addresses or protos or hosts):
        return None
    address, hop = _client(addresses, own.address, proxies)
    return _told(request, own, hop, address=address, scheme=_at(protos, hop), host=_at(hosts, hop))


def _standard(request: Request, own: Arrival, proxies: TrustedProxies) -> Arrival:
    """By `Forwarded`, if it is there."""
    texts = [text for line in request.all("forwarded")[-MAX_HOPS:] for text in _elements(line)]
    elements = [_pairs(text) for text in texts[-MAX_HOPS:]]
    if not elements:
        return _told(request, own, 1) if request.all("x-forwarded-prefix") else own
    address, hop = _client([each.get("for", "") for each in elements], own.address, proxies)
    chosen = elements[-hop]
    return _told(
        request, own, hop, address=address, scheme=chosen.get("proto", ""), host=chosen.get("host", "")
    )


def _told(
    request: Request, own: Arrival, hop: int, *, address: str = "", scheme: str = "", host: str = ""
) -> Arrival:
    host = host.lower() if AUTHORITY.fullmatch(host) else ""
    prefix = _at(request.items("x-forwarded-prefix"), hop).rstrip("/")
    return Arrival(
        address or own.address,
        _SCHEMES.get(scheme.lower()),
        host or own.host,
        prefix if prefix and is_prefix(prefix) else own.prefix,
        is_forwarded=True,
    )


def is_prefix(path: str) -> bool:
    """Whether a server may stand below this path; the empty one too."""
    return len(path) <= MAX_PREFIX and PREFIX.fullmatch(path) is not None


def _client(nodes: Sequence[str], peer: str, proxies: TrustedProxies) -> tuple[str, int]:
    """The client's address, and at which place from the right it stands; 1 is the rightmost."""
    address, hop = peer, 0
    for text in reversed(nodes[-MAX_HOPS:]):
        hop += 1
        if (node := _node(text.strip('"'))) is None:
            break  # unknown, obfuscated or no address: it is the client's, and tells nothing of it
        address = _written(*node)
        if not proxies._has(node[0]):
            break
    return address, max(hop, 1)


def _at(values: Sequence[str], hop: int) -> str:
    """What the proxy at this place has said. One that replaces what it was told leaves fewer values."""
    return values[-min(hop, len(values))] if values else ""


def _node(text: str) -> tuple[IPAddress, int | None] | None:
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    try:
        ip = ipaddress.ip_address(match["v6"] or match["v4"] or match["bare"])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # what a socket for both families says
    port = match["port"] or ""
    return ip, int(port) if port.isdecimal() and int(port) <= 65535 else None


def _written(ip: IPAddress, port: int | None) -> str:
    host = f"[{ip}]" if ip.version == 6 else str(ip)
    return host if port is None else f"{host}:{port}"


# ---- RFC 7239, section 4: for=192.0.2.60;proto=https, for="[2001:db8::1]:4711";host=example.com


def _elements(line: str) -> list[str]:
    """What each proxy has said. Of a line that is none, nothing but what stands behind its last comma."""
    found: list[str] = []
    at = 0 if line.count(",") <= MAX_COMMAS else len(line) + 1
    while at <= len(line):
        match = _ELEMENT.match(line, at)
        if match is None:  # a quote that is not closed: a client's, behind which a proxy has appended
            found.clear()
            break
        if match[0].strip():
            found.append(match[0])
        at = match.end() + 1
    return found or [line.rpartition(",")[2]]


def _pairs(element: str) -> dict[str, str]:
    """Names in lower case, and values; nothing if the element cannot be read."""
    found: dict[str, str] = {}
    at = 0
    while at < len(element):
        match = _PAIR.match(element, at) if len(element) <= MAX_ELEMENT else None
        if match is None or match[1].lower() in found:
            return {}
        value = match[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        found[match[1].lower()] = value
        at = match.end()
    return found
