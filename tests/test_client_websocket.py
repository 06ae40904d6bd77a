"""`open_client` against a small server on loopback, in real time."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from reactor_trio.client import HandshakeFailed, open_client
from reactor_trio.errors import CommandError, TransportClosed
from reactor_trio.wire import connect
from reactor_trio.wire.connect import Address
from tiny_server import TOKEN, TinyServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.real_time

DEADLINE = 20.0
"""Seconds; a test takes some milliseconds."""


@asynccontextmanager
async def tiny_server() -> AsyncGenerator[TinyServer]:
    server = TinyServer()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            yield server
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def raw_server(answer: bytes | None) -> AsyncGenerator[str]:
    """A server that answers every connection with these bytes and closes it, or never answers (None)."""

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer is None:
            await trio.sleep_forever()
        await stream.send_all(answer or b"")
        await stream.aclose()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, handle, 0)
            yield f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            nursery.cancel_scope.cancel()


async def test_commands_messages_frames_and_uploads():
    async with tiny_server() as server:
        async with open_client(server.url, token=TOKEN) as client:
            assert client.welcome.model.name == "painter"
            assert await client.call("set_prompt", prompt="rain") is None
            answer = await client.call("echo", camera={"name": "front"})
            assert answer is not None
            assert answer.data == {"camera": {"name": "front"}}
            with pytest.raises(CommandError, match=r"a\[1\]\.b: missing"):
                await client.call("refuse")
            assert 0 <= await client.ping() < DEADLINE
            await client.call("play")
            assert [(await client.receive()).data["step"] for _ in range(3)] == [0, 1, 2]
            assert (await client.frame()).array().shape == (2, 2, 3)
            handle = await client.upload(b"x" * 300_000, name="a.png")
            assert server.files[handle.upload_id] == b"x" * 300_000
        headers = dict(server.requests[0].headers)
        assert server.requests[0].path == "/ws"
        assert server.requests[0].proposed_subprotocols == ("reactor.v1",)
        assert headers[b"authorization"] == b"Bearer s3cret"


async def test_leaving_closes_with_1000():
    async with tiny_server() as server:
        async with open_client(server.url):
            pass
        while not server.closes:
            await trio.lowlevel.checkpoint()
        assert [close.code for close in server.closes if close] == [1000]


async def test_a_cancelled_body_closes_with_1000():
    async with tiny_server() as server:
        with trio.CancelScope() as scope:
            async with open_client(server.url) as client:
                scope.cancel()
                await client.receive()
        assert scope.cancelled_caught
        while not server.closes:
            await trio.lowlevel.checkpoint()
        assert [close.code for close in server.closes if close] == [1000]


async def test_the_server_finishes():
    async with tiny_server() as server:
        async with open_client(server.url) as client:
            with pytest.raises(TransportClosed) as caught:
                await client.call("leave")
            assert (caught.value.code, caught.value.reason) == (1000, "finished")
            assert client.goodbye == "finished"
            assert [message async for message in client.messages()] == []


@pytest.mark.parametrize(("path", "status"), [("/private", 401), ("/full", 503), ("/teapot", 418)])
async def test_a_refusal_has_its_status_and_text(path: str, status: int):
    async with tiny_server() as server:
        with pytest.raises(HandshakeFailed, match="no, sorry") as caught:
            async with open_client(server.url + path, token="wrong"):
                pass
        assert caught.value.status == status
        assert caught.value.retry_after == (7 if status == 503 else None)


async def test_nothing_listening_is_an_os_error():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with trio.fail_after(DEADLINE), pytest.raises(OSError, match=r"."):
            async with open_client(f"ws://127.0.0.1:{unused.getsockname()[1]}"):
                pass


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
)
async def test_a_server_that_speaks_something_else(answer: bytes):
    async with raw_server(answer) as url:
        with pytest.raises(HandshakeFailed):
            async with open_client(url):
                pass


async def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connect, "CONNECT_TIMEOUT", 0.05)
    async with raw_server(None) as url:
        with pytest.raises(HandshakeFailed, match="no answer"):
            async with open_client(url):
                pass


async def test_tls_with_a_server_that_has_none():
    async with raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        with pytest.raises(HandshakeFailed, match="no TLS"):
            async with open_client(url.replace("ws:", "https:"), ssl_context=ssl.create_default_context()):
                pass


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
async def test_an_error_of_the_body_comes_out_as_it_is(error: BaseException):
    async with tiny_server() as server:
        with pytest.raises(type(error)) as caught:
            async with open_client(server.url):
                raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("url", "host", "port", "resource", "tls", "authority"),
    [
        ("ws://a:8080", "a", 8080, "/ws", False, "a:8080"),
        ("http://a:8080/", "a", 8080, "/ws", False, "a:8080"),
        ("https://a", "a", 443, "/ws", True, "a"),
        ("wss://a/models/7/ws?x=1", "a", 443, "/models/7/ws?x=1", True, "a"),
        ("https://a/app1/", "a", 443, "/app1/ws", True, "a"),
        ("https://a/app1", "a", 443, "/app1/ws", True, "a"),
        ("http://a/app1/ws", "a", 80, "/app1/ws", False, "a"),
        ("http://a/app1/?x=1", "a", 80, "/app1/ws?x=1", False, "a"),
        ("ws://a/app1/", "a", 80, "/app1/ws", False, "a"),
        ("ws://a/app1/ws", "a", 80, "/app1/ws", False, "a"),
        ("ws://a/paint", "a", 80, "/paint", False, "a"),
        ("http://a/laws", "a", 80, "/laws/ws", False, "a"),
        ("ws://[::1]:80?x=1", "::1", 80, "/ws?x=1", False, "[::1]"),
    ],
)
def test_urls(url: str, host: str, port: int, resource: str, tls: bool, authority: str):
    address = Address.parse(url)
    assert address == Address(host, port, resource, tls)
    assert address.authority == authority


@pytest.mark.parametrize("url", ["ftp://a", "localhost:8080", "ws://", "ws://me:pw@host", "", "ws://a:port"])
def test_what_is_no_url(url: str):
    with pytest.raises(ValueError, match=r"."):
        Address.parse(url)


@pytest.mark.parametrize("token", ["", "two\nlines", "ümlaut"])
async def test_what_is_no_token(token: str):
    with pytest.raises(ValueError, match="printable ASCII"):
        async with open_client("ws://127.0.0.1:1", token=token):
            pass
