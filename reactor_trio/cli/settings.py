"""Options of `reactor-trio serve` about addresses and clients; the settings made of all of its options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from reactor_trio.cli.auth import JWT_OPTIONS, take_authenticate
from reactor_trio.cli.errors import Refusal
from reactor_trio.cli.limits import LIMITS, MEDIA
from reactor_trio.cli.proxies import PROXY_OPTIONS, take_sockets
from reactor_trio.media.settings import MediaSettings
from reactor_trio.server.settings import ServerSettings
from reactor_trio.session.limits import Limits
from reactor_trio.wire.tls import load_context

if TYPE_CHECKING:
    import ssl

    from reactor_trio.server.auth import Authenticate

ADDRESS_OPTIONS = (
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option(
        "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0 picks one."
    ),
)
CLIENT_OPTIONS = (
    click.option(
        "--max-sessions",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Clients at a time; 0: no limit.",
    ),
    click.option(
        "--max-sessions-per-address",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Clients of one address, or IPv6 network, that may be there or wait; 0: no limit.",
    ),
    click.option(
        "--max-connections",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Connections of all kinds; 0: as many as there are descriptors for.",
    ),
    click.option(
        "--max-handshakes",
        type=click.IntRange(1),
        default=512,
        show_default=True,
        help="Connections without a session: a request is still to come, or an answer to be read.",
    ),
    click.option(
        "--max-waiting",
        type=click.IntRange(0),
        default=100,
        show_default=True,
        help="Clients that may wait in line when it is full; 0: they are refused at once.",
    ),
    click.option(
        "--max-wait",
        type=float,
        default=300.0,
        show_default=True,
        help="Seconds that a client may wait in line.",
    ),
    click.option(
        "--token", envvar="REACTOR_TOKEN", show_envvar=True, help="What clients must show to be let in."
    ),
    *JWT_OPTIONS,
    click.option("--no-auth", is_flag=True, help="Let anyone in who can reach the address."),
    click.option(
        "--allow-origin",
        "allow_origins",
        multiple=True,
        metavar="ORIGIN",
        help="Other pages that may connect, such as https://example.com; * for any.",
    ),
    click.option(
        "--allow-host",
        "allow_hosts",
        multiple=True,
        metavar="NAME",
        help="Another name by which a server of this machine alone may be asked.",
    ),
    click.option(
        "--certfile",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Certificate chain in PEM: serve https and wss.",
    ),
    click.option(
        "--keyfile",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The certificate's key in PEM, without a password, if it is not in --certfile.",
    ),
    *PROXY_OPTIONS,
    click.option(
        "--web",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Serve the page in this folder at / instead of the playground, which is at /playground too.",
    ),
    click.option(
        "--drain-timeout",
        type=float,
        default=30.0,
        show_default=True,
        help="Seconds that sessions have to end on SIGTERM.",
    ),
    click.option(
        "--stuck-timeout",
        type=float,
        default=300.0,
        show_default=True,
        help="Seconds that a call may keep the model's device until /health says failed; 0: for ever.",
    ),
)


@attrs.frozen
class Settings:
    """The three settings values that the options of `serve` are fields of."""

    limits: Limits
    media: MediaSettings
    server: ServerSettings


def read_settings(options: dict[str, Any], hook: Authenticate | None) -> Settings:
    """Make the settings of all options that are fields of them; `options` is used up.

    `hook` is the project's `server.authenticate`. Raises `Refusal` for values that are out of range, that do
    not go together, or that name a file which cannot be read.
    """
    try:
        limits = Limits(**{name: options.pop(name) for name in LIMITS})
        media = MediaSettings(**{name: options.pop(name) for name in MEDIA})
        context = _ssl_context(options.pop("certfile"), options.pop("keyfile"))
        authenticate = take_authenticate(options, hook)
        take_sockets(options)
        server = ServerSettings(ssl_context=context, authenticate=authenticate, **options)
        return Settings(limits, media, server)
    except ValueError as exc:
        # attrs writes `'send_timeout' must be > 0: 0.0`; the operator knows it as `--send-timeout`.
        text = re.sub(r"^'(\w+)'(?= must )", lambda field: f"--{field[1].replace('_', '-')}", str(exc))
        raise Refusal(text) from None


def _ssl_context(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    if certfile is None:
        if keyfile is not None:
            raise ValueError("--keyfile needs --certfile")
        return None
    return load_context(certfile, keyfile)
