"""Options of a server behind a reverse proxy or a service manager, and the message that it is ready."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from reactor_trio.server.systemd import listening_sockets, notify, passed_descriptors

if TYPE_CHECKING:
    from reactor_trio.server.serve import Server

PROXY_OPTIONS = (
    click.option(
        "--uds",
        metavar="PATH",
        help="Listen on a unix socket instead of an address; its owner and group may connect.",
    ),
    click.option(
        "--fd",
        "descriptors",
        type=click.IntRange(0),
        multiple=True,
        metavar="N",
        help="Listen on the socket that this descriptor is, handed over by whatever has started this.",
    ),
    click.option(
        "--proxy-headers",
        is_flag=True,
        help="Believe a reverse proxy on this machine who its client is (X-Forwarded-For, Forwarded).",
    ),
    click.option(
        "--trusted-proxy",
        "trusted_proxies",
        multiple=True,
        metavar="ADDRESS",
        help="Believe this proxy, or network of proxies, instead of those on this machine; * for any.",
    ),
    click.option(
        "--root-path",
        default="",
        metavar="PATH",
        help="Path below which a proxy serves this server, such as /app1.",
    ),
)


def take_sockets(options: dict[str, Any]) -> None:
    """Replace the option `--fd` by the sockets of `--fd` or of systemd. Raises `ValueError`."""
    named, passed = options.pop("descriptors"), passed_descriptors(os.environ)
    if passed and (named or options["uds"] is not None):
        raise ValueError("sockets were handed over (LISTEN_FDS): --uds and --fd are to be left out")
    options["sockets"] = listening_sockets(tuple(dict.fromkeys(named)) or passed)


def announce(server: Server) -> None:
    """Print the addresses of the server on standard output, and tell a service manager that it is ready."""
    s, path = "s" if server.is_secure else "", server.settings.root_path
    places = [f"unix:{socket}" for socket in server.paths]
    if server.addresses:
        authority = f"{server.authority}{path}"
        places.insert(0, f"http{s}://{authority}/  (WebSocket ws{s}://{authority}/ws)")
    with suppress(OSError, ValueError, AttributeError):  # standard output is closed
        click.echo(f"{server.name} is served at {', and at '.join(places)}")
        sys.stdout.flush()
    notify("READY=1")
