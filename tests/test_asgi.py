"""`reactor_trio.asgi` under a small ASGI server on Trio, in virtual time; `tests/real` has real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import structlog
import trio

import reactor_trio
from asgi_servers import TrioServer, scope_of
from reactor_trio import Identity, Limits, ModelApp, ReactorModel, connected, disconnected, event
from reactor_trio.client.client import Client
from reactor_trio.errors import CommandError, TransportClosed
from reactor_trio.testing import MemoryTransport, memory_transport_pair
from reactor_trio.wire.asgi_calls import Event

PATIENCE = 600.0
log: list[str] = []
"""The steps of the models in a test; empty when a test begins."""


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


@pytest.fixture
def logged() -> Any:
    with structlog.testing.capture_logs() as entries:
        yield entries


class Painter(ReactorModel):
    async def load(self, config: dict[str, Any]) -> None:
        log.append("loaded")
        await trio.sleep(1)
        self.prompt = config.get("prompt", "")

    @connected
    def on_connect(self) -> None:
        log.append("connected")

    @event
    def set_prompt(self, prompt: str) -> None:
        self.prompt = prompt
        log.append(prompt)

    @event
    async def refuse(self) -> None:
        raise CommandError("no_thanks", "not today")

    @disconnected
    async def on_disconnect(self) -> None:
        await trio.sleep(1)
        log.append("disconnected")


class Broken(ReactorModel):
    async def load(self, config: dict[str, Any]) -> None:
        log.append("tried")
        raise FileNotFoundError("weights.pt")


class Connection:
    """One call of the application for a WebSocket."""

    def __init__(self, server: TrioServer, transport: MemoryTransport, scope: trio.CancelScope) -> None:
        self.server = server
        self.transport = transport
        self.scope = scope
        self.has_returned = trio.Event()


@asynccontextmanager
async def connecting(app: ModelApp, **scope: Any) -> AsyncIterator[Connection]:
    """An ASGI server calls the application in a task; the application answers to `Connection.server`."""
    client, server = memory_transport_pair(send_timeout=PATIENCE)
    connection = Connection(TrioServer(server), client, trio.CancelScope())

    async def call() -> None:
        with connection.scope:
            await connection.server.call(app, scope_of(**scope))
        connection.has_returned.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        yield connection
        await client.abort()


@asynccontextmanager
async def client_of(app: ModelApp, **scope: Any) -> AsyncIterator[Client]:
    async with connecting(app, **scope) as connection, Client.over(connection.transport) as client:
        yield client


async def refused(app: ModelApp, **scope: Any) -> tuple[int, str]:
    """Status and text with which the application refuses a WebSocket."""
    async with connecting(app, **scope) as connection:
        await connection.has_returned.wait()
    start, body = connection.server.answer
    assert (start["type"], body["type"]) == ("websocket.http.response.start", "websocket.http.response.body")
    return start["status"], body["body"].decode().strip()


async def fetch(app: ModelApp, path: str, **scope: Any) -> tuple[int, dict[bytes, bytes], bytes]:
    """Call the application for an HTTP request; returns status, headers and body."""
    events: list[Event] = []

    async def send(event: Event) -> None:
        events.append(event)

    await app(scope_of(path, kind="http", **scope), trio.sleep_forever, send)
    start, body = events
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    return start["status"], dict(start["headers"]), body["body"]


async def end_of(client: Client) -> TransportClosed:
    while True:
        try:
            await client.receive()
        except TransportClosed as closed:
            return closed


async def end_of_transport(transport: MemoryTransport) -> TransportClosed:
    while True:
        try:
            await transport.receive()
        except TransportClosed as closed:
            return closed


# ---- a session


async def test_a_client_has_a_session_from_welcome_to_disconnected() -> None:
    app = reactor_trio.asgi(Painter, name="Landscapes")
    async with client_of(app) as client:
        assert client.welcome.model.name == "Landscapes"
        await client.call("set_prompt", prompt="a storm")
        with pytest.raises(CommandError, match="not today"):
            await client.call("refuse")
    assert log == ["loaded", "connected", "a storm", "disconnected"]


async def test_clients_share_one_load_and_have_a_session_each() -> None:
    app = reactor_trio.asgi(Painter)
    async with client_of(app) as one, client_of(app) as two:
        await one.call("set_prompt", prompt="one")
        await two.call("set_prompt", prompt="two")
    assert log == ["loaded", "connected", "connected", "one", "two", "disconnected", "disconnected"]


async def test_the_subprotocol_is_the_runtimes_or_none() -> None:
    app = reactor_trio.asgi(Painter)
    for offered, chosen in ((["chat", "reactor.v1"], "reactor.v1"), ([], None)):
        async with connecting(app, subprotocols=offered) as connection:
            async with Client.over(connection.transport):
                accepted = connection.server.accepted
                assert accepted is not None
                assert accepted["subprotocol"] == chosen
    assert await refused(app, subprotocols=["chat"]) == (400, "the subprotocol is reactor.v1")


async def test_a_message_that_is_too_big_ends_the_connection_with_1009() -> None:
    app = reactor_trio.asgi(Painter, limits=Limits(max_message_bytes=1024))
    async with connecting(app) as connection:
        await connection.transport.send(["\u00e9" * 513])
        assert (await end_of_transport(connection.transport)).code == 1009
        await connection.has_returned.wait()
    assert log[-1] == "disconnected"


async def test_a_client_that_accepts_nothing_is_cut_off() -> None:
    class Chatty(Painter):
        async def run(self) -> None:
            while True:
                await self.send(Said(text="x" * 10_000))

    app = reactor_trio.asgi(Chatty, limits=Limits(send_timeout=5, heartbeat=1000))
    async with connecting(app) as connection:
        connection.transport.stall()
        await connection.has_returned.wait()
    assert log == ["loaded", "connected", "disconnected"]


class Said(reactor_trio.ModelMessage):
    text: str


async def test_a_quiet_client_stays_since_the_asgi_server_pings_it() -> None:
    app = reactor_trio.asgi(Painter, limits=Limits(heartbeat=1))
    async with client_of(app) as client:
        await trio.sleep(100)
        await client.call("set_prompt", prompt="still here")


async def test_when_all_sessions_are_taken_the_next_client_waits() -> None:
    app = reactor_trio.asgi(Painter, max_sessions=1)
    async with trio.open_nursery() as nursery:
        async with client_of(app):
            places: list[int] = []
            async with connecting(app) as connection:
                over = Client.over(connection.transport, on_queued=places.append)

                async def wait() -> None:
                    async with over as client:
                        await client.call("set_prompt", prompt="at last")

                nursery.start_soon(wait)
                await trio.sleep(1)
                assert places == [1]
                assert "at last" not in log
                nursery.cancel_scope.cancel(reason="the test is over")


# ---- tokens, identities and origins


async def test_a_token_is_needed_for_a_session_where_there_is_one() -> None:
    app = reactor_trio.asgi(Painter, token="secret")
    assert (await refused(app))[0] == 401
    headers = [(b"host", b"x"), (b"authorization", b"Bearer secret")]
    async with client_of(app, headers=headers):
        pass
    async with client_of(app, subprotocols=["reactor.v1", "reactor.token.c2VjcmV0"]):
        pass


async def test_the_hook_says_who_a_client_is() -> None:
    class Named(ReactorModel):
        async def load(self, config: dict[str, Any]) -> None:
            """In no thread, since virtual time does not wait for threads."""

        @connected
        def on_connect(self) -> None:
            assert self.client.identity is not None
            log.append(f"{self.client.identity.subject} {self.client.address}")

    app = reactor_trio.asgi(Named, authenticate=lambda request: Identity(request.query["name"]))
    async with client_of(app, query_string=b"name=ada"):
        pass
    assert log == ["ada 127.0.0.1:51234"]


async def test_pages_of_other_origins_may_not_connect_unless_allowed() -> None:
    headers = [(b"host", b"127.0.0.1:8000"), (b"origin", b"https://other.example")]
    assert (await refused(reactor_trio.asgi(Painter), headers=headers))[0] == 403
    app = reactor_trio.asgi(Painter, allow_origins="https://other.example")
    async with client_of(app, headers=headers):
        pass
    own = [(b"host", b"127.0.0.1:8000"), (b"origin", b"http://127.0.0.1:8000")]
    async with client_of(reactor_trio.asgi(Painter), headers=own):
        pass


@pytest.mark.parametrize("server", [("192.0.2.7", 8000), None, ("painter.example", 80)])
async def test_others_than_this_machine_are_refused_until_it_is_said_who_may_come_in(
    server: Any, logged: list[Any]
) -> None:
    app = reactor_trio.asgi(Painter)
    assert (await refused(app, server=server))[0] == 403
    assert (await fetch(app, "/", server=server))[0] == 403
    told = [entry for entry in logged if entry["log_level"] == "error"]
    assert len(told) == 1, "once"
    assert "auth=False" in told[0]["remedy"]
    async with client_of(reactor_trio.asgi(Painter, auth=False), server=server):
        pass
    assert (await refused(reactor_trio.asgi(Painter, token="secret"), server=server))[0] == 401


async def test_a_unix_socket_is_this_machine() -> None:
    async with client_of(reactor_trio.asgi(Painter), server=("/run/app.sock", None), client=None):
        pass


async def test_a_server_that_cannot_refuse_with_an_answer_closes() -> None:
    app = reactor_trio.asgi(Painter, token="secret")
    async with connecting(app, extensions={}) as connection:
        await connection.has_returned.wait()
    assert connection.server.answer == [{"type": "websocket.close"}]


def test_keywords_are_checked() -> None:
    with pytest.raises(TypeError, match=r"asgi\(\) got an unexpected keyword argument 'port'"):
        reactor_trio.asgi(Painter, port=8080)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"\(allow_origins\)"):
        reactor_trio.asgi(Painter, allow_origins=["nothing like it"])
    with pytest.raises(ValueError, match="a fixed token, or another way"):
        reactor_trio.asgi(Painter, token="secret", authenticate=lambda _: None)


# ---- HTTP


async def test_pages_and_documents_are_those_of_the_own_server() -> None:
    app = reactor_trio.asgi(Painter)
    async with app.lifespan():
        status, headers, body = await fetch(app, "/")
        assert (status, headers[b"content-type"]) == (200, b"text/html; charset=utf-8")
        assert headers[b"content-length"] == str(len(body)).encode()
        assert b"connection" not in headers
        assert (await fetch(app, "/", method="HEAD"))[2] == b""
        assert orjson.loads((await fetch(app, "/schema"))[2])["openapi"].startswith("3.1")
        assert b"reactor_trio_sessions" in (await fetch(app, "/metrics"))[2]
        assert (await fetch(app, "/ws"))[0] == 426
        assert (await fetch(app, "/", method="POST"))[0] == 405
        assert (await fetch(app, "/nothing"))[0] == 404
        expected = {"status": "ready", "model": "Painter", "sessions": 0, "waiting": 0}
        assert orjson.loads((await fetch(app, "/health"))[2]) == expected
        upgrade = [(b"host", b"127.0.0.1"), (b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
        assert (await fetch(app, "/ws", headers=upgrade))[0] == 426, "a server without WebSockets"


async def test_it_may_be_mounted_below_a_path() -> None:
    app = reactor_trio.asgi(Painter)
    mounted = {"root_path": "/painter"}
    assert (await fetch(app, "/painter/", **mounted))[0] == 200
    status, headers, _ = await fetch(app, "/painter", **mounted)
    assert (status, headers[b"location"]) == (307, b"painter/")
    assert orjson.loads((await fetch(app, "/painter/schema", **mounted))[2])["servers"] == [
        {"url": "/painter"}
    ]
    async with client_of(app, path="/painter/ws", **mounted):
        pass


# ---- loading and ending


async def test_without_a_lifespan_the_first_client_has_the_model_loaded() -> None:
    app = reactor_trio.asgi(Painter)
    status, _, body = await fetch(app, "/health")
    assert (status, orjson.loads(body)["status"]) == (503, "loading")
    assert log == []
    async with client_of(app):
        assert (await fetch(app, "/health"))[0] == 200


async def test_a_load_that_fails_is_told_and_not_tried_again(logged: list[Any]) -> None:
    app = reactor_trio.asgi(Broken)
    for _ in range(2):
        assert await refused(app) == (503, "Broken could not be loaded")
    [told] = [entry for entry in logged if entry["log_level"] == "error"]
    assert isinstance(told["exc_info"], FileNotFoundError)
    assert log == ["tried"]


async def test_a_load_that_fails_fails_the_start() -> None:
    with pytest.raises(RuntimeError, match=r"Broken could not be loaded: FileNotFoundError\('weights.pt'\)"):
        async with reactor_trio.asgi(Broken).lifespan():
            pass


async def test_a_load_that_is_cancelled_begins_anew_for_the_next_client() -> None:
    app = reactor_trio.asgi(Painter)
    async with connecting(app) as connection:
        await trio.sleep(0.5)
        connection.scope.cancel(reason="the ASGI server gives up")
    async with client_of(app):
        pass
    assert log[:3] == ["loaded", "loaded", "connected"]


async def test_at_the_end_of_its_life_sessions_are_said_goodbye_to() -> None:
    app = reactor_trio.asgi(Painter)
    async with trio.open_nursery() as nursery:
        ends: list[object] = []

        async def stay(*, task_status: trio.TaskStatus[None]) -> None:
            async with client_of(app) as client:
                task_status.started()
                ends.append(((await end_of(client)).code, client.goodbye))

        async with app.lifespan():
            assert log == ["loaded"]
            await nursery.start(stay)
        assert log == ["loaded", "connected", "disconnected"]
    assert ends == [(1001, "shutting_down")]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_what_does_not_end_is_cancelled_at_the_end_of_its_life(is_cancelled: bool) -> None:
    app = reactor_trio.asgi(Painter, drain_timeout=20, limits=Limits(close_timeout=5, heartbeat=1000))
    async with trio.open_nursery() as nursery:

        async def stay(*, task_status: trio.TaskStatus[None]) -> None:
            async with connecting(app) as connection:
                await trio.sleep(2)
                assert log == ["loaded", "connected"]
                connection.transport.stall()
                task_status.started()
                await connection.has_returned.wait()

        began = trio.current_time()
        with trio.CancelScope() as scope:
            async with app.lifespan():
                await nursery.start(stay)
                began = trio.current_time()
                if is_cancelled:
                    scope.cancel(reason="test")
        assert trio.current_time() - began <= 7
        assert log[-1] == "disconnected"


async def test_a_cancelled_call_runs_the_hook_before_it_returns() -> None:
    app = reactor_trio.asgi(Painter)
    async with connecting(app) as connection:
        async with Client.over(connection.transport):
            connection.scope.cancel(reason="the ASGI server gives up")
            await connection.has_returned.wait()
            assert log == ["loaded", "connected", "disconnected"]


async def test_the_protocol_of_lifespan_is_spoken_too() -> None:
    for model, expected in (
        (Painter, ["lifespan.startup.complete", "lifespan.shutdown.complete"]),
        (Broken, ["lifespan.startup.failed"]),
    ):
        sent: list[Event] = []

        async def receive() -> Event:
            await trio.lowlevel.checkpoint()
            return {"type": "lifespan.startup"}

        async def send(event: Event, sent: list[Event] = sent) -> None:
            sent.append(event)

        app = reactor_trio.asgi(model)
        try:
            await app({"type": "lifespan"}, receive, send)
        except RuntimeError:
            assert "FileNotFoundError: weights.pt" in sent[0]["message"]
        assert [event["type"] for event in sent] == expected
