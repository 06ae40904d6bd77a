"""When a peer is pinged, and when it is lost: for a session, a client in the queue, and the Python client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from reactor_trio.wire.transport import Transport

WAITED = 0.05
"""Seconds from which on a write counts as having waited for the peer; others take some microseconds."""
LOOKS = 3
"""Passes of Trio's loop that the reading task gets before a peer is lost: one to learn that bytes have
arrived, one to read them, and one for TLS."""


class Heartbeat:
    """Pings a peer every `interval` seconds, and finds it lost if no byte has arrived since the last ping.

    Any byte is a sign of life, not only a pong: a client that sends commands, or the rest of a large frame,
    is there. The peer's silence counts only while this side listened, not while its loop was blocked or its
    process suspended. With `only_silent`, a peer that was heard within the interval is not pinged. The task
    that writes owns the heartbeat: it sleeps until `next_at` and then calls `beat`. Times are in seconds of
    Trio's clock.
    """

    def __init__(self, interval: float, *, only_silent: bool = False) -> None:
        self._interval = interval
        self._only_silent = only_silent
        # When the last ping was begun, which the peer is to answer.
        self._pinged: float | None = None
        self.next_at = trio.current_time() + interval
        """When the writing task is to call `beat`."""

    async def beat(self, transport: Transport) -> bool:
        """Ping the peer. Returns False, having written nothing, if the peer is lost.

        A checkpoint whenever it pings. Errors and cancellation are those of `Transport.ping`.
        """
        if self._is_silent(transport):
            # This task is late if the loop was blocked or the process suspended: no peer could be heard then.
            is_late = trio.current_time() - self.next_at >= self._interval / 2
            # The answer may have arrived unread: the task that reads was woken together with this one.
            for _ in range(LOOKS):
                await trio.lowlevel.checkpoint()
            if self._is_silent(transport) and not is_late:
                return False
        if self._only_silent and transport.last_received + self._interval > trio.current_time():
            self.next_at = transport.last_received + self._interval
            return True
        # The time is noted before the ping is written, since the answer may be read before this task goes on,
        # and must not look older than its ping. A byte of the very same time counts as an answer, as it may
        # be one under a clock that stands still; at worst a dead peer is found one ping later.
        self._pinged = trio.current_time()
        await transport.ping()
        # The interval begins after the ping, which may have waited behind a large write, so that the peer
        # has all of its time to answer.
        self._expect_next()
        return True

    def _is_silent(self, transport: Transport) -> bool:
        return self._pinged is not None and transport.last_received < self._pinged

    def wrote(self, began: float) -> None:
        """Take note that a write has ended; `began` is when it began.

        A write that had to wait shows that the peer is there, since the peer has made room for it. Pings lie
        behind bytes that the peer has not read yet, so the time for its answer begins now.
        """
        if trio.current_time() - began >= WAITED:
            self._expect_next()

    def _expect_next(self) -> None:
        self.next_at = trio.current_time() + self._interval
