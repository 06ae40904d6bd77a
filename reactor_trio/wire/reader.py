"""The reading side of a WebSocket: bytes of the peer become messages, or the end of the connection.

- One read's messages are handed over as one batch, for at most some milliseconds of framing.
- The task that reads writes nothing that the peer asks for: a pong waits in `pings` for whoever writes.
- A peer that breaks the rules is told so (1002, 1007, 1008, 1009) before the stream is closed, and is given a
  moment to read it, since a reset could overtake the close frame.
- How the connection ended is recorded once, by the first that knows.

trio-websocket has a task that reads, and a channel from it. Both would cost a task switch for each message,
so its loop is not used.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.protocol.names import CloseCode
from reactor_trio.wire.engine import Closed
from reactor_trio.wire.foreign_errors import STREAM, lost
from reactor_trio.wire.framing import CLOSE, PING, Fault, FrameReader
from reactor_trio.wire.token_bucket import TokenBucket

if TYPE_CHECKING:
    from reactor_trio.wire.engine import Engine
    from reactor_trio.wire.streams import PatientStream

RECEIVE_BYTES = 128 * 1024
"""How much one read may bring: some 20,000 frames."""
FRAMING_SECONDS = 0.003
"""How long frames are read before other tasks run; the session's own work on their messages comes on top."""
FRAMES_BETWEEN_LOOKS = 32
"""How many frames are read between two looks at the clock."""
CONTROL_FRAMES_PER_SECOND = 1000
"""Pings and pongs that a peer may send; a peer that sends more is cut off (1008)."""
CONTROL_FRAMES_AT_ONCE = 5000
"""As many may come at once: some milliseconds' worth, and what piles up while a busy server does not read."""
MAX_PONGS = 16
"""Answers that may wait to be written; the newest are kept (RFC 6455, section 5.5.3)."""
MAX_HEAD_BYTES = 64 * 1024
"""How long the head of a server's answer may be."""
LINGER_SECONDS = 1.0
"""How long a peer that broke the rules may take to read why it is cut off."""


class WebSocketReader:
    """Reads one WebSocket, whose writing side is `WebSocketTransport`; one task reads at a time."""

    def __init__(self, stream: PatientStream, engine: Engine, *, max_message_bytes: int) -> None:
        self.stream = stream
        self.engine = engine
        self.how: Closed | None = None
        """How the connection ended, as the first that knew has recorded it."""
        self.lock = trio.StrictFIFOLock()
        """Held by whoever writes, so that frames leave in the order in which the engine was told of them."""
        self.received: list[str | bytes] = []
        """Whole messages that nobody has fetched yet."""
        self.pings: deque[bytes] = deque(maxlen=MAX_PONGS)
        """Payloads of the pings that are yet to be answered."""
        self.is_listening = False
        """Whether the peer could be heard: a task waits for its bytes."""
        self.is_closed = False
        """Whether the peer has closed, or nothing more can be read."""
        self._frames = FrameReader(masked=not engine.is_client, max_message_bytes=max_message_bytes)
        self._now = trio.lowlevel.current_clock().current_time
        self._control_bucket = TokenBucket(CONTROL_FRAMES_PER_SECOND, CONTROL_FRAMES_AT_ONCE, self._now())
        # There are frames left of what was read last, or something that ends the connection.
        self._has_more = False
        self._close_frame: bytearray | None = None
        # The head of a server's answer to the handshake, until it is whole.
        self._head = bytearray()

    def record(self, code: int, reason: str = "") -> None:
        """Remember how the connection ended; the first to know is right."""
        if self.how is None:
            self.how = Closed(int(code), reason)

    def error(self) -> TransportClosed:
        """What a caller is told who reads or writes after the end."""
        if self.stream.stalled:
            return TransportStalled(CloseCode.ABNORMAL, "the peer accepted nothing for too long")
        return lost() if self.how is None else TransportClosed(self.how.code, self.how.reason)

    async def propose(self) -> None:
        """Make a client's handshake.

        Raises `HandshakeFailed` if the server refuses, `TransportClosed` if it goes away or its answer is no
        handshake, `ValueError` for a proposal that HTTP cannot carry. If cancelled, the connection is of no
        more use.
        """
        with STREAM:
            await self.stream.send_all(self.engine.propose())
            while self.engine.is_opening:
                # What ends the connection right behind the handshake is for `receive` to say.
                if not await self.read() and self.engine.is_opening:
                    raise lost()

    async def read(self) -> bool:
        """Read once and handle what that brought; returns whether there may be more to read.

        Always a checkpoint, and never longer than `FRAMING_SECONDS` without one. Raises Trio's exceptions for
        a broken stream, and what `Engine.take` raises. If cancelled, nothing is lost: what was not handled is
        handled next.
        """
        if self._has_more:
            # A peer that floods us while we wait for its close frame has only half of the time.
            await trio.sleep(FRAMING_SECONDS if self._frames.discards else 0)
            return await self._take_frames()
        self.is_listening = True
        try:
            data = await self.stream.receive_some(RECEIVE_BYTES)
        finally:
            self.is_listening = False
        engine = self.engine
        if not data:  # which ends the body of a refusal that has no length
            if engine.is_refused:
                engine.take(b"")
            return False
        if engine.is_connecting:
            return await self._take_head(data)
        if engine.is_refused:
            engine.take(bytes(data))
            return True
        self._frames.feed(data)
        return await self._take_frames()

    async def _take_head(self, data: bytes | bytearray) -> bool:
        """A server's answer: the engine gets the head, and what comes behind it if the server refuses."""
        self._head += data
        if (end := self._head.find(b"\r\n\r\n") + 4) < 4:
            return len(self._head) < MAX_HEAD_BYTES
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        self._head.clear()
        self.engine.take(head)
        if self.engine.is_refused:
            if rest:  # no bytes would mean the end to the engine
                self.engine.take(rest)
            return True
        self._frames.feed(rest)
        return await self._take_frames()

    async def _take_frames(self) -> bool:
        """Read the frames that are there, for some milliseconds; returns whether there may be more."""
        used_up = self._read_frames()
        fault = self._frames.fault or self._control_flood()
        is_over = fault is not None or self._close_frame is not None
        self._has_more = used_up or is_over
        if self.received and is_over:
            return True  # the session gets what came before first
        if fault is not None:
            await self._refuse(fault.code, fault.reason)
            return False
        if self._close_frame is not None:
            return await self._take_close(self._close_frame)
        if used_up:
            await trio.lowlevel.checkpoint()  # the session takes its own time for what it gets
        return True

    def _read_frames(self) -> bool:
        """Returns whether the time was used up."""
        frames, received = self._frames, self.received
        frames.discards = not self.engine.is_open  # RFC 6455, section 1.4
        ends, looks, controls = self._now() + FRAMING_SECONDS, FRAMES_BETWEEN_LOOKS, 0
        is_late = False
        while not is_late and self._close_frame is None and (frame := frames.next()) is not None:
            if not isinstance(frame, bytearray):
                received.append(frame)
            elif frame:
                controls += 1
                self._take_control(frame)
            looks -= 1
            if not looks:
                looks, is_late = FRAMES_BETWEEN_LOOKS, self._now() >= ends
        if controls:
            self._control_bucket.spend(self._now(), controls)
        return is_late

    def _take_control(self, frame: bytearray) -> None:
        if frame[0] == PING:
            self.pings.append(self._frames.payload_of(frame))
        elif frame[0] == CLOSE:
            self._close_frame = frame

    def _control_flood(self) -> Fault | None:
        if self._control_bucket.owes and self._control_bucket.debt(self._now()):
            return Fault(CloseCode.POLICY_VIOLATION, "too many pings and pongs")
        return None

    async def _take_close(self, frame: bytearray) -> bool:
        """Answer a close frame; returns whether there may be more to read: never."""
        closed = self.engine.take(bytes(frame))
        assert closed is not None
        if self.engine.is_open:  # the engine could not read it
            await self._refuse(closed.code, closed.reason)
        else:
            self.record(closed.code, closed.reason)
            await self._say_last(closed)
        self.is_closed = True
        return False

    async def _refuse(self, code: int, reason: str) -> None:
        """Say why the connection ends, and give the peer a moment to read it."""
        self.record(code, reason)
        await self._say_last(Closed(code, reason), drains=True)

    async def _say_last(self, closed: Closed, *, drains: bool = False) -> None:
        """Write a close frame, if there is room for it soon: nothing is to be read any more.

        A write that is under way goes first. The lock is held to the end, and nothing is written if this side
        has closed already, since nothing may follow a close frame (RFC 6455, section 5.5.1).
        """
        if not self.engine.may_close:
            return
        data = self.engine.close(closed.code, closed.reason)
        with trio.move_on_after(LINGER_SECONDS), suppress(TransportClosed), STREAM:
            async with self.lock:
                await self.stream.send_all(data)
                if drains:
                    await self.stream.drain()
