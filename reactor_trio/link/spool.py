"""Files on the disk: written behind by one task of their session, read back when they are needed.

The receive task leaves bytes here and goes on; a slow disk stops it only when `WRITE_BEHIND_BYTES` wait, and
then not for longer than its patience. What has come of a file in the meantime is written in one call to a
thread. The disk may fail at any of these calls: that is its upload's failure, and of nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from typing import IO, TYPE_CHECKING

import trio

from reactor_trio.compute.lanes import FILES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from reactor_trio.compute.executor import Executor
    from reactor_trio.session.upload_budget import UploadBudget

WRITE_BEHIND_BYTES = 4 * 1024 * 1024
"""What of a session may wait in memory for the disk."""
BATCH_BYTES = 512 * 1024
"""So many bytes of a file are written at once, or its last ones: a call to a thread costs 60 us."""


class SpooledFile:
    """One file. `write`, `read` and `close` block: they are for threads, one call at a time."""

    def __init__(self, size: int, open_file: Callable[[], IO[bytes]]) -> None:
        self.size = size
        """Bytes that it will have."""
        self.written = 0
        """Bytes that are on the disk."""
        self.accepted = 0
        """Bytes that have come. On the loop only, as the next two are."""
        self.pending = bytearray()
        """Bytes that wait to be written."""
        self.is_discarded = False
        """Its upload has failed: what is left is to close it."""
        self._open_file = open_file
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def write(self, data: bytearray) -> None:
        """Append bytes; the first call opens the file. Raises what the disk raises."""
        with self._lock:
            if self._file is None:
                self._file = self._open_file()
            self._file.write(data)
            self._file.flush()  # a buffer would tell of a full disk when the file is closed

    def read(self) -> bytes:
        """All of it. Raises `OSError`, also if bytes are missing or its session has ended."""
        with self._lock:
            if self._file is None:
                raise OSError(errno.EBADF, "the session of this file has ended")
            self._file.seek(0)
            data = self._file.read(self.size)
        if len(data) != self.size:
            raise OSError(errno.EIO, f"{len(data)} of {self.size} bytes are left on the disk")
        return data

    def close(self) -> None:
        """Close and so delete it; never raises. What it had not written is lost."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            # A buffer that the disk did not take is tried again here, and the descriptor closed all the same.
            with contextlib.suppress(OSError):
                file.close()

    @property
    def is_open(self) -> bool:
        """Whether it has a descriptor."""
        return self._file is not None


class Spool:
    """The spooled files of one session.

    `patience` is in seconds. `done` is called, and awaited, in the writing task when a file is whole on the
    disk, or with the failure that ended it. One task, receive, hands bytes in.
    """

    def __init__(
        self,
        executor: Executor,
        budget: UploadBudget,
        *,
        patience: float,
        done: Callable[[SpooledFile, Exception | None], Awaitable[None]],
    ) -> None:
        self._executor = executor
        self._budget = budget
        self._patience = patience
        self._done = done
        self._nursery: trio.Nursery | None = None
        self._files: set[SpooledFile] = set()
        # To be written or closed now, in order; with too few bytes yet. Dicts that keep their order.
        self._ready: dict[SpooledFile, None] = {}
        self._early: dict[SpooledFile, None] = {}
        self._unwritten = self._on_disk = 0
        self._is_writing = False
        # Nothing was written since somebody waited in vain: the disk hangs.
        self._hangs = False
        # Set when bytes were written, or dropped; `make_room` waits for it.
        self._progress = trio.Event()

    @property
    def unwritten(self) -> int:
        """Bytes that wait in memory."""
        return self._unwritten

    @property
    def on_disk(self) -> int:
        """Bytes that are on the disk."""
        return self._on_disk

    def begin(self, nursery: trio.Nursery) -> None:
        """Write in tasks of this nursery, each of which lasts as long as there is something to write."""
        self._nursery = nursery

    def add(self, file: SpooledFile) -> None:
        """Take a file over, to be closed by `discard` or `close`."""
        self._files.add(file)

    async def make_room(self, size: int) -> bool:
        """Wait until `size` more bytes may wait; returns False if the disk took too long. Not always a
        checkpoint.

        Once it did, the next call does not wait before the disk has moved again: whoever reads has other
        things to read. If cancelled, nothing has changed.
        """
        if self._has_room(size):
            return True
        self._hurry()
        if self._hangs:
            return False
        with trio.move_on_after(self._patience):
            while not self._has_room(size):
                self._progress = trio.Event()
                await self._progress.wait()
            return True
        self._hangs = True
        return False

    def _has_room(self, size: int) -> bool:
        if not self._unwritten:
            return True  # one chunk alone always may
        fits = self._unwritten + size <= WRITE_BEHIND_BYTES
        return fits and self._budget.has_room_for_unwritten(size)

    def put(self, file: SpooledFile, payload: bytes | memoryview) -> None:
        """Append bytes to a file, to be written soon; `make_room` first."""
        file.pending += payload
        file.accepted += len(payload)
        self._count(len(payload))
        if len(file.pending) >= BATCH_BYTES or file.accepted == file.size:
            self._be_ready(file)
        elif file not in self._ready:
            self._early[file] = None
        if self._unwritten > WRITE_BEHIND_BYTES // 2:
            self._hurry()
        self._wake()

    def discard(self, file: SpooledFile) -> None:
        """Throw a file away, and close it as soon as no thread is at it."""
        file.is_discarded = True
        self._count(-len(file.pending))
        file.pending = bytearray()
        self._be_ready(file)
        self._wake()

    def _be_ready(self, file: SpooledFile) -> None:
        self._early.pop(file, None)
        self._ready[file] = None

    def _hurry(self) -> None:
        """Write also what would have waited for more."""
        for file in tuple(self._early):
            self._be_ready(file)
        self._wake()

    def _count(self, size: int) -> None:
        self._unwritten += size
        self._budget.add_unwritten(size)
        if size < 0:
            self._progress.set()

    # ---- the writing task

    def _wake(self) -> None:
        if self._ready and not self._is_writing and self._nursery is not None:
            self._is_writing = True
            self._nursery.start_soon(self._write, name="write uploads")

    def stop(self) -> None:
        """The session ends: no task is started any more."""
        self._nursery = None

    async def _write(self) -> None:
        try:
            while self._ready:
                file = next(iter(self._ready))
                del self._ready[file]
                if file.is_discarded:
                    await self._close(file)
                elif file.pending:
                    await self._write_pending(file)
        finally:
            self._is_writing = False

    async def _write_pending(self, file: SpooledFile) -> None:
        data, file.pending = file.pending, bytearray()
        failure: Exception | None = None
        try:
            await self._executor.run(FILES, file.write, data)
        except Exception as raised:  # of the disk, or because there is no thread
            failure = raised
        finally:
            self._count(-len(data))
        # A cancelled call to a thread waits for it and returns all the same. By then the session is over.
        await trio.lowlevel.checkpoint_if_cancelled()
        if failure is None:
            self._hangs = False
            file.written += len(data)
            self._on_disk += len(data)
        if file.is_discarded:
            await self._close(file)
        elif failure is not None:
            self.discard(file)
            await self._done(file, failure)
        elif file.written == file.size:
            await self._done(file, None)

    async def _close(self, file: SpooledFile) -> None:
        # To delete what was written takes a while too.
        if file.is_open:
            with contextlib.suppress(Exception):
                await self._executor.run(FILES, file.close)
            file.close()
        self._on_disk -= file.written
        file.written = 0
        self._files.discard(file)
        self._ready.pop(file, None)

    async def close(self) -> None:
        """Close every file, when the writing task has ended. Never raises; a checkpoint if there are some.

        If cancelled they are closed here, on the loop.
        """
        self.stop()
        self._count(-self._unwritten)
        self._on_disk = 0
        files = [file for file in self._files if file.is_open]
        self._files.clear()
        self._ready.clear()
        self._early.clear()
        try:
            if files:
                with contextlib.suppress(Exception):
                    await self._executor.run(FILES, _close_all, files)
        finally:
            _close_all(files)


def _close_all(files: Iterable[SpooledFile]) -> None:
    for file in files:
        file.close()
