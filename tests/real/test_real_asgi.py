"""`reactor_trio.asgi` behind real ASGI servers: refusals, clients that do not read, and stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from programs import Program, running
from reactor_trio.client import Client, HandshakeFailed, open_client
from reactor_trio.errors import TransportClosed

pytestmark = pytest.mark.real_time

APP = """
import sys

import trio
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.responses import PlainTextResponse

import reactor_trio
from reactor_trio import Limits, ModelMessage, ReactorModel, connected, disconnected, event


class Said(ModelMessage):
    text: str


class Talker(ReactorModel):
    async def load(self, config):
        self.count = {"sent": 0, "sessions": 0}

    @connected
    def on_connect(self):
        self.count["sessions"] += 1

    @event
    def echo(self, text: str) -> Said:
        return Said(text=text)

    @event
    async def talk(self, megabytes: int) -> None:
        for _ in range(megabytes):
            await self.send(Said(text="x" * 1_000_000))
            self.count["sent"] += 1

    @event
    def counted(self) -> Said:
        return Said(text=str(self.count["sent"]))

    @disconnected
    async def on_disconnect(self):
        await trio.sleep(0.1)
        self.count["sessions"] -= 1
        print("left:", self.count["sessions"], flush=True)


talker = reactor_trio.asgi(Talker, token="secret", limits=Limits(send_timeout=2, max_message_bytes=4096))


async def drain(request):
    await talker.drain()
    return PlainTextResponse("nobody is left")


app = Starlette(routes=[Route("/drain", drain), Mount("/talker", talker)], lifespan=talker.lifespan)
"""

SERVERS = {
    "uvicorn": "-m uvicorn --port 0 app:app",
    "uvicorn with wsproto": "-m uvicorn --port 0 --ws wsproto app:app",
    "hypercorn": "-m hypercorn --bind 127.0.0.1:0 app:app",
    "hypercorn on Trio": "-m hypercorn --bind 127.0.0.1:0 --worker-class trio app:app",
}


@pytest.fixture(params=SERVERS)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    (tmp_path / "app.py").write_text(APP)
    with running(SERVERS[request.param].split(), tmp_path) as started:
        yield started


def url(program: Program) -> str:
    return f"ws://{program.authority}/talker/ws"


async def end_of(client: Client) -> int:
    while True:
        try:
            await client.receive()
        except TransportClosed as closed:
            return closed.code


async def test_who_has_no_token_is_refused_as_by_the_own_server(program: Program) -> None:
    with pytest.raises(HandshakeFailed) as caught:
        async with open_client(url(program)):
            pass
    assert (caught.value.status, caught.value.body.strip()) == (401, "a token is needed")


async def test_a_message_that_is_too_big_is_1009(program: Program) -> None:
    stream = await raw_client(program)
    await stream.send_all(frame_of(b"x" * 5000))
    received = b"".join([bytes(data) async for data in stream])
    close = received.rindex(b"\x88")
    assert int.from_bytes(received[close + 2 : close + 4]) == 1009
    await stream.aclose()


async def test_a_client_that_does_not_read_is_cut_off_and_no_other_notices(program: Program) -> None:
    slow = await raw_client(program)
    await slow.send_all(frame_of(b'{"type": "talk", "data": {"megabytes": 100}}'))
    async with open_client(url(program), token="secret") as other:
        counts = []
        for _ in range(8):
            await trio.sleep(0.5)
            answer = await other.call("counted")
            assert answer is not None
            counts.append(int(answer.data["text"]))
        assert counts[-1] < 100, "the model has waited"
        assert counts[-1] == counts[-2], "and was told that the client is gone"
    await slow.aclose()


async def raw_client(program: Program) -> trio.SocketStream:
    """A client's stream after the handshake; nothing but the test reads from it."""
    host, port = program.authority.split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 65536)
    await stream.send_all(
        f"GET /talker/ws HTTP/1.1\r\nHost: {program.authority}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer secret\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some(1024)
    assert b" 101 " in head
    return stream


def frame_of(text: bytes) -> bytes:
    """A text frame (RFC 6455, 5.2); a mask of zeros leaves the payload as it is."""
    size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2)
    return b"\x81" + size + bytes(4) + text


async def test_a_server_that_is_stopped_runs_the_hooks_first(program: Program) -> None:
    async with open_client(url(program), token="secret") as client:
        program.process.send_signal(signal.SIGTERM)
        # Each ASGI server ends the connection in its own way.
        assert await end_of(client) in (1012, 1011, 1006)
        assert "left: 0" in await trio.to_thread.run_sync(program.ended)


async def test_drained_first_it_says_goodbye(program: Program) -> None:
    async with open_client(url(program), token="secret") as client, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, program.fetch, "/drain")
        assert await end_of(client) == 1001
        assert client.goodbye == "shutting_down"
