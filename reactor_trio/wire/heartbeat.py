"""When a peer is pinged, and when it is lost. The session, the line and the Python client share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from reactor_trio.wire.transport import Transport

WAITED = 0.05
"""Seconds from which on a write has waited for the peer: what needs no waiting takes some microseconds."""
LOOKS = 3
"""Passes of the loop that the reading task gets before a peer is lost: one to learn that there are bytes, one
to read them, and one for TLS."""


class Heartbeat:
    """Pings a peer every `interval` seconds, and finds it lost if no byte has come since the last ping.

    Any byte counts, not only a pong: a client that sends commands, or the rest of a large frame, is there. A
    silence counts only while this side listened: not while its loop was blocked, or its process suspended.
    With `only_silent`, a peer that was heard within the interval is not asked. The writing task owns it: it
    sleeps until `next_at` and then calls `beat`. Times are in seconds of Trio's clock.
    """

    def __init__(self, interval: float, *, only_silent: bool = False) -> None:
        self._interval = interval
        self._only_silent = only_silent
        # When the ping that is to be answered was begun.
        self._pinged: float | None = None
        self.next_at = trio.current_time() + interval
        """When `beat` is to be called next."""

    async def beat(self, transport: Transport) -> bool:
        """Ping the peer; returns False, having written nothing, if it has not been heard since the last ping.

        Always a checkpoint if it pings. Raises, and may be cancelled, as `Transport.ping`.
        """
        if self._is_silent(transport):
            # Late, because the loop was blocked or the process suspended: nobody could be heard meanwhile.
            is_late = trio.current_time() - self.next_at >= self._interval / 2
            # The answer may be there, unread: the task that reads was woken together with this one.
            for _ in range(LOOKS):
                await trio.lowlevel.checkpoint()
            if self._is_silent(transport) and not is_late:
                return False
        if self._only_silent and transport.last_received + self._interval > trio.current_time():
            self.next_at = transport.last_received + self._interval
            return True
        # Before the ping, since its answer may be read before this task goes on: a time that were noted
        # afterwards would make it older than its question. A byte of the very same time counts as an answer,
        # as it may be one under a clock that stands still; at worst a dead peer is found one ping later.
        self._pinged = trio.current_time()
        await transport.ping()
        # After the ping, which may have waited behind a large write: the peer has all of its time to answer.
        self._expect_next()
        return True

    def _is_silent(self, transport: Transport) -> bool:
        return self._pinged is not None and transport.last_received < self._pinged

    def wrote(self, began: float) -> None:
        """A write that began then has ended. One that waited was waiting for the peer, which so is there.

        Its pings lie behind what it has not read yet, so it gets its time to answer from now on.
        """
        if trio.current_time() - began >= WAITED:
            self._expect_next()

    def _expect_next(self) -> None:
        self.next_at = trio.current_time() + self._interval
