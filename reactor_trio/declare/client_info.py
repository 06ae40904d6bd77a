"""Who is at the other end of a session."""

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
    """Where the client connects from, such as `192.0.2.7:51234`; empty where there is no network.

    What a trusted proxy tells may have no port; on a unix socket it is `unix`."""
    identity: Identity | None = None
    """Who it is, where the server asks (`--token`, `--jwt-key`, `server.authenticate`); else None."""
