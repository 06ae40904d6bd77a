"""The whole system: a server process, real sockets, the Python client. Real time: tests wait for events."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from reactor_trio.client import Client, connect, open_client
from reactor_trio.errors import CommandError, TransportClosed
from serving import environment

pytestmark = pytest.mark.real_time

DEADLINE = 60.0
"""Seconds after which a test counts as hung."""

MODEL = """
import json
import sys
import numpy as np
import trio
from reactor_trio import *

def note(**what):
    print(json.dumps(what), flush=True)

class Said(ModelMessage):
    text: str

class Picture(Output):
    screen: Video

class Camera(Input):
    webcam: Video
    mic: Audio = Audio(sample_rate=16000)

class Model(ReactorModel):
    input: Camera

    def load(self, config):
        note(load=config)

    @connected
    def on_connect(self):
        self.value = ""

    @event
    async def put(self, value: str) -> Said:
        self.value = value
        await trio.sleep(0.001)
        return Said(text=self.value)

    @event
    async def wait(self, seconds: float):
        note(waiting=self.client.id)
        await trio.sleep(seconds)

    @event
    def sizes(self, files: list[UploadedFile]) -> Said:
        return Said(text=" ".join(str(len(file.data)) for file in files))

    @event
    async def look(self, n: int) -> Said:
        frames = await self.input.webcam.read(n, ReadMode.FIFO)
        return Said(text=" ".join(f"{frame.seq}:{frame.mean():.0f}" for frame in frames))

    @event
    async def listen(self) -> Said:
        (block,) = await self.input.mic.read()
        return Said(text=f"{block.shape} {block.max()}")

    @event
    def break_run(self):
        self.broken.set()

    async def run(self):
        self.broken = trio.Event()
        await self.connected.wait()
        with trio.move_on_after(float("inf")):
            while not self.broken.is_set():
                await self.emit(Picture(screen=np.zeros((64, 64, 3), np.uint8)))
        raise RuntimeError("broken")

    @disconnected
    async def on_disconnect(self):
        await trio.sleep(0.01)
        note(disconnected=self.client.id)
"""


class Served:
    """A server process, and the notes that its model printed on standard output."""

    def __init__(
        self, process: trio.Process, url: str, notes: trio.MemoryReceiveChannel[dict[str, Any]]
    ) -> None:
        self.process = process
        self.url = url
        self.notes = notes
        self.errors = b""

    async def noted(self, key: str) -> Any:
        """The value of the next note that has this key."""
        async for note in self.notes:
            if key in note:
                return note[key]
        raise AssertionError(f"the process ended without {key!r}")

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()


@asynccontextmanager
async def served(tmp_path: Path, *options: str) -> AsyncIterator[Served]:
    (tmp_path / "model.py").write_text(MODEL)
    command = [sys.executable, "-m", "reactor_trio", "serve", "model.py", "--port", "0", *options]
    send, receive = trio.open_memory_channel[dict[str, Any]](1000)
    async with trio.open_nursery() as nursery:
        start = functools.partial(
            trio.run_process,
            command,
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
        )
        process: trio.Process = await nursery.start(start)
        assert process.stdout is not None
        assert process.stderr is not None
        ready: list[str] = []
        is_ready = trio.Event()
        server = Served(process, "", receive)

        async def read_output(stream: trio.abc.ReceiveStream) -> None:
            buffer = b""
            async with send:
                async for chunk in stream:
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        if line.startswith(b"{"):
                            send.send_nowait(json.loads(line))
                        else:
                            ready.append(line.decode())
                            is_ready.set()
            is_ready.set()

        async def read_errors(stream: trio.abc.ReceiveStream) -> None:
            async for chunk in stream:
                server.errors += chunk

        nursery.start_soon(read_output, process.stdout)
        nursery.start_soon(read_errors, process.stderr)
        try:
            await is_ready.wait()
            assert ready, server.errors.decode()
            server.url = next(word for word in ready[0].split() if word.startswith("http"))
            yield server
        finally:
            process.kill()


async def test_forty_clients_share_the_weights_and_nothing_else(tmp_path: Path) -> None:
    async def one(server: Served, number: int) -> None:
        async with open_client(server.url) as client:
            for round_ in range(5):
                value = f"{number}/{round_}"
                reply = await client.call("put", value=value)
                assert reply is not None
                assert reply.data == {"text": value}
            assert (await client.frame()).array().shape == (64, 64, 3)

    with trio.fail_after(DEADLINE):
        async with served(tmp_path, "--set", "checkpoint=x") as server:
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(one, server, number)
            assert await server.stop() == 0
            notes = [note async for note in server.notes]
            assert notes[0] == {"load": {"checkpoint": "x"}}
            assert sum("load" in note for note in notes) == 1
            assert sum("disconnected" in note for note in notes) == 40


async def test_pictures_and_sound_reach_the_model(tmp_path: Path) -> None:
    def from_a_script(url: str) -> list[str]:
        with connect(url) as client:
            client.publish("mic", np.full(320, 0.5))
            client.publish("webcam", np.full((480, 640, 3), 100, np.uint8))
            replies = [client.call("listen"), client.call("look", n=1)]
            return [reply.data["text"] for reply in replies if reply is not None]

    with trio.fail_after(DEADLINE):
        async with served(tmp_path) as server:
            async with open_client(server.url) as client:
                for number in range(10):
                    await client.publish("webcam", np.full((480, 640, 3), 20 * number, np.uint8))
                    reply = await client.call("look", n=1)
                    assert reply is not None
                    assert reply.data["text"] == f"{number}:{20 * number}"
            said = await trio.to_thread.run_sync(from_a_script, server.url)
            assert said == ["(1, 320) 16384", "0:100"]
            assert await server.stop() == 0


async def test_a_socket_that_dies_ends_a_handler_that_sleeps_for_a_minute(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE):
        async with served(tmp_path) as server:
            host, port = server.url.removeprefix("http://").strip("/").split(":")
            raw = socket.create_connection((host, int(port)))
            raw.sendall(
                b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            text = b'{"type": "wait", "data": {"seconds": 60}}'
            raw.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
            waiting = await server.noted("waiting")
            died = trio.current_time()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()  # a TCP reset, without a close frame
            assert await server.noted("disconnected") == waiting
            assert trio.current_time() - died < 1


async def test_sigterm_says_goodbye_and_leaves_with_0(tmp_path: Path) -> None:
    goodbyes: list[tuple[str | None, int]] = []

    async def stay(server: Served, *, task_status: trio.TaskStatus[Client]) -> None:
        async with open_client(server.url) as client:
            await client.send("wait", seconds=60)
            task_status.started(client)
            with pytest.raises(TransportClosed) as closed:
                await client.receive("never")
            goodbyes.append((client.goodbye, closed.value.code))

    with trio.fail_after(DEADLINE):
        async with served(tmp_path) as server:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    await nursery.start(stay, server)
                for _ in range(3):
                    await server.noted("waiting")
                assert await server.stop() == 0
            assert goodbyes == [("shutting_down", 1001)] * 3
            notes = [note async for note in server.notes]
            assert sum("disconnected" in note for note in notes) == 3
        assert b"Traceback" not in server.errors


async def test_a_run_that_fails_closes_its_own_connection_with_1011(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE):
        async with served(tmp_path) as server:
            async with open_client(server.url) as victim, open_client(server.url) as other:
                await victim.call("break_run")
                assert (await victim.receive("reactor.error")).data["code"] == "model_error"
                with pytest.raises(TransportClosed, match="1011"):
                    await victim.receive("never")
                assert await server.noted("disconnected") == victim.welcome.session_id
                assert await other.call("put", value="unaware") is not None


async def test_uploads_of_every_size_arrive_beside_commands(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(20 * 1024 * 1024))
    progress: list[tuple[int, int]] = []
    with trio.fail_after(DEADLINE):
        async with served(tmp_path) as server, open_client(server.url) as client:
            handles: dict[str, Any] = {}

            async def upload(name: str, source: Any) -> None:
                handles[name] = await client.upload(
                    source, name=name, on_progress=lambda *now: progress.append(now)
                )

            async with trio.open_nursery() as nursery:
                nursery.start_soon(upload, "large", large)
                nursery.start_soon(upload, "small", b"x" * 1000)
                nursery.start_soon(upload, "empty", b"")
                for number in range(50):
                    reply = await client.call("put", value=str(number))
                    assert reply is not None
            reply = await client.call("sizes", files=[handles[name] for name in ("large", "small", "empty")])
            assert reply is not None
            assert reply.data == {"text": "20971520 1000 0"}
            assert progress[-1][0] <= 20971520
            with pytest.raises(CommandError, match="upload_too_large"):
                await client.upload(b"x" * (64 * 1024 * 1024 + 1), name="too large")
