"""What waits for the client: messages in their order, some audio, and a frame of each video track."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from reactor_trio.session.observer import Counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactor_trio.session.applied import Applied
    from reactor_trio.wire.transport import Outgoing, Parts, Transport


class Message(Protocol):
    """A text for the client, before it is encoded; see `protocol/server_messages.py`."""

    @property
    def weight(self) -> int:
        """About the bytes of its text."""
        ...

    def encode(self) -> str:
        """The text."""
        ...


MAX_AUDIO_BLOCKS = 25
"""Blocks of a track that may wait: half a second. What is older than that is of no use to a listener."""


def _ignore(frame: OutFrame) -> None:
    pass


@attrs.define(eq=False)
class OutFrame:
    """One encoded frame, or block of audio, on its way out."""

    track: str
    seq: int
    data: bytes | Parts = attrs.field(repr=False)
    """The binary message, in parts or in one."""
    applied: tuple[Applied, ...] = ()
    """The commands that it is the first to reflect: if it is lost, a later one takes them over."""
    on_written: Callable[[OutFrame], object] = _ignore
    """Called when it has been written to the transport."""


@attrs.frozen
class OutboxStatistics:
    """Numbers of one outbox."""

    messages: int
    bytes: int
    tracks: int
    """Tracks of which a frame waits."""
    senders_waiting: int
    is_open: bool
    """Whether anything that is put may still be written."""


class Outbox:
    """Messages are kept and bounded, frames are replaced: a slow client never slows the model's picture.

    Any task may put; one task takes, writes, and takes again. A frame that nothing is ahead of is written
    right where it is put, if `transport` takes it without waiting: that spares the task that takes a step.
    """

    def __init__(
        self,
        *,
        max_messages: int,
        max_bytes: int,
        counts: Counts | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[Message] = deque()
        self._bytes = 0
        # The session's, which everything on the way out adds to.
        self._counts = Counts() if counts is None else counts
        self._transport = transport
        self._frames: dict[str, OutFrame] = {}
        # Of all audio tracks, in the order in which they came.
        self._audio: deque[OutFrame] = deque()
        # What the taking task is writing now: whether anything, and which frames.
        self._is_writing = False
        self._frames_writing: list[OutFrame] = []
        # What `put_frame` and `put_audio` have begun to write, and the taking task must end.
        self._begun: list[OutFrame] = []
        self._closed = False
        # Set by `put` with `last`: frames are refused from the call on, messages once it is appended.
        self._refuses_frames = self._has_last = False
        self._woken = False
        # Set by whoever puts something; the taking task waits for it.
        self._filled = trio.Event()
        # Set by `take`, when it has made room; the sender whose turn it is waits for it.
        self._room = trio.Event()
        # Set by `take` when all that was put has been written, or by `close`; encoders and the farewell wait.
        self._progress = trio.Event()
        # Not for exclusion, which synchronous code has by itself, but for order: senders queue up in line.
        self._turn = trio.Lock()

    def statistics(self) -> OutboxStatistics:
        """The numbers now."""
        return OutboxStatistics(
            messages=len(self._messages),
            bytes=self._bytes,
            tracks=len({*self._frames, *(block.track for block in self._audio)}),
            senders_waiting=self._turn.statistics().tasks_waiting + self._turn.locked(),
            is_open=not self._closed,
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or is being written: what is sent past the outbox now overtakes nothing."""
        waits = self._has_something or self._turn.locked()
        return not (waits or self._is_writing or self._closed or self._has_last)

    @property
    def _has_something(self) -> bool:
        return bool(self._messages or self._frames or self._audio or self._woken)

    def wake(self) -> None:
        """Have the taking task write, though nothing waits: the transport has begun what it must end."""
        self._woken = True
        self._filled.set()

    def put_nowait(self, message: Message) -> None:
        """Append a message. Raises `trio.WouldBlock` if there is no room. Does nothing once closed."""
        if self._closed or self._has_last:
            return
        size = message.weight
        if self._turn.locked() or self._is_full(size):
            raise trio.WouldBlock
        self._append(message, size)

    async def put(self, message: Message, *, last: bool = False) -> None:
        """Append a message, after those whose senders already wait for room.

        What is put after the `last` one is thrown away, and so is every frame that is not written yet.
        If cancelled, the message was not appended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if last:
            self._refuses_frames = True
            self._frames.clear()
            self._audio.clear()
            self._progress.set()
        try:
            self.put_nowait(message)
        except trio.WouldBlock:
            await self._put_in_turn(message, message.weight, last)
        else:
            self._has_last |= last
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _put_in_turn(self, message: Message, size: int, last: bool) -> None:
        async with self._turn:
            while self._is_full(size) and not self._closed:
                self._room = trio.Event()
                await self._room.wait()
            if not (self._closed or self._has_last):
                self._append(message, size)
                self._has_last = last

    def _is_full(self, size: int) -> bool:
        # A message larger than the whole bound is let in alone, or it could never be sent.
        count = len(self._messages)
        return count >= self._max_messages or (count > 0 and self._bytes + size > self._max_bytes)

    def _append(self, message: Message, size: int) -> None:
        self._messages.append(message)
        self._bytes += size
        self._filled.set()

    def put_frame(self, frame: OutFrame) -> OutFrame | None:
        """Leave a frame for the next write; returns the one of its track that it has replaced, if any."""
        if self._closed or self._refuses_frames or self._write_at_once(frame):
            return None
        replaced = self._frames.pop(frame.track, None)
        self._frames[frame.track] = frame
        self._count_replaced(replaced)
        self._filled.set()
        return replaced

    def put_audio(self, block: OutFrame) -> OutFrame | None:
        """Append a block of audio for the next write; returns the oldest, if there was one too many."""
        if self._closed or self._refuses_frames or self._write_at_once(block):
            return None
        waiting = [each for each in self._audio if each.track == block.track]
        oldest = waiting[0] if len(waiting) >= MAX_AUDIO_BLOCKS else None
        if oldest is not None:
            self._audio.remove(oldest)
        self._audio.append(block)
        self._count_replaced(oldest)
        self._filled.set()
        return oldest

    def _write_at_once(self, frame: OutFrame) -> bool:
        transport = self._transport
        if transport is None or not self.is_idle or not transport.send_nowait((frame.data,)):
            return False
        self._counts.frames[frame.track].sent += 1
        if transport.has_unsent:
            self._begun.append(frame)
            self.wake()
        else:
            frame.on_written(frame)
        return True

    def _count_replaced(self, frame: OutFrame | None) -> None:
        if frame is not None:
            self._counts.frames[frame.track].replaced += 1

    async def take(self) -> list[Outgoing]:
        """Wait for something to write, and take it all: first the messages, then audio, then a frame a track.

        Calling it again says that what it returned last has been written. If cancelled, nothing was taken.
        Always a checkpoint: the write that follows need not be one.
        """
        self._have_written()
        if self._has_something:
            await trio.lowlevel.checkpoint()
        while not self._has_something:
            self._filled = trio.Event()
            await self._filled.wait()
        frames = [*self._audio, *self._frames.values()]
        batch: list[Outgoing] = [message.encode() for message in self._messages]
        batch += [frame.data for frame in frames]
        self._is_writing = True
        self._frames_writing = [*self._begun, *frames]
        self._begun = []
        self._counts.messages_sent += len(self._messages)
        for frame in frames:
            self._counts.frames[frame.track].sent += 1
        self._messages.clear()
        self._frames.clear()
        self._audio.clear()
        self._bytes = 0
        self._woken = False
        self._room.set()
        return batch

    def _have_written(self) -> None:
        self._is_writing = False
        written, self._frames_writing = self._frames_writing, []
        self._progress.set()
        for frame in written:
            frame.on_written(frame)

    def has_frame(self, track: str) -> bool:
        """Whether a frame of this track waits or is being written: what is encoded now would replace it."""
        if self._closed:
            return False
        if track in self._frames:
            return True
        if not (self._begun or self._frames_writing):
            return False
        return any(frame.track == track for frame in (*self._begun, *self._frames_writing))

    async def flushed(self) -> None:
        """Wait until everything has been written, or the outbox is closed."""
        while not self._closed and (self._has_something or self._is_writing):
            await self._next_progress()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _next_progress(self) -> None:
        if self._progress.is_set():
            self._progress = trio.Event()
        await self._progress.wait()

    def drop_frames(self) -> list[OutFrame]:
        """Throw away the frames and the audio that wait, and return them; the messages stay."""
        dropped = [*self._audio, *self._frames.values()]
        for frame in dropped:
            self._counts.frames[frame.track].dropped += 1
        self._audio.clear()
        self._frames.clear()
        self._progress.set()
        return dropped

    def withdraw(self, track: str) -> list[OutFrame]:
        """Take back what waits of one track, and return it: its client wants none of it for now."""
        withdrawn = [frame for frame in (*self._audio, *self._frames.values()) if frame.track == track]
        self._counts.frames[track].unwanted += len(withdrawn)
        self._audio = deque([block for block in self._audio if block.track != track])
        self._frames.pop(track, None)
        self._progress.set()
        return withdrawn

    def close(self) -> None:
        """Nothing will be written any more: whoever waits goes on, and what is put is thrown away."""
        self._closed = True
        self._messages.clear()
        self._frames.clear()
        self._audio.clear()
        self._bytes = 0
        self._room.set()
        self._progress.set()
