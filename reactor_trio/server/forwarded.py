"""Finds the client, host, scheme and prefix of a request in the headers of trusted proxies. No I/O.

`server.connections` calls `arrival_of` for each request. Behind a reverse proxy the connection's peer is the
proxy. Headers about the client are believed only if they were written by trusted proxies:

- `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix`, which most proxies write; or
- `Forwarded` (RFC 7239), if there is none of those. A proxy that does not know `Forwarded` passes on what
  a client has written there, and most do not know it; so the other headers take precedence.

Each proxy appends the address of its peer. Addresses are read from the right, and the first one that is not
a trusted proxy is the client: the values left of it were written by the client. An address that cannot be
parsed is unknown, and an unknown client gets the address of the proxy that has named it. Nothing here raises
for what a client has sent.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

import attrs

from reactor_trio.server.arrival import AUTHORITY, UNIX, Arrival, ip_of, is_prefix, node_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reactor_trio.server.arrival import IPAddress, Scheme
    from reactor_trio.server.http import Request

LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
"""The proxies that are trusted if the operator names none."""
MAX_HOPS = 32
"""The most proxies between client and server. Values further left are not read."""
MAX_ELEMENT = 1024
"""The most characters of one proxy's element of `Forwarded`."""
MAX_COMMAS = 256
"""The most commas in one line of `Forwarded`."""

_QUOTED = r'"(?:[^"\\]|\\.)*+"'
# An element of the list, up to its comma or the end; possessive, so that no text is read twice.
_ELEMENT = re.compile(rf'(?:[^",]++|{_QUOTED})*+(?=,|\Z)')
_PAIR = re.compile(rf"[ \t]*+([A-Za-z0-9!#$%&'*+.^_`|~-]++)=([^\s\",;]*+|{_QUOTED})[ \t]*+(?:;|\Z)")
_SCHEMES: Final[dict[str, Scheme]] = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


@attrs.frozen
class TrustedProxies:
    """The networks of trusted proxies. Every peer on a unix socket is trusted too."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

    @classmethod
    def named(cls, names: Iterable[str]) -> TrustedProxies:
        """Parse addresses and networks, such as `10.0.0.7` and `fd00::/8`, or `*`. Raises `ValueError`."""
        every = [each for name in names for each in (("0.0.0.0/0", "::/0") if name == "*" else (name,))]
        try:
            return cls(tuple(ipaddress.ip_network(name, strict=False) for name in every))
        except ValueError as exc:
            raise ValueError(f"{exc}: write it as 10.0.0.7 or 10.0.0.0/8 (--trusted-proxy)") from None

    def trusts(self, address: str) -> bool:
        """Whether the peer with this address, as `Arrival` writes it, is a trusted proxy."""
        return address == UNIX or self._has(ip_of(address))

    def _has(self, ip: IPAddress | None) -> bool:
        return ip is not None and any(ip in network for network in self.networks)


def arrival_of(request: Request, peer: str, proxies: TrustedProxies | None, root_path: str = "") -> Arrival:
    """The arrival of a request on a connection of `peer`; `proxies` None: no proxy is trusted."""
    own = Arrival(peer, host=request.host, prefix=root_path)
    if proxies is None or not proxies.trusts(peer):
        return own
    told = _customary(request, own, proxies)
    return _standard(request, own, proxies) if told is None else told


def _customary(request: Request, own: Arrival, proxies: TrustedProxies) -> Arrival | None:
    """The arrival by `X-Forwarded-*`. None if only `X-Forwarded-Prefix` is there, or none of them."""
    addresses = request.items("x-forwarded-for")
    protos, hosts = request.items("x-forwarded-proto"), request.items("x-forwarded-host")
    if not (addresses or protos or hosts):
        return None
    address, hop = _client(addresses, own.address, proxies)
    return _told(request, own, hop, address=address, scheme=_at(protos, hop), host=_at(hosts, hop))


def _standard(request: Request, own: Arrival, proxies: TrustedProxies) -> Arrival:
    """The arrival by `Forwarded`, or `own` without it; the prefix by `X-Forwarded-Prefix` in both cases."""
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


def _client(nodes: Sequence[str], peer: str, proxies: TrustedProxies) -> tuple[str, int]:
    """The client's address, and its position counted from the right; 1 is the rightmost."""
    address, hop = peer, 0
    for text in reversed(nodes[-MAX_HOPS:]):
        hop += 1
        if (node := node_of(text.strip('"'))) is None:
            break  # unknown, obfuscated or no address: this is the client, whose address is not known
        address = _written(*node)
        if not proxies._has(node[0]):
            break
    return address, max(hop, 1)


def _at(values: Sequence[str], hop: int) -> str:
    """The value of the proxy at this position; the leftmost one if proxies have replaced earlier values."""
    return values[-min(hop, len(values))] if values else ""


def _written(ip: IPAddress, port: int | None) -> str:
    host = f"[{ip}]" if ip.version == 6 else str(ip)
    return host if port is None else f"{host}:{port}"


# ---- RFC 7239, section 4: for=192.0.2.60;proto=https, for="[2001:db8::1]:4711";host=example.com


def _elements(line: str) -> list[str]:
    """The element of each proxy. Of a line that cannot be parsed, only the text behind its last comma."""
    found: list[str] = []
    at = 0 if line.count(",") <= MAX_COMMAS else len(line) + 1
    while at <= len(line):
        match = _ELEMENT.match(line, at)
        if match is None:  # a client's unclosed quote, behind which a proxy has appended its element
            found.clear()
            break
        if match[0].strip():
            found.append(match[0])
        at = match.end() + 1
    return found or [line.rpartition(",")[2]]


def _pairs(element: str) -> dict[str, str]:
    """Names in lower case, and values; empty if the element cannot be parsed."""
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
