"""What waits to be written: commands first, then one chunk of an upload at a time.

So a command never waits for more than one chunk, however large the uploads beside it are, and uploads
take turns. The send task alone takes from it; whoever puts may be cancelled at any moment, since a
message is either still here, and withdrawn, or wholly in the send task's hands.
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
"""Commands that may wait to be written; then `put` waits. As many as a server queues by default."""


@attrs.define(eq=False)
class _Chunk:
    data: bytes
    # Whether `take` gave it to the send task, rather than that the outbox was closed before.
    taken: bool = False
    # Set when it left the queue either way; the upload that brought the chunk waits for it.
    gone: trio.Event = attrs.field(factory=trio.Event)


class Outbox:
    """Many tasks put, one task takes."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque()
        self._chunks: deque[_Chunk] = deque()
        # Set to the reason as soon as nothing more may be put in.
        self._closed: TransportClosed | None = None
        # Set by whoever puts or closes, made anew by the send task before it waits.
        self._wake = trio.Event()
        # Where `put` waits while there are too many texts; woken by `take` and `fail`.
        self._room = trio.lowlevel.ParkingLot()

    async def put(self, text: str) -> None:
        """Queue a text message, in order; waits while `MAX_TEXTS` are waiting.

        Raises `TransportClosed`. If cancelled, the message is not sent.
        """
        await trio.lowlevel.checkpoint()
        while len(self._texts) >= MAX_TEXTS and self._closed is None:
            await self._room.park()
        self.put_nowait(text)

    def put_nowait(self, text: str) -> None:
        """Queue a text message beyond the bound: only for one that ends something, such as an abort.

        Raises `TransportClosed`.
        """
        self._check_open()
        self._texts.append(text)
        self._wake.set()

    async def put_chunk(self, data: bytes) -> None:
        """Hand a chunk to the send task; returns when it is being written.

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
        """All waiting texts and one chunk; None once the outbox is closed and empty.

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
        """Take no more; the texts that wait are still written, uploads fail."""
        self._closed = reason
        self._drop_chunks()

    def fail(self, reason: TransportClosed) -> None:
        """The connection has ended: whatever waits is dropped."""
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
