"""`reactor_trio.serve`: a model served in a nursery of the application, over loopback sockets."""

from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import reactor_trio
from reactor_trio import Limits, ReactorModel, RunningServer, connected, disconnected, event
from reactor_trio.client import Client, HandshakeFailed, open_client
from reactor_trio.errors import ListenError, TransportClosed
from reactor_trio.server.options import ServeOptions
from reactor_trio.server.settings import ServerSettings

pytestmark = pytest.mark.real_time

DEADLINE = 60.0
A_WHILE = 0.3
"""Real seconds of the time-outs that a test waits for."""

log: list[str] = []
"""The hooks that have run and the prompts that arrived; emptied before each test."""


class Painter(ReactorModel):
    def load(self, config: dict[str, Any]) -> None:
        self.prompt = config.get("prompt", "")

    @connected
    def on_connect(self) -> None:
        log.append("connected")

    @event
    def set_prompt(self, prompt: str) -> None:
        self.prompt = prompt
        log.append(prompt)

    @disconnected
    async def on_disconnect(self) -> None:
        await trio.sleep(0.01)
        log.append("disconnected")


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


@asynccontextmanager
async def served(model: type[ReactorModel] = Painter, **options: Any) -> AsyncIterator[RunningServer]:
    """Serve the model in a nursery that is cancelled at the end."""
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(reactor_trio.serve, model, port=0, **options))
            yield server
            nursery.cancel_scope.cancel(reason="the test is over")


async def test_a_server_in_a_nursery_says_where_it_is_once_clients_can_come() -> None:
    async with served(config={"prompt": "a meadow"}, name="Landscapes") as server:
        assert server.url == f"http://127.0.0.1:{server.port}/"
        assert server.addresses == (("127.0.0.1", server.port),)
        async with open_client(server.websocket_url) as client:
            assert client.welcome.model.name == "Landscapes"
            await client.call("set_prompt", prompt="a storm")
            assert server.sessions == 1
    assert log == ["connected", "a storm", "disconnected"]


async def test_several_servers_share_a_nursery() -> None:
    async with served(name="one") as one, served(name="two") as two:
        async with open_client(one.websocket_url) as first, open_client(two.websocket_url) as second:
            assert (first.welcome.model.name, second.welcome.model.name) == ("one", "two")


async def end_of(client: Client) -> TransportClosed:
    """Wait for the end of the client's connection, and return its `TransportClosed`."""
    while True:
        try:
            await client.receive()
        except TransportClosed as closed:
            return closed


async def test_a_cancelled_server_says_goodbye_and_runs_the_hooks() -> None:
    ends: list[tuple[int, str | None]] = []

    async def stay(url: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with open_client(url) as client:
            await client.call("set_prompt", prompt="seen")
            task_status.started()
            ends.append(((await end_of(client)).code, client.goodbye))

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as clients:
            async with served() as server:
                await clients.start(stay, server.websocket_url)
            assert log == ["connected", "seen", "disconnected"]
            with pytest.raises(OSError, match="127"):
                await trio.open_tcp_stream("127.0.0.1", server.port)
    assert ends == [(1001, "shutting_down")]


async def test_a_cancelled_server_leaves_a_client_no_more_than_its_time_to_say_goodbye() -> None:
    with trio.fail_after(DEADLINE):
        async with served(limits=Limits(close_timeout=A_WHILE)) as server:
            stream = await deaf_client(server)
            await until(lambda: "connected" in log)
    assert log == ["connected", "disconnected"]
    await stream.aclose()


async def deaf_client(server: RunningServer) -> trio.SocketStream:
    """A client that never answers a close."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await stream.send_all(
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    return stream


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110  a list sets no event
        await trio.sleep(0.001)


async def test_a_drained_server_says_goodbye_and_returns() -> None:
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(reactor_trio.serve, Painter, port=0))
            async with open_client(server.websocket_url) as client:
                server.drain()
                server.drain()  # the second call does nothing
                assert ((await end_of(client)).code, client.goodbye) == (1001, "shutting_down")
    assert log == ["connected", "disconnected"]


async def test_a_draining_server_cancels_what_is_left_when_its_time_is_up() -> None:
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            options: dict[str, Any] = {"drain_timeout": A_WHILE, "limits": Limits(close_timeout=DEADLINE)}
            server = await nursery.start(partial(reactor_trio.serve, Painter, port=0, **options))
            stream = await deaf_client(server)
            await until(lambda: "connected" in log)
            server.drain()
    assert log == ["connected", "disconnected"]
    await stream.aclose()


# ---- loading


async def test_a_load_that_fails_is_raised_as_it_is() -> None:
    class Broken(Painter):
        def load(self, config: dict[str, Any]) -> None:
            raise FileNotFoundError("weights.pt")

    with trio.fail_after(DEADLINE), pytest.raises(FileNotFoundError, match=r"weights\.pt"):
        await reactor_trio.serve(Broken, port=0)


async def test_cancelled_while_it_loads_it_ends_at_once() -> None:
    class Slow(Painter):
        async def load(self, config: dict[str, Any]) -> None:
            log.append("loading")
            try:
                await trio.sleep_forever()
            finally:
                log.append("gone")

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(reactor_trio.serve, Slow, port=0))
            await until(lambda: log)
            nursery.cancel_scope.cancel(reason="the test is over")
    assert log == ["loading", "gone"]


async def test_an_address_in_use_is_a_listen_error() -> None:
    async with served() as server:
        with pytest.raises(ListenError, match="in use"):
            await reactor_trio.serve(Painter, port=server.port)


# ---- options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"host": "0.0.0.0"}, r"give a token, .* \(token or auth=False\)"),
        ({"allow_origins": "example.com"}, r"without a path, or \* \(allow_origins\)"),
        ({"allow_origins": ["a b"]}, r"\(allow_origins\)"),
        ({"root_path": "app"}, r"\(root_path\)"),
        ({"trusted_proxies": ["10.0.0.7"]}, "trusted_proxies needs proxy_headers"),
        ({"max_waiting": -1}, "'max_waiting' must be >= 0"),
        ({"token": ""}, "a token must be visible ASCII"),
    ],
)
async def test_a_value_that_cannot_be_is_a_value_error_that_names_the_keyword(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        await reactor_trio.serve(Painter, port=0, **options)


async def test_a_keyword_that_there_is_not_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"serve\(\) got an unexpected keyword argument 'tokn'"):
        await reactor_trio.serve(Painter, tokn="secret")  # type: ignore[call-arg]


async def test_a_token_is_asked_for_and_an_open_address_can_be_said_to_be_meant() -> None:
    async with served(host="0.0.0.0", token="secret") as server:
        url = f"ws://127.0.0.1:{server.port}/ws"
        with pytest.raises(HandshakeFailed) as caught:
            async with open_client(url):
                pass
        assert caught.value.status == 401
        async with open_client(url, token="secret"):
            pass
    async with served(host="0.0.0.0", auth=False) as server:
        async with open_client(f"ws://127.0.0.1:{server.port}/ws"):
            pass


async def test_a_unix_socket_has_an_address_too(tmp_path: Path) -> None:
    path = str(tmp_path / "painter.sock")
    async with served(uds=path) as server:
        assert (server.url, server.port) == (f"unix:{path}", 0)


@pytest.mark.parametrize(
    ("keyword", "value", "takes"),
    [
        ("config", [], "a mapping, such as a dict"),
        ("name", 3, "a str"),
        ("limits", 3, "a reactor_trio.Limits"),
        ("media", "jpeg", "a reactor_trio.MediaSettings"),
        ("port", "80", "an int"),
        ("port", True, "an int"),
        ("host", None, "a str"),
        ("token", b"secret", "a str"),
        ("auth", "no", "a bool"),
        ("authenticate", "hook", "a function"),
        ("allow_origins", 3, "a list"),
        ("allow_origins", [3], "a list of str"),
        ("max_wait", "1", "a number"),
        ("web", 3, "a path"),
    ],
)
async def test_a_value_of_another_type_is_a_type_error_that_names_the_keyword(
    keyword: str, value: Any, takes: str
) -> None:
    with pytest.raises(TypeError, match=rf"^{keyword} must be {takes}, not "):
        await reactor_trio.serve(Painter, **{keyword: value})


async def test_the_model_is_a_class() -> None:
    with pytest.raises(TypeError, match=r"^model must be a class derived from ReactorModel, not "):
        await reactor_trio.serve(Painter())  # type: ignore[arg-type]


def test_the_keywords_are_the_fields_of_the_settings() -> None:
    fields = {field.name for field in attrs.fields(ServerSettings)} - {"host", "port", "no_auth"}
    assert set(ServeOptions.__annotations__) == fields | {"auth"}


# ---- state of the process that the server leaves alone


async def test_signals_logging_and_the_garbage_collector_are_left_alone() -> None:
    def mine() -> list[object]:
        root = logging.getLogger()
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        return [*signals, *root.handlers, root.level, gc.get_freeze_count(), sys.excepthook]

    before = mine()
    async with served():
        assert mine() == before
    assert mine() == before


def test_importing_the_package_does_not_import_the_server() -> None:
    code = "import sys, reactor_trio; print([each for each in sys.modules if '_trio.server' in each])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "serve" in dir(reactor_trio)
    with pytest.raises(AttributeError, match="no attribute 'server_'"):
        reactor_trio.server_  # noqa: B018
