"""Spooled files: uploads on the disk. One task of the session writes them; they are read back when needed.

The receive task adds bytes and goes on. A slow disk makes the receive task wait only when
`WRITE_BEHIND_BYTES` are unwritten, and then for `patience` seconds at most. The bytes that have come of a
file are written together, in one call to a thread. If the disk fails in such a call, only the upload of that
file fails.
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
"""Bytes of a session that may wait in memory for the disk."""
BATCH_BYTES = 512 * 1024
"""Bytes of a file for which a call to a thread is made, or its last bytes: the call costs 60 us."""


class SpooledFile:
    """The temporary file of one upload.

    `write`, `read` and `close` block, so they are called in threads; a lock lets one call run at a time. The
    public attributes change on the loop only.
    """

    def __init__(self, size: int, open_file: Callable[[], IO[bytes]]) -> None:
        self.size = size
        """Bytes of the whole upload."""
        self.written = 0
        """Bytes that are on the disk."""
        self.accepted = 0
        """Bytes that have come from the client."""
        self.pending = bytearray()
        """Bytes that wait to be written."""
        self.is_discarded = False
        """Whether the upload has failed, so that the file only has to be closed."""
        self._open_file = open_file
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def write(self, data: bytearray) -> None:
        """Append bytes; the first call opens the file. Raises the error of a disk that fails."""
        with self._lock:
            if self._file is None:
                self._file = self._open_file()
            self._file.write(data)
            self._file.flush()  # so that a full disk raises here, and not at `close`

    def read(self) -> bytes:
        """Read the whole file. Raises `OSError`, also if bytes are missing or the session has ended."""
        with self._lock:
            if self._file is None:
                raise OSError(errno.EBADF, "the session of this file has ended")
            self._file.seek(0)
            data = self._file.read(self.size)
        if len(data) != self.size:
            raise OSError(errno.EIO, f"{len(data)} of {self.size} bytes are left on the disk")
        return data

    def close(self) -> None:
        """Close the file, which deletes it. Never raises; bytes that were not written are lost."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            # After a failed write `close` tries to write the buffer again, and closes the descriptor anyway.
            with contextlib.suppress(OSError):
                file.close()

    @property
    def is_open(self) -> bool:
        """Whether the file is open, and so has a descriptor."""
        return self._file is not None


class Spool:
    """Writes the spooled files of one session, in a task of its own. `Uploads` calls it.

    The receive task calls `make_room` and then `put` for each chunk, and waits `patience` seconds at most.
    The writing task awaits `done` with a file when the file is completely on the disk, or with the file and
    the exception when writing it failed.
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
        # Ordered sets: files to be written or closed now, and files that wait for more bytes.
        self._ready: dict[SpooledFile, None] = {}
        self._postponed: dict[SpooledFile, None] = {}
        self._unwritten = self._on_disk = 0
        self._is_writing = False
        # Whether the disk hangs: `make_room` waited in vain, and nothing was written since.
        self._hangs = False
        # Set when bytes have been written or dropped; `make_room` waits for it.
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
        """Start writing tasks in this nursery: one at a time, for as long as there is something to write."""
        self._nursery = nursery

    def add(self, file: SpooledFile) -> None:
        """Add a file. The spool closes it, on `discard` or `close`."""
        self._files.add(file)

    async def make_room(self, size: int) -> bool:
        """Wait until `size` more bytes may be `put`; returns False if the disk took longer than `patience`.

        After such a timeout, further calls return False at once until the disk has written something, so that
        the receive task can read other messages. Not always a checkpoint. If cancelled, nothing has changed.
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
            return True  # a single chunk may always wait
        fits = self._unwritten + size <= WRITE_BEHIND_BYTES
        return fits and self._budget.has_room_for_unwritten(size)

    def put(self, file: SpooledFile, payload: bytes | memoryview) -> None:
        """Append bytes to a file; the writing task writes them soon. Call `make_room` before."""
        file.pending += payload
        file.accepted += len(payload)
        self._count(len(payload))
        if len(file.pending) >= BATCH_BYTES or file.accepted == file.size:
            self._be_ready(file)
        elif file not in self._ready:
            self._postponed[file] = None
        if self._unwritten > WRITE_BEHIND_BYTES // 2:
            self._hurry()
        self._wake()

    def discard(self, file: SpooledFile) -> None:
        """Throw a file away: its bytes are not written any more, and the writing task closes it."""
        file.is_discarded = True
        self._count(-len(file.pending))
        file.pending = bytearray()
        self._be_ready(file)
        self._wake()

    def _be_ready(self, file: SpooledFile) -> None:
        self._postponed.pop(file, None)
        self._ready[file] = None

    def _hurry(self) -> None:
        """Write all files now, also those that would wait for more bytes."""
        for file in tuple(self._postponed):
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
        """Start no writing task any more: the session ends."""
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
        except Exception as raised:  # the disk failed, or no thread could be started
            failure = raised
        finally:
            self._count(-len(data))
        # A cancelled call to a thread returns when the thread has ended. The session is over then.
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
        # In a thread, since to delete a large file takes a while.
        if file.is_open:
            with contextlib.suppress(Exception):
                await self._executor.run(FILES, file.close)
            file.close()
        self._on_disk -= file.written
        file.written = 0
        self._files.discard(file)
        self._ready.pop(file, None)

    async def close(self) -> None:
        """Close every file. Call it when the writing task has ended. Never raises an error of the disk.

        A checkpoint if files are open. If cancelled, the files are closed on the loop, without a thread.
        """
        self.stop()
        self._count(-self._unwritten)
        self._on_disk = 0
        files = [file for file in self._files if file.is_open]
        self._files.clear()
        self._ready.clear()
        self._postponed.clear()
        try:
            if files:
                with contextlib.suppress(Exception):
                    await self._executor.run(FILES, _close_all, files)
        finally:
            _close_all(files)


def _close_all(files: Iterable[SpooledFile]) -> None:
    for file in files:
        file.close()
