"""How much a client may ask for in a time: token buckets, on a clock that is handed in.

Commands beyond their rate are refused, `overloaded`, with the seconds after which to try again: a client that
steers wants to know, and what it sends next may be about something else. Bytes beyond theirs are not: an
upload that were refused would have to begin again. Nor are messages of all kinds (commands, the runtime's
own, frames, chunks, and what cannot be read): to refuse one costs as much as to take it. The receive task
reads later instead, and TCP slows the sender down. What lies behind on the one socket, pings and commands
too, waits with them, so each pause is short: what one read brings is handled and then paid for, or paid for
when it has cost a second (`MAX_DEBT`), and `Limits` asks for a rate of at least one whole message a second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from reactor_trio.errors import ProtocolError
from reactor_trio.protocol import names
from reactor_trio.wire.token_bucket import TokenBucket

if TYPE_CHECKING:
    from reactor_trio.protocol.client_messages import Invoke
    from reactor_trio.session.limits import Limits

MAX_DEBT = 1.0
"""Seconds that bytes or messages may owe while there are more to be handled."""


class Rates:
    """The rates of one session. A burst is what one second allows."""

    def __init__(self, limits: Limits) -> None:
        self._commands = _bucket(limits.max_events_per_second)
        self._bytes = _bucket(limits.max_bytes_per_second)
        self._messages = _bucket(limits.max_messages_per_second)
        self._limit = limits.max_events_per_second

    def command(self, command: Invoke, now: float) -> None:
        """Count a command, whatever becomes of it. Raises `ProtocolError` (`overloaded`, `retry_after`)."""
        if self._commands is None:
            return
        wait = self._commands.take(now)
        if wait:
            raise ProtocolError(
                names.OVERLOADED,
                f"more than {self._limit:g} commands a second; this one was not taken",
                event=command.event,
                reply_to=command.id,
                retry_after=math.ceil(wait * 1000) / 1000,
            )

    def superseded(self) -> None:
        """A command was replaced before it ran: the one that did it counts, this one no more."""
        if self._commands is not None:
            self._commands.give_back()

    def messages(self, count: int) -> None:
        """Count messages of any kind."""
        if self._messages is not None:
            self._messages.spend(trio.current_time(), count)

    async def received(self, size: int) -> None:
        """Count bytes of media or of an upload; wait if they owe too much. Not always a checkpoint."""
        if self._bytes is not None:
            self._bytes.spend(trio.current_time(), size)
            await self.pause_if_deep()

    async def pause_if_deep(self) -> None:
        """Wait until everything is paid for, if more than `MAX_DEBT` is owed; not always a checkpoint."""
        if self._debt() > MAX_DEBT:
            await self.pause()

    async def pause(self) -> None:
        """Wait until bytes and messages are paid for; not always a checkpoint."""
        if seconds := self._debt():
            await trio.sleep(seconds)

    def _debt(self) -> float:
        owing = [bucket for bucket in (self._bytes, self._messages) if bucket is not None and bucket.owes]
        return max([bucket.debt(trio.current_time()) for bucket in owing], default=0.0)


def _bucket(rate: float) -> TokenBucket | None:
    return TokenBucket(rate, max(rate, 1.0), trio.current_time()) if rate else None
