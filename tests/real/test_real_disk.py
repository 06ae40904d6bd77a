"""Uploads to real disks: a full disk, a small disk, no temporary folder, and no free descriptor."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from reactor_trio.client import connect
from reactor_trio.client.blocking import BlockingClient
from reactor_trio.errors import CommandError
from serving import Served, serve

resource = pytest.importorskip("resource", reason="limits of POSIX")

MIB = 1024 * 1024
LARGE = bytes(range(256)) * 4096 * 12
"""12 MiB: the server keeps an upload of this size on the disk."""
DEADLINE = 60.0

MODEL = """
import resource
from reactor_trio import ModelMessage, ReactorModel, UploadedFile, connected, disconnected, event

COUNTS = {"connected": 0, "disconnected": 0}


class Taken(ModelMessage):
    size: int
    whole: bool


class Counts(ModelMessage):
    connected: int
    disconnected: int


class M(ReactorModel):
    @connected
    def hello(self):
        COUNTS["connected"] += 1

    @disconnected
    def bye(self):
        COUNTS["disconnected"] += 1

    @event
    def counts(self) -> Counts:
        return Counts(**COUNTS)

    @event
    def take(self, file: UploadedFile) -> Taken:
        pattern = bytes(range(256))
        whole = file.data == pattern * (file.size // 256)
        return Taken(size=len(file.data), whole=whole)

    @event
    def limit_file_size(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    @event
    def use_up_descriptors(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        self.files = []
        try:
            while True:
                self.files.append(open("/dev/null"))
        except OSError:
            pass

    @event
    def free_descriptors(self) -> None:
        for file in self.files:
            file.close()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the server."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def served(temporary: Path, tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "model.py").write_text(MODEL)
    with serve(tmp_path / "model.py", tmp_path) as server:
        yield server


def fails(client: BlockingClient) -> None:
    with pytest.raises(CommandError, match="upload_rejected") as refused:
        client.upload(LARGE, name="large")
    assert "/" not in refused.value.message, "no path is told"


def works(client: BlockingClient) -> None:
    handle = client.upload(LARGE, name="large")
    answer = client.call("take", file=handle)
    assert answer is not None
    assert answer.data == {"size": len(LARGE), "whole": True}


def metrics(served: Served) -> dict[str, float]:
    with urllib.request.urlopen(f"{served.url.replace('ws', 'http', 1)}/metrics", timeout=DEADLINE) as page:
        lines = page.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def check_that_nothing_is_left(served: Served, sessions: int) -> None:
    with connect(served.url) as client:
        answer = client.call("counts")
        assert answer is not None
        assert answer.data == {"connected": sessions + 1, "disconnected": sessions}
        numbers = metrics(served)
    assert numbers['reactor_trio_sessions{state="connected"}'] == 1
    assert numbers['reactor_trio_uploads_kept_bytes{place="disk"}'] == 0
    assert numbers['reactor_trio_uploads_kept_bytes{place="memory"}'] == 0


def test_a_disk_that_is_full_fails_the_upload(served: Served) -> None:
    with connect(served.url) as bystander:
        for _ in range(2):
            with connect(served.url) as client:
                client.call("limit_file_size", size=MIB)
                fails(client)
                fails(client)
                client.call("limit_file_size", size=-1)
                works(client)
                bystander.call("counts")
    check_that_nothing_is_left(served, 3)


def test_without_a_temporary_folder_the_upload_fails(served: Served, temporary: Path) -> None:
    with connect(served.url) as client:
        works(client)
        shutil.rmtree(temporary)
        fails(client)
        temporary.mkdir()
        works(client)
    check_that_nothing_is_left(served, 1)


def test_without_a_descriptor_the_upload_fails(served: Served) -> None:
    with connect(served.url) as client:
        client.call("use_up_descriptors")
        fails(client)
        client.call("free_descriptors")
        works(client)
    check_that_nothing_is_left(served, 1)


def test_files_are_gone_with_their_session(served: Served, temporary: Path) -> None:
    with connect(served.url) as client:
        works(client)
        assert metrics(served)['reactor_trio_uploads_kept_bytes{place="disk"}'] == len(LARGE)
        assert [*temporary.iterdir()] == [], "a temporary file has no name"
    check_that_nothing_is_left(served, 1)


@pytest.fixture
def small_disk(temporary: Path) -> Iterator[Path]:
    """A file system of 8 MiB as the temporary folder."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(temporary)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=DEADLINE)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    try:
        yield temporary
    finally:
        subprocess.run(["umount", "--lazy", str(temporary)], check=True, timeout=DEADLINE)


@pytest.mark.usefixtures("small_disk")
def test_a_file_system_that_fills_up_fails_the_upload_and_is_emptied(served: Served) -> None:
    with connect(served.url) as client:
        for _ in range(3):
            fails(client)
        assert client.upload(bytes(MIB), name="in memory").size == MIB
        client.call("counts")
    check_that_nothing_is_left(served, 1)
