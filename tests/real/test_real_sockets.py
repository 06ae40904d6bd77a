"""A server that listens at no host and port of its own: at a unix socket, or at sockets handed over to it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reactor_trio.server.settings import ServerSettings
from reactor_trio.server.systemd import notify, passed_descriptors
from serving import PROCESS_TIMEOUT, ROOT

MODEL = """
from reactor_trio import ModelMessage, ReactorModel, event

class Who(ModelMessage):
    address: str

class Greeter(ReactorModel):
    @event
    def who(self, client) -> Who:
        return Who(address=client.address)
"""
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
# A service manager does this between fork and exec: the sockets become the process's descriptors from 3 on.
HAND_OVER = """
import os, sys
fds = [int(each) for each in sys.argv[1].split(",")]
high = [os.dup2(fd, 100 + index) for index, fd in enumerate(fds)]
for index, fd in enumerate(high):
    os.dup2(fd, 3 + index)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES="http")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Serving:
    """A server's process; `ready` is the line that says where the model is served."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self.errors = errors
        self.ready = ""

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        timer = threading.Timer(PROCESS_TIMEOUT, self.process.kill)
        timer.start()
        try:
            self.ready = self.process.stdout.readline().strip()
        finally:
            timer.cancel()
        assert " is served at " in self.ready, self.errors.read_text()

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PROCESS_TIMEOUT) == 0, self.errors.read_text()


@contextmanager
def started(
    folder: Path,
    *options: str,
    fds: tuple[int, ...] = (),
    before: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
) -> Iterator[Serving]:
    (folder / "model.py").write_text(MODEL)
    errors = folder / "stderr.txt"
    command = [sys.executable, *before, "-m", "reactor_trio", "serve", "model.py", *options]
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            pass_fds=fds,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
        )
    try:
        yield Serving(process, errors)
    finally:
        process.kill()
        process.communicate()


def asked(connection: socket.socket, path: str = "/health", *headers: str) -> str:
    """Send a GET; returns the whole answer."""
    connection.settimeout(PROCESS_TIMEOUT)
    with connection:
        lines = [f"GET {path} HTTP/1.1", "Host: app.example", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def client_of(path: Path | str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.fspath(path))
    return connection


def who(connection: socket.socket, *headers: str) -> str:
    """The client's address, as its session sees it."""
    connection.settimeout(PROCESS_TIMEOUT)
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
    )
    lines = ["GET /ws HTTP/1.1", "Host: app.example", *upgrade, *headers, "", ""]
    with connection:
        connection.sendall("\r\n".join(lines).encode())
        command = b'{"type":"who","data":{},"id":1}'
        connection.sendall(bytes([0x81, 0x80 | len(command)]) + bytes(4) + command)
        seen = b""
        while b'"address":"' not in seen:
            data = connection.recv(65536)
            assert data, seen
            seen += data
        return seen.partition(b'"address":"')[2].partition(b'"')[0].decode()


# ---- a unix socket


def test_a_unix_socket_is_served_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with started(tmp_path, "--uds", "r.sock") as server:
        server.wait_until_ready()
        assert server.ready.endswith(" is served at unix:r.sock")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert asked(client_of(path)).startswith("HTTP/1.1 200 ")
        # Any name in `Host` will do for the page's origin: pages reach the socket only through a proxy.
        assert who(client_of(path), "Origin: https://app.example") == "unix"
        server.end()
    assert not path.exists()


def test_a_proxy_on_a_unix_socket_is_believed(tmp_path: Path) -> None:
    with started(tmp_path, "--uds", "r.sock", "--proxy-headers") as server:
        server.wait_until_ready()
        assert who(client_of(tmp_path / "r.sock"), "X-Forwarded-For: 203.0.113.9") == "203.0.113.9"


def test_the_socket_of_a_process_that_is_gone_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with started(tmp_path, "--uds", str(path)) as server:
        server.wait_until_ready()
        assert asked(client_of(path)).startswith("HTTP/1.1 200 ")


def test_the_socket_of_a_process_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen(0)
        with started(tmp_path, "--uds", str(path)) as server:
            assert server.process.wait(PROCESS_TIMEOUT) == 1
            assert (
                server.errors.read_text().strip() == f"Error: cannot listen on {path}: another process does"
            )
        assert path.exists()


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_text("precious")
    with started(tmp_path, "--uds", str(path)) as server:
        assert server.process.wait(PROCESS_TIMEOUT) == 1
        assert "there is a file, and it is no socket" in server.errors.read_text()
    assert path.read_text() == "precious"


@pytest.mark.parametrize("path", ["nowhere/r.sock", "x" * 200])
def test_a_path_that_cannot_be_is_a_short_message(tmp_path: Path, path: str) -> None:
    with started(tmp_path, "--uds", path) as server:
        assert server.process.wait(PROCESS_TIMEOUT) == 1
        text = server.errors.read_text()
    assert text.startswith("Error: cannot listen on ")
    assert "Traceback" not in text


def test_the_socket_that_another_process_has_put_there_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with started(tmp_path, "--uds", str(path)) as server, socket.socket(socket.AF_UNIX) as other:
        server.wait_until_ready()
        path.unlink()
        other.bind(str(path))
        server.end()
        assert path.exists()


# ---- sockets that are handed over


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_systemd_hands_over_sockets_of_both_kinds(tmp_path: Path, tcp: socket.socket) -> None:
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        fds = (tcp.fileno(), unix.fileno())
        before = ("-c", HAND_OVER, ",".join(map(str, fds)))
        with started(tmp_path, fds=fds, before=before) as server:
            server.wait_until_ready()
            port = tcp.getsockname()[1]
            assert f" is served at http://127.0.0.1:{port}/ " in server.ready
            assert server.ready.endswith(f", and at unix:{path}")
            assert '"status":"ready"' in asked(client_of(path))
            assert who(client_of(path)) == "unix"
            connection = socket.create_connection(("127.0.0.1", port))
            assert asked(connection).startswith("HTTP/1.1 421 "), "not its name"
            server.end()
        assert path.exists(), "whoever has made it keeps it"
        unix.getsockname()


def test_a_descriptor_may_be_named(tmp_path: Path, tcp: socket.socket) -> None:
    with started(tmp_path, "--fd", str(tcp.fileno()), fds=(tcp.fileno(),)) as server:
        server.wait_until_ready()
        assert f"http://127.0.0.1:{tcp.getsockname()[1]}/" in server.ready


@pytest.mark.parametrize(("options", "status"), [((), 2), (("--no-auth",), None), (("--token", "x"), None)])
def test_a_socket_that_others_can_reach_needs_a_token(
    tmp_path: Path, options: tuple[str, ...], status: int | None
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        with started(tmp_path, "--fd", str(listener.fileno()), *options, fds=(listener.fileno(),)) as server:
            if status is None:
                server.wait_until_ready()
                return
            assert server.process.wait(PROCESS_TIMEOUT) == status
            assert "'0.0.0.0' can be reached from other machines" in server.errors.read_text()


def test_what_is_no_socket_that_listens_is_a_short_message(tmp_path: Path) -> None:
    with socket.socket() as unbound, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for fd, text in (
            (unbound.fileno(), "does not listen"),
            (datagrams.fileno(), "is no stream socket"),
            (99, "is no socket"),
            (0, "is no socket"),
        ):
            passed = (fd,) if fd not in (0, 99) else ()
            with started(tmp_path, "--fd", str(fd), fds=passed) as server:
                assert server.process.wait(PROCESS_TIMEOUT) == 2
                assert text in server.errors.read_text()
                assert "Traceback" not in server.errors.read_text()


def test_a_socket_that_is_bound_only_is_listened_on(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with started(tmp_path, "--fd", str(bound.fileno()), fds=(bound.fileno(),)) as server:
            server.wait_until_ready()
            connection = socket.create_connection(bound.getsockname())
            assert asked(connection, "/health").startswith("HTTP/1.1 ")


def test_the_variables_are_for_one_process_and_are_taken_away() -> None:
    mine, names = str(os.getpid()), {"LISTEN_FDNAMES": "a:b"}
    for environ, wanted in (
        ({"LISTEN_PID": mine, "LISTEN_FDS": "2"}, range(3, 5)),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "2"}, range(0)),
        ({"LISTEN_FDS": "2"}, range(0)),
        ({}, range(0)),
    ):
        given = environ | names | {"OTHER": "x"}
        assert passed_descriptors(given) == wanted
        assert given == {"OTHER": "x"}


@pytest.mark.parametrize("count", ["", "-1", "many", "65", "9" * 5000, "²"])
def test_variables_that_make_no_sense(count: str) -> None:
    with pytest.raises(ValueError, match="LISTEN_FDS should be a number"):
        passed_descriptors({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


def test_one_way_to_listen_at_a_time(tmp_path: Path, tcp: socket.socket) -> None:
    with pytest.raises(ValueError, match="not both"):
        ServerSettings(uds="r.sock", sockets=(tcp,))
    before = ("-c", HAND_OVER, str(tcp.fileno()))
    with started(tmp_path, "--uds", "r.sock", fds=(tcp.fileno(),), before=before) as server:
        assert server.process.wait(PROCESS_TIMEOUT) == 2
        assert "--uds and --fd are to be left out" in server.errors.read_text()


# ---- sd_notify


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_service_manager_hears_when_the_model_is_loaded_and_when_it_stops(
    tmp_path: Path, is_abstract: bool
) -> None:
    name = f"@reactor-trio-test-{os.getpid()}" if is_abstract else str(tmp_path / "n.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0") if is_abstract else name)
        manager.settimeout(PROCESS_TIMEOUT)
        with started(tmp_path, "--uds", "r.sock", env={"NOTIFY_SOCKET": name}) as server:
            assert manager.recv(100) == b"READY=1"
            server.wait_until_ready()
            server.end()
            assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("name", ["", "nonsense", "/nowhere/n.sock", "@", "/" + "x" * 300, "vsock:2:1"])
def test_a_service_manager_that_is_not_there_is_no_reason_to_fail(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify("READY=1")
