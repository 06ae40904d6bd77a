"""The blocking client against a small server in another thread, in real time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reactor_trio.client import HandshakeFailed, connect
from reactor_trio.errors import CommandError, TransportClosed
from serving import default_signals
from tiny_server import TinyServer, server_in_a_thread

if TYPE_CHECKING:
    from collections.abc import Generator

DEADLINE = 20.0
"""Seconds; a test takes some milliseconds."""


@pytest.fixture(scope="module")
def server() -> Generator[TinyServer]:
    with server_in_a_thread() as tiny:
        yield tiny


def test_commands_messages_frames_and_uploads(server: TinyServer, tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * 200_000)
    with connect(server.url) as client:
        assert client.welcome.model.name == "painter"
        client.send("set_prompt", prompt="rain")
        assert client.call("set_prompt", {"prompt": "rain"}) is None
        answer = client.call("echo", x=1)
        assert answer is not None
        assert answer.data == {"x": 1}
        client.call("play")
        assert client.receive().data["step"] == 0
        assert client.receive("progress", seconds=DEADLINE).data["step"] == 1
        assert client.frame(seconds=DEADLINE).array().shape == (2, 2, 3)
        assert client.ping() < DEADLINE
        steps: list[int] = []
        handle = client.upload(path, on_progress=lambda sent, total: steps.append(sent))
        assert server.files[handle.upload_id] == path.read_bytes()
        assert steps[-1] == 200_000
        assert (client.dropped_messages, client.dropped_frames) == (0, 0)
        assert client.closed is None
        client.close()
        assert client.closed is not None
        with pytest.raises(TransportClosed):
            client.send("set_prompt")


def test_tracks_are_configured_and_latency_is_measured(server: TinyServer):
    with connect(server.url) as client:
        client.configure_track("main_video", codec="raw", max_fps=None, max_width=640, paused=False)
        client.request_key_frame("main_video")
        assert client.latency().total is None
        client.call("play")
        client.shown(client.frame(seconds=DEADLINE))
        latency = client.latency()
        assert latency.count == 1
        assert latency.total is not None
        assert 0 < latency.total.last < DEADLINE


def test_iterators_end_with_the_connection(server: TinyServer):
    with connect(server.url) as client:
        client.call("play")
        client.send("leave")
        assert [message.data["step"] for message in client.messages()] == [0, 1, 2]
        assert [frame.seq for frame in client.frames()] == [0, 1, 2]
        assert client.goodbye == "finished"


def test_errors_are_single_and_typed(server: TinyServer):
    with connect(server.url) as client:
        with pytest.raises(CommandError, match="invalid_payload"):
            client.call("refuse")
        with pytest.raises(ValueError, match="no track"):
            client.frames("no such")
        with pytest.raises(TypeError, match="JSON has no"):
            client.send("echo", x=object())
        with pytest.raises(TransportClosed, match="1000 finished"):
            client.call("leave")
    with pytest.raises(HandshakeFailed) as caught, connect(server.url + "/private", "wrong"):
        pass
    assert caught.value.status == 401
    with pytest.raises(ValueError, match="not a URL"), connect("nonsense"):
        pass
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=r"."), connect(f"ws://127.0.0.1:{unused.getsockname()[1]}"):
            pass


def test_an_error_of_the_body_comes_out_as_it_is(server: TinyServer):
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught, connect(server.url):
        raise error
    assert caught.value is error


def test_waiting_may_be_bounded(server: TinyServer):
    with connect(server.url) as client:
        with pytest.raises(TimeoutError, match=r"nothing within 0\.01 s"):
            client.receive(seconds=0.01)
        with pytest.raises(TimeoutError):
            client.frame(seconds=0.01)
        assert client.call("set_prompt") is None


def test_threads_may_share_a_client(server: TinyServer):
    with connect(server.url) as client:
        results: list[int] = []

        def work(number: int) -> None:
            answer = client.call("echo", number=number)
            assert answer is not None
            results.append(answer.data["number"])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert sorted(results) == list(range(8))


INTERRUPTED = """
import sys
from reactor_trio.client import connect

try:
    with connect(sys.argv[1]) as client:
        print("connected", flush=True)
        try:
            client.call("hang")
        except KeyboardInterrupt:
            print("interrupted", client.call("set_prompt"), flush=True)
            raise
except KeyboardInterrupt:
    print("left", client.closed.code, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sends SIGINT to a child process")
def test_an_interrupt_ends_a_call_that_waits_and_closes(server: TinyServer):
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        preexec_fn=default_signals,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "connected\n"
        assert server.hanging.wait(DEADLINE)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=DEADLINE)
    finally:
        child.kill()
    assert (out, err, child.returncode) == ("interrupted None\nleft 1000\n", "", 0)
