"""The reading side of a WebSocket: bytes of the peer become messages, or the end of the connection.

- The messages of one read are handed over as one batch, after some milliseconds of framing at most.
- The task that reads writes no pongs: the payloads wait in `pings`, and a task that writes takes them along.
- A peer that breaks the rules is told why (1002, 1007, 1008, 1009) before the stream is closed, and is given
  a moment to read it, since a reset could overtake the close frame.
- How the connection ended is recorded once.

trio-websocket has a task of its own that reads, and a channel from this task. The two would cost a task
switch for each message, so they are not used.
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
"""The largest read: some 20,000 small frames."""
FRAMING_SECONDS = 0.003
"""How long frames are parsed before other tasks run. The session's work on their messages comes on top."""
FRAMES_BETWEEN_LOOKS = 32
"""How many frames are parsed between two looks at the clock."""
CONTROL_FRAMES_PER_SECOND = 1000
"""Pings and pongs that a peer may send; a peer that sends more is cut off (1008)."""
CONTROL_FRAMES_AT_ONCE = 5000
"""Pings and pongs that may arrive at once, as they pile up while a busy server does not read: some
milliseconds of work."""
MAX_PONGS = 16
"""Pings that may wait for their pong; the newest are kept (RFC 6455, section 5.5.3)."""
MAX_HEAD_BYTES = 64 * 1024
"""The largest head of a server's answer to the handshake."""
LINGER_SECONDS = 1.0
"""Seconds that a peer that broke the rules has to read why it is cut off."""


class WebSocketReader:
    """Reads one WebSocket, one task at a time. The writing side is `WebSocketTransport`."""

    def __init__(self, stream: PatientStream, engine: Engine, *, max_message_bytes: int) -> None:
        self.stream = stream
        self.engine = engine
        self.how: Closed | None = None
        """How the connection ended, as it was recorded first; None while it has not."""
        self.lock = trio.StrictFIFOLock()
        """Held while a task writes. It is first come, first served: frames leave in the order in which the
        engine composed them."""
        self.received: list[str | bytes] = []
        """Whole messages that `receive` has not returned yet."""
        self.pings: deque[bytes] = deque(maxlen=MAX_PONGS)
        """Payloads of the pings that have no pong yet."""
        self.is_listening = False
        """Whether a task waits for bytes of the peer, so that the peer could be heard."""
        self.is_closed = False
        """Whether the peer has closed, or no more bytes can be read."""
        self._frames = FrameReader(masked=not engine.is_client, max_message_bytes=max_message_bytes)
        self._now = trio.lowlevel.current_clock().current_time
        self._control_bucket = TokenBucket(CONTROL_FRAMES_PER_SECOND, CONTROL_FRAMES_AT_ONCE, self._now())
        # Whether the last read has left frames, or a fault or close frame that ends the connection.
        self._has_more = False
        self._close_frame: bytearray | None = None
        # The bytes of a server's answer to the handshake, until its head is whole.
        self._head = bytearray()

    def record(self, code: int, reason: str = "") -> None:
        """Remember how the connection ended. Does nothing if that is known already."""
        if self.how is None:
            self.how = Closed(int(code), reason)

    def error(self) -> TransportClosed:
        """A new error that says how the connection ended, to be raised by a read or write after the end."""
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
                # If the connection ends right behind the handshake, `receive` says how.
                if not await self.read() and self.engine.is_opening:
                    raise lost()

    async def read(self) -> bool:
        """Read once and handle the bytes; returns whether there may be more to read.

        Always a checkpoint, and never longer than `FRAMING_SECONDS` without one. Raises the errors of
        `Engine.take`, and Trio's own for a broken stream. If cancelled, nothing is lost: the next call
        handles the bytes that this one has not.
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
        if self.engine.is_opening:
            return await self._take_answer(data)
        if not data:
            return False
        self._frames.feed(data)
        return await self._take_frames()

    async def _take_answer(self, data: bytes | bytearray) -> bool:
        """Give the engine the head of a server's answer, and the bytes behind it if the server refuses."""
        if self.engine.is_refused:
            self.engine.take(bytes(data))  # the end of the stream ends a body that has no length
            return bool(data)
        if not data:
            return False
        self._head += data
        if (end := self._head.find(b"\r\n\r\n") + 4) < 4:
            return len(self._head) < MAX_HEAD_BYTES
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        self._head.clear()
        self.engine.take(head)
        if self.engine.is_opening:  # a refusal, whose body follows
            if rest:  # to the engine, no bytes mean the end of the stream
                self.engine.take(rest)
            return True
        self._frames.feed(rest)
        return await self._take_frames()

    async def _take_frames(self) -> bool:
        """Parse the frames that have arrived, for some milliseconds; returns whether there may be more."""
        used_up = self._read_frames()
        fault = self._frames.fault or self._control_flood()
        is_over = fault is not None or self._close_frame is not None
        self._has_more = used_up or is_over
        if self.received and is_over:
            return True  # `receive` returns the messages before the end first
        if fault is not None:
            await self._refuse(fault.code, fault.reason)
            return False
        if self._close_frame is not None:
            return await self._take_close(self._close_frame)
        if used_up:
            await trio.lowlevel.checkpoint()  # other tasks run before the session handles the messages
        return True

    def _read_frames(self) -> bool:
        """Parse frames; returns whether the time was used up."""
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
        """Answer a close frame. Returns False, since there is no more to read."""
        closed = self.engine.take(bytes(frame))
        assert closed is not None
        if self.engine.is_open:  # the frame was faulty
            await self._refuse(closed.code, closed.reason)
        else:
            self.record(closed.code, closed.reason)
            await self._say_last(closed)
        self.is_closed = True
        return False

    async def _refuse(self, code: int, reason: str) -> None:
        """Tell the peer why the connection ends, and give it a moment to read that."""
        self.record(code, reason)
        await self._say_last(Closed(code, reason), drains=True)

    async def _say_last(self, closed: Closed, *, drains: bool = False) -> None:
        """Write a close frame if there is room within `LINGER_SECONDS`; with `drains`, wait for the peer.

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
