"""The settings of a server: its addresses, its limits, and who may connect. One frozen value."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, gt

from reactor_trio.server.arrival import is_prefix
from reactor_trio.server.auth import fixed_token
from reactor_trio.server.forwarded import LOOPBACK, TrustedProxies
from reactor_trio.server.http import MAX_HEAD_BYTES
from reactor_trio.server.origins import Policy

if TYPE_CHECKING:
    import socket
    import ssl

    from reactor_trio.server.auth import Authenticate

# As browsers write it; `null` is the origin of a page that was opened as a file.
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+/?", re.IGNORECASE)


def _without_last_slash(path: str) -> str:
    return path.rstrip("/")


@attrs.frozen(kw_only=True)
class ServerSettings:
    """The addresses of a server, its limits, and who may connect. Sizes are in bytes, times in seconds.

    Raises `ValueError` for a value out of range, for a malformed origin, for two ways to authenticate, for a
    `web` that is no folder, and for an address that others can reach if there is neither a token nor
    `authenticate`, and `no_auth` does not say that this is meant.
    """

    host: str = "127.0.0.1"
    port: int = attrs.field(default=8080, validator=ge(0))
    """0 picks a free one."""
    uds: str | None = None
    """Path of a unix socket to listen on, instead of host and port; its owner and group may connect."""
    sockets: tuple[socket.socket, ...] = ()
    """Sockets that listen already, instead of host, port and uds; see `server.systemd`."""
    token: str | None = attrs.field(default=None, repr=False)
    """The fixed token that clients must show."""
    authenticate: Authenticate | None = None
    """The hook that decides who may connect, instead of a token; see `server.auth`."""
    no_auth: bool = False
    """Allow an address that other machines can reach without a token or `authenticate`."""
    allow_origins: tuple[str, ...] = ()
    """Origins besides the server's own whose pages may connect; `*` allows any."""
    allow_hosts: tuple[str, ...] = ()
    """Names that a Host header may have, besides its own, of a server that only this machine can reach."""
    max_sessions: int = attrs.field(default=0, validator=ge(0))
    """0 is no limit."""
    max_sessions_per_address: int = attrs.field(default=0, validator=ge(0))
    """Sessions and places in the queue of one address, or of one IPv6 network (/64); 0 is no limit."""
    max_connections: int = attrs.field(default=0, validator=ge(0))
    """Connections of all kinds; 0: as many as the descriptors of the process allow."""
    max_handshakes: int = attrs.field(default=512, validator=ge(1))
    """Connections without a session: the request has not arrived, or the answer is not read yet."""
    max_waiting: int = attrs.field(default=100, validator=ge(0))
    """Clients in the queue while all sessions are taken; 0: they are refused at once."""
    max_wait: float = attrs.field(default=300.0, validator=gt(0))
    """How long a client may be in the queue."""
    ssl_context: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    """Accept only TLS (https, wss); see `wire.tls.load_context`."""
    proxy_headers: bool = False
    """Take client, scheme, host and prefix from the headers of trusted proxies; see `server.forwarded`."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of trusted proxies; `*` is all. By default those of this machine (loopback).

    Every peer on a unix socket is trusted too.
    """
    web: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """A folder with a page of the author's own, which is served at `/`; see `server.web_folder`."""
    root_path: str = attrs.field(default="", converter=_without_last_slash)
    """The path below which a proxy serves this server, such as `/app1`. The proxy may remove it, or not."""
    drain_timeout: float = attrs.field(default=30.0, validator=ge(0))
    """How long sessions may take to end after the first signal."""
    stuck_timeout: float = attrs.field(default=300.0, validator=ge(0))
    """How long a call may occupy the model's device before `/health` says `failed`; 0: for ever."""
    handshake_timeout: float = attrs.field(default=10.0, validator=gt(0))
    """How long the TLS handshake, reading the request head, and `authenticate` may take together."""
    max_head_bytes: int = attrs.field(default=MAX_HEAD_BYTES, validator=gt(0))

    def __attrs_post_init__(self) -> None:
        if self.token is not None and not (
            self.token.isascii() and self.token.isprintable() and self.token.strip()
        ):
            raise ValueError("a token must be visible ASCII, and not empty")
        if self.token is not None and self.authenticate is not None:
            raise ValueError("a fixed token, or another way to authenticate, but not both")
        if self.uds is not None and (not self.uds or self.sockets):
            raise ValueError("one unix socket (--uds), or sockets that are handed over (--fd), but not both")
        if self.trusted_proxies and not self.proxy_headers:
            raise ValueError("--trusted-proxy needs --proxy-headers")
        TrustedProxies.named(self.trusted_proxies)
        if self.web is not None and not self.web.is_dir():
            raise ValueError(f"there is no folder {self.web} (--web)")
        if not is_prefix(self.root_path):
            raise ValueError(f"{self.root_path!r} is no path such as /app1 (--root-path)")
        for origin in self.allow_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: write it as in https://example.com, without a path, or * "
                    "(--allow-origin)"
                )
        if self.authenticator is None and not self.no_auth and not self.is_loopback:
            others = [host for host in self.hosts if not is_loopback_host(host)]
            raise ValueError(
                f"{others[0]!r} can be reached from other machines: give a token, or say that none is wanted "
                "(--token or --no-auth)"
            )

    @property
    def authenticator(self) -> Authenticate | None:
        """The hook that decides who may connect; None: every client may."""
        return self.authenticate if self.token is None else fixed_token(self.token)

    @property
    def proxies(self) -> TrustedProxies | None:
        """The trusted proxies; None: no proxy is trusted."""
        return TrustedProxies.named(self.trusted_proxies or LOOPBACK) if self.proxy_headers else None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses that the server listens on; empty if there are only unix sockets."""
        if self.sockets:
            names = [each.getsockname() for each in self.sockets]
            return tuple(name[0] for name in names if isinstance(name, tuple))
        return (self.host,) if self.uds is None else ()

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can connect. True if there are only unix sockets."""
        return all(map(is_loopback_host, self.hosts))

    @property
    def policy(self) -> Policy:
        """The origins whose pages may connect, and the names of this server."""
        guarded = self.authenticator is not None or not self.is_loopback
        return Policy(
            frozenset(self.allow_origins),
            None if guarded else frozenset(map(str.lower, self.hosts)),
            frozenset(host.lower().rstrip(".") for host in self.allow_hosts),
        )


def is_loopback_host(host: str) -> bool:
    """Whether only this machine can reach the address; not of a name but `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
