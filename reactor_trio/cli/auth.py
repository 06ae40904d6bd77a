"""Options of `serve` for signed tokens, and the choice between them and the project's own hook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reactor_trio.server.auth import ALGORITHMS

if TYPE_CHECKING:
    from reactor_trio.server.auth import Authenticate

JWT_OPTIONS = (
    click.option(
        "--jwt-key",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Let in whoever shows a token signed with this secret, or by the owner of this public key.",
    ),
    click.option(
        "--jwt-algorithm",
        type=click.Choice(ALGORITHMS),
        default=ALGORITHMS[0],
        show_default=True,
        help="How such tokens are signed.",
    ),
    click.option("--jwt-audience", metavar="NAME", help="Whom such a token must be meant for."),
    click.option("--jwt-issuer", metavar="NAME", help="Who must have issued such a token."),
)


def take_authenticate(options: dict[str, Any], hook: Authenticate | None) -> Authenticate | None:
    """Remove these options from `options`, and return the hook for signed tokens, or the project's hook.

    Raises `ValueError` with a text for the operator.
    """
    key, algorithm, audience, issuer = (
        options.pop(f"jwt_{name}") for name in ("key", "algorithm", "audience", "issuer")
    )
    if key is None:
        for name, value in (("audience", audience), ("issuer", issuer)):
            if value is not None:
                raise ValueError(f"--jwt-{name} needs --jwt-key")
        return hook
    if hook is not None:
        raise ValueError("--jwt-key, or server.authenticate in reactor.yaml, but not both")
    try:
        from reactor_trio.server.signed_tokens import signed_tokens
    except ImportError:
        raise ValueError('--jwt-key needs PyJWT: pip install "reactor-trio[auth]"') from None
    try:
        return signed_tokens(_read_key(key), algorithm=algorithm, audience=audience, issuer=issuer)
    except ValueError as exc:
        raise ValueError(f"--jwt-key {key}: {exc}") from None


def _read_key(file: Path) -> bytes:
    try:
        # An editor, or `openssl rand -hex 32`, ends the file with a newline that is not part of the key.
        return file.read_bytes().rstrip(b"\r\n")
    except OSError as exc:
        raise ValueError(f"cannot be read: {exc.strerror}") from None
