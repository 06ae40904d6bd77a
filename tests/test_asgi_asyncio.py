"""`reactor_trio.asgi` called on asyncio, where Trio runs in a thread: in real time, and without sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio

import reactor_trio
from asgi_servers import scope_of
from reactor_trio import Limits, ModelApp, ModelMessage, ReactorModel, connected, disconnected, event
from reactor_trio.wire.asgi_calls import MAX_WAITING_BYTES, Event

DEADLINE = 60.0
log: list[str] = []
"""The steps that the models of one test have taken, written in Trio's thread; a fixture empties the list."""


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


class Said(ModelMessage):
    text: str


class Painter(ReactorModel):
    def load(self, config: dict[str, Any]) -> None:
        log.append("loaded")

    @connected
    def on_connect(self) -> None:
        log.append("connected")

    @event
    def echo(self, text: str) -> Said:
        return Said(text=text)

    @event
    async def chat(self, messages: int) -> None:
        for _ in range(messages):
            await self.send(Said(text="x" * 10_000))
            log.append("sent")

    @disconnected
    async def on_disconnect(self) -> None:
        await trio.sleep(0.05)
        log.append("disconnected")


class Broken(ReactorModel):
    def load(self, config: dict[str, Any]) -> None:
        raise FileNotFoundError("weights.pt")


class WebSocket:
    """The client (`say`, `hear`, `closed`, `leave`) and the ASGI server (`receive`, `send`) in one."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.sent: asyncio.Queue[Event] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self.received = 0
        """Messages that the application has received."""
        self.task: asyncio.Task[None]

    async def receive(self) -> Event:
        event = await self.events.get()
        self.received += event["type"] == "websocket.receive"
        return event

    async def send(self, event: Event) -> None:
        await self.reads.wait()
        self.sent.put_nowait(event)

    def say(self, type_: str, id_: int | None = None, **data: Any) -> None:
        text = orjson.dumps({"type": type_, "data": data} | ({} if id_ is None else {"id": id_})).decode()
        self.events.put_nowait({"type": "websocket.receive", "text": text})

    async def hear(self, type_: str) -> dict[str, Any]:
        while True:
            event = await self.sent.get()
            assert event["type"] == "websocket.send", event
            message: dict[str, Any] = orjson.loads(event["text"])
            if message["type"] == type_:
                return message

    async def closed(self) -> int:
        while (event := await self.sent.get())["type"] != "websocket.close":
            pass
        return int(event["code"])

    def leave(self, code: int = 1000) -> None:
        self.events.put_nowait({"type": "websocket.disconnect", "code": code})


@asynccontextmanager
async def connected_to(app: ModelApp) -> AsyncIterator[WebSocket]:
    client = WebSocket()
    client.events.put_nowait({"type": "websocket.connect"})
    client.task = asyncio.ensure_future(app(scope_of(), client.receive, client.send))
    assert (await client.sent.get())["type"] == "websocket.accept"
    yield client
    client.reads.set()
    client.leave()
    await asyncio.wait([client.task])


def on_asyncio(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a plain test of an async one: run it on asyncio, and check that no portal thread is left."""

    def run() -> None:
        before = set(threading.enumerate())
        asyncio.run(asyncio.wait_for(test(), DEADLINE))
        left = [each.name for each in threading.enumerate() if each not in before]
        assert [name for name in left if "portal" in name] == []

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110  a list of notes has no event to wait for
        await asyncio.sleep(0.005)


@on_asyncio
async def test_a_client_has_a_session() -> None:
    app = reactor_trio.asgi(Painter)
    async with app.lifespan():
        async with connected_to(app) as client:
            await client.hear("reactor.welcome")
            for number in range(20):
                client.say("echo", number, text=f"{number}")
                assert (await client.hear("said"))["data"]["text"] == f"{number}"
        assert log == ["loaded", "connected", "disconnected"], "before the call has returned"


@on_asyncio
async def test_a_client_that_does_not_read_stops_its_own_session_alone() -> None:
    app = reactor_trio.asgi(Painter, limits=Limits(max_queued_messages=10))
    async with app.lifespan(), connected_to(app) as slow, connected_to(app) as other:
        slow.reads.clear()
        slow.say("chat", messages=1000)
        await until(lambda: len(log) > 5)
        await asyncio.sleep(0.2)
        other.say("echo", 1, text="still here")
        await other.hear("said")
        sent = log.count("sent")
        assert 10 <= sent < 100, "the model waits"
        slow.reads.set()
        await until(lambda: log.count("sent") == 1000)


@on_asyncio
async def test_a_client_that_accepts_nothing_is_cut_off() -> None:
    app = reactor_trio.asgi(Painter, limits=Limits(send_timeout=0.2, max_queued_messages=10))
    async with app.lifespan(), connected_to(app) as client:
        client.reads.clear()
        client.say("chat", messages=1000)
        await asyncio.wait([client.task])
        assert log[-1] == "disconnected"


@on_asyncio
async def test_no_more_is_received_than_the_session_takes() -> None:
    app = reactor_trio.asgi(Painter, limits=Limits(max_messages_per_second=10))
    async with app.lifespan(), connected_to(app) as client:
        for _ in range(2000):
            client.say("echo", text="x" * 1000)
        await asyncio.sleep(0.5)
        waiting = MAX_WAITING_BYTES / 1000
        assert client.received < 3 * waiting, "some wait in between, and the rest with the ASGI server"
        client.task.cancel()


@on_asyncio
async def test_a_cancelled_call_cancels_its_session() -> None:
    app = reactor_trio.asgi(Painter)
    async with app.lifespan(), connected_to(app) as client:
        await client.hear("reactor.welcome")
        client.task.cancel()
        await until(lambda: "disconnected" in log)


@on_asyncio
async def test_at_the_end_of_its_life_sessions_are_said_goodbye_to() -> None:
    app = reactor_trio.asgi(Painter)

    async def stay(client: WebSocket) -> tuple[str, int]:
        goodbye = await client.hear("reactor.goodbye")
        code = await client.closed()
        client.leave(code)
        return goodbye["data"]["reason"], code

    async with app.lifespan():
        client = WebSocket()
        client.events.put_nowait({"type": "websocket.connect"})
        client.task = asyncio.ensure_future(app(scope_of(), client.receive, client.send))
        await client.sent.get()
        await client.hear("reactor.welcome")
        ends = asyncio.ensure_future(stay(client))
    assert await ends == ("shutting_down", 1001)
    assert log == ["loaded", "connected", "disconnected"]
    await client.task


@on_asyncio
async def test_a_load_that_fails_fails_the_start() -> None:
    with pytest.raises(RuntimeError, match=r"Broken could not be loaded: FileNotFoundError\('weights.pt'\)"):
        async with reactor_trio.asgi(Broken).lifespan():
            pass


@on_asyncio
async def test_an_application_may_live_twice() -> None:
    app = reactor_trio.asgi(Painter)
    for _ in range(2):
        async with app.lifespan(), connected_to(app) as client:
            await client.hear("reactor.welcome")
    assert log == 2 * ["loaded", "connected", "disconnected"]


@on_asyncio
async def test_drained_it_says_goodbye_and_lets_nobody_in() -> None:
    app = reactor_trio.asgi(Painter)
    async with app.lifespan():
        async with connected_to(app) as client:
            await client.hear("reactor.welcome")
            draining = asyncio.ensure_future(app.drain())
            assert await client.closed() == 1001
            client.leave(1001)
            await draining
        status, body = await fetch(app, "/health")
        assert (status, orjson.loads(body)["status"]) == (503, "draining")


async def fetch(app: ModelApp, path: str) -> tuple[int, bytes]:
    events: list[Event] = []

    async def send(event: Event) -> None:
        events.append(event)

    async def receive() -> Event:
        raise AssertionError("of a request no more is read than its head")

    await app(scope_of(path, kind="http"), receive, send)
    return events[0]["status"], events[1]["body"]


def test_without_a_lifespan_the_thread_begins_with_the_first_call_and_ends_with_the_process() -> None:
    app = reactor_trio.asgi(Painter)

    async def main() -> None:
        async with connected_to(app) as client:
            await client.hear("reactor.welcome")
        assert log == ["loaded", "connected", "disconnected"]

    for _ in range(2):  # each run has an event loop of its own
        log[1:] = []
        asyncio.run(asyncio.wait_for(main(), DEADLINE))
    assert all(each.daemon for each in threading.enumerate() if "portal" in each.name)
    asyncio.run(app._thread.stop())
