"""`Link`: one client of a session, with the tasks that receive from it and send to it.

A connection has four main tasks. Receive and send run in the nursery of the link; dispatch and run belong to
the session (`session/session.py`). The nursery of the link also has tasks that take load or waiting off
receive and send: an encoder for each output track of video, a decoder for each input track, the writer of
uploads, the watch for stalled uploads, the watch for an idle client, and one task for each command that waits
for an upload.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import attrs
import trio

from reactor_trio.errors import TransportClosed
from reactor_trio.link.answers import Answers
from reactor_trio.link.commands import Commands
from reactor_trio.link.decoding import Decoders
from reactor_trio.link.outbox import Outbox
from reactor_trio.link.rates import Rates
from reactor_trio.link.receive import Parts, Receiver
from reactor_trio.link.tracks import OutputTracks
from reactor_trio.link.uploads import Uploads
from reactor_trio.protocol import names
from reactor_trio.protocol.server_messages import Error, Goodbye, Welcome
from reactor_trio.session import endings
from reactor_trio.session.endings import LinkEnding
from reactor_trio.wire.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from reactor_trio.protocol.server_messages import ToClient
    from reactor_trio.session.endings import Ending
    from reactor_trio.session.session import Session
    from reactor_trio.wire.transport import Outgoing, Transport


@attrs.frozen
class LinkStatistics:
    """Numbers of one link; for the fields see `session.links.LinkStatistics`."""

    messages: int
    bytes: int
    upload_bytes_in_memory: int
    upload_bytes_on_disk: int
    is_open: bool


class Link:
    """One client of a session. `ModelHost.session` makes it, and the session runs it.

    `early` are the client's first messages, if some have been received already. The link implements the
    protocol `session.links.Link`; methods without a text of their own are described there.
    """

    def __init__(self, session: Session, transport: Transport, early: Sequence[str | bytes] = ()) -> None:
        context = session.context
        limits = context.limits
        self.ending: LinkEnding | None = None
        """Why the link ended; None before that. Later reasons are ignored."""
        self._session = session
        self._context = context
        self._limits = limits
        self._transport = transport
        self._early = early
        self._rates = Rates(limits)
        self._outbox = Outbox(
            max_messages=limits.max_queued_messages,
            max_bytes=limits.max_queued_bytes,
            counts=context.counts,
            transport=transport,
        )
        self._answers = Answers(context, self._outbox, transport, self._rates, self._accepts_nothing)
        self._uploads = Uploads(limits, context.executor, context.upload_budget)
        self._commands = Commands(context, self._uploads, self._answers)
        self._decoders = Decoders(context, session.inputs)
        self.viewer = OutputTracks(context, session.output, self._outbox)
        """The output tracks for this client, for the session's pacer."""
        self._is_closing = False

    # ---- the tasks

    def greet(self) -> None:
        """See `session.links.Link.greet`."""
        self._outbox.put_nowait(Welcome(self._welcome()))

    async def run(self) -> LinkEnding:
        """Receive and send until the connection is closed, by either side; returns the reason.

        The session cancels it after the farewell. Raises if a task of the link fails.
        """
        name = self._context.id
        async with trio.open_nursery() as nursery:
            parts = Parts(
                answers=self._answers,
                commands=self._commands,
                tracks=self.viewer,
                decoders=self._decoders,
                rates=self._rates,
                end=self._end,
            )
            receiver = Receiver(self._session, parts, nursery)
            self._uploads.begin(nursery, receiver.upload_settled)
            nursery.start_soon(self._receive, receiver, name=f"{name}/receive")
            nursery.start_soon(self._send, name=f"{name}/send")
            self._decoders.start(nursery, name, receiver.accepted, receiver.refused)
            for track in self.viewer.video.values():
                nursery.start_soon(track.encode, name=f"{name}/encode {track.encoder.track}")
            if self._limits.idle_timeout:
                nursery.start_soon(self._watch_idling, receiver, name=f"{name}/idle")
        assert self.ending is not None
        return self.ending

    async def _receive(self, receiver: Receiver) -> None:
        """The receive task: waits for the transport, and never for a handler.

        It decodes and validates messages, and hands commands to the session's inbox and frames to the input
        tracks. A handler that is a plain `def` runs in this task if no other work is ahead of it.
        """
        try:
            await receiver.take(self._early)
            while True:
                # While the session ends this task reads on, for the peer's pings and its close.
                messages = await self._transport.receive()
                # If the link was cancelled when the messages came, no task may be started for them.
                await trio.lowlevel.checkpoint_if_cancelled()
                await receiver.take(self._while_it_lasts(messages))
        except TransportClosed as closed:
            self._lost(closed)

    def _while_it_lasts(self, messages: Iterable[str | bytes]) -> Iterator[str | bytes]:
        return itertools.takewhile(lambda _: self._session.ending is None, messages)

    async def _send(self) -> None:
        """The send task: writes the outbox to the transport in batches, and pings the client.

        Messages and frames that were written at once, by another task, do not pass through here.
        """
        heartbeat = Heartbeat(self._limits.heartbeat)
        try:
            while True:
                batch: list[Outgoing] | None = None
                with trio.move_on_at(heartbeat.next_at):
                    batch = await self._outbox.take()
                if batch is not None:
                    began = trio.current_time()
                    await self._transport.send(batch)
                    heartbeat.wrote(began)
                elif not await heartbeat.beat(self._transport):
                    self._end(endings.HEARTBEAT_LOST)
                    break
        except TransportClosed as closed:
            self._lost(closed)
        finally:
            # If this task was cancelled, half a message may be written: no other task may write after it.
            self._outbox.close()

    async def _watch_idling(self, receiver: Receiver) -> None:
        """End the link if the client is idle for `idle_timeout` seconds."""
        gives_up = -math.inf
        while (later := receiver.last_active + self._limits.idle_timeout) > gives_up:
            gives_up = later
            await trio.sleep_until(gives_up)
        self._end(endings.IDLE)

    # ---- messages of the model

    async def send(self, message: ToClient) -> None:
        """See `session.links.Link.send`."""
        await self._outbox.put(message)

    # ---- the end

    def _end(self, ending: LinkEnding) -> None:
        """End the link for a reason of its own, and tell the session. `ending` keeps the first reason."""
        if self.ending is None:
            self.ending = ending
        self._session.link_ended(ending)

    def _lost(self, closed: TransportClosed) -> None:
        if not self._is_closing:  # otherwise this side closed, and waits for the peer's answer
            self._end(endings.of_transport(closed))

    def _accepts_nothing(self) -> None:
        self._end(endings.SLOW_CLIENT)

    def stop(self) -> None:
        """See `session.links.Link.stop`."""
        self._uploads.stop()

    async def flushed(self) -> None:
        """See `session.links.Link.flushed`."""
        await self._outbox.flushed()

    async def farewell(self, ending: Ending) -> None:
        """See `session.links.Link.farewell`. Takes `send_timeout` + `close_timeout` seconds at most."""
        assert ending.close_code is not None
        with trio.move_on_after(self._limits.send_timeout):
            if ending.error is not None:
                error = Error(names.MODEL_ERROR, ending.error)
                await self._outbox.put(error, last=not ending.goodbye)
            if ending.goodbye:
                await self._outbox.put(Goodbye(ending.reason), last=True)
            await self._outbox.flushed()
        await self._close(ending.close_code, ending.reason)

    async def _close(self, code: int, reason: str) -> None:
        self._is_closing = True
        if self.ending is None:
            self.ending = LinkEnding(reason, code)
        with trio.move_on_after(self._limits.close_timeout):
            await self._transport.aclose(code, reason)

    async def close_down(self, ending: Ending, *, politely: bool) -> None:
        """See `session.links.Link.close_down`. Each wait in it ends within `close_timeout` seconds."""
        self._outbox.close()
        try:
            if politely and not self._is_closing and ending.close_code is not None:
                await self._close(ending.close_code, ending.reason)
            await self._transport.abort()
        finally:
            await self._uploads.close()  # noqa: ASYNC102  the caller shields this method

    # ---- statistics, and the welcome

    def statistics(self) -> LinkStatistics:
        """See `session.links.Link.statistics`."""
        outbox = self._outbox.statistics()
        return LinkStatistics(
            outbox.messages,
            outbox.bytes,
            self._uploads.bytes_in_memory,
            self._uploads.bytes_on_disk,
            outbox.is_open,
        )

    def _welcome(self) -> dict[str, object]:
        limits = self._limits
        return {
            "protocol": names.PROTOCOL_VERSION,
            "session_id": self._context.id,
            **self._context.contract.welcome(self._context.media.video_codecs),
            "limits": {
                "max_message_bytes": limits.max_message_bytes,
                "max_upload_bytes": limits.max_upload_bytes,
                "upload_chunk_bytes": limits.upload_chunk_bytes,
                "max_queued_events": limits.max_queued_events,
            },
        }
