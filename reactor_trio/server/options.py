"""Keywords of `reactor_trio.serve` and `reactor_trio.asgi`: the fields of `ServerSettings`, typed.

`auth=False` stands for `no_auth=True`. Errors name keywords, where the errors of `ServerSettings` name
options of the command.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypedDict

from reactor_trio.server.settings import ServerSettings

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from reactor_trio.server.auth import Authenticate

_KEYWORDS: Final = {
    "--no-auth": "auth=False",
    "--allow-origin": "allow_origins",
    "--allow-host": "allow_hosts",
    "--trusted-proxy": "trusted_proxies",
    "--fd": "sockets",
}
"""The keyword of each option that is spelled differently."""


class AccessOptions(TypedDict, total=False):
    """Keywords of both `serve` and `asgi`: who may come in, how many clients, and which page they see."""

    token: str | None
    authenticate: Authenticate | None
    auth: bool
    allow_origins: Iterable[str]
    allow_hosts: Iterable[str]
    web: str | Path | None
    max_sessions: int
    max_sessions_per_address: int
    max_waiting: int
    max_wait: float
    drain_timeout: float
    stuck_timeout: float
    handshake_timeout: float


class ServeOptions(AccessOptions, total=False):
    """Keywords of `serve` alone: they concern its sockets."""

    uds: str | None
    sockets: Iterable[socket.socket]
    ssl_context: ssl.SSLContext | None
    proxy_headers: bool
    trusted_proxies: Iterable[str]
    root_path: str
    max_connections: int
    max_handshakes: int
    max_head_bytes: int


def settings_of(options: Mapping[str, Any]) -> ServerSettings:
    """The settings that these keywords describe.

    Raises `ValueError` for an impossible value, and names its keyword.
    """
    fields = dict(options)
    fields["no_auth"] = not fields.pop("auth", True)
    for name in ("allow_origins", "allow_hosts", "trusted_proxies"):
        if isinstance(fields.get(name), str):  # or each of its characters would be an item
            fields[name] = (fields[name],)
    for name in ("allow_origins", "allow_hosts", "trusted_proxies", "sockets"):
        if name in fields:
            fields[name] = tuple(fields[name])
    try:
        return ServerSettings(**fields)
    except ValueError as exc:
        raise ValueError(_in_keywords(str(exc))) from None


def check_names(function: str, options: Mapping[str, Any], known: type) -> None:
    """Raises `TypeError`, as Python would, for a keyword that the function does not have."""
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def _in_keywords(text: str) -> str:
    """The text, with each option of the command replaced by its keyword."""
    return re.sub(
        r"--[a-z][a-z-]*[a-z]", lambda option: _KEYWORDS.get(option[0], option[0][2:].replace("-", "_")), text
    )
