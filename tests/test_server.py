"""The server over loopback sockets, in this process, with a host that needs no model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import orjson
import pytest
import structlog
import trio
import trio.testing
import trio_websocket

from reactor_trio.declare.identity import AuthRequest, Identity
from reactor_trio.errors import ListenError, TransportClosed
from reactor_trio.server import connections, guesses, service
from reactor_trio.server.gate import RESERVED
from reactor_trio.server.listeners import open_listeners
from reactor_trio.server.metrics import Metrics
from reactor_trio.server.serve import Server
from reactor_trio.server.settings import ServerSettings
from reactor_trio.server.web import WebFile
from reactor_trio.session.limits import Limits
from reactor_trio.wire.transport import Transport

TEST_TIMEOUT = 60.0
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
)


class FakeContract:
    name = "Painter"

    def welcome(self) -> dict[str, Any]:
        return {
            "model": {"name": "Painter", "description": ""},
            "events": [],
            "messages": [],
            "tracks": [],
        }


class EchoSession:
    """Sends each message back, but raises at the message `fail`. If `stuck`, it does not end on `drain`."""

    def __init__(self, transport: Transport, address: str, *, stuck: bool) -> None:
        self.transport = transport
        self.address = address
        self.stuck = stuck
        self.draining = trio.Event()

    def drain(self) -> None:
        self.draining.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._echo)
            await self.draining.wait()
            if self.stuck:
                await trio.sleep_forever()
            await self.transport.aclose(1001, "shutting_down")
            nursery.cancel_scope.cancel(reason="drained")

    async def _echo(self) -> None:
        try:
            while True:
                for message in await self.transport.receive():
                    if message == "fail":
                        raise ZeroDivisionError
                    await self.transport.send([message])
        except TransportClosed:
            self.draining.set()


class FakeHost:
    def __init__(self, *, stuck: bool = False, **limits: Any) -> None:
        self.contract: Any = FakeContract()
        self.limits = Limits(**limits)
        self.stuck = stuck
        self.sessions: list[EchoSession] = []

    def session(self, transport: Transport, *, address: str = "", **options: Any) -> EchoSession:
        self.sessions.append(EchoSession(transport, address, stuck=self.stuck))
        return self.sessions[-1]


@pytest.fixture(autouse=True)
def schema_of_the_fake_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "openapi", lambda contract, version: {"openapi": "3.1.0"})


@pytest.fixture
def logged() -> Any:
    with structlog.testing.capture_logs() as entries:
        yield entries


def loader(host: FakeHost) -> Callable[[], Awaitable[FakeHost]]:
    async def load() -> FakeHost:
        await trio.lowlevel.checkpoint()
        return host

    return load


@asynccontextmanager
async def running(host: FakeHost | None = None, **settings: Any) -> AsyncIterator[Server]:
    """A server that is ready; it is cancelled when the context ends."""
    async with trio.open_nursery() as nursery:
        metrics = settings.pop("metrics", None)
        server = Server(ServerSettings(port=0, **settings), name="loading model", metrics=metrics)
        await nursery.start(server.run, loader(host or FakeHost()))
        yield server
        nursery.cancel_scope.cancel(reason="the test is over")


async def connect(server: Server) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", server.addresses[0][1])


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def fetch(server: Server, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send the bytes, and read to the end of the connection; returns status, headers and body."""
    async with await connect(server) as stream:
        await stream.send_all(raw)
        answer = await read_all(stream)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


@pytest.mark.real_time
async def test_a_page_of_another_origin_is_logged_with_the_option_that_lets_it_in(logged: list[Any]) -> None:
    async with running() as server:
        asked = UPGRADE.replace(b"\r\n\r\n", b"\r\nOrigin: http://other.example\r\n\r\n")
        status, *_ = await fetch(server, asked)
    assert status == 403
    [entry] = [entry for entry in logged if entry["event"] == "page refused"]
    assert (entry["origin"], entry["remedy"]) == ("http://other.example", "--allow-origin")


@asynccontextmanager
async def websocket(server: Server, **options: Any) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    port = server.addresses[0][1]
    async with trio_websocket.open_websocket("127.0.0.1", port, "/ws", use_ssl=False, **options) as ws:
        yield ws
        await ws.aclose()
        await trio.aclose_forcefully(ws._stream)  # `ws.aclose` does not close it if the server closed first


# ---- HTTP


@pytest.mark.real_time
async def test_health_tells_the_model_and_its_sessions() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running() as server, websocket(server):
            status, headers, body = await fetch(server, get("/health"))
            assert status == 200
            assert headers["connection"] == "close"
            assert orjson.loads(body) == {"status": "ready", "model": "Painter", "sessions": 1, "waiting": 0}


@pytest.mark.real_time
async def test_page_schema_and_head() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running() as server:
            assert (await fetch(server, get("/")))[0] == 200
            assert (await fetch(server, get("/schema")))[2] == b'{"openapi":"3.1.0"}'
            status, headers, body = await fetch(server, get("/schema", method="HEAD"))
            assert (status, headers["content-length"], body) == (200, "19", b"")


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (get("/nothing"), 404),
        (get("/health", method="POST"), 405),
        (get("/ws"), 426),
        (UPGRADE.replace(b"/ws", b"/schema"), 401),
        (UPGRADE.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer wrong\r\n\r\n"), 401),
        (UPGRADE.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer x\r\nOrigin: http://evil\r\n\r\n"), 403),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 100_000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_not_let_in_is_told_why(raw: bytes, expected: int) -> None:
    raw = raw.replace(b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", get("/ws", "Authorization: Bearer x"))
    with trio.fail_after(TEST_TIMEOUT):
        async with running(token="x") as server:
            status, headers, _ = await fetch(server, raw)
    assert status == expected
    assert headers["connection"].startswith("close")


@pytest.mark.real_time
async def test_a_body_that_nobody_reads_does_not_reset_the_answer() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running() as server:
            body = b"x" * 2_000_000
            async with await connect(server) as stream:
                await stream.send_all(get("/", f"Content-Length: {len(body)}", method="POST") + body)
                assert (await read_all(stream)).startswith(b"HTTP/1.1 405 ")


async def test_a_slow_head_is_cut_off() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running(handshake_timeout=10) as server:
            async with await connect(server) as stream:
                started = trio.current_time()
                await stream.send_all(b"GET / HTTP/1.1\r\n")
                assert (await read_all(stream)).startswith(b"HTTP/1.1 408 ")
                assert trio.current_time() - started == pytest.approx(10)


@pytest.mark.real_time
async def test_clients_that_vanish_harm_nothing(logged: list[Any]) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running() as server:
            for raw in (b"", b"GET", get("/"), UPGRADE):
                for reset in (False, True):
                    stream = await connect(server)
                    await stream.send_all(raw)
                    if reset:
                        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    await stream.aclose()
            assert (await fetch(server, get("/health")))[0] == 200
    assert [entry for entry in logged if entry["log_level"] == "error"] == []


# ---- sessions


@pytest.mark.real_time
async def test_a_real_client_gets_a_session() -> None:
    host = FakeHost()
    with trio.fail_after(TEST_TIMEOUT):
        async with running(host) as server:
            async with websocket(server, subprotocols=["chat", "reactor.v1"]) as ws:
                assert ws.subprotocol == "reactor.v1"
                await ws.send_message("hello")
                assert await ws.get_message() == "hello"
                await ws.send_message(b"bytes")
                assert await ws.get_message() == b"bytes"
                assert host.sessions[0].address.startswith("127.0.0.1:")
            await trio.testing.wait_all_tasks_blocked()
            assert server.state.sessions == 0


@pytest.mark.real_time
async def test_a_token_is_enough_in_a_subprotocol() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running(token="x") as server:
            async with websocket(server, subprotocols=["reactor.v1", "reactor.token.eA"]) as ws:
                assert ws.subprotocol == "reactor.v1"
            async with websocket(server, subprotocols=["reactor.token.eA"]) as ws:
                assert ws.subprotocol is None


@pytest.mark.real_time
async def test_a_message_over_the_limit_is_1009() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running(FakeHost(max_message_bytes=1024)) as server, websocket(server) as ws:
            await ws.send_message("x" * 1025)
            with pytest.raises(trio_websocket.ConnectionClosed) as caught:
                await ws.get_message()
            assert caught.value.reason.code == 1009


@pytest.mark.real_time
async def test_a_session_that_fails_ends_alone(logged: list[Any]) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running() as server, websocket(server) as other:
            async with websocket(server) as ws:
                await ws.send_message("fail")
                with pytest.raises(trio_websocket.ConnectionClosed):
                    await ws.get_message()
            await other.send_message("still here")
            assert await other.get_message() == "still here"
            await trio.testing.wait_all_tasks_blocked()  # until the failed session is logged
    assert [entry["event"] for entry in logged if entry["log_level"] == "error"] == ["connection failed"]


@pytest.mark.real_time
async def test_a_full_server_is_503_until_a_session_ends() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running(max_sessions=1, max_waiting=0) as server:
            async with websocket(server):
                status, headers, _ = await fetch(server, UPGRADE)
                assert status == 503
                assert int(headers["retry-after"]) > 0
                assert (await fetch(server, get("/health")))[0] == 200
            await trio.testing.wait_all_tasks_blocked()
            async with websocket(server):
                pass


# ---- loading and ending


@pytest.mark.real_time
async def test_while_the_model_loads_health_and_ws_are_503() -> None:
    loaded = trio.Event()

    async def load() -> FakeHost:
        await loaded.wait()
        return FakeHost()

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            server = Server(ServerSettings(port=0), name="loading model")
            nursery.start_soon(server.run, load)
            await trio.testing.wait_all_tasks_blocked()
            status, _, body = await fetch(server, get("/health"))
            assert status == 503
            expected = {"status": "loading", "model": "loading model", "sessions": 0, "waiting": 0}
            assert orjson.loads(body) == expected
            assert (await fetch(server, UPGRADE))[0] == 503
            loaded.set()
            await server.ready.wait()
            assert (await fetch(server, get("/health")))[0] == 200
            nursery.cancel_scope.cancel(reason="the test is over")


@pytest.mark.real_time
async def test_a_load_that_fails_leaves_bare_and_frees_the_port() -> None:
    async def load() -> FakeHost:
        raise ZeroDivisionError

    settings = ServerSettings(port=0)
    with trio.fail_after(TEST_TIMEOUT):
        server = Server(settings, name="x")
        with pytest.raises(ZeroDivisionError):
            await server.run(load)
        with pytest.raises(OSError, match="connect"):
            await connect(server)


@pytest.mark.real_time
async def test_a_port_in_use_is_said_before_the_model_is_loaded() -> None:
    async def load() -> FakeHost:
        pytest.fail("loaded")

    with trio.fail_after(TEST_TIMEOUT):
        async with running() as first:
            settings = ServerSettings(port=first.addresses[0][1])
            with pytest.raises(ListenError, match=r"on 127\.0\.0\.1:\d+: Address already in use"):
                await Server(settings, name="x").run(load)


@pytest.mark.real_time
async def test_all_addresses_of_a_name_have_one_port() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        listeners = await open_listeners(ServerSettings(host="localhost", port=0))
        assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1
        for listener in listeners:
            await listener.aclose()


@pytest.mark.real_time
async def test_draining_says_goodbye_and_answers_http_until_the_last_session_has_ended() -> None:
    host = FakeHost(stuck=True)
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            server = Server(ServerSettings(port=0), name="x")
            await nursery.start(server.run, loader(host))
            async with websocket(server) as stuck:
                host.stuck = False
                async with websocket(server) as ws:
                    server.drain()
                    with pytest.raises(trio_websocket.ConnectionClosed) as caught:
                        await ws.get_message()
                    assert caught.value.reason.code == 1001
                status, _, body = await fetch(server, get("/health"))
                assert status == 503
                assert orjson.loads(body)["status"] == "draining"
                assert (await fetch(server, UPGRADE))[0] == 503
                await stuck.send_message("fail")
                await nursery_is_empty(nursery)


async def nursery_is_empty(nursery: trio.Nursery) -> None:
    while nursery.child_tasks:
        await trio.lowlevel.checkpoint()


@pytest.mark.real_time
async def test_an_idle_server_ends_at_once_when_drained() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            server = Server(ServerSettings(port=0), name="x")
            await nursery.start(server.run, loader(FakeHost()))
            idle = await connect(server)  # like a browser's spare connection; the end does not wait for it
            server.drain()
            server.drain()
        await idle.aclose()


@pytest.mark.real_time
async def test_a_load_under_way_is_given_up_when_drained() -> None:
    async def load() -> FakeHost:
        await trio.sleep_forever()
        raise AssertionError

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            server = Server(ServerSettings(port=0), name="x")
            nursery.start_soon(server.run, load)
            await trio.testing.wait_all_tasks_blocked()
            server.drain()


@pytest.mark.real_time
async def test_a_session_whose_handshake_outlasts_the_drain_is_drained_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept = connections.accept_websocket
    shaking, go_on = trio.Event(), trio.Event()

    @asynccontextmanager
    async def slow(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        shaking.set()
        await go_on.wait()
        async with accept(*args, **kwargs) as transport:
            yield transport

    monkeypatch.setattr(connections, "accept_websocket", slow)
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            server = Server(ServerSettings(port=0), name="x")
            await nursery.start(server.run, loader(FakeHost()))

            async def client() -> None:
                async with websocket(server) as ws:
                    with pytest.raises(trio_websocket.ConnectionClosed) as caught:
                        await ws.get_message()
                    assert caught.value.reason.code == 1001

            nursery.start_soon(client)
            await shaking.wait()
            server.drain()
            go_on.set()


@pytest.mark.real_time
async def test_cancel_ends_what_does_not_drain() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            server = Server(ServerSettings(port=0), name="x")
            await nursery.start(server.run, loader(FakeHost(stuck=True)))
            async with websocket(server) as ws:
                server.drain()
                server.cancel()
                with pytest.raises(trio_websocket.ConnectionClosed) as caught:
                    await ws.get_message()
                assert caught.value.reason.code == 1006


# ---- settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert ServerSettings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", ""])
def test_an_address_that_others_reach_needs_a_token_or_no_auth(host: str) -> None:
    with pytest.raises(ValueError, match="--token or --no-auth"):
        ServerSettings(host=host)
    ServerSettings(host=host, token="x")
    ServerSettings(host=host, no_auth=True)


@pytest.mark.parametrize(
    "wrong", [{"token": ""}, {"token": "\xe9"}, {"port": -1}, {"max_sessions": -1}, {"drain_timeout": -1}]
)
def test_settings_out_of_range_are_value_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ServerSettings(**wrong)


def test_the_token_is_not_in_the_repr_of_the_settings() -> None:
    assert "secret" not in repr(ServerSettings(token="secret"))


# ---- limits of all connections


@pytest.mark.real_time
async def test_one_address_is_told_when_it_has_all_of_its_sessions() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        metrics = Metrics()
        async with running(metrics=metrics, max_sessions_per_address=2) as server:
            async with websocket(server), websocket(server):
                status, headers, body = await fetch(server, UPGRADE)
                assert (status, headers["retry-after"]) == (429, "5")
                assert b"this address has all the sessions" in body
                assert metrics.gate.refused["address"] == 1
                assert (await fetch(server, get("/health")))[0] == 200
            async with websocket(server):
                pass


@pytest.mark.real_time
async def test_what_has_no_session_is_bounded_and_health_is_answered_all_the_same() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running(max_handshakes=3) as server, websocket(server):
            silent = [await connect(server) for _ in range(3)]
            for path, expected in (("/health", 200), ("/schema", 503), ("/", 503)):
                status, headers, _ = await fetch(server, get(path))
                assert status == expected
                assert ("retry-after" in headers) == (expected == 503)
            for stream in silent:
                await stream.aclose()
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert (await fetch(server, get("/schema")))[0] == 200


@pytest.mark.real_time
async def test_health_is_answered_at_once_however_many_say_nothing() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running(max_connections=2) as server, AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(await connect(server)) for _ in range(3 * RESERVED)]
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (await fetch(server, get("/health")))[0] == 200
            oldest_beyond = silent[2]
            answer = await oldest_beyond.receive_some()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 5\r\n" in answer
            assert await oldest_beyond.receive_some() == b""
            await stack.aclose()
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert (await fetch(server, get("/schema")))[0] == 200


@pytest.mark.real_time
async def test_who_reads_its_answer_slowly_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.5)
    page = WebFile(bytes(64 * 1024 * 1024), "text/plain", '"1"')
    monkeypatch.setattr(service, "web_files", lambda: {"/": page})
    with trio.fail_after(TEST_TIMEOUT):
        metrics = Metrics()
        async with running(metrics=metrics) as server, await connect(server) as slow:
            await slow.send_all(get("/"))
            read = 0
            with suppress(trio.BrokenResourceError):
                while data := await slow.receive_some(64 * 1024):  # a steady reader is not `stalled`
                    read += len(data)
                    await trio.sleep(0.01)
            assert 0 < read < len(page.body)
            assert metrics.gate.connections == 0


@pytest.mark.real_time
async def test_beyond_the_bound_no_one_is_asked_who_it_is() -> None:
    asked: list[str] = []

    def authenticate(request: AuthRequest) -> Identity:
        asked.append(request.path)
        return Identity("somebody")

    with trio.fail_after(TEST_TIMEOUT):
        async with running(max_connections=1, authenticate=authenticate) as server, await connect(server):
            await trio.testing.wait_all_tasks_blocked(0.05)
            for path in ("/schema", "/ws"):
                assert (await fetch(server, get(path)))[0] == 503
            assert not asked
            await fetch(server, get("/metrics"))
            assert asked == ["/metrics"]


@pytest.mark.real_time
async def test_guesses_of_the_token_are_slowed_and_the_right_one_is_let_in_at_once(
    logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "PAUSE", 0.01)
    with trio.fail_after(TEST_TIMEOUT):
        async with running(token="right") as server:
            answers = [
                await fetch(server, get("/schema", f"Authorization: Bearer wrong{number}"))
                for number in range(guesses.MOST + 2)
            ]
            assert [status for status, _, _ in answers] == [401] * guesses.MOST + [429] * 2
            assert answers[-1][1]["retry-after"] == "300"
            assert (await fetch(server, get("/schema", "Authorization: Bearer right")))[0] == 200
            assert (await fetch(server, get("/schema")))[0] == 401, "no token is no guess"
    [entry] = [entry for entry in logged if entry["event"] == "wrong token"]
    assert entry["address"].startswith("127.0.0.1:")
    assert "wrong0" not in str(entry)


@pytest.mark.real_time
async def test_a_guess_waits_no_longer_than_its_connection_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "PAUSE", 1000.0)
    monkeypatch.setattr(guesses, "FREE", 0)
    with trio.fail_after(TEST_TIMEOUT):
        async with running(token="right", handshake_timeout=0.2) as server:
            assert (await fetch(server, get("/schema", "Authorization: Bearer wrong")))[0] == 401


@pytest.mark.real_time
async def test_a_page_that_asks_by_another_name_is_logged_with_the_option_that_lets_it_in(
    logged: list[Any],
) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running() as server:
            raw = get("/schema").replace(b"Host: 127.0.0.1", b"Host: evil.com")
            assert (await fetch(server, raw))[0] == 421
    [entry] = [entry for entry in logged if entry["event"] == "page refused"]
    assert (entry["host"], entry["remedy"]) == ("evil.com", "--allow-host")


# ---- behind a proxy

SAID = [
    (b"X-Forwarded-For", b"203.0.113.9"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"app.example"),
]


def asked_from(origin: bytes) -> bytes:
    lines = [b": ".join(header) for header in (*SAID, (b"Origin", origin))]
    return UPGRADE.replace(b"\r\n\r\n", b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")


@pytest.mark.real_time
async def test_a_trusted_proxys_word_reaches_session_origin_and_log(logged: Any) -> None:
    host = FakeHost()
    with trio.fail_after(TEST_TIMEOUT):
        async with running(host, proxy_headers=True) as server:
            async with websocket(server, extra_headers=[*SAID, (b"Origin", b"https://app.example")]):
                pass
            status, _, _ = await fetch(server, asked_from(b"http://app.example"))
            assert status == 403
    assert [session.address for session in host.sessions] == ["203.0.113.9"]
    [entry] = [entry for entry in logged if entry["event"] == "page refused"]
    assert (entry["address"], entry["host"]) == ("203.0.113.9", "app.example")


@pytest.mark.real_time
async def test_nobody_elses_word_does() -> None:
    host = FakeHost()
    with trio.fail_after(TEST_TIMEOUT):
        async with running(host, proxy_headers=True, trusted_proxies=("192.0.2.1",)) as server:
            async with websocket(server, extra_headers=SAID):
                pass
            status, _, _ = await fetch(server, asked_from(b"https://app.example"))
            assert status == 403
    [session] = host.sessions
    assert session.address.startswith("127.0.0.1:")


@pytest.mark.real_time
@pytest.mark.parametrize("target", ["/app1/health", "/health", "/app1/health?x=1"])
async def test_a_server_below_a_path_answers_with_and_without_it(target: str) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running(root_path="/app1") as server:
            status, _, _ = await fetch(server, get(target))
    assert status == 200


@pytest.mark.real_time
@pytest.mark.parametrize("target", ["/app1/ws", "/ws", "/app1/schema"])
async def test_the_token_guards_with_and_without_the_path(target: str) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running(root_path="/app1", token="s3cret") as server:
            status, _, _ = await fetch(server, get(target))
    assert status == 401
