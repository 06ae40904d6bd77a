"""Keywords of `reactor_trio.serve` and `reactor_trio.asgi`: the fields of `ServerSettings`, typed.

`auth=False` stands for `no_auth=True`. Errors name keywords, where the errors of `ServerSettings` name
options of the command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

import attrs

from reactor_trio.media.settings import MediaSettings
from reactor_trio.model.model import ReactorModel
from reactor_trio.server.settings import ServerSettings
from reactor_trio.session.limits import Limits

if TYPE_CHECKING:
    import socket
    import ssl

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

    Raises `ValueError` for an impossible value, `TypeError` for one of another type, and names its keyword.
    """
    fields = dict(options)
    for name in ("allow_origins", "allow_hosts", "trusted_proxies"):
        if isinstance(fields.get(name), str):  # or each of its characters would be an item
            fields[name] = (fields[name],)
    for name in ("allow_origins", "allow_hosts", "trusted_proxies", "sockets"):
        if isinstance(fields.get(name), Iterable):
            fields[name] = tuple(fields[name])
    for name, value in fields.items():
        _check_option(name, value)
    fields["no_auth"] = not fields.pop("auth", True)
    try:
        return ServerSettings(**fields)
    except ValueError as exc:
        raise ValueError(_in_keywords(str(exc))) from None


def check_names(function: str, options: Mapping[str, Any], known: type) -> None:
    """Raises `TypeError`, as Python would, for a keyword that the function does not have."""
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def check_arguments(model: object, config: object, name: object, limits: object, media: object) -> None:
    """Raises `TypeError`, with the name of the argument, for one of another type."""
    if not (isinstance(model, type) and issubclass(model, ReactorModel)):
        raise TypeError(f"model must be a class derived from ReactorModel, not {model!r}")
    kinds: dict[str, tuple[object, type, str]] = {
        "config": (config, Mapping, "a mapping, such as a dict"),
        "name": (name, str, "a str"),
        "limits": (limits, Limits, "a reactor_trio.Limits"),
        "media": (media, MediaSettings, "a reactor_trio.MediaSettings"),
    }
    for argument, (value, kind, described) in kinds.items():
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{argument} must be {described}, not {value!r}")


_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "Path": (str, Path),
}
"""The types of a value, by the annotation of its field in `ServerSettings`."""


def _check_option(name: str, value: Any) -> None:
    annotation = "bool" if name == "auth" else str(getattr(attrs.fields(ServerSettings), name).type)
    kind = annotation.removesuffix(" | None")
    if value is None and kind != annotation:
        return
    if kind in _KINDS:
        fits = isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
        if not fits:
            raise TypeError(f"{name} must be {_described(kind)}, not {value!r}")
    elif kind.startswith("tuple"):
        if not isinstance(value, tuple):
            raise TypeError(f"{name} must be a list, not {value!r}")
        if kind.startswith("tuple[str") and not all(isinstance(each, str) for each in value):
            raise TypeError(f"{name} must be a list of str, not {list(value)!r}")
    elif kind == "Authenticate" and not callable(value):
        raise TypeError(f"{name} must be a function, not {value!r}")


def _described(kind: str) -> str:
    return {"int": "an int", "float": "a number", "Path": "a path"}.get(kind, f"a {kind}")


def _in_keywords(text: str) -> str:
    """The text, with each option of the command replaced by its keyword."""
    return re.sub(
        r"--[a-z][a-z-]*[a-z]", lambda option: _KEYWORDS.get(option[0], option[0][2:].replace("-", "_")), text
    )
