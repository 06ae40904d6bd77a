"""Answers to the client that the receive task collects while it takes messages, and sends together."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from reactor_trio.protocol.server_messages import Superseded

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactor_trio.link.outbox import Outbox
    from reactor_trio.link.rates import Rates
    from reactor_trio.protocol.server_messages import ToClient
    from reactor_trio.protocol.text import Id
    from reactor_trio.session.context import SessionContext
    from reactor_trio.wire.transport import Transport


class Answers:
    """Collects the answers to messages that are taken without waiting, and hands them over in one write.

    The receive task, and tasks that end an upload or a waiting command, call `post` for each answer, and
    `settle` before they wait for anything else. Commands carry it as their `session.links.Reply`.
    """

    def __init__(
        self,
        context: SessionContext,
        outbox: Outbox,
        transport: Transport,
        rates: Rates,
        on_slow: Callable[[], object],
    ) -> None:
        """`on_slow` is called if there is no room for an answer for `send_timeout` seconds."""
        self._outbox = outbox
        self._transport = transport
        self._rates = rates
        self._counts = context.counts
        self._send_timeout = context.limits.send_timeout
        self._on_slow = on_slow
        self._waiting: deque[ToClient] = deque()

    def post(self, answer: ToClient) -> None:
        """Add an answer. The caller must call `settle` before it waits for anything else."""
        self._waiting.append(answer)

    def superseded(self, id_: Id | None) -> None:
        """See `Reply.superseded`. The command counts no more towards the client's rate."""
        self._rates.superseded()
        if id_ is not None:
            self._waiting.append(Superseded(id_))

    def send_nowait(self, answer: ToClient) -> None:
        """See `Reply.send_nowait`."""
        self._outbox.put_nowait(answer)

    async def send(self, answer: ToClient) -> None:
        """See `Reply.send`."""
        await self._outbox.put(answer)

    async def settle(self) -> None:
        """Write the answers to the transport, or put them into the outbox if the transport is busy.

        Waits only while the outbox has no room. Not always a checkpoint. If cancelled, answers may be lost.
        """
        waiting = self._waiting
        if not waiting:
            return
        if self._outbox.is_idle and self._transport.send_nowait([answer.encode() for answer in waiting]):
            self._counts.messages_sent += len(waiting)
            waiting.clear()
            if self._transport.has_unsent:
                self._outbox.wake()
            return
        try:
            while waiting:
                self._outbox.put_nowait(waiting[0])
                waiting.popleft()
        except trio.WouldBlock:
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        with trio.move_on_after(self._send_timeout) as scope:
            while self._waiting:
                await self._outbox.put(self._waiting.popleft())
        if scope.cancelled_caught:
            self._on_slow()
