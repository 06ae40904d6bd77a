"""Who is at the other end of a session."""

from __future__ import annotations

import attrs


@attrs.frozen
class ClientInfo:
    """The client of one session: `self.client`, or a handler's parameter named `client`."""

    id: str
    """The session's id."""
    joined_at: float
    """When the session began, in seconds of the runtime's clock."""
    address: str
    """Where the client connects from, such as `192.0.2.7:51234`; empty where there is no network."""
