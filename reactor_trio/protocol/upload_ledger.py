"""The ledger of a session's uploads (docs/design.md#uploads): which start, chunk and abort is allowed.

The ledger is a state machine of plain values and keeps no bytes. Its caller stores the payload of a chunk
once `chunk` has accepted it, and deletes the stored bytes of an upload that fails.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from reactor_trio.errors import ProtocolError
from reactor_trio.protocol.names import UPLOAD_QUOTA, UPLOAD_REJECTED, UPLOAD_TOO_LARGE

if TYPE_CHECKING:
    from reactor_trio.protocol.binary import UploadChunk
    from reactor_trio.protocol.client_messages import UploadStart
    from reactor_trio.protocol.text import Id

MAX_SPENT_IDS = 1000
"""How many ids of failed uploads are remembered: the newest ones, so that a session's memory is bounded."""
SMALL_CHUNK_BYTES = 1024
"""A smaller chunk is a small one, unless it is its upload's last or the server allows no larger ones."""
MAX_SMALL_CHUNKS = 256
"""An upload may have this many chunks of any size, and two more for each `SMALL_CHUNK_BYTES` received.

After that, a small chunk fails the upload. Each chunk costs some 20 us, however few bytes it has: a client
that sends one byte at a time would waste the server's time, and hold its part of the quota for ever. Ordinary
clients never reach the bound: chunks of half of `SMALL_CHUNK_BYTES` are allowed in any number.
"""


class UploadState(enum.Enum):
    """The state of an upload. COMPLETE and FAILED are final."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    FAILED = "failed"


@attrs.define(eq=False)
class Upload:
    """One upload. `size` and `received` are in bytes, `chunks` is the number of chunks received.

    `id` is that of the `upload_start`, or None: it names the message, `upload_id` the upload.

    `name` is a label that the client chose, with any characters in it: never a path.
    """

    upload_id: str
    name: str
    mime_type: str
    size: int
    id: Id | None = None
    received: int = 0
    chunks: int = 0
    state: UploadState = UploadState.RECEIVING

    @property
    def is_complete(self) -> bool:
        """Whether every byte has arrived."""
        return self.state is UploadState.COMPLETE


class UploadLedger:
    """Decides about every `upload_start`, chunk and abort of one session. All sizes are in bytes.

    An upload counts towards the session's quota, with its whole size, from its start for as long as
    it is under way or complete. An upload that fails or is aborted no longer counts.

    An `upload_id` is good for one upload of the session, also if that was refused or has failed: chunks
    of it may still be on their way, and must not land in another upload. (Only the newest 1000 failed
    ids are remembered; an older one is taken for a new id.)
    """

    def __init__(
        self, *, max_upload_bytes: int, max_session_upload_bytes: int, max_uploads: int, chunk_bytes: int
    ) -> None:
        self._max_upload_bytes = max_upload_bytes
        self._max_session_upload_bytes = max_session_upload_bytes
        self._max_uploads = max_uploads
        self._chunk_bytes = chunk_bytes
        self._small_chunk_bytes = min(SMALL_CHUNK_BYTES, chunk_bytes)
        # Uploads under way or complete; no more than `max_uploads`.
        self._uploads: dict[str, Upload] = {}
        # Ids of refused, failed or aborted uploads, oldest first: a dict as a set that keeps its order.
        self._spent: dict[str, None] = {}
        # Ids of complete uploads of which a surplus chunk was refused; all of them are in `_uploads`.
        self._surplus: set[str] = set()
        self._used_bytes = 0

    @property
    def used_bytes(self) -> int:
        """The bytes of `max_session_upload_bytes` that uploads under way or complete take."""
        return self._used_bytes

    @property
    def files(self) -> int:
        """How many uploads are under way or complete, out of `max_uploads`."""
        return len(self._uploads)

    def get(self, upload_id: str) -> Upload | None:
        """The upload of this id if it is under way or complete, else None: never announced, or failed."""
        return self._uploads.get(upload_id)

    def start(self, message: UploadStart) -> Upload:
        """Enter an upload that the client announces; an empty one is complete at once.

        Raises `ProtocolError`: `upload_rejected` for an id that was used before (the earlier upload is
        left as it is), `upload_too_large`, or `upload_quota`.
        """
        upload_id, id_ = message.upload_id, message.id
        # docs/design.md#uploads, step 2: "an id used twice" fails.
        if upload_id in self._uploads or upload_id in self._spent:
            raise _refusal(UPLOAD_REJECTED, "this upload id was used before", upload_id, id_)
        # docs/design.md#uploads, step 1: limits are checked here, before any byte.
        refusal = self._over_limit(message)
        if refusal is not None:
            # Chunks of it may be on their way already, since a client need not wait for the answer.
            self._spend(upload_id)
            raise refusal
        upload = Upload(upload_id, message.name, message.mime_type, message.size, id_)
        self._uploads[upload_id] = upload
        self._used_bytes += upload.size
        self._complete_if_whole(upload)
        return upload

    def chunk(self, chunk: UploadChunk) -> Upload | None:
        """Check the next chunk of an upload and count its bytes; returns the upload, now perhaps complete.

        Returns None if the chunk is to be dropped without an error: its upload has failed, or is complete and
        the chunk is empty.

        Raises `ProtocolError` (`upload_rejected`, with the `id` of the `upload_start` if that is not answered
        yet) for a gap, an overlap, a surplus, a chunk that is too large or empty, too many small chunks, and
        an id never announced. The upload has then failed, and no longer counts towards the quota. A complete
        upload stays complete, because the model may have it.
        """
        upload_id = chunk.upload_id
        upload = self._uploads.get(upload_id)
        if upload is None:
            self._refuse_unknown(upload_id)
            return None
        if upload.is_complete:
            self._refuse_surplus(upload, chunk)
            return None
        fault = self._fault(upload, chunk)
        if fault is not None:
            self._fail(upload)
            raise _refusal(UPLOAD_REJECTED, fault, upload_id, upload.id)
        upload.received += len(chunk.payload)
        upload.chunks += 1
        self._complete_if_whole(upload)
        return upload

    def abort(self, upload_id: str, id: Id | None = None) -> Upload:  # noqa: A002  the wire's word
        """End an upload under way, as the client or the session wants; returns it, in the state FAILED.

        Raises `ProtocolError` (`upload_rejected`, `id` as its `reply_to`) if none of this id is under way.
        """
        upload = self._uploads.get(upload_id)
        if upload is None or upload.is_complete:
            raise _refusal(UPLOAD_REJECTED, "no upload with this id is under way", upload_id, id)
        self._fail(upload)
        return upload

    def lose(self, upload: Upload) -> None:
        """Fail an upload whose bytes could not be stored, also a complete one if the client was not told yet.

        Does nothing if the upload has failed already.
        """
        if self._uploads.get(upload.upload_id) is upload:
            self._fail(upload)

    def _over_limit(self, message: UploadStart) -> ProtocolError | None:
        size, id_ = message.size, message.id
        if size > self._max_upload_bytes:
            text = f"{size} bytes, and one file may have {self._max_upload_bytes}"
            return _refusal(UPLOAD_TOO_LARGE, text, message.upload_id, id_)
        if size > self._max_session_upload_bytes - self._used_bytes:
            left = self._max_session_upload_bytes - self._used_bytes
            text = f"{size} bytes, and {left} of the session's {self._max_session_upload_bytes} are left"
            return _refusal(UPLOAD_QUOTA, text, message.upload_id, id_)
        if len(self._uploads) >= self._max_uploads:
            text = f"a session may upload {self._max_uploads} files"
            return _refusal(UPLOAD_QUOTA, text, message.upload_id, id_)
        return None

    def _refuse_unknown(self, upload_id: str) -> None:
        # docs/design.md#uploads, step 2: the first chunk of an id never announced fails, the rest goes in
        # silence.
        if upload_id not in self._spent:
            self._spend(upload_id)
            raise _refusal(UPLOAD_REJECTED, "no upload with this id was announced", upload_id, None)

    def _refuse_surplus(self, upload: Upload, chunk: UploadChunk) -> None:
        # An empty chunk at the end is no fault: some clients send one as the whole of an empty file.
        harmless = not chunk.payload and chunk.offset == upload.size
        if not harmless and upload.upload_id not in self._surplus:
            self._surplus.add(upload.upload_id)
            text = f"the upload is complete with its {upload.size} bytes"
            # No `reply_to`: the `upload_start` was answered when the upload was complete.
            raise _refusal(UPLOAD_REJECTED, text, upload.upload_id, None)

    def _fault(self, upload: Upload, chunk: UploadChunk) -> str | None:
        # docs/design.md#uploads, step 2: in order, at most `upload_chunk_bytes` each, until all of `size` is
        # there.
        length = len(chunk.payload)
        if length > self._chunk_bytes:
            return f"a chunk of {length} bytes, and one may have {self._chunk_bytes}"
        if chunk.offset != upload.received:
            kind = "a gap" if chunk.offset > upload.received else "an overlap"
            return f"{kind}: a chunk at offset {chunk.offset}, where {upload.received} comes next"
        if upload.received + length > upload.size:
            return f"a surplus: {upload.received + length} bytes, where {upload.size} were announced"
        if not length:
            return "an empty chunk, before the upload is complete"
        if upload.received + length < upload.size and self._dribbles(upload, length):
            least = self._small_chunk_bytes
            return f"too many small chunks: after {MAX_SMALL_CHUNKS} of them one has at least {least} bytes"
        return None

    def _dribbles(self, upload: Upload, length: int) -> bool:
        earned = 2 * upload.received // self._small_chunk_bytes
        return length < self._small_chunk_bytes and upload.chunks >= MAX_SMALL_CHUNKS + earned

    def _complete_if_whole(self, upload: Upload) -> None:
        if upload.received == upload.size:
            upload.state = UploadState.COMPLETE

    def _fail(self, upload: Upload) -> None:
        upload.state = UploadState.FAILED
        # docs/design.md#uploads, step 2: its bytes no longer count towards the quota.
        del self._uploads[upload.upload_id]
        self._used_bytes -= upload.size
        self._spend(upload.upload_id)

    def _spend(self, upload_id: str) -> None:
        self._spent[upload_id] = None
        if len(self._spent) > MAX_SPENT_IDS:
            del self._spent[next(iter(self._spent))]


def _refusal(code: str, message: str, upload_id: str, reply_to: Id | None) -> ProtocolError:
    return ProtocolError(code, message, reply_to=reply_to, upload_id=upload_id)
