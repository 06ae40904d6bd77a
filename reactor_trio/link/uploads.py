"""The bytes of a session's uploads, while they arrive and until the session ends.

The ledger (`protocol/upload_ledger.py`) decides what is right, the budget (`session/upload_budget.py`)
whether there is room beside all other sessions; here the bytes are kept. A small file is in memory, and takes
no more than what has come. A large one goes to a temporary file (`link/spool.py`), and stays there until a
command or `@file_uploaded` takes it: `lend` gives files to structuring, `loaded` reads them back around a
handler.
Files are touched through the executor alone: anyio's and Trio's own file objects use threads that a test
under a mock clock cannot replace.
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
"""Payloads of so many bytes are kept as they lie in their message, whose header has a kilobyte at most."""
RETRY_AFTER = 10.0
"""Seconds after which a client may try again when the server has no room: nobody knows when it has."""

log = get_logger(__name__)


@attrs.define(eq=False)
class _Buffer:
    """What has arrived of an upload in memory, in parts: a buffer that grows takes ten times as long."""

    parts: list[bytes | memoryview] = attrs.field(factory=list)

    def add(self, payload: bytes | memoryview) -> None:
        """Keep a view of a large payload, with the header before it, which is small; copy a small one."""
        self.parts.append(payload if len(payload) >= VIEWED_BYTES else bytes(payload))

    def whole(self) -> bytes:
        """All of it in one."""
        return b"".join(self.parts)


@attrs.define(eq=False)
class _Stored:
    """One upload, and where its bytes are."""

    upload: Upload
    place: Place
    where: _Buffer | SpooledFile | UploadedFile
    """A buffer or a spooled file while it arrives; an `UploadedFile` when it is whole in memory."""
    kept: int = 0
    """Bytes of it in memory."""
    is_whole: bool = False
    """Commands can have it: every byte is there, and on the disk if that is its place."""


class Lent:
    """The files that the payload of one command may refer to: a mapping that remembers which it gave."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._unread: dict[str, UploadedFile] = {}

    @property
    def unread(self) -> Lent | None:
        """Itself, if any of the files it gave are on the disk: they are read before the handler begins."""
        return self if self._unread else None

    def get(self, upload_id: str) -> UploadedFile | PendingUpload | None:
        """The file, or what is known of one that still arrives; None if there is none."""
        file = self._unread.get(upload_id) or self._uploads.file(upload_id)
        if isinstance(file, UploadedFile) and is_on_disk(file):
            self._unread[upload_id] = file
        return file

    def loaded(self) -> AbstractAsyncContextManager[None]:
        """Read the files that were given and are on the disk; see `Uploads.loaded`."""
        return self._uploads.loaded(self._unread)


class Uploads:
    """The uploads of one session. One task, receive, hands in starts, chunks and aborts.

    `begin` must be called before. Errors that concern one upload are `ProtocolError`s, whatever the disk, the
    memory or the threads have done.
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
        # Those that were read back and are still in somebody's hands: their bytes need not be read again.
        self._in_use: WeakValueDictionary[str, UploadedFile] = WeakValueDictionary()
        self._kept_bytes = self._lent_bytes = 0
        # Set whenever an upload is complete or has failed; commands that wait for one wait for it.
        self._changed = trio.Event()
        self._stopped = False
        self._has_complained = False

    def begin(self, nursery: trio.Nursery, tell: Callable[[Upload, str | None], Awaitable[None]]) -> None:
        """Start tasks in this nursery when they are needed.

        `tell` is called in one of them with an upload that is complete, or with one that has failed and why.
        """
        self._spool.begin(nursery)
        self._stalls.begin(nursery)
        self._tell = tell

    @property
    def bytes_in_memory(self) -> int:
        """What is in memory: small files, large ones that are being used, and what is not yet written."""
        return self._kept_bytes + self._lent_bytes + self._spool.unwritten

    @property
    def bytes_on_disk(self) -> int:
        """What has been written to temporary files."""
        return self._spool.on_disk

    # ---- what commands get

    def lend(self) -> Lent:
        """What the payload of a command can refer to, by upload id."""
        return Lent(self)

    def file(self, upload_id: str) -> UploadedFile | PendingUpload | None:
        """The file, with its bytes unless they are on the disk; what is known while it arrives; or None."""
        stored = self._stored.get(upload_id)
        if stored is None:
            return None
        upload, where = stored.upload, stored.where
        if not stored.is_whole:
            return PendingUpload(
                upload_id=upload_id, name=upload.name, mime_type=upload.mime_type, size=upload.size
            )
        if isinstance(where, SpooledFile):
            # A new one for each command: one that waits in the queue holds no bytes.
            return on_disk(upload.name, upload.mime_type, upload.size, where.read)
        assert isinstance(where, UploadedFile)
        return where

    @asynccontextmanager
    async def loaded(self, files: Mapping[str, UploadedFile]) -> AsyncGenerator[None]:
        """Read these files back from the disk, by upload id, and count them as in memory while it lasts.

        Raises `ProtocolError`: `upload_quota` if there is no memory for them within `upload_timeout` seconds,
        `upload_rejected` if one cannot be read. If cancelled, a file may have been read or not.
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

    # ---- what the client does

    def start(self, message: UploadStart) -> Upload:
        """Announce an upload; an empty one is complete at once.

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

        Waits while too much waits for the disk, at most `disk_timeout` seconds. Raises `ProtocolError` as
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
            # Meanwhile the session may have ended, or what waited for the disk may have failed.
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
        """Give an upload up. Raises `ProtocolError` as `UploadLedger.abort`."""
        upload = self._ledger.abort(upload_id, id)
        self._forget_failed(upload_id)
        return upload

    def _complete_if_whole(self, stored: _Stored) -> None:
        # One on the disk is whole when it has been written.
        upload, where = stored.upload, stored.where
        if upload.is_complete and isinstance(where, _Buffer):
            stored.where = UploadedFile(upload.name, upload.mime_type, upload.size, where.whole())
            self._be_whole(stored)

    def _be_whole(self, stored: _Stored) -> None:
        stored.is_whole = True
        self._announce_change()

    def is_whole(self, upload: Upload) -> bool:
        """Whether commands can have it; if not, though it is complete, `tell` will be called."""
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
        """Fail an upload whose bytes could not be kept; returns what its client is told."""
        upload = stored.upload
        self._ledger.lose(upload)
        self._forget_failed(upload.upload_id)
        return ProtocolError(UPLOAD_REJECTED, text, upload_id=upload.upload_id, reply_to=upload.id)

    def _forget_failed(self, upload_id: str) -> None:
        # Errors also speak of uploads that stay as they are (a surplus chunk of a complete one).
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
        # Once a session: a client could have it done for every chunk.
        if not self._has_complained:
            self._has_complained = True
            reason = os.strerror(failure.errno) if isinstance(failure, OSError) and failure.errno else failure
            log.error(event, reason=str(reason), kind=type(failure).__name__)

    def _announce_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def settled(self, upload_ids: Iterable[str]) -> None:
        """Wait until none of these uploads is under way any more: each is complete, or has failed."""
        upload_ids = tuple(upload_ids)
        while any(isinstance(self.file(upload_id), PendingUpload) for upload_id in upload_ids):
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    # ---- the end

    def stop(self) -> None:
        """The session ends: what is being written is the last, and completes nothing."""
        self._stopped = True
        self._spool.stop()
        self._stalls.stop()

    async def close(self) -> None:
        """Throw everything away. Never raises; a checkpoint if there are files to close."""
        self.stop()
        stored = [*self._stored.values()]
        self._stored.clear()
        self._by_file.clear()
        self._kept_bytes = 0
        for each in stored:
            self._budget.give_back(each.upload.size, each.place)
        await self._spool.close()


NO_FILES: Mapping[str, UploadedFile | PendingUpload] = MappingProxyType({})
"""For a command that has no uploads among its fields."""


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
