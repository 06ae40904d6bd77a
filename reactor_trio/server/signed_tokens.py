"""Signed tokens with an expiry (JWT, RFC 7519): a hook that lets in each client whose token is valid.

Needs PyJWT: `pip install "reactor-trio[auth]"`. Only this module imports PyJWT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jwt
from jwt.algorithms import get_default_algorithms

from reactor_trio.declare.identity import Identity
from reactor_trio.logs.logger import get_logger
from reactor_trio.server.auth import ALGORITHMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactor_trio.declare.identity import AuthRequest
    from reactor_trio.server.auth import Algorithm, Authenticate

LEEWAY = 30.0
"""Seconds by which the clocks of the signer and of this machine may differ, unless told otherwise."""

_DIGEST_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}

log = get_logger(__name__)


def signed_tokens(
    key: bytes,
    *,
    algorithm: Algorithm = "HS256",
    audience: str | None = None,
    issuer: str | None = None,
    leeway: float = LEEWAY,
) -> Authenticate:
    """A hook that lets in a client whose token `key` verifies, if it has a `sub` and its `exp` is not over.

    `sub` becomes the identity's subject. `key` is the secret for HS256, HS384 and HS512, else a public key in
    PEM. With `audience` or `issuer` the token must name it; without `audience` a token that names one is
    refused (RFC 7519, 4.1.3). The expiry is checked when the client connects, so a session may outlast its
    token. `leeway` is in seconds.

    Raises `ValueError` for an unknown algorithm, and for a key that does not fit the algorithm.
    """
    prepared = _prepared(key, algorithm)
    # One algorithm only: if both kinds were allowed, a public key could serve as a secret (RFC 8725, 2.1).
    algorithms: Sequence[str] = (algorithm,)

    def authenticate(request: AuthRequest) -> Identity | None:
        if request.token is None:
            return None
        try:
            claims = jwt.decode(
                request.token,
                prepared,
                algorithms=algorithms,
                audience=audience,
                issuer=issuer,
                leeway=leeway,
                options={"require": ["exp", "sub"]},
            )
        except jwt.InvalidTokenError as exc:
            # Only the class is logged, since the text may quote the token.
            log.info("token refused", reason=type(exc).__name__, address=request.address)
            return None
        return Identity(claims["sub"], claims)

    return authenticate


def _prepared(key: bytes, algorithm: str) -> Any:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"tokens are signed with {', '.join(ALGORITHMS)}, not {algorithm}")
    if algorithm in _DIGEST_BYTES:
        return _secret(key, algorithm)
    if b"PRIVATE KEY-----" in key:
        raise ValueError(f"{algorithm} is verified by the public key; the private one stays with the signer")
    try:
        return get_default_algorithms()[algorithm].prepare_key(key)
    except (jwt.InvalidKeyError, ValueError, TypeError):
        raise ValueError(f"this is no public key in PEM for {algorithm}") from None


def _secret(key: bytes, algorithm: str) -> bytes:
    if b"-----BEGIN " in key:
        raise ValueError(
            f"{algorithm} is verified by a secret, and this is a key in PEM: say which algorithm"
        )
    # RFC 7518, 3.2: a secret is at least as long as the digest.
    if len(key) < _DIGEST_BYTES[algorithm]:
        raise ValueError(f"{algorithm} wants a secret of {_DIGEST_BYTES[algorithm]} bytes, not {len(key)}")
    return key
