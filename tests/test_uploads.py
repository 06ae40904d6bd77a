"""Uploads with a full, slow or broken disk, a client that stalls, or little memory for all sessions."""

from __future__ import annotations

import errno
import io
import json
import tempfile
import tracemalloc
from typing import IO, TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from reactor_trio import (
    ModelMessage,
    ReactorModel,
    UploadedFile,
    connected,
    disconnected,
    event,
    file_uploaded,
)
from reactor_trio.compute.lanes import FILES
from reactor_trio.declare.uploaded_file import is_on_disk, on_disk
from reactor_trio.errors import CommandError, ProtocolError
from reactor_trio.link import spool
from reactor_trio.protocol.binary import UploadChunk, encode_upload_chunk
from reactor_trio.protocol.client_messages import UploadStart
from reactor_trio.protocol.upload_ledger import MAX_SMALL_CHUNKS, UploadLedger
from reactor_trio.session import upload_budget
from reactor_trio.session.limits import Limits
from reactor_trio.session.upload_budget import Place, UploadBudget
from reactor_trio.testing import load_host, open_session
from slow_executor import SlowExecutor

if TYPE_CHECKING:
    from reactor_trio.testing import SessionClient

SPOOL = 1000
"""`spool_bytes` of these tests: larger files go to the disk."""
LARGE = bytes(range(256)) * 20


class Size(ModelMessage):
    size: int


class Model(ReactorModel):
    @connected
    def hello(self) -> None:
        self.seen: list[Any] = []

    @disconnected
    def bye(self) -> None:
        self.seen.append("bye")

    @event
    def take(self, file: UploadedFile) -> Size:
        self.seen.append(len(file.data))
        return Size(size=len(file.data))

    @event
    async def hold(self, file: UploadedFile, seconds: float) -> Size:
        await trio.sleep(seconds)
        return Size(size=len(file.data))

    @event
    def keep(self, file: UploadedFile) -> None:
        self.kept = file

    @event
    def mark(self, number: int) -> None:
        self.seen.append(number)


class Hooked(Model):
    @file_uploaded
    def arrived(self, uploaded_file: UploadedFile) -> None:
        self.seen.append((uploaded_file.name, len(uploaded_file.data)))


def start(upload_id: str, size: int) -> str:
    data = {"upload_id": upload_id, "name": upload_id, "mime_type": "a/b", "size": size}
    return json.dumps({"type": "reactor.upload_start", "data": data, "id": upload_id})


def chunk(upload_id: str, offset: int, payload: bytes) -> bytes:
    return encode_upload_chunk(UploadChunk(upload_id, offset, payload))


def padded(message: bytes, size: int) -> bytes:
    """The chunk `message` with a header of `size` bytes."""
    end = 3 + int.from_bytes(message[1:3], "big")
    header = json.loads(message[3:end])
    padding = size - len(json.dumps(header | {"pad": ""}).encode())
    header = json.dumps(header | {"pad": "x" * padding}).encode()
    return message[:1] + len(header).to_bytes(2, "big") + header + message[end:]


def in_memory_and_on_disk(client: SessionClient) -> tuple[int, int]:
    """Bytes that the session's uploads take."""
    numbers = client.session.statistics()
    return numbers.upload_bytes_in_memory, numbers.upload_bytes_on_disk


def answer(client: SessionClient, id_: str) -> dict[str, Any] | None:
    """Type and data of the answer to a message that was sent raw."""
    for entry in client.transcript:
        message = json.loads(entry.message) if isinstance(entry.message, str) else {}
        if entry.direction == "<" and message.get("reply_to") == id_:
            return {"type": message["type"], **message["data"]}
    return None


class FakeDisk:
    """Temporary files in memory that fail when they are told to."""

    def __init__(self) -> None:
        self.files: list[FakeFile] = []
        self.full_at: int | None = None
        self.open_error: OSError | None = None
        self.read_error: OSError | None = None
        self.keeps: int | None = None
        """Bytes that are left of a file when it is read; None for all."""

    def open(self, **options: Any) -> IO[bytes]:
        if self.open_error is not None:
            raise self.open_error
        self.files.append(FakeFile(self))
        return self.files[-1]

    @property
    def open_files(self) -> int:
        return sum(not file.closed for file in self.files)


class FakeFile(io.BytesIO):
    name = "/secret/place"

    def __init__(self, disk: FakeDisk) -> None:
        super().__init__()
        self.disk = disk

    def write(self, data: Any) -> int:
        if self.disk.full_at is not None and self.tell() + len(data) > self.disk.full_at:
            raise OSError(errno.ENOSPC, "No space left on device", "/secret/place")
        return super().write(data)

    def read(self, size: int | None = -1) -> bytes:
        if self.disk.read_error is not None:
            raise self.disk.read_error
        return super().read(size)[: self.disk.keeps]

    def close(self) -> None:
        was_open = not self.closed
        super().close()
        if was_open and self.disk.full_at is not None:
            raise OSError(errno.ENOSPC, "No space left on device")  # as if a buffer could not be written out


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FakeDisk:
    fake = FakeDisk()
    monkeypatch.setattr(tempfile, "TemporaryFile", fake.open)
    return fake


# ---- the bytes that are kept of chunks


async def test_an_upload_holds_the_bytes_that_came_and_nothing_else() -> None:
    async with open_session(Model) as client:
        await client.transport.send([start("u", 500_000)])
        await trio.sleep(1)
        assert in_memory_and_on_disk(client) == (0, 0), "what is announced takes nothing"
        tracemalloc.start()
        try:
            for offset in range(0, 499_000, 1000):
                await client.transport.send([padded(chunk("u", offset, bytes(1000)), 900)])
                await trio.sleep(0.001)
                client.transcript.entries.clear()  # the transcript would keep the messages
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert in_memory_and_on_disk(client) == (499_000, 0)
        assert 499_000 < taken < 600_000, "no message is kept, whose header is as long"
        await client.transport.send([chunk("u", 499_000, bytes(1000))])
        assert (await client.call("take", file={"upload_id": "u"})).data == {"size": 500_000}  # type: ignore[union-attr]


async def test_the_header_of_a_chunk_has_at_most_a_kilobyte() -> None:
    whole = chunk("u", 0, b"x")
    async with open_session(Model) as client:
        await client.transport.send([start("u", 1), padded(whole, 1025)])
        await trio.sleep(1)
        assert answer(client, "u") is None, "one that is too long is no chunk"
        assert "at most 1024 bytes" in str(client.transcript[-1].message)
        await client.transport.send([padded(whole, 1024)])
        await trio.sleep(1)
        assert answer(client, "u")["type"] == "reactor.upload_complete"  # type: ignore[index]


async def test_names_and_types_are_labels_of_a_bounded_length() -> None:
    async with open_session(Model) as client:
        for field in ("name", "mime_type"):
            data = {"upload_id": "u", "name": "n", "mime_type": "a/b", "size": 1, field: "x" * 1_000_000}
            await client.transport.send(
                [json.dumps({"type": "reactor.upload_start", "data": data, "id": field})]
            )
            await trio.sleep(1)
            refused = answer(client, field)
            assert refused is not None
            assert (refused["code"], refused["errors"][0]["path"]) == ("invalid_payload", field)
            assert len(str(refused)) < 1000


async def test_an_empty_chunk_and_a_dribble_fail_their_upload_and_not_the_session() -> None:
    async with open_session(Model) as client:
        await client.transport.send([start("empty", 5), chunk("empty", 0, b"")])
        await client.transport.send([start("drops", 100_000)])
        for offset in range(MAX_SMALL_CHUNKS + 10):
            await client.transport.send([chunk("drops", offset, b"x")])
        await trio.sleep(1)
        assert "an empty chunk" in answer(client, "empty")["message"]  # type: ignore[index]
        assert "at least 1024 bytes" in answer(client, "drops")["message"]  # type: ignore[index]
        assert answer(client, "drops")["code"] == "upload_rejected"  # type: ignore[index]
        assert in_memory_and_on_disk(client) == (0, 0)
        await client.call("mark", number=1)


@given(st.integers(1, 300_000), st.integers(1, 2000))
@example(size=300_000, length=512)
@example(size=MAX_SMALL_CHUNKS, length=1)
def test_honest_clients_are_never_taken_for_a_dribble(size: int, length: int) -> None:
    """Chunks may have any size in a file of few, and half a kilobyte in any file; the last may be smaller."""
    if length < 512:
        size = min(size, length * MAX_SMALL_CHUNKS)
    ledger = UploadLedger(
        max_upload_bytes=size, max_session_upload_bytes=size, max_uploads=1, chunk_bytes=1 << 18
    )
    upload = ledger.start(UploadStart("u", "n", "a/b", size))
    for offset in range(0, size, length):
        ledger.chunk(UploadChunk("u", offset, bytes(min(length, size - offset))))
    assert upload.is_complete


@settings(max_examples=50)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=60), st.integers(0, 3000), st.booleans())
async def test_however_it_is_cut_a_file_arrives_as_it_was_sent(
    cuts: list[int], spool_bytes: int, hurried: bool
) -> None:
    content = bytes(range(256)) * (sum(cuts) // 256 + 1)
    content = content[: sum(cuts)]

    limits = Limits(spool_bytes=spool_bytes)
    async with open_session(Model, limits=limits, executor=SlowExecutor(0.01, FILES)) as client:
        messages: list[str | bytes] = [start("u", len(content))]
        offset = 0
        for length in cuts:
            messages.append(chunk("u", offset, content[offset : offset + length]))
            offset += length
        for message in messages:
            await client.transport.send([message])
            if not hurried:
                await trio.sleep(0.004)
        await client.call("keep", file={"upload_id": "u"})
        assert client.session.model.kept.data == content


# ---- the disk


async def test_a_large_file_stays_on_the_disk_until_it_is_taken(disk: FakeDisk) -> None:
    host = await load_host(Hooked, limits=Limits(spool_bytes=SPOOL))
    async with open_session(host) as client:
        handle = await client.upload(LARGE, name="large")
        await trio.sleep(1)
        assert client.session.model.seen == [("large", len(LARGE))]
        assert in_memory_and_on_disk(client) == (0, len(LARGE))
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: client.call("hold", file=handle, seconds=1.0))
                await trio.sleep(0.5)
                assert in_memory_and_on_disk(client) == (len(LARGE), len(LARGE))
        assert in_memory_and_on_disk(client) == (0, len(LARGE))
        await client.call("keep", file=handle)
        assert client.session.model.kept == UploadedFile("large", "application/octet-stream", 5120, LARGE)
    assert disk.open_files == 0
    assert (host.upload_budget.memory, host.upload_budget.disk) == (0, 0)


async def test_commands_keep_their_order_whatever_file_they_take() -> None:
    executor = SlowExecutor(0.5, FILES)
    async with open_session(Model, limits=Limits(spool_bytes=SPOOL), executor=executor) as client:
        handle = await client.upload(LARGE, name="large")
        executor.calls = 0
        for number in range(3):
            await client.send("take", file=handle)
            await client.send("mark", number=number)
        await trio.sleep(10)
        assert client.session.model.seen == [5120, 0, 5120, 1, 5120, 2]
        assert executor.calls == 3, "each is read in a thread"


@pytest.mark.parametrize("full_at", [0, 600_000])
async def test_a_full_disk_fails_its_upload_and_nothing_else(disk: FakeDisk, full_at: int) -> None:
    disk.full_at = full_at
    with capture_logs() as logs:
        host = await load_host(Model, limits=Limits(spool_bytes=SPOOL))
        async with open_session(host) as client:
            for _ in range(3):
                with pytest.raises(CommandError, match="upload_rejected") as refused:
                    await client.upload(bytes(3_000_000), name="large")
                assert "secret" not in str(refused.value)
            assert (await client.upload(b"small", name="small")).size == 5
            await client.call("mark", number=1)
            assert in_memory_and_on_disk(client) == (5, 0)
            assert (host.upload_budget.memory, host.upload_budget.disk) == (5, 0)
            model = client.session.model
    assert model.seen == [1, "bye"]
    assert disk.open_files == 0
    assert [entry["reason"] for entry in logs if entry["log_level"] == "error"] == ["No space left on device"]


async def test_without_a_folder_or_a_descriptor_an_upload_fails(disk: FakeDisk) -> None:
    async with open_session(Model, limits=Limits(spool_bytes=SPOOL)) as client:
        for number in (errno.ENOENT, errno.EMFILE):
            disk.open_error = OSError(number, "no", "/secret/place")
            with pytest.raises(CommandError, match="upload_rejected"):
                await client.upload(LARGE, name="large")
        disk.open_error = None
        handle = await client.upload(LARGE, name="large")
        assert (await client.call("take", file=handle)).data == {"size": 5120}  # type: ignore[union-attr]


@pytest.mark.parametrize("fault", ["error", "truncated"])
async def test_a_file_that_cannot_be_read_back_fails_the_command(disk: FakeDisk, fault: str) -> None:
    async with open_session(Hooked, limits=Limits(spool_bytes=SPOOL)) as client:
        handle = await client.upload(LARGE, name="large")
        await trio.sleep(1)
        disk.read_error = OSError(errno.EIO, "broken", "/secret/place") if fault == "error" else None
        disk.keeps = 100
        with pytest.raises(CommandError, match="upload_rejected") as refused:
            await client.call("take", file=handle)
        assert (refused.value.event, refused.value.upload_id) == ("take", handle.upload_id)
        await client.upload(LARGE, name="another")  # its hook cannot be called
        await client.call("mark", number=1)
        assert client.session.model.seen == [("large", 5120), 1]
        disk.read_error = disk.keeps = None
        await client.call("take", file=handle)


async def test_a_client_may_leave_while_the_disk_is_full(disk: FakeDisk) -> None:
    disk.full_at = 0
    async with open_session(
        Model, limits=Limits(spool_bytes=SPOOL), executor=SlowExecutor(1.0, FILES)
    ) as client:
        await client.transport.send([start("u", 2000), chunk("u", 0, bytes(2000))])
        await trio.sleep(0.5)
        client.transport.cut()
        assert (await client.ended()).reason == "connection_lost"
        assert client.session.model.seen == ["bye"]
    assert disk.open_files == 0


# ---- a slow disk


async def test_beside_a_slow_disk_commands_are_answered_and_pings_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "WRITE_BEHIND_BYTES", 100_000)
    limits = Limits(spool_bytes=SPOOL, heartbeat=2.0, disk_timeout=30.0)
    async with open_session(Model, limits=limits, executor=SlowExecutor(7.0, FILES)) as client:
        await client.transport.send([start("u", 300_000)])
        for offset in range(0, 300_000, 50_000):
            await client.transport.send([chunk("u", offset, bytes(50_000))])
            if offset < 100_000:
                began = trio.current_time()
                await client.call("mark", number=offset)
                assert trio.current_time() == began
        await trio.sleep(60)
        assert client.session.ending is None
        assert answer(client, "u")["type"] == "reactor.upload_complete"  # type: ignore[index]


async def test_what_comes_while_a_thread_writes_is_written_at_once() -> None:
    executor = SlowExecutor(1.0, FILES)
    async with open_session(Model, limits=Limits(spool_bytes=SPOOL), executor=executor) as client:
        executor.calls = 0
        await client.transport.send([start("u", 3_000_000)])
        for offset in range(0, 3_000_000, 100_000):
            await client.transport.send([chunk("u", offset, bytes(100_000))])
        await trio.sleep(60)
        assert answer(client, "u")["type"] == "reactor.upload_complete"  # type: ignore[index]
        assert executor.calls == 2, "600,000 bytes, then all the rest"


async def test_a_disk_that_hangs_fails_uploads_and_stops_receive_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "WRITE_BEHIND_BYTES", 100_000)
    limits = Limits(spool_bytes=SPOOL, heartbeat=1.0, disk_timeout=5.0)
    disk = SlowExecutor(100.0, FILES)
    async with open_session(Model, limits=limits, executor=disk) as client:
        began = trio.current_time()
        for upload_id in ("a", "b", "c"):
            await client.transport.send([start(upload_id, 300_000)])
            for offset in range(0, 300_000, 50_000):
                await client.transport.send([chunk(upload_id, offset, bytes(50_000))])
        await client.call("mark", number=1)
        assert trio.current_time() - began == pytest.approx(5)
        for upload_id in ("a", "b", "c"):
            assert "too slow" in answer(client, upload_id)["message"]  # type: ignore[index]
        await trio.sleep(30)
        assert client.session.ending is None
        disk.seconds = 0.0


# ---- a client that stalls


async def test_an_upload_that_stalls_is_given_up_and_its_quota_returned() -> None:
    limits = Limits(max_session_upload_bytes=100, upload_stall_timeout=60.0)
    async with open_session(Model, limits=limits) as client:
        began = trio.current_time()
        await client.transport.send([start("a", 60), chunk("a", 0, b"x")])
        await trio.sleep(30)
        await client.transport.send([start("b", 40), chunk("a", 1, b"x")])
        await trio.sleep(59)
        assert answer(client, "a") is None
        await client.transport.send([chunk("b", 0, bytes(39))])
        await trio.sleep(2)
        assert "no byte of it came for 60 s" in answer(client, "a")["message"]  # type: ignore[index]
        await client.transport.send([start("more", 61), start("as much", 60)])
        await trio.sleep(0.001)
        assert answer(client, "more")["code"] == "upload_quota"  # type: ignore[index]
        assert answer(client, "as much") is None
        await client.transport.send([chunk("b", 39, b"x"), chunk("a", 2, b"dropped in silence")])
        await trio.sleep(300)
        assert answer(client, "b")["type"] == "reactor.upload_complete"  # type: ignore[index]
        told = [entry for entry in client.transcript if entry.direction == "<"]
        times = [entry.time for entry in told if '"upload_id":"a"' in str(entry.message)]
        assert times[-1] - began == pytest.approx(90)


# ---- room for all sessions


async def test_what_the_memory_has_no_room_for_is_kept_on_the_disk(
    disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_budget, "LEAST_SPILLED", 100)
    limits = Limits(spool_bytes=SPOOL, max_total_upload_bytes=2000, max_total_spool_bytes=1500)
    host = await load_host(Model, limits=limits)
    async with open_session(host) as one, open_session(host) as other:
        first = await one.upload(bytes(900), name="in memory")
        second = await other.upload(bytes(900), name="on the disk")
        assert (host.upload_budget.memory, host.upload_budget.disk) == (900, 900)
        with pytest.raises(CommandError, match="upload_quota") as refused:
            await one.upload(bytes(700), name="nowhere")
        assert "the server has no room" in refused.value.message
        assert refused.value.retry_after is not None
        await one.upload(bytes(90), name="small")
        with pytest.raises(CommandError, match="upload_quota"):
            await one.upload(bytes(90), name="too small for a descriptor")
        assert (await one.call("take", file=first)).data == {"size": 900}  # type: ignore[union-attr]
        assert (await other.call("take", file=second)).data == {"size": 900}  # type: ignore[union-attr]
    assert (host.upload_budget.memory, host.upload_budget.disk) == (0, 0)
    async with open_session(host) as client:
        await client.upload(bytes(1400), name="room again")


async def test_large_files_in_use_take_turns_for_the_memory(disk: FakeDisk) -> None:
    limits = Limits(spool_bytes=0, max_total_upload_bytes=6000, upload_timeout=3.0)
    host = await load_host(Model, limits=limits)
    async with open_session(host) as one, open_session(host) as other:
        first = await one.upload(LARGE, name="one")
        second = await other.upload(LARGE, name="other")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: one.call("hold", file=first, seconds=2.0))
            await trio.sleep(0.1)
            assert (await other.call("take", file=second)).data == {"size": 5120}  # type: ignore[union-attr]
            assert trio.current_time() - began == pytest.approx(2.0), "it waits until the first is done"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: one.call("hold", file=first, seconds=20.0))
            await trio.sleep(0.1)
            with pytest.raises(CommandError, match="upload_quota"):
                await other.call("take", file=second)
    assert host.upload_budget.memory == 0


def test_the_budget_counts_what_is_given_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_budget, "LEAST_SPILLED", 1)
    budget = UploadBudget(max_memory_bytes=100, max_disk_bytes=50)
    assert budget.reserve(50, in_memory=True) is Place.MEMORY
    assert budget.reserve(0, in_memory=False) is Place.MEMORY, "nothing needs no disk"
    assert budget.reserve(1, in_memory=True) is Place.DISK, "half of the memory is for what comes and goes"
    assert budget.reserve(50, in_memory=False) is None
    assert budget.has_room_for_unwritten(50)
    assert not budget.has_room_for_unwritten(51)
    budget.give_back(1, Place.DISK)
    budget.give_back(50, Place.MEMORY)
    assert (budget.memory, budget.disk) == (0, 0)


# ---- UploadedFile


def test_a_file_on_the_disk_is_read_when_somebody_looks() -> None:
    file = on_disk("a", "b/c", 3, lambda: b"abc")
    assert repr(file) == "UploadedFile(name='a', mime_type='b/c', size=3)"
    assert is_on_disk(file)
    assert file == UploadedFile("a", "b/c", 3, b"abc")
    assert not is_on_disk(file)
    with pytest.raises(AttributeError, match="no attribute 'path'"):
        file.path  # noqa: B018


def test_a_ledger_forgets_what_was_lost_and_gives_it_back() -> None:
    ledger = UploadLedger(max_upload_bytes=9, max_session_upload_bytes=9, max_uploads=1, chunk_bytes=9)
    upload = ledger.start(UploadStart("u", "n", "a/b", 9))
    ledger.chunk(UploadChunk("u", 0, bytes(9)))
    ledger.lose(upload)
    ledger.lose(upload)
    assert (ledger.used_bytes, ledger.files, ledger.get("u")) == (0, 0, None)
    with pytest.raises(ProtocolError, match="used before"):
        ledger.start(UploadStart("u", "n", "a/b", 1))
