"""The reasons for which a link and a session can end, as values.

Every end of a session is an `Ending` and is handled by `Session.end`. Every end of a link is a `LinkEnding`,
which the session's policy turns into an `Ending` (`of_link`).
"""

from __future__ import annotations

import attrs

from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.protocol import names


@attrs.frozen
class Ending:
    """Why a session ended, and how the client is told.

    Without a `close_code` the client is lost, or must not be waited for: the connection is closed by force.
    """

    reason: str
    close_code: int | None = None
    goodbye: bool = False
    """Say `reactor.goodbye` with `reason` before closing."""
    error: str | None = None
    """Send `reactor.error` with `model_error` and this text before closing."""
    play_out: bool = False
    """Show the client the frames that were emitted before the end, before closing."""


@attrs.frozen
class LinkEnding:
    """Why a link ended.

    Without a `close_code` the client is lost: the connection is closed by force.
    """

    reason: str
    close_code: int | None = None
    """If set, the client is still connected, and the session says goodbye and closes with this code."""


FINISHED = Ending("finished", close_code=1000, goodbye=True, play_out=True)
SHUTTING_DOWN = Ending("shutting_down", close_code=1001, goodbye=True)
RUN_FAILED = Ending(names.MODEL_ERROR, close_code=1011, error="the model failed")
CONNECT_FAILED = Ending(names.MODEL_ERROR, close_code=1011, error="the model could not start a session")
INTERNAL_ERROR = Ending(names.INTERNAL_ERROR, close_code=1011)

CANCELLED = Ending("cancelled")
"""The session was cancelled from outside: the drain took too long, or a second signal arrived."""

IDLE = LinkEnding("idle", close_code=1000)
TOO_MANY_ERRORS = LinkEnding("too_many_errors", close_code=1008)
HEARTBEAT_LOST = LinkEnding("heartbeat_lost")
SLOW_CLIENT = LinkEnding("slow_client")


def of_transport(closed: TransportClosed) -> LinkEnding:
    """Return the ending of a link whose transport was closed with this error."""
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
    """Return the ending of a session whose link has ended: a session ends at once with its only link."""
    return Ending(ended.reason, ended.close_code, goodbye=ended.close_code is not None)
