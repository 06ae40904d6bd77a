"""The bytes of a session's uploads, while they arrive and until the session ends.

The ledger (`protocol/uploads.py`) decides what is right; here it is kept: in memory, or for large files in
a temporary file while they arrive, so that a slow upload does not hold its size in memory. Files are
touched through the executor alone: anyio's and Trio's own file objects use threads that a test under a
mock clock cannot replace.
"""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING

import attrs
import trio

from reactor_trio.authoring.uploads import UploadedFile
from reactor_trio.compute.executor import FILES, Executor
from reactor_trio.contract.events import PendingUpload
from reactor_trio.errors import ProtocolError
from reactor_trio.protocol.uploads import Upload, UploadLedger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reactor_trio.protocol.binary import UploadChunk
    from reactor_trio.protocol.control import UploadStart
    from reactor_trio.protocol.text import Id
    from reactor_trio.session.limits import Limits


@attrs.define(eq=False)
class _Stored:
    """What has arrived of one upload: chunks in memory, or a temporary file (opened at the first chunk)."""

    spooled: bool
    chunks: list[bytes | memoryview] = attrs.field(factory=list)
    file: IO[bytes] | None = None

    def discard(self) -> None:
        self.chunks.clear()
        if self.file is not None:
            self.file.close()


class Uploads:
    """The uploads of one session. One task, receive, hands in starts, chunks and aborts."""

    def __init__(self, limits: Limits, executor: Executor) -> None:
        self._spool_bytes = limits.spool_bytes
        self._executor = executor
        self._ledger = UploadLedger(
            max_upload_bytes=limits.max_upload_bytes,
            max_session_upload_bytes=limits.max_session_upload_bytes,
            max_uploads=limits.max_uploads,
            chunk_bytes=limits.upload_chunk_bytes,
        )
        self._stored: dict[str, _Stored] = {}
        self._files: dict[str, UploadedFile | PendingUpload] = {}
        # Set whenever an upload is complete or has failed; commands that wait for one wait for it.
        self._changed = trio.Event()
        self._stopped = False

    @property
    def files(self) -> Mapping[str, UploadedFile | PendingUpload]:
        """What commands can refer to, by upload id."""
        return self._files

    def start(self, message: UploadStart, id: Id | None) -> Upload:  # noqa: A002  the wire's word
        """Announce an upload. Raises `ProtocolError` as `UploadLedger.start`."""
        upload = self._ledger.start(message, id)
        self._stored[upload.upload_id] = _Stored(spooled=upload.size > self._spool_bytes)
        self._files[upload.upload_id] = PendingUpload(
            upload_id=upload.upload_id, name=upload.name, mime_type=upload.mime_type, size=upload.size
        )
        return upload

    async def chunk(self, chunk: UploadChunk) -> Upload | None:
        """Keep the next chunk; returns its upload, or None if it was dropped. Not always a checkpoint.

        Raises `ProtocolError` as `UploadLedger.chunk`, `OSError` if the temporary file cannot be written.
        If cancelled, also while a thread writes the chunk, the session is over: the file may lack bytes.
        """
        try:
            upload = self._ledger.chunk(chunk)
        except ProtocolError:
            self._forget_failed(chunk.upload_id)
            raise
        if upload is not None:
            await self._store(self._stored[upload.upload_id], chunk.payload)
        # The session may have ended while a thread wrote: there is no one left to give the file to.
        return None if self._stopped else upload

    async def _store(self, stored: _Stored, payload: bytes | memoryview) -> None:
        if not stored.spooled:
            stored.chunks.append(payload)
            return
        file = stored.file
        if file is None:
            file = stored.file = await self._executor.run(FILES, _temporary_file)
        await self._executor.run(FILES, file.write, payload)
        await _unless_cancelled()

    def abort(self, upload_id: str, id: Id | None) -> Upload:  # noqa: A002  the wire's word
        """Give an upload up. Raises `ProtocolError` as `UploadLedger.abort`."""
        upload = self._ledger.abort(upload_id, id)
        self._forget_failed(upload_id)
        return upload

    def _forget_failed(self, upload_id: str) -> None:
        # Errors also speak of uploads that stay as they are (a surplus chunk of a complete one).
        if self._ledger.get(upload_id) is None and upload_id in self._stored:
            self._stored.pop(upload_id).discard()
            self._files.pop(upload_id, None)
            self._announce_change()

    def is_spooled(self, upload: Upload) -> bool:
        """Whether completing it means reading a file back."""
        return self._stored[upload.upload_id].spooled

    def complete(self, upload: Upload) -> UploadedFile:
        """Put a complete upload that is in memory together; from now on commands get it."""
        chunks = self._stored.pop(upload.upload_id).chunks
        return self._deliver(upload, b"".join(chunks))

    async def read_back(self, upload: Upload) -> UploadedFile:
        """The same for one that was spooled. If cancelled, the file stays until `close`."""
        stored = self._stored[upload.upload_id]
        data = await self._executor.run(FILES, _read_back, stored.file)
        await _unless_cancelled()
        stored.discard()
        del self._stored[upload.upload_id]
        return self._deliver(upload, data)

    def _deliver(self, upload: Upload, data: bytes) -> UploadedFile:
        file = UploadedFile(name=upload.name, mime_type=upload.mime_type, size=upload.size, data=data)
        self._files[upload.upload_id] = file
        self._announce_change()
        return file

    def _announce_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def settled(self, upload_ids: Iterable[str]) -> None:
        """Wait until none of these uploads is under way any more: each is complete, or has failed."""
        upload_ids = tuple(upload_ids)
        while any(isinstance(self._files.get(upload_id), PendingUpload) for upload_id in upload_ids):
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    def stop(self) -> None:
        """The session ends: a chunk that is being written is the last one, and completes nothing."""
        self._stopped = True

    def close(self) -> None:
        """Throw everything away."""
        for stored in self._stored.values():
            stored.discard()
        self._stored.clear()
        self._files.clear()


async def _unless_cancelled() -> None:
    # A cancelled call to a thread waits for it and returns all the same. By then the inbox may be closed,
    # and the nursery for what comes next.
    await trio.lowlevel.checkpoint_if_cancelled()


def _temporary_file() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="reactor-trio-")


def _read_back(file: IO[bytes] | None) -> bytes:
    if file is None:
        return b""
    file.seek(0)
    return file.read()
