"""A server that cannot write its log: a full disk, a reader that is gone or does not read, no streams."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from reactor_trio.client import open_client
from reactor_trio.client.blocking import connect
from reactor_trio.errors import CommandError
from serving import environment

TIMEOUT = 120.0
"""Seconds for a test, on a busy machine too."""
PIPE_BYTES = 64 * 1024
MODEL = """
import logging, os, sys, threading, time, warnings
import structlog, trio
from reactor_trio import ModelMessage, ReactorModel, event

class Said(ModelMessage):
    text: str

class Talker(ReactorModel):
    def load(self, config):
        if "load" in config:
            raise RuntimeError(config["load"] + " \\x1b[2J")

    @event
    def echo(self, text: str) -> Said:
        return Said(text=text)

    @event
    def say(self, lines: int, characters: int) -> None:
        for number in range(lines):
            structlog.get_logger().warning(f"{number}".ljust(characters, "."))

    @event
    def shout(self, lines: int, characters: int) -> None:
        for number in range(lines):
            print("x" * characters)
            print("x" * characters, file=sys.stderr)

    @event
    def fail(self, text: str) -> None:
        raise ValueError(text)

    @event
    async def everything(self) -> None:
        logging.getLogger("library").warning("from logging \\x1b[2J")
        warnings.warn("from warnings \\x1b[2J")
        print("from print", file=sys.stderr)

        def fail():
            raise KeyError("from a thread \\x1b[2J")

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

        class Bad:
            def __del__(self):
                raise ValueError("from a finaliser \\x1b[2J")

        Bad()
        await trio.to_thread.run_sync(logging.error, "from a worker")

        class Broken(trio.abc.Instrument):
            def before_task_step(self, task):
                raise RuntimeError("from an instrument \\x1b[2J")

        trio.lowlevel.add_instrument(Broken())
        await trio.sleep(0)

    @event
    def fork(self) -> None:
        structlog.get_logger().info("before the fork")
        child = os.fork()
        if child == 0:
            structlog.get_logger().info("in the child, once")
            logging.warning("in the child too")
            os._exit(0)
        os.waitpid(child, 0)
"""
_READY = re.compile(r" is served at (?P<url>http://\S+)/ ")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "talker.py"
    path.write_text(MODEL)
    return path


@contextmanager
def started(model: Path, *options: str, **streams: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "reactor_trio", "serve", str(model), "--port", "0", *options]
    process = subprocess.Popen(command, env=environment(), text=True, **streams)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    """The server's URL, from the line that says where the model is served."""
    assert process.stdout is not None
    watch = threading.Timer(TIMEOUT, process.kill)
    watch.start()
    try:
        for line in process.stdout:
            if ready := _READY.search(line):
                return ready["url"].replace("http", "ws")
    finally:
        watch.cancel()
    raise AssertionError("the server ended before it was ready")


def listening_url(process: subprocess.Popen[str], port: int) -> str:
    """The URL of a server that cannot print it, once the server is ready."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as client:
                client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if b'"ready"' in client.recv(4096):
                    return f"ws://127.0.0.1:{port}"
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server is not there")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ends_well(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 0


def call(url: str, event: str = "echo", **arguments: Any) -> Any:
    """Call an event in a session of its own."""

    async def main() -> Any:
        with trio.fail_after(TIMEOUT):
            async with open_client(url) as client:
                return await client.call(event, **arguments)

    return trio.run(main)


def all_is_well(url: str) -> None:
    """Check that sessions begin, answer, fail and end; the server logs their failures and their ends."""
    for _ in range(3):
        assert call(url, text="still there").data == {"text": "still there"}
        with pytest.raises(CommandError):
            call(url, "fail", text="no reason")


def lost_lines(url: str) -> float:
    """The number of lost log lines that `/metrics` says."""
    with urllib.request.urlopen(f"{url.replace('ws', 'http')}/metrics", timeout=TIMEOUT) as page:
        [value] = re.findall(r"^reactor_trio_log_lines_lost_total (\S+)$", page.read().decode(), re.MULTILINE)
    return float(value)


def test_a_log_on_a_full_disk_ends_nothing_and_is_counted(model: Path) -> None:
    with Path("/dev/full").open("w") as full, started(model, stdout=subprocess.PIPE, stderr=full) as process:
        url = url_of(process)
        all_is_well(url)
        deadline = time.monotonic() + TIMEOUT
        while lost_lines(url) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ends_well(process)


def test_a_log_whose_reader_is_gone_ends_nothing(model: Path) -> None:
    with started(model, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        url = url_of(process)
        with connect(url) as before:
            assert process.stderr is not None
            assert process.stdout is not None
            process.stderr.close()
            process.stdout.close()
            all_is_well(url)
            assert before.call("echo", text="x").data == {"text": "x"}
        call(url, "shout", lines=10, characters=1000)
        ends_well(process)


def test_a_log_that_nobody_reads_stops_neither_a_session_nor_the_end(model: Path) -> None:
    with started(model, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        url = url_of(process)
        # Far more than a pipe takes, in lines that are logged and in lines that are printed.
        call(url, "say", lines=100, characters=PIPE_BYTES // 50)
        call(url, "shout", lines=100, characters=PIPE_BYTES // 50)
        all_is_well(url)
        ends_well(process)


def test_lines_that_were_lost_are_told_of_when_the_log_is_read_again(model: Path) -> None:
    with started(model, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        url = url_of(process)
        # More than the pipe and the log's queue take.
        for _ in range(5):
            call(url, "shout", lines=1000, characters=1000)
        lost = lost_lines(url)
        assert lost > 0
        assert process.stderr is not None
        watch = threading.Timer(TIMEOUT, process.kill)
        watch.start()
        line = next(line for line in process.stderr if "log lines were lost" in line)
        watch.cancel()
        assert int(re.findall(r"lines=(\d+)", line)[0]) > 0
        threading.Thread(target=process.stderr.read, daemon=True).start()
        ends_well(process)


def test_a_server_without_standard_streams_serves(model: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "reactor_trio", "serve", str(model), "--port", str(port)]
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", *command], env=environment(), text=True
    )
    try:
        url = listening_url(process, port)
        all_is_well(url)
        call(url, "shout", lines=1, characters=10)
        call(url, "everything")
        # No socket has taken the number of a standard stream.
        for fd in (0, 1, 2):
            assert Path(f"/proc/{process.pid}/fd/{fd}").readlink() == Path(os.devnull)
        ends_well(process)
    finally:
        process.kill()
        process.wait()


def test_standard_output_that_is_full_ends_nothing(model: Path, tmp_path: Path) -> None:
    port = free_port()
    with (
        Path("/dev/full").open("w") as full,
        (tmp_path / "errors").open("w") as errors,
        started(model, "--port", str(port), stdout=full, stderr=errors) as process,
    ):
        url = listening_url(process, port)
        call(url, "shout", lines=100, characters=1000)
        all_is_well(url)
        ends_well(process)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_all_that_is_logged_goes_one_way(model: Path, tmp_path: Path, log_format: str) -> None:
    with (
        (tmp_path / "errors").open("w") as errors,
        started(model, "--log-format", log_format, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        url = url_of(process)
        call(url, "everything")
        ends_well(process)
    logged = (tmp_path / "errors").read_text()
    sources = ("logging", "warnings", "print", "a thread", "a finaliser", "a worker", "an instrument")
    lines = [line for line in logged.splitlines() if "from " in line]
    for source in sources:
        assert any(f"from {source}" in line for line in lines), source
    assert "\x1b" not in logged
    if log_format == "json":
        entries = [orjson.loads(line) for line in logged.splitlines()]
        [worker] = [entry for entry in entries if entry["event"] == "from a worker"]
        [warned] = [entry for entry in entries if entry["event"].startswith("from warnings")]
        assert worker["session_id"] == warned["session_id"] == entries[0]["session_id"]


def test_a_forked_child_logs_and_what_waits_is_not_written_twice(model: Path, tmp_path: Path) -> None:
    with (
        (tmp_path / "errors").open("w") as errors,
        started(model, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        call(url_of(process), "fork")
        ends_well(process)
    logged = (tmp_path / "errors").read_text()
    for text in ("before the fork", "in the child, once", "in the child too"):
        assert logged.count(text) == 1, logged


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_load_that_fails_is_told_of_in_the_format_and_without_control_characters(
    model: Path, log_format: str
) -> None:
    options = ("--log-format", log_format, "--set", "load=no weights")
    with started(model, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert "RuntimeError" in errors
    assert "no weights" in errors
    assert "\x1b" not in errors
    if log_format == "json":
        [entry] = [orjson.loads(line) for line in errors.splitlines()]
        assert entry["exception"][0]["exc_value"] == "no weights \x1b[2J"


def test_a_process_that_is_given_up_has_written_what_waits(model: Path, tmp_path: Path) -> None:
    # The process ends although nobody reads its log.
    with started(model, "--drain-timeout", "0.1", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        url = url_of(process)
        call(url, "say", lines=100, characters=PIPE_BYTES // 50)
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert process.wait(TIMEOUT) in (0, 1)
