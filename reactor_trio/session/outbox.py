"""What waits for the client: messages in their order, and behind them the newest frame of each track."""

from __future__ import annotations

from collections import deque

import attrs
import trio

from reactor_trio.session.observer import Counts


@attrs.frozen
class OutboxStatistics:
    """Numbers of one outbox."""

    messages: int
    bytes: int
    tracks: int
    """Tracks of which a frame waits."""
    senders_waiting: int
    frames_replaced: int
    """Frames that a newer one of their track has replaced here, since the outbox was made."""


class Outbox:
    """Messages are kept and bounded, frames are replaced: a slow client never slows the model's picture.

    Any task may put; one task takes, writes, and takes again.
    """

    def __init__(self, *, max_messages: int, max_bytes: int, counts: Counts | None = None) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[str] = deque()
        self._bytes = 0
        # The session's, which everything on the way out adds to.
        self._counts = Counts() if counts is None else counts
        self._frames: dict[str, bytes] = {}
        # What the taking task is writing now: whether anything, and frames of which tracks.
        self._is_writing = False
        self._tracks_writing: frozenset[str] = frozenset()
        self._frames_replaced = 0
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
            tracks=len(self._frames),
            senders_waiting=self._turn.statistics().tasks_waiting + self._turn.locked(),
            frames_replaced=self._frames_replaced,
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or is being written: what is sent past the outbox now overtakes nothing."""
        waits = self._messages or self._frames or self._turn.locked()
        return not (waits or self._is_writing or self._closed or self._has_last)

    def wake(self) -> None:
        """Have the taking task write, though nothing waits: the transport has begun what it must end."""
        self._woken = True
        self._filled.set()

    def put_nowait(self, message: str) -> None:
        """Append a message. Raises `trio.WouldBlock` if there is no room. Does nothing once closed."""
        if self._closed or self._has_last:
            return
        size = _size(message)
        if self._turn.locked() or self._is_full(size):
            raise trio.WouldBlock
        self._append(message, size)

    async def put(self, message: str, *, last: bool = False) -> None:
        """Append a message, after those whose senders already wait for room.

        What is put after the `last` one is thrown away, and so is every frame that is not written yet.
        If cancelled, the message was not appended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if last:
            self._refuses_frames = True
            self._frames.clear()
        try:
            self.put_nowait(message)
        except trio.WouldBlock:
            await self._put_in_turn(message, _size(message), last)
        else:
            self._has_last |= last
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _put_in_turn(self, message: str, size: int, last: bool) -> None:
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

    def _append(self, message: str, size: int) -> None:
        self._messages.append(message)
        self._bytes += size
        self._filled.set()

    def put_frame(self, track: str, frame: bytes) -> None:
        """Leave a frame for the next write, in place of one of the same track that still waits."""
        if self._closed or self._refuses_frames:
            return
        if track in self._frames:
            self._frames_replaced += 1
            self._counts.frames[track].replaced += 1
        self._frames[track] = frame
        self._filled.set()

    async def take(self) -> list[str | bytes]:
        """Wait for something to write, and take it all: first the messages, then a frame a track.

        Calling it again says that what it returned last has been written. If cancelled, nothing was taken.
        It is a checkpoint only if it waits: the write that follows is one.
        """
        self._is_writing = False
        self._tracks_writing = frozenset()
        self._progress.set()
        while not (self._messages or self._frames or self._woken):
            self._filled = trio.Event()
            await self._filled.wait()
        batch: list[str | bytes] = [*self._messages, *self._frames.values()]
        self._is_writing = True
        self._tracks_writing = frozenset(self._frames)
        self._counts.messages_sent += len(self._messages)
        for track in self._frames:
            self._counts.frames[track].sent += 1
        self._messages.clear()
        self._frames.clear()
        self._bytes = 0
        self._woken = False
        self._room.set()
        return batch

    async def frame_written(self, track: str) -> None:
        """Wait until no frame of this track is being written: the moment to encode the next one.

        An encoder that waited for less would encode frames that are replaced before they are sent.
        """
        while track in self._tracks_writing and not self._closed:
            await self._next_progress()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def flushed(self) -> None:
        """Wait until everything has been written, or the outbox is closed."""
        while not self._closed and (self._messages or self._frames or self._is_writing):
            await self._next_progress()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _next_progress(self) -> None:
        if self._progress.is_set():
            self._progress = trio.Event()
        await self._progress.wait()

    def drop_frames(self) -> None:
        """Throw away the frames that wait; the messages stay."""
        for track in self._frames:
            self._counts.frames[track].dropped += 1
        self._frames.clear()

    def close(self) -> None:
        """Nothing will be written any more: whoever waits goes on, and what is put is thrown away."""
        self._closed = True
        self._messages.clear()
        self._frames.clear()
        self._bytes = 0
        self._room.set()
        self._progress.set()


def _size(message: str) -> int:
    return len(message) if message.isascii() else len(message.encode())
