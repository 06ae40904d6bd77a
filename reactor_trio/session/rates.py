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

if TYPE_CHECKING:
    from reactor_trio.protocol.text import ClientText
    from reactor_trio.session.limits import Limits

_ROUNDING = 1e-9
"""Tokens that may be missing, or a client that waits for exactly as long as it was told comes too early."""


MAX_DEBT = 1.0
"""Seconds that bytes or messages may owe while there are more to be handled."""


class TokenBucket:
    """Fills with `rate` tokens a second up to `burst`. Times are in seconds of any one clock.

    Within any `t` seconds `take` lets at most `burst + rate * t` pass.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, amount: float = 1.0) -> float:
        """Take `amount`, at most `burst`, and return 0; else return the seconds until there is enough."""
        self._fill(now)
        missing = amount - self._tokens
        if missing > _ROUNDING:
            return missing / self._rate
        self._tokens -= amount
        return 0.0

    def spend(self, now: float, amount: float) -> None:
        """Take so many in any case; what is missing is a debt."""
        self._fill(now)
        self._tokens -= amount

    @property
    def owes(self) -> bool:
        """Whether there was a debt when something was last taken: a look that needs no clock."""
        return self._tokens < 0

    def debt(self, now: float) -> float:
        """Seconds until the debt is paid."""
        self._fill(now)
        return max(0.0, -self._tokens / self._rate)

    def give_back(self, amount: float = 1.0) -> None:
        """Undo a `take`."""
        self._tokens = min(self._burst, self._tokens + amount)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + self._rate * (now - self._at))
        self._at = now


class Rates:
    """The rates of one session. A burst is what one second allows."""

    def __init__(self, limits: Limits) -> None:
        self._commands = _bucket(limits.max_events_per_second)
        self._bytes = _bucket(limits.max_bytes_per_second)
        self._messages = _bucket(limits.max_messages_per_second)
        self._limit = limits.max_events_per_second

    def command(self, message: ClientText, now: float) -> None:
        """Count a command, whatever becomes of it. Raises `ProtocolError` (`overloaded`, `retry_after`)."""
        if self._commands is None:
            return
        wait = self._commands.take(now)
        if wait:
            raise ProtocolError(
                names.OVERLOADED,
                f"more than {self._limit:g} commands a second; this one was not taken",
                event=message.type,
                reply_to=message.id,
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
