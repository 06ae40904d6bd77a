"""A client in the queue for a session: it is told its position, and its connection is read and pinged.

A waiting client has no copy of the model and runs no hooks. One task reads, so that pings are answered and
the place of a client that leaves is free at once; the other task writes. While the client waits:

- its commands are kept in order for the session, up to `max_queued_events` of them and `KEPT_BYTES`. Further
  commands are answered `overloaded`. So are messages of an upload, since the welcome states the limits that
  an upload must keep;
- its `reactor.ping` is answered at once, so a client can measure the connection or keep it alive.

Messages of all kinds count towards the rates of a session: the messages of a client that exceeds them are
read later.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING

import trio

from reactor_trio.errors import ProtocolError, TransportClosed
from reactor_trio.link.rates import Rates
from reactor_trio.logs.logger import get_logger
from reactor_trio.protocol import names
from reactor_trio.protocol.client_messages import Ping, UploadStart, read_control
from reactor_trio.protocol.server_messages import Error, Goodbye, Pong, Queued
from reactor_trio.protocol.text import read_client_text
from reactor_trio.session.inbox import TIME_SLICE
from reactor_trio.wire.heartbeat import Heartbeat

if TYPE_CHECKING:
    from reactor_trio.protocol.server_messages import ToClient
    from reactor_trio.protocol.text import Id
    from reactor_trio.server.admission import Place
    from reactor_trio.session.limits import Limits
    from reactor_trio.wire.transport import Transport

KEPT_BYTES = 64 * 1024
"""The most bytes of commands kept for one waiting client; there may be `max_waiting` such clients."""


class Outcome(enum.Enum):
    """How the time in the queue ended."""

    LET_IN = "let_in"
    LEFT = "client_left"
    TIMED_OUT = "queue_timeout"
    SHUTTING_DOWN = "shutting_down"


class WaitingClient:
    """One client in the queue. `max_wait` is in seconds."""

    def __init__(
        self, transport: Transport, place: Place, limits: Limits, *, max_wait: float, address: str = ""
    ) -> None:
        self.early: list[str | bytes] = []
        """Messages of the client for its session, in order; after `run` also the ones not handled yet."""
        self._transport = transport
        self._place = place
        self._limits = limits
        self._max_wait = max_wait
        self._log = get_logger(__name__, address=address)
        self._early_bytes = 0
        # Messages that were read and not handled yet: one batch.
        self._unread: deque[str | bytes] = deque()
        self._answers: deque[ToClient] = deque()
        self._outcome: Outcome | None = None
        # Set when there is something to write, or when `_outcome` is set; the writing task waits for it.
        self._news = trio.Event()
        # Set when the writing task has taken the answers; the reading task waits for it if they are many.
        self._room = trio.Event()
        # Cancelled when the client is gone: nothing more can be written.
        self._scope = trio.CancelScope()

    async def run(self) -> bool:
        """Wait for a session; returns whether the client was let in.

        If it returns False, the client has left, or was told the reason and the transport is closed. If it
        returns True, no task uses the transport any more, so that the session can. Never raises
        `TransportClosed`. If cancelled, a message may have been written in part: abort the transport.
        """
        self._place.on_change = self._wake
        self._log.info("client waits", position=self._place.position)
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, name="server/waiting_client: read")
                await self._write()
                # No message is lost: `receive` is safe to cancel, and `_unread` keeps what it returned.
                nursery.cancel_scope.cancel(reason="the client waits no more")
        self.early += self._unread
        self._log.info("client waits no more", outcome=(self._outcome or Outcome.LEFT).value)
        return self._outcome is Outcome.LET_IN

    @property
    def is_in_its_last_hook(self) -> bool:
        """False: a waiting client has no hooks."""
        return False

    def drain(self) -> None:
        """Tell the client that the server shuts down, and close."""
        self._end(Outcome.SHUTTING_DOWN)

    def _end(self, outcome: Outcome) -> None:
        """Set the outcome, unless there is one already."""
        if self._outcome is None:
            self._outcome = outcome
            self._wake()

    def _wake(self) -> None:
        self._news.set()

    # ---- writing

    async def _write(self) -> None:
        try:
            await self._tell()
            if self._outcome is not Outcome.LET_IN:
                await self._farewell()
        except TransportClosed:
            self._gone()

    async def _tell(self) -> None:
        """Write the client's position whenever it changes, answers and pings, until there is an outcome."""
        heartbeat, told = Heartbeat(self._limits.heartbeat), None
        gives_up = trio.current_time() + self._max_wait
        while self._outcome is None:
            self._news = trio.Event()
            batch: list[str | bytes] = [answer.encode() for answer in self._answers]
            self._answers.clear()
            self._room.set()
            if (position := self._place.position) and position != told:
                batch.append(Queued(position).encode())
                told = position
            if batch:
                began = trio.current_time()
                await self._transport.send(batch)
                heartbeat.wrote(began)
            elif not position:
                self._end(Outcome.LET_IN)
            elif trio.current_time() >= gives_up:
                self._end(Outcome.TIMED_OUT)
            elif trio.current_time() >= heartbeat.next_at:
                if not await heartbeat.beat(self._transport):
                    self._gone()
            else:
                with trio.move_on_at(min(heartbeat.next_at, gives_up)):
                    await self._news.wait()

    async def _farewell(self) -> None:
        with trio.move_on_after(self._limits.close_timeout):
            if self._outcome is Outcome.TIMED_OUT:
                reason = f"no session became free within {self._max_wait:g} s"
                await self._transport.send([Error(names.QUEUE_TIMEOUT, reason).encode()])
                await self._transport.aclose(names.CloseCode.TRY_AGAIN_LATER, reason)
            elif self._outcome is Outcome.SHUTTING_DOWN:
                reason = Outcome.SHUTTING_DOWN.value
                await self._transport.send([Goodbye(reason).encode()])
                await self._transport.aclose(names.CloseCode.GOING_AWAY, reason)

    def _gone(self) -> None:
        self._end(Outcome.LEFT)
        self._scope.cancel(reason="the client has left the queue")

    # ---- reading

    async def _read(self) -> None:
        rates = Rates(self._limits)
        try:
            while True:
                self._unread.extend(await self._transport.receive())
                await self._take_all(rates)
                await rates.pause()
        except TransportClosed:
            if self._outcome is None:
                self._gone()

    async def _take_all(self, rates: Rates) -> None:
        """Handle the messages in `_unread`, and give the loop back after each `TIME_SLICE` seconds.

        If cancelled, the other messages stay in `_unread`.
        """
        slice_ends = trio.current_time() + TIME_SLICE
        while self._unread:
            self._take(self._unread.popleft())
            rates.messages(1)
            await rates.pause_if_deep()
            if len(self._answers) >= self._limits.max_queued_messages:
                await self._wait_for_room()
            if trio.current_time() >= slice_ends:
                await trio.lowlevel.checkpoint()
                slice_ends = trio.current_time() + TIME_SLICE

    async def _wait_for_room(self) -> None:
        with trio.move_on_after(self._limits.send_timeout) as scope:
            self._room = trio.Event()
            await self._room.wait()
        if scope.cancelled_caught:
            self._gone()  # the client sends requests and does not read the answers

    def _take(self, message: str | bytes) -> None:
        if self._outcome not in (None, Outcome.LET_IN):
            return
        try:
            self._take_text(message) if isinstance(message, str) else self._refuse()
        except ProtocolError as error:
            self._answers.append(Error.of(error))
            self._wake()

    def _take_text(self, text: str) -> None:
        type_, data, id_ = read_client_text(text)
        if type_ == Ping.type:
            ping = read_control(type_, data, id_)
            assert isinstance(ping, Ping)
            self._answers.append(Pong(ping.t, trio.current_time(), ping.id))
            self._wake()
            return
        size = len(text) if text.isascii() else len(text.encode())
        has_room = len(self.early) < self._limits.max_queued_events
        if type_ == UploadStart.type or not has_room or self._early_bytes + size > KEPT_BYTES:
            self._refuse(type_, id_)
        self.early.append(text)
        self._early_bytes += size

    def _refuse(self, type_: str | None = None, id_: Id | None = None) -> None:
        if type_ in (None, UploadStart.type):
            reason = "this client waits for a session: uploads can begin after the welcome"
        else:
            reason = "this client waits for a session, and has sent too much already; this was not taken"
        raise ProtocolError(names.OVERLOADED, reason, event=type_, reply_to=id_)
