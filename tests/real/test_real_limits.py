"""A server without free descriptors: silent clients have taken all of them."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import default_signals, environment

DEADLINE = 60.0
MODEL = """
from reactor_trio import ReactorModel

class Quiet(ReactorModel):
    pass
"""
DESCRIPTORS = 64


class Served:
    """A server in a process of its own, which may have `DESCRIPTORS` descriptors."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "quiet.py").write_text(MODEL)
        command = [sys.executable, "-m", "reactor_trio", "serve", "quiet.py", "--port", "0", *options]
        self._errors = folder / "errors.txt"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                preexec_fn=self._limit,
            )
        assert self.process.stdout is not None
        found = re.search(r"http://([\d.]+):(\d+)/", self.process.stdout.readline())
        assert found is not None, self.errors
        self.address = found[1], int(found[2])

    @staticmethod
    def _limit() -> None:
        default_signals()
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

    @property
    def errors(self) -> list[str]:
        return self._errors.read_text().splitlines()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, DEADLINE)

    def status(self, path: str) -> int | None:
        """The status of the answer to a GET; None if the connection was closed without an answer."""
        with contextlib.suppress(ConnectionError), self.connect() as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            answer = client.makefile("rb").readline()
            return int(answer.split()[1]) if answer else None
        return None


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Served]:
    server = Served(folder, *options)
    with server.process:
        try:
            yield server
        finally:
            server.process.kill()


def is_told_503(client: socket.socket) -> bool:
    client.settimeout(0.05)
    with contextlib.suppress(TimeoutError, ConnectionError):
        return client.recv(100).startswith(b"HTTP/1.1 503 ")
    return False


def until(server: Served, path: str, wanted: int) -> None:
    """Wait until `path` is answered with `wanted`: the server notices closed connections a moment later."""
    gives_up = time.monotonic() + DEADLINE
    while server.status(path) != wanted:
        assert time.monotonic() < gives_up
        time.sleep(0.05)


def test_health_is_answered_when_silent_clients_have_taken_all_that_there_is(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        silent = [server.connect() for _ in range(2 * DESCRIPTORS)]
        # At once: silent clients are turned away to make room, and get a 503.
        for _ in range(20):
            assert server.status("/health") == 200
            assert server.status("/metrics") == 200
            assert server.status("/schema") == 503
        turned_away = [client for client in silent if is_told_503(client)]
        assert DESCRIPTORS // 2 < len(turned_away) < 2 * DESCRIPTORS
        for client in silent:
            client.close()
        until(server, "/schema", 200)
        assert server.process.poll() is None
    assert not [line for line in server.errors if "Too many open files" in line]


def test_a_server_that_has_run_out_of_descriptors_goes_on_when_there_are_some_again(tmp_path: Path) -> None:
    with serving(tmp_path, "--max-connections", "1000") as server:
        silent = [server.connect() for _ in range(2 * DESCRIPTORS)]
        time.sleep(1.5)  # Trio tries to accept ten times a second
        assert server.process.poll() is None
        for client in silent:
            client.close()
        until(server, "/health", 200)
    said = [line for line in server.errors if "accept returned" in line]
    assert len(said) == 1


@pytest.mark.parametrize("soft", [32, 64])
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int) -> None:
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, 1000))\n"
        "from reactor_trio.server.gate import raise_descriptor_limit\n"
        "print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=DEADLINE)
    assert done.stdout.split() == ["1000", "1000", "1000"], done.stderr
