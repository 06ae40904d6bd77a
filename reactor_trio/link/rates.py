"""Rate limits of one client: its commands, its bytes and its messages per second, each by a token bucket.

A command beyond the rate of commands is refused (`overloaded`) with the seconds after which to try again: a
client that steers needs to know, and its next command may be about something else.

Bytes and messages beyond their rates are not refused. A refused chunk would make its whole upload begin
again, and to refuse a message of any kind (a command, a message to the runtime, a frame, a chunk, or a broken
message) costs as much as to take it. The receive task reads later instead, and TCP slows the client down.

Pings and commands that are behind on the same socket wait too, so each pause is short. The receive task
pauses after the messages of one read, or as soon as these owe more than a second (`MAX_DEBT`), and `Limits`
requires a rate of at least one whole message a second.
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
"""Seconds that bytes or messages may owe before the receive task pauses between the messages of one read."""


class Rates:
    """The rate limits of one link, for its receive task. A burst may be as large as one second allows.

    A rate of 0 in `Limits` means no limit. A debt is the time, in seconds, until the bytes or messages that
    were taken beyond a rate are within it again.
    """

    def __init__(self, limits: Limits) -> None:
        self._commands = _bucket(limits.max_events_per_second)
        self._bytes = _bucket(limits.max_bytes_per_second)
        self._messages = _bucket(limits.max_messages_per_second)
        self._limit = limits.max_events_per_second

    def command(self, command: Invoke, now: float) -> None:
        """Count a command that came at `now`, in seconds of Trio's clock, even if it is refused later.

        Raises `ProtocolError` (`overloaded`, with `retry_after` in seconds) if it is beyond the rate.
        """
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
        """Count a command no more, since a later command has replaced it before it ran."""
        if self._commands is not None:
            self._commands.give_back()

    def messages(self, count: int) -> None:
        """Count messages of any kind."""
        if self._messages is not None:
            self._messages.spend(trio.current_time(), count)

    async def received(self, size: int) -> None:
        """Count bytes of media or of an upload, and then `pause_if_deep`. Not always a checkpoint."""
        if self._bytes is not None:
            self._bytes.spend(trio.current_time(), size)
            await self.pause_if_deep()

    async def pause_if_deep(self) -> None:
        """Wait until the debt is gone, if it is more than `MAX_DEBT`. Not always a checkpoint."""
        if self._debt() > MAX_DEBT:
            await self.pause()

    async def pause(self) -> None:
        """Wait until the debt of bytes and messages is gone. Not always a checkpoint."""
        if seconds := self._debt():
            await trio.sleep(seconds)

    def _debt(self) -> float:
        owing = [bucket for bucket in (self._bytes, self._messages) if bucket is not None and bucket.owes]
        return max([bucket.debt(trio.current_time()) for bucket in owing], default=0.0)


def _bucket(rate: float) -> TokenBucket | None:
    return TokenBucket(rate, max(rate, 1.0), trio.current_time()) if rate else None
