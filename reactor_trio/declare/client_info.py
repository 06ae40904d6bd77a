"""`ClientInfo`: the client of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from reactor_trio.declare.identity import Identity


@attrs.frozen
class ClientInfo:
    """The client of one session: `self.client`, or a handler's parameter named `client`."""

    id: str
    """The session's id."""
    joined_at: float
    """When the session began, in seconds of the runtime's clock."""
    address: str
    """The address of the client, such as `192.0.2.7:51234`; empty where there is no network.

    The address that a trusted proxy reports may have no port. On a unix socket the address is `unix`."""
    identity: Identity | None = None
    """The authenticated client, if the server authenticates (`--token`, `--jwt-key`, `server.authenticate`);
    otherwise None."""
