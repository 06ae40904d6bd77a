"""How a link and a session can end. Every way out is one of these values and leads through the same code.

A link's end is a value too, which the session's policy turns into an ending (`of_link`).
"""

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


@attrs.frozen
class LinkEnding:
    """Why a link ended.

    Without a `close_code` the client is lost: the connection is closed by force.
    """

    reason: str
    close_code: int | None = None
    """The client is still there, and is to be told goodbye."""


FINISHED = Ending("finished", close_code=1000, goodbye=True, play_out=True)
SHUTTING_DOWN = Ending("shutting_down", close_code=1001, goodbye=True)
RUN_FAILED = Ending(names.MODEL_ERROR, close_code=1011, error="the model failed")
CONNECT_FAILED = Ending(names.MODEL_ERROR, close_code=1011, error="the model could not start a session")
INTERNAL_ERROR = Ending(names.INTERNAL_ERROR, close_code=1011)

CANCELLED = Ending("cancelled")
"""Cancelled from outside: the drain took too long, or a second signal came."""

IDLE = LinkEnding("idle", close_code=1000)
TOO_MANY_ERRORS = LinkEnding("too_many_errors", close_code=1008)
HEARTBEAT_LOST = LinkEnding("heartbeat_lost")
SLOW_CLIENT = LinkEnding("slow_client")


def of_transport(closed: TransportClosed) -> LinkEnding:
    """The end of a link whose transport is closed."""
    if isinstance(closed, TransportStalled):
        return SLOW_CLIENT
    if closed.code == 1006:
        return LinkEnding("connection_lost")
    if closed.code == 1009:
        return LinkEnding("message_too_big")
    if closed.code in (1002, 1007, 1008):
        return LinkEnding("websocket_error")
    return LinkEnding("client_closed")


def of_link(ended: LinkEnding) -> Ending:
    """The session's policy: it ends with its one link, at once."""
    return Ending(ended.reason, ended.close_code, goodbye=ended.close_code is not None)
