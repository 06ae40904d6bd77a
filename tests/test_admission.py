"""Admission, the queue before a full server: pure code, one client in memory, and servers over loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest
import trio
import trio.testing
import trio_websocket
from hypothesis import given
from hypothesis import strategies as st

from fake_transport import WELCOME, FakeTransport
from reactor_trio import ModelMessage, ReactorModel, disconnected, event
from reactor_trio.cli import call
from reactor_trio.client import Client, HandshakeFailed, open_client
from reactor_trio.client.greeting import WELCOME_TIMEOUT
from reactor_trio.errors import CommandError, TransportClosed
from reactor_trio.link.host import ModelHost
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import UploadChunk, encode_upload_chunk
from reactor_trio.protocol.text import encode_client_text, read_server_text
from reactor_trio.server import waiting_client
from reactor_trio.server.admission import Admission, Place
from reactor_trio.server.serve import Server
from reactor_trio.server.settings import ServerSettings
from reactor_trio.server.waiting_client import KEPT_BYTES, WaitingClient
from reactor_trio.session.limits import Limits
from reactor_trio.testing import MemoryTransport, memory_transport_pair

DEADLINE = 30.0
"""Real seconds; a test takes some milliseconds."""
MAX_WAIT = 300.0


# ---- the places of clients, and their order


def test_the_first_in_the_line_is_next() -> None:
    admission = Admission(max_sessions=2, max_waiting=2)
    first, second, third, fourth = (admission.enter() for _ in range(4))
    assert [place.position for place in (first, second, third, fourth)] == [0, 0, 1, 2]
    assert not admission.has_room
    second.leave()
    assert [place.position for place in (first, second, third, fourth)] == [0, None, 0, 1]
    assert admission.has_room


def test_a_place_is_given_up_once() -> None:
    admission = Admission(max_sessions=1, max_waiting=2)
    inside, waiting, last = (admission.enter() for _ in range(3))
    waiting.leave()
    waiting.leave()
    assert (admission.sessions, admission.waiting, last.position) == (1, 1, 1)
    inside.leave()
    inside.leave()
    last.leave()
    assert admission.is_empty


def test_no_room_is_an_error() -> None:
    admission = Admission(max_sessions=1)
    admission.enter()
    with pytest.raises(RuntimeError):
        admission.enter()


@given(
    st.integers(0, 4),
    st.integers(0, 4),
    st.lists(st.one_of(st.just("enter"), st.integers(0, 20)), max_size=60),
)
def test_however_they_come_and_go_the_line_is_fair(
    max_sessions: int, max_waiting: int, steps: list[str | int]
) -> None:
    admission = Admission(max_sessions=max_sessions, max_waiting=max_waiting)
    here: list[Place] = []  # in the order of arrival
    for step in steps:
        if step == "enter":
            assert admission.has_room == (not max_sessions or len(here) < max_sessions + max_waiting)
            if admission.has_room:
                here.append(admission.enter())
        elif here:
            here.pop(int(step) % len(here)).leave()
        inside = len(here) if not max_sessions else min(len(here), max_sessions)
        assert [place.position for place in here] == [0] * inside + [*range(1, len(here) - inside + 1)]
        assert (admission.sessions, admission.waiting) == (inside, len(here) - inside)


@given(st.lists(st.integers(0, 9), max_size=30))
def test_a_change_is_told_exactly_when_there_is_one(leaves: list[int]) -> None:
    admission = Admission(max_sessions=1, max_waiting=9)
    places = [admission.enter() for _ in range(10)]
    seen = {place: [place.position] for place in places}
    for place in places:
        place.on_change = lambda place=place: seen[place].append(place.position)
    for index in leaves:
        places[index].leave()
    for positions in seen.values():
        assert positions == sorted(set(positions), reverse=True)


# ---- one client in the queue, in virtual time


class InLine:
    """A client that waits, played by the test; the test may let the place `ahead` leave."""

    def __init__(
        self, transport: MemoryTransport, waiting: WaitingClient, admission: Admission, ahead: Place
    ) -> None:
        self.transport = transport
        self.waiting = waiting
        self.admission = admission
        self.ahead = ahead
        self.let_in: bool | None = None
        self.ended = trio.Event()

    async def say(self, *messages: str | bytes) -> None:
        await self.transport.send(messages)
        await trio.testing.wait_all_tasks_blocked()

    async def heard(self) -> list[tuple[str, Any]]:
        """Type and data of the messages that the server has written since the last call."""
        await trio.testing.wait_all_tasks_blocked()
        heard = []
        with trio.move_on_after(0.001):
            while True:
                for message in await self.transport.receive():
                    assert isinstance(message, str)
                    type_, data, _ = read_server_text(message)
                    heard.append((type_, data))
        return heard


@asynccontextmanager
async def in_line(*, send_timeout: float = 10.0, **limits: Any) -> AsyncIterator[InLine]:
    admission = Admission(max_sessions=1, max_waiting=9)
    ahead, place = admission.enter(), admission.enter()
    ours, theirs = memory_transport_pair(send_timeout=send_timeout)
    waiting = WaitingClient(theirs, place, Limits(**limits), max_wait=MAX_WAIT)
    client = InLine(ours, waiting, admission, ahead)

    async def run() -> None:
        client.let_in = await waiting.run()
        place.leave()
        client.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield client
        nursery.cancel_scope.cancel(reason="the test is over")


async def test_it_is_told_its_place_and_let_in() -> None:
    async with in_line() as client:
        assert await client.heard() == [(names.QUEUED, {"position": 1})]
        client.ahead.leave()
        await client.ended.wait()
        assert client.let_in
        assert await client.heard() == []


async def test_of_several_changes_at_once_only_the_last_is_told() -> None:
    admission = Admission(max_sessions=1, max_waiting=9)
    ahead = [admission.enter() for _ in range(5)]
    place = admission.enter()
    ours, theirs = memory_transport_pair()
    waiting = WaitingClient(theirs, place, Limits(), max_wait=MAX_WAIT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.run)
        client = InLine(ours, waiting, admission, ahead[0])
        assert await client.heard() == [(names.QUEUED, {"position": 5})]
        for each in ahead[1:4]:
            each.leave()
        assert await client.heard() == [(names.QUEUED, {"position": 2})]
        nursery.cancel_scope.cancel(reason="the test is over")


async def test_who_waited_too_long_is_told_so_and_closed_with_1013() -> None:
    async with in_line() as client:
        began = trio.current_time()
        heard = await drain_to_the_end(client.transport)
        assert trio.current_time() - began == pytest.approx(MAX_WAIT)
        await client.ended.wait()
        assert client.let_in is False
        assert heard[-1] == (
            names.ERROR,
            {"code": "queue_timeout", "message": "no session became free within 300 s"},
        )
        assert client.transport.closed is not None
        assert client.transport.closed.code == 1013


async def drain_to_the_end(transport: MemoryTransport) -> list[tuple[str, Any]]:
    heard = []
    try:
        while True:
            for message in await transport.receive():
                assert isinstance(message, str)
                type_, data, _ = read_server_text(message)
                heard.append((type_, data))
    except TransportClosed:
        return heard


async def test_a_drain_says_goodbye() -> None:
    async with in_line() as client:
        await client.heard()
        client.waiting.drain()
        client.ahead.leave()  # too late: the drain came first
        assert await drain_to_the_end(client.transport) == [(names.GOODBYE, {"reason": "shutting_down"})]
        assert client.transport.closed is not None
        assert client.transport.closed.code == 1001
        await client.ended.wait()
        assert client.let_in is False


@pytest.mark.parametrize("how", ["aclose", "cut"])
async def test_who_leaves_is_gone_at_once(how: str) -> None:
    async with in_line() as client:
        behind = client.admission.enter()
        assert behind.position == 2
        if how == "aclose":
            await client.transport.aclose(1000, "")
        else:
            client.transport.cut()
        with trio.fail_after(0.1):
            await client.ended.wait()
        assert client.let_in is False
        assert behind.position == 1


async def test_a_client_that_is_silent_after_a_ping_is_gone() -> None:
    async with in_line(heartbeat=20.0) as client:
        client.transport.freeze()
        with trio.fail_after(50):
            await client.ended.wait()
        assert client.let_in is False


async def test_a_client_that_lives_may_wait_longer_than_a_heartbeat() -> None:
    async with in_line(heartbeat=20.0) as client, trio.open_nursery() as nursery:
        nursery.start_soon(drain_to_the_end, client.transport)  # reading answers pings
        await trio.sleep(MAX_WAIT - 1)
        assert not client.ended.is_set()
        nursery.cancel_scope.cancel(reason="the test is over")


# ---- messages that a client sends while it waits


def command(number: int, size: int = 0) -> str:
    return encode_client_text("set_prompt", {"prompt": "x" * size}, number)


async def test_commands_are_kept_in_order_and_what_goes_beyond_is_overloaded() -> None:
    async with in_line(max_queued_events=3) as client:
        await client.say(*map(command, range(5)))
        assert await client.heard() == [
            (names.QUEUED, {"position": 1}),
            *[
                (
                    names.ERROR,
                    {
                        "code": "overloaded",
                        "message": "this client waits for a session, and has sent too much already; "
                        "this was not taken",
                        "event": "set_prompt",
                    },
                )
            ]
            * 2,
        ]
        client.ahead.leave()
        await client.ended.wait()
        assert client.waiting.early == [command(0), command(1), command(2)]


async def test_the_bytes_that_are_kept_are_bounded() -> None:
    async with in_line() as client:
        await client.say(command(1, KEPT_BYTES // 2), command(2, KEPT_BYTES), command(3, 10))
        assert [type_ for type_, _ in await client.heard()] == [names.QUEUED, names.ERROR]
        assert client.waiting.early == [command(1, KEPT_BYTES // 2), command(3, 10)]


async def test_uploads_begin_after_the_welcome_and_pings_are_answered_at_once() -> None:
    start = {"upload_id": "u", "name": "a", "mime_type": "b", "size": 3}
    async with in_line() as client:
        await client.say(
            encode_client_text(names.UPLOAD_START, start, 7),
            encode_upload_chunk(UploadChunk("u", 0, b"abc")),
            encode_client_text(names.PING, {"t": 1.5}, 8),
            "no JSON",
        )
        (_, start_error, chunk_error, pong, bad) = await client.heard()
        assert (start_error[1]["code"], chunk_error[1]["code"]) == ("overloaded", "overloaded")
        assert pong[0] == names.PONG
        assert bad[1]["code"] == "bad_message"
        assert client.waiting.early == []


async def test_a_client_that_asks_and_does_not_read_is_cut_off() -> None:
    async with in_line(max_queued_messages=10, max_messages_per_second=0) as client:
        ping = encode_client_text(names.PING, {"t": 1})
        with suppress(TransportClosed):
            while not client.ended.is_set():
                await client.say(*[ping] * 100)
                await trio.sleep(0.001)
        await client.ended.wait()
        assert client.let_in is False
        assert trio.current_time() < MAX_WAIT / 2


async def test_a_client_that_asks_much_at_once_and_reads_is_answered() -> None:
    async with in_line(max_queued_messages=10) as client:
        await client.say(*[encode_client_text(names.PING, {"t": number}) for number in range(500)])
        pongs = [data["t"] for type_, data in await client.heard() if type_ == names.PONG]
        assert pongs == [*range(500)]


async def test_a_client_that_floods_is_read_later_and_keeps_its_place() -> None:
    async with in_line(max_messages_per_second=100) as client:
        for _ in range(10):
            await client.say(*["x"] * 300)
        await client.say(encode_client_text(names.PING, {"t": 1}))
        pongs = 0
        with trio.fail_after(MAX_WAIT / 2):
            while not pongs:
                pongs = sum(type_ == names.PONG for type_, _ in await client.heard())
        assert trio.current_time() >= 3000 / 100 - 2, "a second at once, and the last one is not paid for yet"
        assert not client.ended.is_set()


async def test_a_client_that_is_let_in_while_it_talks_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_client, "TIME_SLICE", -1.0)  # the loop is given back after each message
    said = [command(number) for number in range(20)]
    async with in_line() as client:
        await client.transport.send(said)
        for _ in range(12):
            await trio.lowlevel.checkpoint()
        client.ahead.leave()
        await client.ended.wait()
        assert client.let_in is True
        assert client.waiting.early == said


# ---- a `Client` that waits


async def test_the_welcome_may_take_its_time_while_the_client_is_queued() -> None:
    server, told = FakeTransport(greet=False), []

    async def serve() -> None:
        for position in (2, 1):
            await trio.sleep(WELCOME_TIMEOUT * 0.9)
            server.say(names.QUEUED, {"position": position})
        await trio.sleep(WELCOME_TIMEOUT * 10)
        server.say(names.WELCOME, WELCOME)

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with Client.over(server, on_queued=told.append) as client:
                assert client.welcome.model.name == "painter"
    assert told == [2, 1]


async def test_an_error_of_the_callback_comes_out_as_it_is() -> None:
    server, error = FakeTransport(greet=False), ValueError("mine")
    server.say(names.QUEUED, {"position": 1})

    def on_queued(position: int) -> None:
        raise error

    with trio.fail_after(100), pytest.raises(ValueError, match="mine") as caught:
        async with Client.over(server, on_queued=on_queued):
            pass
    assert caught.value is error
    assert server.closed_with == (1000, "")


# ---- whole servers, over loopback


class Count(ModelMessage):
    count: int


class Counter(ReactorModel):
    ended = 0
    copies = 0

    def load(self, config: dict[str, Any]) -> None:
        self.count = 0

    @event
    def add(self) -> Count:
        self.count += 1
        return Count(count=self.count)

    @disconnected
    def on_disconnect(self) -> None:
        type(self).ended += 1

    async def run(self) -> None:
        type(self).copies += 1
        await trio.sleep_forever()


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[Server, str]]:
    async with trio.open_nursery() as nursery:
        server = Server(ServerSettings(port=0, **settings), name="counter")

        async def load() -> ModelHost:
            return await ModelHost.load(Counter)

        await nursery.start(server.run, load)
        yield server, f"ws://{server.authority}"
        nursery.cancel_scope.cancel(reason="the test is over")


class Queue:
    """A client; `receive` has the positions in the queue that the server tells it."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[int](100)
        self.in_session = trio.Event()
        self.leave = trio.Event()

    async def connect(self, url: str) -> None:
        async with open_client(url, on_queued=self.send.send_nowait) as client:
            assert await client.call("add") is not None
            self.in_session.set()
            await self.leave.wait()


@pytest.mark.real_time
async def test_clients_wait_in_line_and_get_a_session_in_turn() -> None:
    with trio.fail_after(DEADLINE):
        async with serving(max_sessions=1) as (server, url), trio.open_nursery() as nursery:
            queues = [Queue() for _ in range(4)]
            for number, queue in enumerate(queues):
                nursery.start_soon(queue.connect, url)
                if number:
                    assert await queue.receive.receive() == number
                else:
                    await queue.in_session.wait()
            assert (server.state.sessions, server.state.waiting) == (1, 3)
            for number, queue in enumerate(queues):
                await queue.in_session.wait()
                queue.leave.set()
                for behind in queues[number + 2 :]:
                    assert await behind.receive.receive() >= 1


@pytest.mark.real_time
async def test_a_waiting_client_is_no_session() -> None:
    with trio.fail_after(DEADLINE):
        async with serving(max_sessions=1) as (server, url):
            async with open_client(url) as first:
                await first.call("add")
                copies, ended = Counter.copies, Counter.ended
                with trio.move_on_after(DEADLINE) as scope:
                    async with open_client(url, on_queued=lambda position: scope.cancel()):
                        pytest.fail("there was a free session")
                while server.state.waiting:
                    await trio.lowlevel.checkpoint()
                assert (Counter.copies, Counter.ended) == (copies, ended)


@pytest.mark.real_time
async def test_a_full_line_is_503() -> None:
    with trio.fail_after(DEADLINE):
        async with serving(max_sessions=1, max_waiting=1) as (_, url):
            queued = Queue()
            async with open_client(url), trio.open_nursery() as nursery:
                nursery.start_soon(queued.connect, url)
                await queued.receive.receive()
                with pytest.raises(
                    HandshakeFailed, match="all 1 sessions are taken, and 1 clients wait"
                ) as full:
                    async with open_client(url):
                        pass
                assert full.value.status == 503
                assert full.value.retry_after
                nursery.cancel_scope.cancel(reason="the test is over")


@pytest.mark.real_time
async def test_a_drain_sends_the_line_home() -> None:
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            server = Server(ServerSettings(port=0, max_sessions=1), name="counter")

            async def load() -> ModelHost:
                return await ModelHost.load(Counter)

            await nursery.start(server.run, load)
            url = f"ws://{server.authority}"
            async with open_client(url) as first:
                with pytest.raises(TransportClosed) as closed:
                    async with open_client(url, on_queued=lambda position: server.drain()):
                        pass
                assert (closed.value.code, closed.value.reason) == (1001, "shutting_down")
                with pytest.raises(TransportClosed, match="1001"):
                    await first.receive()


@pytest.mark.real_time
async def test_who_waits_too_long_gets_1013() -> None:
    with trio.fail_after(DEADLINE):
        async with serving(max_sessions=1, max_wait=0.05) as (_, url), open_client(url):
            with pytest.raises(TransportClosed, match=r"1013 no session became free within 0.05 s"):
                async with open_client(url):
                    pass


@pytest.mark.real_time
async def test_what_was_sent_in_the_line_is_done_in_the_session() -> None:
    """A client of another library sends commands before the welcome."""
    with trio.fail_after(DEADLINE):
        async with serving(max_sessions=1) as (server, url):
            port = server.addresses[0][1]
            async with open_client(url) as first:
                await first.call("add")
                async with trio_websocket.open_websocket("127.0.0.1", port, "/ws", use_ssl=False) as other:
                    assert orjson.loads(await other.get_message()) == {
                        "type": "reactor.queued",
                        "data": {"position": 1},
                    }
                    for number in (1, 2):
                        await other.send_message(f'{{"type": "add", "id": {number}}}')
                    await other.ping()
                    await first.aclose()
                    seen = [orjson.loads(await other.get_message()) for _ in range(3)]
                    assert [each["type"] for each in seen] == ["reactor.welcome", "count", "count"]
                    assert [each["data"]["count"] for each in seen[1:]] == [1, 2]


@pytest.mark.real_time
async def test_the_call_command_prints_the_place_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(DEADLINE):
        async with serving(max_sessions=1) as (server, url), trio.open_nursery() as nursery:
            async with open_client(url):
                nursery.start_soon(call._carry_out, call.Order(url, "add", [], None, 0))
                while not server.state.waiting:
                    await trio.lowlevel.checkpoint()
            while nursery.child_tasks:
                await trio.lowlevel.checkpoint()
    printed = capsys.readouterr()
    assert printed.err == "All sessions are taken; place in line: 1\n"
    assert '{"type":"count","data":{"count":1}}' in printed.out


@pytest.mark.real_time
async def test_health_counts_those_who_wait() -> None:
    with trio.fail_after(DEADLINE):
        async with serving(max_sessions=1) as (server, url), open_client(url):
            queued = Queue()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(queued.connect, url)
                await queued.receive.receive()
                async with await trio.open_tcp_stream("127.0.0.1", server.addresses[0][1]) as stream:
                    await stream.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                    answer = b"".join([bytes(data) async for data in stream])
                assert orjson.loads(answer.partition(b"\r\n\r\n")[2]) == {
                    "status": "ready",
                    "model": "Counter",
                    "sessions": 1,
                    "waiting": 1,
                }
                nursery.cancel_scope.cancel(reason="the test is over")


@pytest.mark.parametrize("wrong", [{"max_waiting": -1}, {"max_wait": 0}])
def test_settings_out_of_range_are_value_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ServerSettings(**wrong)


def test_errors_of_the_wire_keep_their_code() -> None:
    assert CommandError(names.QUEUE_TIMEOUT, "x").code == "queue_timeout"


# ---- the places of one network


def test_one_network_has_no_more_than_its_places_in_sessions_and_line_together() -> None:
    admission = Admission(max_sessions=2, max_waiting=5, max_per_network=3)
    places = [admission.enter("192.0.2.7") for _ in range(3)]
    assert [place.position for place in places] == [0, 0, 1]
    assert not admission.admits("192.0.2.7")
    assert admission.admits("192.0.2.8")
    assert admission.admits(None)
    places[0].leave()
    places[0].leave()
    assert admission.admits("192.0.2.7")
    assert len(admission._of_network) == 1
    for place in places:
        place.leave()
    assert not admission._of_network


def test_by_default_one_network_may_have_all() -> None:
    admission = Admission()
    for _ in range(1000):
        admission.enter("192.0.2.7")
    assert admission.admits("192.0.2.7")
