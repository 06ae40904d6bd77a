"""The two tasks of a client's connection.

    | task  | waits for                                           | owns                         |
    |-------|-----------------------------------------------------|------------------------------|
    | read  | the transport; never for a caller to take a message | the answers and the inboxes  |
    | write | the outbox; pings the server if it is silent        | the transport's writing side |

Callers only put into the outbox and take from the inboxes, so the cancellation of a caller cannot leave a
message half written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from reactor_trio.client.outbox import Outbox
from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.wire.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactor_trio.wire.transport import Transport

CLOSE_TIMEOUT = 3.0
"""Seconds for writing what waits and for the closing handshake, the same as a server's `close_timeout`."""
HEARTBEAT = 20.0
"""Seconds of silence after which the server is pinged; after as many more, the connection is lost."""


class Connection:
    """A transport and its two tasks. `take` is called with each message, `end` with the reason of the end."""

    def __init__(
        self,
        transport: Transport,
        take: Callable[[str | bytes], None],
        end: Callable[[TransportClosed], None],
    ) -> None:
        self.outbox = Outbox()
        """The messages that wait for the write task."""
        self._transport = transport
        self._take = take
        self._end = end
        # Code and reason for the closing handshake.
        self._last_words = (1000, "")
        # The reason of the end, where the write task knows it better than the transport does.
        self._cause: TransportClosed | None = None
        # Around both tasks; shielded, so that a cancelled caller can still close with a handshake.
        self._service = trio.CancelScope(shield=True)
        # Set by the read task when no more messages come, by the write task when it ends; `aclose` waits.
        self._read_ended = trio.Event()
        self._write_ended = trio.Event()

    async def run(self) -> None:
        """Run the two tasks, until the connection has ended or `cancel` is called."""
        with self._service:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, name="client/read")
                nursery.start_soon(self._write, name="client/write")

    def cancel(self) -> None:
        """Cancel the two tasks; to be called after `aclose`."""
        self._service.cancel(reason="the client was left")

    async def aclose(self, code: int, reason: str) -> None:
        """See `Client.aclose`."""
        if not self.outbox.is_closed:
            self._last_words = (code, reason)
            self.outbox.close(TransportClosed(code, reason or "closed by this client"))
        try:
            with trio.move_on_after(CLOSE_TIMEOUT):
                await self._write_ended.wait()
                await self._read_ended.wait()
        finally:
            if not (self._write_ended.is_set() and self._read_ended.is_set()):
                with trio.move_on_after(1, shield=True):
                    await self._transport.abort()

    async def _read(self) -> None:
        try:
            while True:
                for message in await self._transport.receive():
                    self._take(message)
        except TransportClosed as closed:
            reason = self._cause or closed
            self.outbox.fail(reason)
            self._end(reason)
            self._read_ended.set()

    async def _write(self) -> None:
        try:
            if await self._write_until_closed():
                await self._transport.aclose(*self._last_words)
            else:
                self._cause = TransportClosed(1006, f"not a byte from the server for {2 * HEARTBEAT:g} s")
                await self._transport.abort()
        except TransportClosed as closed:
            # Messages that the server sent before it left are still to be read: the read task calls `end`.
            self._cause = closed if isinstance(closed, TransportStalled) else None
            self.outbox.fail(closed)
        finally:
            self._write_ended.set()

    async def _write_until_closed(self) -> bool:
        """Write what the outbox holds until it is closed and empty; returns False if the server is lost."""
        heartbeat = Heartbeat(HEARTBEAT, only_silent=True)
        while True:
            if trio.current_time() >= heartbeat.next_at and not await heartbeat.beat(self._transport):
                return False
            messages: Sequence[str | bytes] | None = None
            with trio.move_on_at(heartbeat.next_at) as silence:
                messages = await self.outbox.take()
            if messages is not None:
                began = trio.current_time()
                await self._transport.send(messages)
                heartbeat.wrote(began)
            elif not silence.cancelled_caught:
                return True
