"""The ledger of a session's uploads: docs/design.md#uploads."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from reactor_trio.errors import ProtocolError
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import UploadChunk
from reactor_trio.protocol.client_messages import UploadStart
from reactor_trio.protocol.upload_ledger import MAX_SPENT_IDS, Upload, UploadLedger, UploadState

FILE, SESSION, FILES, CHUNK = 20, 50, 4, 8
"""Limits of the ledgers below: bytes of a file, bytes and files of a session, bytes of a chunk."""


def make_ledger() -> UploadLedger:
    return UploadLedger(
        max_upload_bytes=FILE, max_session_upload_bytes=SESSION, max_uploads=FILES, chunk_bytes=CHUNK
    )


def start(ledger: UploadLedger, upload_id: str, size: int, id_: int | None = None) -> Upload:
    return ledger.start(UploadStart(upload_id, "a.png", "image/png", size, id_))


def chunk(ledger: UploadLedger, upload_id: str, offset: int, length: int) -> Upload | None:
    return ledger.chunk(UploadChunk(upload_id, offset, bytes(length)))


class LedgerMachine(RuleBasedStateMachine):
    """The ledger against a model of three sets of ids: under way, complete, spent."""

    upload_ids = st.sampled_from("abcdefgh")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = make_ledger()
        self.sizes: dict[str, int] = {}
        self.received: dict[str, int] = {}  # under way
        self.complete: set[str] = set()
        self.complained: set[str] = set()
        self.spent: set[str] = set()
        self.entered: dict[str, Upload] = {}

    def used(self) -> int:
        return sum(self.sizes[upload_id] for upload_id in [*self.received, *self.complete])

    def refused(self, code: str, upload_id: str, reply_to: object, call: object, *arguments: object) -> None:
        with pytest.raises(ProtocolError) as caught:
            call(*arguments)  # type: ignore[operator]
        error = caught.value
        assert (error.code, error.upload_id, error.reply_to) == (code, upload_id, reply_to)

    def fail(self, upload_id: str) -> None:
        del self.received[upload_id]
        self.spent.add(upload_id)
        assert self.entered[upload_id].state is UploadState.FAILED

    @rule(upload_id=upload_ids, size=st.integers(0, FILE + 2), id_=st.none() | st.integers(0, 9))
    def start(self, upload_id: str, size: int, id_: int | None) -> None:
        arguments = (start, self.ledger, upload_id, size, id_)
        if upload_id in self.received or upload_id in self.complete or upload_id in self.spent:
            self.refused(names.UPLOAD_REJECTED, upload_id, id_, *arguments)
            return
        if size > FILE:
            self.refused(names.UPLOAD_TOO_LARGE, upload_id, id_, *arguments)
            self.spent.add(upload_id)
            return
        if self.used() + size > SESSION or len(self.received) + len(self.complete) >= FILES:
            self.refused(names.UPLOAD_QUOTA, upload_id, id_, *arguments)
            self.spent.add(upload_id)
            return
        self.entered[upload_id] = start(self.ledger, upload_id, size, id_)
        self.sizes[upload_id] = size
        if size:
            self.received[upload_id] = 0
        else:
            self.complete.add(upload_id)

    @rule(upload_id=upload_ids, length=st.integers(1, CHUNK))
    def next_chunk(self, upload_id: str, length: int) -> None:
        if upload_id not in self.received:
            return
        length = min(length, self.sizes[upload_id] - self.received[upload_id])
        self.accepted(upload_id, length)

    @rule(upload_id=upload_ids)
    def all_the_rest(self, upload_id: str) -> None:
        while upload_id in self.received:
            self.accepted(upload_id, min(CHUNK, self.sizes[upload_id] - self.received[upload_id]))

    def accepted(self, upload_id: str, length: int) -> None:
        upload = chunk(self.ledger, upload_id, self.received[upload_id], length)
        assert upload is self.entered[upload_id]
        self.received[upload_id] += length
        if self.received[upload_id] == self.sizes[upload_id]:
            del self.received[upload_id]
            self.complete.add(upload_id)

    @rule(upload_id=upload_ids, offset=st.integers(0, FILE + 2), length=st.integers(0, CHUNK + 1))
    def any_chunk(self, upload_id: str, offset: int, length: int) -> None:
        arguments = (chunk, self.ledger, upload_id, offset, length)
        if upload_id in self.received:
            fits = self.received[upload_id] + length <= self.sizes[upload_id]
            if offset == self.received[upload_id] and 0 < length <= CHUNK and fits:
                self.accepted(upload_id, length)
            else:
                self.refused(names.UPLOAD_REJECTED, upload_id, self.entered[upload_id].id, *arguments)
                self.fail(upload_id)
        elif upload_id in self.complete:
            harmless = length == 0 and offset == self.sizes[upload_id]
            if harmless or upload_id in self.complained:
                assert chunk(self.ledger, upload_id, offset, length) is None
            else:
                # The start has had its answer, so the error has no `reply_to` (docs/design.md#text-messages).
                self.refused(names.UPLOAD_REJECTED, upload_id, None, *arguments)
                self.complained.add(upload_id)
        elif upload_id in self.spent:
            assert chunk(self.ledger, upload_id, offset, length) is None
        else:
            self.refused(names.UPLOAD_REJECTED, upload_id, None, *arguments)
            self.spent.add(upload_id)

    @rule(upload_id=upload_ids)
    def abort(self, upload_id: str) -> None:
        if upload_id in self.received:
            assert self.ledger.abort(upload_id) is self.entered[upload_id]
            self.fail(upload_id)
        else:
            self.refused(names.UPLOAD_REJECTED, upload_id, 5, self.ledger.abort, upload_id, 5)

    @invariant()
    def the_quota_is_what_is_under_way_or_complete(self) -> None:
        assert self.ledger.used_bytes == self.used() <= SESSION
        assert self.ledger.files == len(self.received) + len(self.complete) <= FILES

    @invariant()
    def every_upload_stands_where_the_model_says(self) -> None:
        for upload_id in "abcdefgh":
            upload = self.ledger.get(upload_id)
            if upload_id in self.received:
                assert upload is not None
                assert upload.state is UploadState.RECEIVING
                assert upload.received == self.received[upload_id] < upload.size
            elif upload_id in self.complete:
                assert upload is not None
                assert upload.is_complete
                assert upload.received == upload.size
            else:
                assert upload is None


TestLedger = LedgerMachine.TestCase


def test_an_upload_is_complete_with_its_last_byte() -> None:
    ledger = make_ledger()
    upload = start(ledger, "u", 10, 7)
    assert (upload.name, upload.mime_type, upload.size, upload.id) == ("a.png", "image/png", 10, 7)
    assert chunk(ledger, "u", 0, 8) is upload
    assert upload.received == 8
    assert chunk(ledger, "u", 8, 2) is upload
    assert upload.is_complete
    assert ledger.get("u") is upload


def test_an_empty_upload_is_complete_at_once_and_may_be_sent_as_an_empty_chunk() -> None:
    ledger = make_ledger()
    assert start(ledger, "u", 0).is_complete
    assert chunk(ledger, "u", 0, 0) is None


@pytest.mark.parametrize(
    ("offset", "length", "reason"),
    [
        (5, 1, "a gap"),
        (3, 1, "an overlap"),
        (4, 7, "a surplus"),
        (4, 9, "a chunk of 9 bytes"),
        (4, 0, "an empty chunk"),
    ],
)
def test_a_wrong_chunk_fails_its_upload_and_the_rest_is_dropped_in_silence(
    offset: int, length: int, reason: str
) -> None:
    ledger = make_ledger()
    upload = start(ledger, "u", 10, 7)
    chunk(ledger, "u", 0, 4)
    with pytest.raises(ProtocolError, match=reason) as caught:
        chunk(ledger, "u", offset, length)
    assert caught.value.reply_to == 7
    assert upload.state is UploadState.FAILED
    assert (ledger.used_bytes, ledger.files, ledger.get("u")) == (0, 0, None)
    assert chunk(ledger, "u", 4, 6) is None


def test_a_second_start_is_rejected_and_leaves_the_first_as_it_is() -> None:
    ledger = make_ledger()
    first = start(ledger, "u", 10, 1)
    chunk(ledger, "u", 0, 4)
    with pytest.raises(ProtocolError, match="used before") as caught:
        start(ledger, "u", 5, 2)
    assert caught.value.reply_to == 2
    assert (first.state, first.received, ledger.used_bytes) == (UploadState.RECEIVING, 4, 10)
    assert chunk(ledger, "u", 4, 6) is first
    assert first.is_complete


def test_the_chunks_of_a_refused_upload_are_dropped_in_silence() -> None:
    # A client need not wait for `upload_ready`: chunks may be on their way when the upload is refused.
    ledger = make_ledger()
    with pytest.raises(ProtocolError, match="one file may have 20"):
        start(ledger, "u", 21)
    assert chunk(ledger, "u", 0, 8) is None
    with pytest.raises(ProtocolError, match="used before"):
        start(ledger, "u", 1)


def test_a_surplus_after_the_end_is_told_once_and_leaves_the_file() -> None:
    ledger = make_ledger()
    upload = start(ledger, "u", 4, 7)
    chunk(ledger, "u", 0, 4)
    with pytest.raises(ProtocolError, match="complete with its 4 bytes") as caught:
        chunk(ledger, "u", 4, 1)
    assert (caught.value.upload_id, caught.value.reply_to) == ("u", None)
    assert chunk(ledger, "u", 5, 1) is None
    assert upload.is_complete
    assert ledger.get("u") is upload


def test_what_was_given_up_is_given_back() -> None:
    ledger = make_ledger()
    for number in range(20):
        start(ledger, str(number), FILE)
        start(ledger, f"{number}b", FILE)
        with pytest.raises(ProtocolError) as caught:
            start(ledger, f"{number}c", FILE)
        assert caught.value.code == names.UPLOAD_QUOTA
        assert ledger.abort(str(number)).state is UploadState.FAILED
        assert ledger.abort(f"{number}b").state is UploadState.FAILED
    assert (ledger.used_bytes, ledger.files) == (0, 0)


def test_only_the_newest_failed_ids_are_remembered() -> None:
    ledger = make_ledger()
    for number in range(MAX_SPENT_IDS + 1):
        with pytest.raises(ProtocolError):
            chunk(ledger, str(number), 0, 1)
    assert chunk(ledger, "1", 0, 1) is None
    assert chunk(ledger, str(MAX_SPENT_IDS), 0, 1) is None
    with pytest.raises(ProtocolError, match="announced"):
        chunk(ledger, "0", 0, 1)
