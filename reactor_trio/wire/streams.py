"""A stream that tells a slow peer from a dead one, and remembers when it last heard from the peer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from reactor_trio.wire.foreign_errors import DESCRIPTOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Buffer = bytes | bytearray | memoryview

SLICE_BYTES = 64 * 1024
"""The largest write that waits for the peer, so that the peer's progress is seen at least this often."""
JOINED_BYTES = 16 * 1024
"""Up to this size buffers are joined for one write; larger ones are gathered by the kernel."""
AT_ONCE_BYTES = 256 * 1024
"""The largest write that is handed to the kernel before other tasks run."""


def gathered(buffers: Iterable[Buffer], size: int) -> Iterator[list[Buffer]]:
    """Cut the concatenation of the buffers into pieces of `size` bytes; the last piece may be shorter.

    Each piece is a list of parts, so that no byte is copied.
    """
    parts: list[Buffer] = []
    room = size
    for buffer in buffers:
        if len(buffer) < room:
            if buffer:
                parts.append(buffer)
                room -= len(buffer)
            continue
        view = memoryview(buffer)
        while len(view) >= room:
            parts.append(view[:room])
            view = view[room:]
            yield parts
            parts, room = [], size
        if view:
            parts.append(view)
            room -= len(view)
    if parts:
        yield parts


def slices(buffers: Iterable[Buffer], size: int = SLICE_BYTES) -> Iterator[Buffer]:
    """The same pieces, each as one buffer; a piece that lies inside one of the buffers is not copied."""
    for parts in gathered(buffers, size):
        yield parts[0] if len(parts) == 1 else b"".join(parts)


def _behind(parts: list[Buffer], count: int) -> list[Buffer]:
    """The parts without their first `count` bytes."""
    for index, part in enumerate(parts):
        if count < len(part):
            return [memoryview(part)[count:], *parts[index + 1 :]]
        count -= len(part)
    return []


class PatientStream(trio.abc.HalfCloseableStream):
    """Wraps a stream and writes in slices; the peer must accept each within `send_timeout` seconds.

    A peer that accepts 64 KiB in that time keeps its connection however long the whole write takes. A slower
    peer is cut off: the stream is closed by force and `stalled` is set. Bytes that the kernel takes without
    waiting need neither slices nor deadlines, and go to it directly.

    A write that was cut short (cancelled, or stalled) leaves the stream torn: the peer would read the bytes
    of the next write as the rest of this one. So every later write raises `trio.BrokenResourceError`.

    `prefix` holds bytes that were read from the stream already; `receive_some` returns them first.
    """

    def __init__(self, stream: trio.abc.Stream, *, send_timeout: float, prefix: bytes = b"") -> None:
        self._stream = stream
        self._send_timeout = send_timeout
        self._prefix = prefix
        self._torn = False
        # The bytes of a `send_nowait` that the kernel did not take: the next write begins with them.
        self._rest = b""
        # A plain write to the socket's descriptor needs no task switch. On Windows a socket is no descriptor.
        is_socket = os.name == "posix" and isinstance(stream, trio.SocketStream)
        self._fd = stream.socket.fileno() if is_socket else None  # type: ignore[attr-defined]
        self.stalled = False
        """Whether the peer was cut off because it accepted nothing."""
        self.last_received = trio.current_time()
        """When the last byte arrived, or else the stream was made, in seconds of Trio's clock."""

    async def send_all(self, data: Buffer) -> None:
        """Write `data`.

        Raises `trio.BrokenResourceError` if the peer is gone, accepted too little for `send_timeout`
        seconds (`stalled`), or an earlier write was cut short. If cancelled, the stream may be torn.
        """
        await self.send_buffers((data,))

    @property
    def has_rest(self) -> bool:
        """Whether the next write must end one that `send_nowait` has begun."""
        return bool(self._rest)

    def send_nowait(self, buffers: Iterable[Buffer]) -> bool:
        """Write the buffers if no waiting is needed; returns whether they were taken.

        If the kernel took only a part of them, the next write begins with the rest (`has_rest`), and the
        caller must see to it that there is a next write. Never raises: an error shows at the next write.
        """
        if self._fd is None or self._torn or self._rest:
            return False
        parts = [*buffers]
        size = sum(map(len, parts))
        if size > AT_ONCE_BYTES:
            return False
        rest = self._write_at_once(parts, size)
        if rest is parts:
            return False
        if rest:
            self._rest = b"".join(rest)
        return True

    async def send_buffers(self, buffers: Iterable[Buffer]) -> None:
        """Write the buffers in order, in as few writes as they need.

        Errors and cancellation are those of `send_all`.
        """
        if self._torn:
            raise trio.BrokenResourceError("an earlier write was cut short")
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._rest:
            buffers, self._rest = (self._rest, *buffers), b""
        wrote = False
        for parts in gathered(buffers, AT_ONCE_BYTES):
            await trio.lowlevel.checkpoint_if_cancelled()
            self._torn = wrote = True
            if rest := self._write_at_once(parts, sum(map(len, parts))):
                for data in slices(rest):
                    await self._send_slice(data)
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
        self._torn = False
        if not wrote:
            await trio.lowlevel.checkpoint()

    def _write_at_once(self, parts: list[Buffer], size: int) -> list[Buffer]:
        """Write as much as the kernel takes now; returns the rest, and `parts` itself if it took nothing.

        An error shows when the rest is written.
        """
        if self._fd is None or not self._is_open:
            return parts
        try:
            if size <= JOINED_BYTES:  # to join many answers costs less than to name each to the kernel
                count = os.write(self._fd, b"".join(parts))
            else:
                count = os.writev(self._fd, parts)
        except OSError:  # it would block, the peer is gone, or there are too many parts
            return parts
        return [] if count == size else _behind(parts, count)

    async def _send_slice(self, data: Buffer) -> None:
        with trio.move_on_after(self._send_timeout) as deadline:
            await self._stream.send_all(data)
        # If the deadline passed while the last byte went out, the slice is whole, and nothing was cut.
        if deadline.cancelled_caught:
            self.stalled = True
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError(f"the peer accepted nothing for {self._send_timeout:g} s")

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Half-close the stream below if it can be half-closed; otherwise do nothing."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        else:
            await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See `trio.abc.ReceiveStream`. If cancelled, no byte is lost."""
        if self._prefix:
            await trio.lowlevel.checkpoint()
            count = len(self._prefix) if max_bytes is None else max_bytes
            replayed, self._prefix = self._prefix[:count], self._prefix[count:]
            return replayed
        if self._fd is None:
            data = await self._stream.receive_some(max_bytes)
        else:
            data = await self._read_fd(self._fd, SLICE_BYTES if max_bytes is None else max_bytes)
        if data:
            self.last_received = trio.current_time()
        return data

    async def _read_fd(self, fd: int, max_bytes: int) -> bytes:
        # Trio's stream reads first, and waits if there is nothing to read: nearly always on a connection of
        # small messages. The failed read, with its exception, is half the cost of a command with 100 clients.
        self._check_open()
        while True:
            await trio.lowlevel.wait_readable(fd)
            # Before this task goes on, another task that was woken in the same pass of the loop may close
            # this stream, and a third one may be given the descriptor's number for a new client, whose bytes
            # this task must not read. So nothing may be awaited between this check and the read.
            self._check_open()
            with DESCRIPTOR:
                try:
                    return os.read(fd, max_bytes)
                except BlockingIOError:
                    continue

    def _check_open(self) -> None:
        if not self._is_open:
            raise trio.ClosedResourceError("this stream was closed")

    @property
    def _is_open(self) -> bool:
        # The number of a closed descriptor may have been given to another connection by now.
        return self._stream.socket.fileno() == self._fd  # type: ignore[attr-defined, no-any-return]

    async def drain(self) -> None:
        """Half-close, then read and discard bytes until the peer closes.

        Without it, bytes of the peer that nobody has read turn the close into a reset, which can overtake
        the bytes that were written last. Unbounded: put a deadline around it. Does not raise if the peer is
        gone. If cancelled, the stream can only be closed.
        """
        try:
            await self.send_eof()
            while await self.receive_some(SLICE_BYTES):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._stream.aclose()
