"""Options of a server that stands behind a reverse proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = (
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


def proxy_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add them to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
