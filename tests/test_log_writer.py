"""A thread writes the log lines: no caller waits for the reader of the log; lost lines are counted."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from reactor_trio import ReactorModel, event
from reactor_trio.logs.writer import LineWriter, write_within
from reactor_trio.testing import open_session
from serving import environment

TIMEOUT = 60.0
"""Seconds after which a thread counts as hanging."""
PIPE_BYTES = 64 * 1024


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def notice(lost: int) -> bytes:
    return b"lost %d\n" % lost


def read_until(fd: int, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        part = os.read(fd, PIPE_BYTES)
        assert part
        data += part
    return data


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd)
    for number in range(100):
        writer.put(b"%d\n" % number)
    assert writer.flush(TIMEOUT)
    assert read_until(reader, b"99\n") == b"".join(b"%d\n" % number for number in range(100))
    writer.close(TIMEOUT)
    writer.put(b"after its end\n")
    assert read_until(reader, b"end\n") == b"after its end\n"
    assert writer.lost == 0


@pytest.mark.parametrize(("lines", "size"), [(100, 1), (10, 1000)])
def test_a_reader_that_does_not_read_costs_lines_and_nobody_waits(
    pipe: tuple[int, int], lines: int, size: int
) -> None:
    reader, fd = pipe
    os.set_blocking(fd, True)
    while write_within(fd, bytes(4096), 0):  # the pipe is full from the start
        pass
    writer = LineWriter(fd, lost_notice=notice, max_lines=50, max_bytes=5000)
    for _ in range(lines):
        writer.put(bytes(size - 1) + b"\n")
    held = lines - writer.lost
    assert 0 < held < lines
    assert not writer.flush(0.01)
    # Once the pipe is read again, the kept lines come, with a notice of the number of lost lines.
    data: list[bytes] = []
    reading = threading.Thread(target=lambda: data.append(read_until(reader, b"as before\n")), daemon=True)
    reading.start()
    assert writer.flush(TIMEOUT)
    writer.put(b"as before\n")
    reading.join(TIMEOUT)
    said = re.findall(rb"lost (\d+)\n", data[0])
    assert sum(map(int, said)) == writer.lost
    writer.close(TIMEOUT)


def test_the_end_does_not_wait_for_a_reader_that_does_not_read(pipe: tuple[int, int]) -> None:
    _, fd = pipe
    writer = LineWriter(fd)
    for _ in range(10):
        writer.put(bytes(PIPE_BYTES))
    writer.close(0.01)
    lost = writer.lost
    assert lost > 0
    writer.put(b"too late")
    assert writer.lost == lost + 1


def test_a_reader_that_is_gone_and_a_full_disk_cost_lines_alone(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    for broken in (fd, full):
        writer = LineWriter(broken, lost_notice=notice)
        for _ in range(3):
            writer.put(b"x\n")
        writer.flush(TIMEOUT)
        assert writer.lost == 3
        writer.close(TIMEOUT)
        writer.put(b"x\n")
        assert writer.lost == 4
    os.close(full)


def test_a_line_that_was_cut_is_ended_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = LineWriter(fd, lost_notice=notice)
    real, room = os.write, [4]

    def limited(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        written = real(fd, data[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", limited)
        writer.put(b"too long\n")
        writer.flush(TIMEOUT)
        room[0] = 1_000_000
        writer.put(b"fits\n")
        writer.flush(TIMEOUT)
    writer.close(TIMEOUT)
    os.close(fd)
    assert path.read_bytes() == b"too \nlost 1\nfits\n"


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    os.set_blocking(fd, False)
    writer = LineWriter(fd)
    data = b"x" * (3 * PIPE_BYTES) + b"end"
    writer.put(data)
    assert read_until(reader, b"end") == data
    writer.close(TIMEOUT)


def test_its_descriptor_is_its_own(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd)
    os.close(fd)
    foreign = os.open(os.devnull, os.O_WRONLY)  # reuses the number of `fd`, as a client's socket could
    writer.put(b"to the log\n")
    assert read_until(reader, b"log\n") == b"to the log\n"
    writer.close(TIMEOUT)
    os.close(foreign)


def test_notices_are_asked_for_without_a_new_line(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    waiting = [b"first\n", b"second\n"]
    writer = LineWriter(fd, notices=lambda: [waiting.pop(0)], has_notices=lambda: bool(waiting))
    writer.put(b"")
    assert read_until(reader, b"second\n") == b"first\nsecond\n"
    writer.close(TIMEOUT)


def test_many_threads_lose_nothing(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd)

    def write() -> None:
        for _ in range(1000):
            writer.put(b"x\n")

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    data = b""
    while data.count(b"\n") < 8000:
        data += os.read(reader, PIPE_BYTES)
    for thread in threads:
        thread.join(TIMEOUT)
    writer.flush(TIMEOUT)
    assert writer.lost == 0
    assert writer._bytes == 0
    writer.close(TIMEOUT)


# ---- the test kit


class Chatty(ReactorModel):
    @event
    def fail(self) -> None:
        raise ValueError("x")

    @event
    def talk(self) -> None: ...


async def test_a_kit_whose_output_cannot_be_written_goes_on() -> None:
    before = structlog.get_config()
    with open("/dev/full", "w", buffering=1) as full:  # noqa: ASYNC230, PTH123
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(full))
        try:
            async with open_session(Chatty) as client:
                await client.send("fail")
                await client.call("talk")
        finally:
            structlog.configure(**before)
            with contextlib.suppress(OSError):
                full.close()


KIT = """
from reactor_trio import ReactorModel, event
from reactor_trio.testing import open_session, run

class Chatty(ReactorModel):
    @event
    def fail(self) -> None:
        raise ValueError("x" * 1000)

async def main():
    for _ in range(200):
        async with open_session(Chatty) as client:
            await client.send("fail")
    open({path!r}, "w").write("done")

run(main)
"""


@pytest.mark.parametrize("output", ["full", "gone", "closed"])
def test_a_process_of_the_kit_needs_no_output(output: str, tmp_path: Path) -> None:
    done = tmp_path / "done"
    script = tmp_path / "script.py"
    script.write_text(KIT.format(path=str(done)))
    with open("/dev/full", "w") as full:  # noqa: PTH123
        if output == "closed":
            command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, str(script)]
        else:
            command = [sys.executable, str(script)]
        reader, writer = os.pipe()
        os.close(reader)
        streams = writer if output == "gone" else full
        subprocess.run(
            command, env=environment(), stdout=streams, stderr=streams, timeout=TIMEOUT, check=False
        )
        os.close(writer)
    assert done.read_text() == "done"
