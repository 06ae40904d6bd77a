"""The two tasks that keep a client's connection; the same nursery as a session has, from the other side.

    | task  | waits for                                       | owns                         |
    |-------|-------------------------------------------------|------------------------------|
    | read  | the transport, always; never for a reader of it | the answers and both inboxes |
    | write | the outbox; pings a server that is silent       | the transport's writing side |

Callers only put into the outbox and take from the inboxes, so a caller that is cancelled never cuts a
message in half.
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
"""Seconds of silence after which the server is pinged, and then is lost: the same as a server's own."""


class Connection:
    """A transport with its tasks: `take` is given each message, `end` the reason when nothing more comes."""

    def __init__(
        self,
        transport: Transport,
        take: Callable[[str | bytes], None],
        end: Callable[[TransportClosed], None],
    ) -> None:
        self.outbox = Outbox()
        """What is to be written."""
        self._transport = transport
        self._take = take
        self._end = end
        # What is said in the closing handshake.
        self._last_words = (1000, "")
        # What this side knows of the end better than the transport does.
        self._cause: TransportClosed | None = None
        # Shielded, so that a cancelled caller can still close politely; `cancel` ends it.
        self._service = trio.CancelScope(shield=True)
        # Set by the read task when nothing more comes, by the write task when it has closed; `aclose` waits.
        self._read_ended = trio.Event()
        self._write_ended = trio.Event()

    async def run(self) -> None:
        """The two tasks, until the connection has ended or `cancel` was called."""
        with self._service:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, name="client/read")
                nursery.start_soon(self._write, name="client/write")

    def cancel(self) -> None:
        """End the tasks; after `aclose`."""
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
            # What the peer said before it left is still to be read, so the end is left to the read task.
            self._cause = closed if isinstance(closed, TransportStalled) else None
            self.outbox.fail(closed)
        finally:
            self._write_ended.set()

    async def _write_until_closed(self) -> bool:
        """Write what is put into the outbox, until it is closed and empty; False if the server is lost."""
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
