"""The outbox of a link: messages in order, blocks of audio, and one frame of each video track, to be sent."""

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
        """Bytes of the text, approximately."""
        ...

    def encode(self) -> str:
        """Encode the message as JSON."""
        ...


MAX_AUDIO_BLOCKS = 25
"""Blocks of an audio track that may wait, half a second in all. Older sound is of no use to a listener."""


def _ignore(frame: OutFrame) -> None:
    pass


@attrs.define(eq=False)
class OutFrame:
    """One encoded frame of video, or block of audio, that the outbox sends."""

    track: str
    seq: int
    data: bytes | Parts = attrs.field(repr=False)
    """The binary message, in one piece or in parts."""
    applied: tuple[Applied, ...] = ()
    """The commands that the frame is the first to reflect; if it is lost, a later frame takes them over."""
    on_written: Callable[[OutFrame], object] = _ignore
    """Called when the frame has been written to the transport."""


@attrs.frozen
class OutboxStatistics:
    """Numbers of one outbox."""

    messages: int
    bytes: int
    tracks: int
    """Tracks of which a frame or block waits."""
    senders_waiting: int
    """Calls of `put` that wait for room."""
    is_open: bool
    """False once the outbox is closed, when nothing is written any more."""


class Outbox:
    """Holds everything that one link sends until it is written to the transport.

    Messages are all kept, up to a bound, and senders wait for room. Frames are replaced by newer frames of
    their track, so that a slow client never slows the model down. Any task may put; the send task of the link
    calls `take`, writes, and calls `take` again. If nothing is ahead of a frame and `transport` can write it
    without waiting, the frame is written in the call that puts it, saving a switch to the send task.
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
        # The session's counters; the outbox adds messages and frames to them.
        self._counts = Counts() if counts is None else counts
        self._transport = transport
        self._frames: dict[str, OutFrame] = {}
        # Blocks of all audio tracks, in the order in which they were put.
        self._audio: deque[OutFrame] = deque()
        # Whether the send task is writing now, and the frames that it is writing.
        self._is_writing = False
        self._frames_writing: list[OutFrame] = []
        # Frames that `put_frame` or `put_audio` began to write; the send task must write the rest of them.
        self._begun: list[OutFrame] = []
        self._closed = False
        # Set by `put` with `last`: frames are refused from then on, messages once the last one is appended.
        self._refuses_frames = self._has_last = False
        # Set by `wake`: `take` returns though nothing waits.
        self._woken = False
        # Set when something is put; `take` waits for it.
        self._filled = trio.Event()
        # Set by `take` when it has made room; the sender that holds `_turn` waits for it.
        self._room = trio.Event()
        # Set when a batch was written, when frames were dropped, and by `close`; `flushed` waits for it.
        self._progress = trio.Event()
        # Senders that wait for room hold or await this lock, and so are served in order. The lock is not
        # needed for exclusion, since no other code runs between two checkpoints.
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
        """Whether nothing waits or is being written, so that a direct write to the transport keeps the order.

        False once the outbox is closed, or has its last message.
        """
        waits = self._has_something or self._turn.locked()
        return not (waits or self._is_writing or self._closed or self._has_last)

    @property
    def _has_something(self) -> bool:
        return bool(self._messages or self._frames or self._audio or self._woken)

    def wake(self) -> None:
        """Let `take` return though nothing waits: the send task must write the rest of a begun message."""
        self._woken = True
        self._filled.set()

    def put_nowait(self, message: Message) -> None:
        """Append a message. Raises `trio.WouldBlock` if there is no room.

        Does nothing if the outbox is closed, or has its last message.
        """
        if self._closed or self._has_last:
            return
        size = message.weight
        if self._turn.locked() or self._is_full(size):
            raise trio.WouldBlock
        self._append(message, size)

    async def put(self, message: Message, *, last: bool = False) -> None:
        """Append a message; wait for room, behind senders that wait already. Always a checkpoint.

        With `last`, the frames that wait are thrown away, and so are frames and messages that are put later.
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
        # A message larger than `max_bytes` may wait alone: otherwise it could never be sent.
        count = len(self._messages)
        return count >= self._max_messages or (count > 0 and self._bytes + size > self._max_bytes)

    def _append(self, message: Message, size: int) -> None:
        self._messages.append(message)
        self._bytes += size
        self._filled.set()

    def put_frame(self, frame: OutFrame) -> OutFrame | None:
        """Write a frame of video at once, or leave it for the send task.

        Returns the older frame of the same track that it has replaced, if one waited. Throws the frame away
        if the outbox is closed or a last message was put.
        """
        if self._closed or self._refuses_frames or self._write_at_once(frame):
            return None
        replaced = self._frames.pop(frame.track, None)
        self._frames[frame.track] = frame
        self._count_replaced(replaced)
        self._filled.set()
        return replaced

    def put_audio(self, block: OutFrame) -> OutFrame | None:
        """Write a block of audio at once, or append it for the send task.

        Returns the oldest waiting block of the track, removed, if `MAX_AUDIO_BLOCKS` waited already. Throws
        the block away if the outbox is closed or a last message was put.
        """
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
        """Wait for something to write, and take all: messages, then audio, then a frame of each track.

        The next call tells the outbox that the batch returned before has been written. If cancelled, nothing
        was taken. Always a checkpoint, since the write that follows need not be one.
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
        """Whether a frame of this track waits or is being written: to encode the next would be too early."""
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
        """Remove and return the frames and the audio that wait, counted as dropped. The messages stay."""
        dropped = [*self._audio, *self._frames.values()]
        for frame in dropped:
            self._counts.frames[frame.track].dropped += 1
        self._audio.clear()
        self._frames.clear()
        self._progress.set()
        return dropped

    def withdraw(self, track: str) -> list[OutFrame]:
        """Remove and return the waiting frames or blocks of a paused track, counted as unwanted."""
        withdrawn = [frame for frame in (*self._audio, *self._frames.values()) if frame.track == track]
        self._counts.frames[track].unwanted += len(withdrawn)
        self._audio = deque([block for block in self._audio if block.track != track])
        self._frames.pop(track, None)
        self._progress.set()
        return withdrawn

    def close(self) -> None:
        """Throw everything away, now and in later calls. Calls of `put` and `flushed` that wait return."""
        self._closed = True
        self._messages.clear()
        self._frames.clear()
        self._audio.clear()
        self._bytes = 0
        self._room.set()
        self._progress.set()
