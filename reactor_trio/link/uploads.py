"""Keeps the bytes of a session's uploads, from their arrival until the session ends.

The ledger (`protocol/upload_ledger.py`) checks the messages of the client; the budget
(`session/upload_budget.py`) reserves room, which all sessions share. A small file is kept in memory. A large
file is kept in a temporary file (`link/spool.py`) until a command or `@file_uploaded` uses it: `lend` offers
files to structuring, and `loaded` reads them from the disk around a handler. All file access goes through the
executor: the file objects of anyio and Trio use threads that a test under a mock clock cannot replace.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import IO, TYPE_CHECKING
from weakref import WeakValueDictionary

import attrs
import trio

from reactor_trio.compute.lanes import FILES
from reactor_trio.contract.upload_fields import PendingUpload
from reactor_trio.declare.uploaded_file import UploadedFile, fill, is_on_disk, on_disk
from reactor_trio.errors import ProtocolError
from reactor_trio.link.spool import Spool, SpooledFile
from reactor_trio.link.stalls import StallWatch
from reactor_trio.logs.logger import get_logger
from reactor_trio.protocol.names import UPLOAD_QUOTA, UPLOAD_REJECTED
from reactor_trio.protocol.upload_ledger import Upload, UploadLedger
from reactor_trio.session.upload_budget import Place, UploadBudget

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from reactor_trio.compute.executor import Executor
    from reactor_trio.protocol.binary import UploadChunk
    from reactor_trio.protocol.client_messages import UploadStart
    from reactor_trio.protocol.text import Id
    from reactor_trio.session.limits import Limits

VIEWED_BYTES = 16 * 1024
"""Bytes from which on a payload is kept as a view of its message, whose header has at most a kilobyte."""
RETRY_AFTER = 10.0
"""Seconds, a guess, after which a client is told to try again when the server has no room."""

log = get_logger(__name__)


@attrs.define(eq=False)
class _Buffer:
    """The parts of an upload in memory that have arrived. To grow a single buffer takes ten times as long."""

    parts: list[bytes | memoryview] = attrs.field(factory=list)

    def add(self, payload: bytes | memoryview) -> None:
        """Keep a view of a large payload, which keeps the small header alive too; copy a small payload."""
        self.parts.append(payload if len(payload) >= VIEWED_BYTES else bytes(payload))

    def whole(self) -> bytes:
        """The bytes of all parts."""
        return b"".join(self.parts)


@attrs.define(eq=False)
class _Stored:
    """One upload, and the place of its bytes."""

    upload: Upload
    place: Place
    where: _Buffer | SpooledFile | UploadedFile
    """A buffer or a spooled file; an `UploadedFile` instead of the buffer once the upload is whole."""
    kept: int = 0
    """Bytes of the upload in memory."""
    is_whole: bool = False
    """Whether commands can use the upload: every byte has come and, if its place is the disk, is written."""


class Lent:
    """The uploads that the payload of one command may refer to, as a mapping for structuring.

    It remembers the files it returned that are on the disk, so that they can be read before the handler.
    """

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._unread: dict[str, UploadedFile] = {}

    @property
    def unread(self) -> Lent | None:
        """This object if `get` has returned a file on the disk, to be `loaded` for the handler; else None."""
        return self if self._unread else None

    def get(self, upload_id: str) -> UploadedFile | PendingUpload | None:
        """The file, or a `PendingUpload` while it arrives; None if there is no such upload."""
        file = self._unread.get(upload_id) or self._uploads.file(upload_id)
        if isinstance(file, UploadedFile) and is_on_disk(file):
            self._unread[upload_id] = file
        return file

    def loaded(self) -> AbstractAsyncContextManager[None]:
        """Read the files that `get` returned and that are on the disk; see `Uploads.loaded`."""
        return self._uploads.loaded(self._unread)


class Uploads:
    """The uploads of one session. The receive task calls `start`, `chunk` and `abort`; commands use `lend`.

    The link calls `begin` first. A failure of the disk, the memory or a thread is a `ProtocolError` of the
    one upload that it concerns.
    """

    def __init__(self, limits: Limits, executor: Executor, budget: UploadBudget) -> None:
        self._limits = limits
        self._executor = executor
        self._budget = budget
        self._ledger = UploadLedger(
            max_upload_bytes=limits.max_upload_bytes,
            max_session_upload_bytes=limits.max_session_upload_bytes,
            max_uploads=limits.max_uploads,
            chunk_bytes=limits.upload_chunk_bytes,
        )
        self._spool = Spool(executor, budget, patience=limits.disk_timeout, done=self._written)
        self._stalls = StallWatch(limits.upload_stall_timeout, self._stalled)
        self._stored: dict[str, _Stored] = {}
        self._by_file: dict[SpooledFile, _Stored] = {}
        # Files that were read back and are still referred to: their bytes need not be read again.
        self._in_use: WeakValueDictionary[str, UploadedFile] = WeakValueDictionary()
        self._kept_bytes = self._lent_bytes = 0
        # Set, and replaced, whenever an upload is complete or has failed; `settled` waits for it.
        self._changed = trio.Event()
        self._stopped = False
        self._has_complained = False

    def begin(self, nursery: trio.Nursery, tell: Callable[[Upload, str | None], Awaitable[None]]) -> None:
        """Start tasks in this nursery when they are needed: the writer, and the watch for stalled uploads.

        These tasks await `tell` with an upload and None if it is complete, or the fault if it has failed.
        """
        self._spool.begin(nursery)
        self._stalls.begin(nursery)
        self._tell = tell

    @property
    def bytes_in_memory(self) -> int:
        """Bytes in memory: of small files, of large files in use, and bytes that are not written yet."""
        return self._kept_bytes + self._lent_bytes + self._spool.unwritten

    @property
    def bytes_on_disk(self) -> int:
        """Bytes that have been written to temporary files."""
        return self._spool.on_disk

    # ---- called for commands

    def lend(self) -> Lent:
        """The uploads that the payload of one command may refer to, by id."""
        return Lent(self)

    def file(self, upload_id: str) -> UploadedFile | PendingUpload | None:
        """The file of an upload, or a `PendingUpload` while it arrives; None if there is no such upload."""
        stored = self._stored.get(upload_id)
        if stored is None:
            return None
        upload, where = stored.upload, stored.where
        if not stored.is_whole:
            return PendingUpload(
                upload_id=upload_id, name=upload.name, mime_type=upload.mime_type, size=upload.size
            )
        if isinstance(where, SpooledFile):
            # A new object for each command, so that files of waiting commands hold no bytes.
            return on_disk(upload.name, upload.mime_type, upload.size, where.read)
        assert isinstance(where, UploadedFile)
        return where

    @asynccontextmanager
    async def loaded(self, files: Mapping[str, UploadedFile]) -> AsyncGenerator[None]:
        """Read files, by upload id, from the disk, and count them as in memory while the block lasts.

        Raises `ProtocolError`: `upload_quota` if there is no memory for them within `upload_timeout` seconds,
        `upload_rejected` if a file cannot be read. If cancelled, some of the files may have been read.
        """
        unread = {upload_id: file for upload_id, file in files.items() if is_on_disk(file)}
        size = sum(file.size for file in unread.values())
        with trio.move_on_after(self._limits.upload_timeout) as scope:
            await self._budget.lend(size)
        if scope.cancelled_caught:
            raise _no_room(next(iter(unread)), None)
        self._lent_bytes += size
        try:
            for upload_id, file in unread.items():
                await self._read(upload_id, file)
            yield
        finally:
            self._lent_bytes -= size
            self._budget.return_lent(size)

    async def _read(self, upload_id: str, file: UploadedFile) -> None:
        used = self._in_use.get(upload_id)
        if used is not None:
            fill(file, used.data)
            return
        stored = self._stored.get(upload_id)
        try:
            if stored is None or not isinstance(stored.where, SpooledFile):
                raise OSError("its session has ended")
            data = await self._executor.run(FILES, stored.where.read)
        except Exception as failure:
            self._complain("an upload could not be read back", failure)
            text = "the server could not read the file back"
            raise ProtocolError(UPLOAD_REJECTED, text, upload_id=upload_id) from None
        await trio.lowlevel.checkpoint_if_cancelled()
        fill(file, data)
        self._in_use[upload_id] = file

    # ---- messages of the client

    def start(self, message: UploadStart) -> Upload:
        """Begin an upload and reserve room for it. An empty upload is complete at once.

        Raises `ProtocolError` as `UploadLedger.start`, and `upload_quota` if the server has no room for it.
        """
        upload = self._ledger.start(message)
        small = upload.size <= self._limits.spool_bytes
        place = self._budget.reserve(upload.size, in_memory=small)
        if place is None:
            self._ledger.lose(upload)
            raise _no_room(upload.upload_id, message.id)
        where: _Buffer | SpooledFile = _Buffer()
        if place is Place.DISK:
            where = SpooledFile(upload.size, lambda: _temporary_file())
            self._spool.add(where)
        stored = self._stored[upload.upload_id] = _Stored(upload, place, where)
        if isinstance(where, SpooledFile):
            self._by_file[where] = stored
        self._note(upload)
        self._complete_if_whole(stored)
        return upload

    async def chunk(self, chunk: UploadChunk) -> Upload | None:
        """Keep the next chunk; returns its upload, or None if it was dropped. Not always a checkpoint.

        Waits, `disk_timeout` seconds at most, while too many bytes are unwritten. Raises `ProtocolError` as
        `UploadLedger.chunk`, and `upload_rejected` if the bytes cannot be kept. If cancelled, the session is
        over.
        """
        try:
            upload = self._ledger.chunk(chunk)
        except ProtocolError:
            self._forget_failed(chunk.upload_id)
            raise
        if upload is None:
            return None
        stored = self._stored[upload.upload_id]
        if isinstance(stored.where, SpooledFile):
            with self._stalls.deaf():
                has_room = await self._spool.make_room(len(chunk.payload))
            if not has_room:
                raise self._lost(stored, "the server's disk is too slow")
            # Meanwhile the session may have ended, or the writing of this file may have failed.
            if self._stopped or stored.where.is_discarded:
                return None
            self._spool.put(stored.where, chunk.payload)
        else:
            assert isinstance(stored.where, _Buffer)
            try:
                stored.where.add(chunk.payload)
                stored.kept += len(chunk.payload)
                self._kept_bytes += len(chunk.payload)
                self._complete_if_whole(stored)
            except MemoryError:
                raise self._lost(stored, "the server has no memory for it") from None
        self._note(upload)
        return upload

    def _note(self, upload: Upload) -> None:
        if upload.is_complete:
            self._stalls.forget(upload.upload_id)
        else:
            self._stalls.heard(upload.upload_id)

    async def _stalled(self, upload_id: str) -> None:
        upload = self._ledger.abort(upload_id)
        self._forget_failed(upload_id)
        await self._tell(upload, f"no byte of it came for {self._limits.upload_stall_timeout:g} s")

    def abort(self, upload_id: str, id: Id | None) -> Upload:  # noqa: A002  the wire's word
        """Give up an upload at its client's request. Raises `ProtocolError` as `UploadLedger.abort`."""
        upload = self._ledger.abort(upload_id, id)
        self._forget_failed(upload_id)
        return upload

    def _complete_if_whole(self, stored: _Stored) -> None:
        # A spooled file is whole later, when it has been written: see `_written`.
        upload, where = stored.upload, stored.where
        if upload.is_complete and isinstance(where, _Buffer):
            stored.where = UploadedFile(upload.name, upload.mime_type, upload.size, where.whole())
            self._be_whole(stored)

    def _be_whole(self, stored: _Stored) -> None:
        stored.is_whole = True
        self._announce_change()

    def is_whole(self, upload: Upload) -> bool:
        """Whether commands can use an upload. If it becomes whole on the disk later, `tell` is called."""
        stored = self._stored.get(upload.upload_id)
        return stored is not None and stored.is_whole

    async def _written(self, file: SpooledFile, failure: Exception | None) -> None:
        stored = self._by_file[file]
        if failure is None:
            self._be_whole(stored)
            await self._tell(stored.upload, None)
            return
        self._complain("an upload could not be written", failure)
        text = "the server could not store the file"
        self._lost(stored, text)
        await self._tell(stored.upload, text)

    def _lost(self, stored: _Stored, text: str) -> ProtocolError:
        """Fail an upload whose bytes could not be kept; returns the error for its client."""
        upload = stored.upload
        self._ledger.lose(upload)
        self._forget_failed(upload.upload_id)
        return ProtocolError(UPLOAD_REJECTED, text, upload_id=upload.upload_id, reply_to=upload.id)

    def _forget_failed(self, upload_id: str) -> None:
        # Not every error ends its upload: a surplus chunk leaves a complete upload as it is.
        if self._ledger.get(upload_id) is None and upload_id in self._stored:
            self._forget(self._stored.pop(upload_id))
            self._announce_change()

    def _forget(self, stored: _Stored) -> None:
        self._stalls.forget(stored.upload.upload_id)
        if isinstance(stored.where, SpooledFile):
            del self._by_file[stored.where]
            self._spool.discard(stored.where)
        self._kept_bytes -= stored.kept
        self._budget.give_back(stored.upload.size, stored.place)

    def _complain(self, event: str, failure: Exception) -> None:
        # Logged once a session: otherwise a client could fill the log by its chunks.
        if not self._has_complained:
            self._has_complained = True
            reason = os.strerror(failure.errno) if isinstance(failure, OSError) and failure.errno else failure
            log.error(event, reason=str(reason), kind=type(failure).__name__)

    def _announce_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def settled(self, upload_ids: Iterable[str]) -> None:
        """Wait until each of these uploads is whole or has failed. Always a checkpoint."""
        upload_ids = tuple(upload_ids)
        while any(isinstance(self.file(upload_id), PendingUpload) for upload_id in upload_ids):
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    # ---- the end

    def stop(self) -> None:
        """Start no task any more, since the session ends: a write that still runs completes no upload."""
        self._stopped = True
        self._spool.stop()
        self._stalls.stop()

    async def close(self) -> None:
        """Throw all uploads away. Never raises an error of the disk; a checkpoint if files are open."""
        self.stop()
        stored = [*self._stored.values()]
        self._stored.clear()
        self._by_file.clear()
        self._kept_bytes = 0
        for each in stored:
            self._budget.give_back(each.upload.size, each.place)
        await self._spool.close()


NO_FILES: Mapping[str, UploadedFile | PendingUpload] = MappingProxyType({})
"""The files for a command that has no uploads among its fields."""


def _no_room(upload_id: str, id_: Id | None) -> ProtocolError:
    return ProtocolError(
        UPLOAD_QUOTA,
        "the server has no room for more uploads at the moment",
        upload_id=upload_id,
        reply_to=id_,
        retry_after=RETRY_AFTER,
    )


def _temporary_file() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="reactor-trio-")
