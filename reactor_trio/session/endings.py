"""How a session can end. Every way out is one of these values and leads through the same code."""

from __future__ import annotations

import attrs

from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.protocol import names


@attrs.frozen
class Ending:
    """Why a session ended, and what the client is told.

    Without a `close_code` there is no one left to tell: the connection is closed by force.
    """

    reason: str
    close_code: int | None = None
    goodbye: bool = False
    """Say `reactor.goodbye` with `reason` before closing."""
    error: str | None = None
    """Send `reactor.error` with `model_error` and this text before closing."""
    play_out: bool = False
    """Let the client see the frames that were emitted before."""


FINISHED = Ending("finished", close_code=1000, goodbye=True, play_out=True)
SHUTTING_DOWN = Ending("shutting_down", close_code=1001, goodbye=True)
IDLE = Ending("idle", close_code=1000, goodbye=True)
TOO_MANY_ERRORS = Ending("too_many_errors", close_code=1008, goodbye=True)
RUN_FAILED = Ending(names.MODEL_ERROR, close_code=1011, error="the model failed")
CONNECT_FAILED = Ending(names.MODEL_ERROR, close_code=1011, error="the model could not start a session")
INTERNAL_ERROR = Ending(names.INTERNAL_ERROR, close_code=1011)

HEARTBEAT_LOST = Ending("heartbeat_lost")
SLOW_CLIENT = Ending("slow_client")
CANCELLED = Ending("cancelled")
"""Cancelled from outside: the drain took too long, or a second signal came."""


def of_transport(closed: TransportClosed) -> Ending:
    """The ending that a closed transport means."""
    if isinstance(closed, TransportStalled):
        return SLOW_CLIENT
    if closed.code == 1006:
        return Ending("connection_lost")
    if closed.code == 1009:
        return Ending("message_too_big")
    if closed.code in (1002, 1007, 1008):
        return Ending("websocket_error")
    return Ending("client_closed")
