"""The messages that wait to be written: all texts first, then one chunk of an upload (or frame) at a time.

So a command never waits for more than one chunk, however large the uploads beside it are, and uploads take
turns. Only the write task takes messages. A task that puts one may be cancelled at any moment: the message is
then either withdrawn from the outbox, or was taken as a whole by the write task.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
import trio

from reactor_trio.client.errors import again

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactor_trio.errors import TransportClosed

MAX_TEXTS = 64
"""Texts that may wait to be written; with more, `put` waits. A server queues as many by default."""


@attrs.define(eq=False)
class _Chunk:
    data: bytes
    # True if `take` gave the chunk to the write task, False if the outbox was closed before.
    taken: bool = False
    # Set when the chunk has left the queue either way; `put_chunk` waits for it.
    gone: trio.Event = attrs.field(factory=trio.Event)


class Outbox:
    """Many tasks put, one task takes."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque()
        self._chunks: deque[_Chunk] = deque()
        # The reason why nothing more may be put in; None while the outbox is open.
        self._closed: TransportClosed | None = None
        # Set by every put and close, replaced by the write task before it waits.
        self._wake = trio.Event()
        # Where `put` waits while there are too many texts; woken by `take`, `close` and `fail`.
        self._room = trio.lowlevel.ParkingLot()

    async def put(self, text: str) -> None:
        """Append a text message; waits while `MAX_TEXTS` texts are in the outbox.

        Raises `TransportClosed`. If cancelled, the message is not sent.
        """
        await trio.lowlevel.checkpoint()
        while len(self._texts) >= MAX_TEXTS and self._closed is None:
            await self._room.park()
        self.put_nowait(text)

    def put_nowait(self, text: str) -> None:
        """Append a text message beyond the bound: only for a message that ends something, such as an abort.

        Raises `TransportClosed`.
        """
        self._check_open()
        self._texts.append(text)
        self._wake.set()

    async def put_chunk(self, data: bytes) -> None:
        """Append a chunk, or a frame; returns once the write task has taken it.

        Raises `TransportClosed`. If cancelled, the chunk is not sent.
        """
        self._check_open()
        chunk = _Chunk(data)
        self._chunks.append(chunk)
        self._wake.set()
        try:
            await chunk.gone.wait()
        finally:
            if not chunk.gone.is_set():
                self._chunks.remove(chunk)
        if not chunk.taken:
            self._check_open()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more may be put in."""
        return self._closed is not None

    async def take(self) -> Sequence[str | bytes] | None:
        """Wait for messages; take all texts and one chunk. Returns None once the outbox is closed and empty.

        If cancelled, nothing is lost. It may return without a checkpoint.
        """
        while not (self._texts or self._chunks):
            if self._closed is not None:
                return None
            self._wake = trio.Event()
            await self._wake.wait()
        messages: list[str | bytes] = list(self._texts)
        self._texts.clear()
        self._room.unpark_all()
        if self._chunks:
            chunk = self._chunks.popleft()
            chunk.taken = True
            chunk.gone.set()
            messages.append(chunk.data)
        return messages

    def close(self, reason: TransportClosed) -> None:
        """Refuse new messages and drop the chunks: uploads fail. The texts are still written."""
        self._closed = reason
        self._drop_chunks()

    def fail(self, reason: TransportClosed) -> None:
        """The connection has ended: refuse new messages, and drop all texts and chunks."""
        self._closed = reason
        self._texts.clear()
        self._drop_chunks()

    def _drop_chunks(self) -> None:
        for chunk in self._chunks:
            chunk.gone.set()
        self._chunks.clear()
        self._room.unpark_all()
        self._wake.set()

    def _check_open(self) -> None:
        if self._closed is not None:
            raise again(self._closed)
