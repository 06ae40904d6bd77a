"""Mistakes of the session that the sweep of endings and the fuzzer found, each in its smallest form."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from reactor_trio import (
    Input,
    ModelMessage,
    Output,
    ReactorModel,
    UploadedFile,
    Video,
    connected,
    disconnected,
    event,
    file_uploaded,
)
from reactor_trio.compute.lanes import ENCODE, FILES
from reactor_trio.errors import TransportClosed
from reactor_trio.protocol.binary import UploadChunk, encode_upload_chunk
from reactor_trio.session.limits import Limits
from reactor_trio.testing import SessionClient, load_host, open_session
from slow_executor import SlowExecutor
from strict_transport import StrictTransport

if TYPE_CHECKING:
    from collections.abc import Callable


class Screen(Output):
    screen: Video


class Plain(ReactorModel):
    @event
    def mark(self) -> None: ...


def start(upload_id: str, size: int) -> str:
    data = {"upload_id": upload_id, "name": "n", "mime_type": "t", "size": size}
    return json.dumps({"type": "reactor.upload_start", "data": data})


def chunk(upload_id: str, offset: int, payload: bytes) -> bytes:
    return encode_upload_chunk(UploadChunk(upload_id, offset, payload))


# An upload of 4 bytes. If each call for a file takes 1 s, the temporary file is open after 1 s, the first two
# bytes are written after 2 s, and the other two after 3 s.
SPOOLED = (start("u", 4), chunk("u", 0, b"ab"), chunk("u", 2, b"cd"))


async def test_a_session_drained_while_the_last_chunk_is_written_to_a_file_ends_as_asked() -> None:
    async with open_session(Plain, limits=Limits(spool_bytes=0), executor=SlowExecutor(1.0, FILES)) as client:
        with capture_logs() as logs:
            await client.transport.send(SPOOLED)
            await trio.sleep(2.5)
            client.session.drain()
            assert (await client.ended()).reason == "shutting_down"
        assert [entry["event"] for entry in logs] == ["session ended"]


async def test_a_session_cancelled_while_the_last_chunk_is_written_to_a_file_is_cancelled() -> None:
    with trio.CancelScope() as scope:
        async with open_session(
            Plain, limits=Limits(spool_bytes=0), executor=SlowExecutor(1.0, FILES)
        ) as client:
            await client.transport.send(SPOOLED)
            await trio.sleep(2.5)
            scope.cancel()
    assert client.session.ending is not None
    assert client.session.ending.reason == "cancelled"


async def test_no_frame_comes_after_the_goodbye() -> None:
    class Painter(ReactorModel):
        async def run(self) -> None:
            await self.emit(Screen(screen=np.zeros((8, 8, 3), np.uint8)))
            await trio.sleep_forever()

    limits = Limits(max_queued_messages=1)
    host = await load_host(Painter, limits=limits, executor=SlowExecutor(1.0, ENCODE))
    transport = StrictTransport(send_timeout=10, capacity=1)
    session = host.session(transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        transport.pause()  # the goodbye has to wait, and the frame is encoded meanwhile
        await trio.sleep(0.5)
        session.drain()
        await trio.sleep(1)
        transport.resume()
    _, last = transport.read[-1]
    assert json.loads(last)["type"] == "reactor.goodbye"


async def test_no_answer_comes_after_the_goodbye() -> None:
    host = await load_host(Plain, limits=Limits(max_queued_messages=1))
    transport = StrictTransport(send_timeout=10, capacity=1)
    session = host.session(transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await trio.sleep(1)
        transport.pause()
        for numbers in ((1,), (2, 3, 4, 5, 6)):  # one answer for the network, and some that wait for room
            transport.arrive(*[json.dumps({"type": "unknown", "id": number}) for number in numbers])
            await trio.sleep(1)
        session.drain()
        await trio.sleep(1)
        transport.resume()
    _, last = transport.read[-1]
    assert json.loads(last)["type"] == "reactor.goodbye"


async def test_a_client_may_leave_while_its_upload_is_read_back_from_a_file() -> None:
    class Wants(ReactorModel):
        @file_uploaded
        def on_file(self, uploaded_file: UploadedFile) -> None: ...

    async with open_session(Wants, limits=Limits(spool_bytes=0), executor=SlowExecutor(1.0, FILES)) as client:
        with capture_logs() as logs:
            await client.transport.send(SPOOLED)
            await trio.sleep(3.5)
            client.transport.cut()
            assert (await client.ended()).reason == "connection_lost"
        assert [entry["event"] for entry in logs] == ["session ended"]


async def test_a_session_cancelled_with_a_command_on_its_way_is_cancelled() -> None:
    class Uses(ReactorModel):
        @event
        def use(self, file: UploadedFile) -> None: ...

    host = await load_host(Uses)
    use = json.dumps({"type": "use", "data": {"file": {"upload_id": "u"}}})
    for _ in range(20):  # the order of ready tasks is shuffled
        transport = StrictTransport(send_timeout=10)
        session = host.session(transport)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await trio.sleep(1)
            transport.arrive(start("u", 4), use)
            nursery.cancel_scope.cancel()
        assert session.ending is not None
        assert session.ending.reason == "cancelled"


async def test_files_that_wait_for_their_hook_take_no_commands_place() -> None:
    class Busy(ReactorModel):
        @event
        async def work(self) -> None:
            await trio.sleep(10)

        @file_uploaded
        def on_file(self, uploaded_file: UploadedFile) -> None: ...

    async with open_session(Busy, limits=Limits(max_queued_events=2)) as client:
        await client.send("work")
        await trio.sleep(1)
        for name in "abc":
            await client.transport.send([start(name, 0)])
        await client.call("work")  # no command waits, only the files


async def test_a_client_may_leave_in_the_moment_in_which_a_handler_ends() -> None:
    class Waits(ReactorModel):
        @event
        async def wait(self) -> None:
            await self.released.wait()

    host = await load_host(Waits)
    for _ in range(20):  # the order of ready tasks is shuffled
        transport = StrictTransport(send_timeout=10)
        session = host.session(transport)
        session.model.released = trio.Event()
        with capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.run)
                transport.arrive('{"type": "wait"}')
                await trio.testing.wait_all_tasks_blocked()
                session.model.released.set()
                transport.hang_up()
        assert [entry["event"] for entry in logs] == ["session started", "session ended"]


async def test_commands_aside_never_outgrow_the_inbox() -> None:
    class Uses(ReactorModel):
        @event
        async def work(self) -> None:
            await trio.sleep(10)

        @event(dedupe=True)
        def one(self, file: UploadedFile) -> None: ...

        @event(dedupe=True)
        def two(self, file: UploadedFile) -> None: ...

        @file_uploaded
        def on_file(self, uploaded_file: UploadedFile) -> None: ...

    def use(event: str, upload_id: str) -> str:
        return json.dumps(
            {"type": event, "data": {"file": {"upload_id": upload_id}}, "id": event + upload_id}
        )

    async with open_session(Uses, limits=Limits(max_queued_events=3, max_uploads=2)) as client:
        await client.transport.send([start("a", 0)])
        await client.send("work")
        await trio.sleep(1)
        await client.transport.send([start("b", 1), use("one", "a"), use("two", "a"), '{"type": "work"}'])
        await client.transport.send([use("one", "b"), use("two", "b")])  # refused, since the inbox is full
        await trio.sleep(2)  # longer than `max_defer`: the waiting commands are held in place
        await client.transport.send([chunk("b", 0, b"x")])
        await trio.sleep(1)
        assert client.session.ending is None, "the inbox overflowed"


async def test_a_file_that_is_handed_over_makes_no_room_for_a_command() -> None:
    class Wants(ReactorModel):
        @event
        async def work(self) -> None: ...

        @file_uploaded
        def on_file(self, uploaded_file: UploadedFile) -> None: ...

    host = await load_host(Wants, limits=Limits(max_queued_events=1))
    transport = StrictTransport(send_timeout=10)
    session = host.session(transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await trio.sleep(1)
        transport.arrive(start("a", 0), *[json.dumps({"type": "work", "id": number}) for number in (1, 2)])
        await trio.sleep(1)
        transport.hang_up()
    refused = [json.loads(text) for _, text in transport.read if "overloaded" in str(text)]
    assert [message["reply_to"] for message in refused] == [2]


class Camera(Input):
    webcam: Video


class Who(ModelMessage):
    who: str


class Looks(ReactorModel):
    input: Camera

    @event
    def look(self) -> None: ...


async def ping(client: SessionClient) -> None:
    await client.ping()


async def show(client: SessionClient) -> None:
    await client.transport.send(['{"type": "reactor.frame_shown", "data": {"track": "screen", "seq": 0}}'])


async def command(client: SessionClient) -> None:
    await client.call("look")


async def unknown(client: SessionClient) -> None:
    await client.send("no_such_event")


async def upload(client: SessionClient) -> None:
    await client.upload(b"x" * 10)


async def publish(client: SessionClient) -> None:
    await client.publish("webcam", np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("does", [ping, show])
async def test_a_client_that_does_nothing_is_told_goodbye(does: Callable[[SessionClient], Any]) -> None:
    async with open_session(Looks, limits=Limits(idle_timeout=30)) as client:
        await client.call("look")
        with suppress(TransportClosed):
            while True:
                await trio.sleep(1)
                await does(client)
        ending = await client.ended()
        assert (ending.reason, ending.close_code, client.goodbye) == ("idle", 1000, "idle")
        assert trio.current_time() == pytest.approx(30, abs=1.5)


@pytest.mark.parametrize("does", [command, unknown, upload, publish])
async def test_a_client_that_does_something_may_stay(does: Callable[[SessionClient], Any]) -> None:
    async with open_session(Looks, limits=Limits(idle_timeout=30)) as client:
        for _ in range(10):
            await trio.sleep(29)
            await does(client)
        assert client.session.ending is None


async def test_by_default_it_may_do_nothing_for_ever() -> None:
    async with open_session(Looks) as client:
        await trio.sleep(3000)
        assert client.session.ending is None


who: ContextVar[str] = ContextVar("who", default="nobody")


class Remembers(ReactorModel):
    @event
    def login(self, name: str) -> None:
        who.set(name)

    @event
    async def login_later(self, name: str) -> None:
        await trio.sleep(1)
        who.set(name)

    @event
    def ask(self) -> Who:
        return Who(who=who.get())

    @event(in_thread=True)
    def ask_in_thread(self) -> Who:
        return Who(who=who.get())

    @event
    async def ask_later(self) -> Who:
        await trio.sleep(1)
        return Who(who=who.get())


@pytest.mark.parametrize("login", ["login", "login_later"])
async def test_all_handlers_of_a_session_share_their_context_variables(login: str) -> None:
    """A plain handler shares them, too, though the receiving task runs it if no other command is ahead."""
    async with open_session(Remembers) as client, open_session(Remembers) as stranger:
        await client.call(login, name="ann")
        seen = [(await client.call(ask)).data["who"] for ask in ("ask", "ask_later", "ask_in_thread")]
        await client.send("ask_later")
        seen.append((await client.call("ask")).data["who"])
        assert seen == ["ann"] * 4
        assert (await stranger.call("ask")).data["who"] == "nobody"
    assert who.get() == "nobody"


class TickingClock(trio.abc.Clock):
    """A clock that moves on by 10 us whenever it is read, as real time moves on between two looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        self.now += 1e-5
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0 if deadline <= self.now else 1e-4


def test_a_key_that_must_be_held_between_two_looks_at_the_time_ends_no_session() -> None:
    """The inbox let a command in without room, since it was to replace the one that waited with its key.

    A moment later the waiting command was held in place, so the new one needed room.
    """

    class Knob(ReactorModel):
        @event(dedupe=True)
        async def turn(self) -> None:
            await trio.sleep_forever()

    async def main(max_defer: float) -> list[str]:
        limits = Limits(max_uploads=0, max_queued_events=1, max_defer=max_defer, max_events_per_second=0)
        with trio.fail_after(100), capture_logs() as logs:
            async with open_session(Knob, limits=limits) as client:
                for _ in range(10):
                    await client.transport.send(['{"type": "turn"}'] * 100)
                    await trio.lowlevel.checkpoint()
        return [entry["event"] for entry in logs if entry["log_level"] == "error"]

    # The mistake happened at most once in a session, and only for some values of `max_defer`.
    for microseconds in range(1000, 1300, 10):
        assert trio.run(main, microseconds / 1e6, clock=TickingClock()) == []


async def test_connected_is_not_set_any_more_once_the_client_is_gone() -> None:
    seen = []

    class Shielded(ReactorModel):
        @connected
        async def on_connect(self) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

        @disconnected
        def on_disconnect(self) -> None:
            seen.append(self.connected.is_set())

    async with open_session(Shielded) as client:
        await trio.sleep(1)
        await client.aclose()
    assert seen == [False]


@pytest.mark.parametrize("way", ["drain", "hang_up", "cut", "finish"])
async def test_a_session_that_ends_as_it_should_logs_no_error(way: str) -> None:
    class Finishes(Plain):
        async def run(self) -> None:
            if way == "finish":
                await trio.sleep(2)
            else:
                await trio.sleep_forever()

    host = await load_host(Finishes)
    transport = StrictTransport(send_timeout=10)
    session = host.session(transport)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await trio.sleep(1)
            if way == "drain":
                session.drain()
            elif way != "finish":
                getattr(transport, way)()
    assert [line["event"] for line in logs] == ["session started", "session ended"]
