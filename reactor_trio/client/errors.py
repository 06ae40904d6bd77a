"""Errors of the client beyond those of `reactor_trio.errors`, where the tree is drawn."""

from __future__ import annotations

from reactor_trio.errors import CommandError, TransportClosed
from reactor_trio.protocol.names import SUPERSEDED


class Superseded(CommandError):
    """A later command of the same deduplicated event replaced this one before its handler ran.

    This is no failure: a program that sends many values of a slider catches it and goes on.
    """

    def __init__(self, event: str) -> None:
        code = SUPERSEDED.rpartition(".")[2]
        super().__init__(code, "a later command of this event replaced this one", event=event)


def again(closed: TransportClosed) -> TransportClosed:
    """A copy of the error: one object that several tasks raise would collect all their tracebacks."""
    return type(closed)(closed.code, closed.reason)
