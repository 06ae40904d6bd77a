"""A session as its client and its model's author see it, in memory and in virtual time."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
from structlog.testing import capture_logs

from reactor_trio import (
    ClientInfo,
    CommandError,
    InputField,
    ModelMessage,
    Output,
    ReactorModel,
    UploadedFile,
    Video,
    connected,
    disconnected,
    event,
)
from reactor_trio.client import Superseded
from reactor_trio.errors import NoSession, TransportClosed
from reactor_trio.protocol.binary import UploadChunk, encode_upload_chunk
from reactor_trio.session.limits import Limits
from reactor_trio.testing import InlineExecutor, MemoryTransport, SessionClient, load_host, open_session

LAST = 29
"""The number of the last command of a batch."""


class Said(ModelMessage):
    text: str


class Picture(Output):
    screen: Video


class Notebook(ReactorModel):
    """Writes its commands and its end down in `notes`."""

    @connected
    def on_connect(self) -> None:
        self.notes: list[Any] = []

    @event
    async def wait(self, seconds: float) -> None:
        self.notes.append(f"wait {seconds:g}")
        await trio.sleep(seconds)

    @event
    def mark(self, number: int) -> Said:
        self.notes.append(number)
        return Said(text=f"marked {number}")

    @event(dedupe=True)
    def set_ref(self, ref: str) -> None:
        self.notes.append(ref)

    @event
    async def say(self, text: str, times: int = 1) -> None:
        for _ in range(times):
            await self.send(Said(text=text))

    @event
    def refuse(self) -> None:
        raise CommandError("too_dark", "no light")

    @event
    def fail(self) -> None:
        raise RuntimeError("the author's bug, with a secret in it")

    @disconnected
    async def on_disconnect(self) -> None:
        await trio.sleep(0.01)
        self.notes.append("disconnected")


async def said(client: SessionClient, text: str) -> None:
    """Send raw text, which need not be a valid message."""
    await client.transport.send([text])


def answers(client: SessionClient) -> dict[Any, tuple[str, Any]]:
    """Type and data of every answer on the wire, by the id that it replies to; each id has one answer."""
    found: dict[Any, tuple[str, Any]] = {}
    for entry in client.transcript:
        if entry.direction == "<" and isinstance(entry.message, str):
            message = json.loads(entry.message)
            if "reply_to" in message:
                assert message["reply_to"] not in found
                found[message["reply_to"]] = (message["type"], message["data"])
    return found


def received(client: SessionClient) -> list[Any]:
    return [
        json.loads(e.message) for e in client.transcript if e.direction == "<" and isinstance(e.message, str)
    ]


# ---- coalescing


async def test_a_superseded_command_is_answered_and_the_survivors_keep_their_order() -> None:
    async with open_session(Notebook) as client:
        await said(client, '{"type": "wait", "data": {"seconds": 5}}')
        await trio.sleep(1)  # the handler is busy
        for id_, (name, data) in enumerate(
            [
                ("set_ref", {"ref": "A"}),
                ("mark", {"number": 1}),
                ("set_ref", {"ref": "B"}),
                ("mark", {"number": 2}),
                ("set_ref", {"ref": "C"}),
            ]
        ):
            await said(client, json.dumps({"type": name, "data": data, "id": id_}))
        await trio.sleep(10)
        assert client.session.model.notes == ["wait 5", 1, 2, "C"]
        assert answers(client) == {
            0: ("reactor.superseded", {}),
            2: ("reactor.superseded", {}),
            1: ("said", {"text": "marked 1"}),
            3: ("said", {"text": "marked 2"}),
            4: ("reactor.ack", {}),
        }


async def test_the_client_object_raises_superseded() -> None:
    async with open_session(Notebook) as client:
        await client.send("wait", seconds=5)
        async with trio.open_nursery() as nursery:

            async def first() -> None:
                with pytest.raises(Superseded):
                    await client.call("set_ref", ref="A")

            nursery.start_soon(first)
            await trio.sleep(1)
            await client.call("set_ref", ref="B")


async def test_a_full_inbox_is_answered_overloaded_and_nothing_is_lost() -> None:
    async with open_session(Notebook, limits=Limits(max_queued_events=4)) as client:
        await client.send("wait", seconds=5)
        await trio.sleep(1)
        for number in range(6):
            await said(client, json.dumps({"type": "mark", "data": {"number": number}, "id": number}))
        await trio.sleep(10)
        assert client.session.model.notes == ["wait 5", 0, 1, 2, 3]
        refused = {
            id_: data["code"] for id_, (kind, data) in answers(client).items() if kind == "reactor.error"
        }
        assert refused == {4: "overloaded", 5: "overloaded"}
        await client.call("mark", number=7)


# ---- messages, replies, errors


async def test_what_a_handler_sent_arrives_before_its_answer() -> None:
    async with open_session(Notebook) as client:
        await client.call("say", text="hello", times=3)
        kinds = [message["type"] for message in received(client)]
        assert kinds == ["reactor.welcome", "said", "said", "said", "reactor.ack"]


async def test_refusals_and_failures_reach_their_command_and_no_detail_leaks() -> None:
    async with open_session(Notebook) as client:
        with pytest.raises(CommandError, match="too_dark: no light"):
            await client.call("refuse")
        with pytest.raises(CommandError, match="internal_error") as failed:
            await client.call("fail")
        assert "secret" not in json.dumps(received(client))
        assert failed.value.event == "fail"
        reply = await client.call("mark", number=1)
        assert reply is not None
        assert reply.data == {"text": "marked 1"}


async def test_a_failure_inside_the_handlers_own_nursery_is_contained() -> None:
    class Nested(ReactorModel):
        @event
        async def refuse(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise CommandError("nested", "from a nursery")

        @event
        def leave(self) -> None:
            raise SystemExit(3)

    async with open_session(Nested) as client:
        with pytest.raises(CommandError, match="nested: from a nursery"):
            await client.call("refuse")
        with pytest.raises(CommandError, match="internal_error"):
            await client.call("leave")


REFUSALS: dict[str, tuple[Callable[[], BaseException], str, str]] = {
    "a code that is none": (lambda: CommandError(5, "x"), "internal_error", "the handler failed"),  # type: ignore[arg-type]
    "no text": (lambda: CommandError("a", None), "internal_error", "the handler failed"),  # type: ignore[arg-type]
    "bytes": (lambda: CommandError("a", b"\xff"), "internal_error", "the handler failed"),  # type: ignore[arg-type]
    "an object": (lambda: CommandError("a", object()), "internal_error", "the handler failed"),  # type: ignore[arg-type]
    "capitals": (lambda: CommandError("Not-So", "x"), "internal_error", "the handler failed"),
    "a long code": (lambda: CommandError("a" * 65, "x"), "internal_error", "the handler failed"),
    "a code as long as can be": (lambda: CommandError("a" * 64, "x"), "a" * 64, "x"),
    "half a pair": (lambda: CommandError("a", "caf\udce9.png"), "a", "caf\ufffd.png"),
    "both halves": (lambda: CommandError("a", "\ud83d\ude00"), "a", "\U0001f600"),
    "a long text": (lambda: CommandError("a", "x" * 20_000_000), "a", "x" * 3999 + "…"),
    "changed afterwards": (lambda: Changed("a", "x"), "internal_error", "the handler failed"),
}


class Changed(CommandError):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.message = b"\xff"  # type: ignore[assignment]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_is_an_answer_whatever_it_is_made_of(refusal: str) -> None:
    make, code, message = REFUSALS[refusal]

    class Picky(ReactorModel):
        @event
        def refuse(self) -> None:
            raise make()

        @event
        async def refuse_later(self) -> None:
            await trio.sleep(1)
            raise make()

    async with open_session(Picky) as client:
        for name in ("refuse", "refuse_later"):
            with pytest.raises(CommandError) as refused:
                await client.call(name)
            assert (refused.value.code, refused.value.message) == (code, message)
        assert client.session.ending is None


async def test_a_text_that_is_no_unicode_costs_its_message_and_nothing_else() -> None:
    half = "caf\udce9"

    class Torn(ReactorModel):
        @event
        def reply(self) -> Said:
            return Said(text=half)

        @event
        async def send_it(self) -> None:
            await self.send(Said(text=half))

        @event
        async def show(self) -> None:
            await self.emit(Picture(screen=np.zeros((4, 4, 3), np.uint8), metadata={"name": half}))

        @event
        def check(self, name: str = InputField(pattern="[a-z]*")) -> None:
            raise ValueError(half)

    async with open_session(Torn) as client:
        for name in ("reply", "send_it", "show"):
            with pytest.raises(CommandError, match="internal_error"):
                await client.call(name)
        with pytest.raises(CommandError, match="internal_error"):
            await client.call("check", name="a")
        assert client.session.ending is None


async def test_a_handlers_nursery_that_fails_while_it_is_cancelled_does_not_cost_the_goodbye() -> None:
    class Untidy(ReactorModel):
        @event
        async def work(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.clean_up_badly)
                await trio.sleep_forever()

        async def clean_up_badly(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("the cleanup failed")

    async with open_session(Untidy) as client:
        await client.send("work")
        await trio.sleep(1)
        client.session.drain()
        assert (await client.ended()).reason == "shutting_down"
        assert client.goodbye == "shutting_down"
        assert client.closed is not None
        assert client.closed.code == 1001


async def test_a_wrong_result_or_an_unserialisable_message_is_the_models_fault_and_harms_nothing_else() -> (
    None
):
    class Wrong(ReactorModel):
        @event
        def dictionary(self):  # type: ignore[no-untyped-def]
            return {"not": "a message"}

        @event
        async def unserialisable(self) -> None:
            await self.send(Said(text=object()))  # type: ignore[arg-type]

        @event
        async def not_a_message(self) -> None:
            await self.send("hello")  # type: ignore[arg-type]

        @event
        def fine(self) -> Said:
            return Said(text="fine")

    async with open_session(Wrong) as client:
        for name in ("dictionary", "unserialisable", "not_a_message"):
            with pytest.raises(CommandError, match="internal_error"):
                await client.call(name)
        assert (await client.call("fine")).data == {"text": "fine"}  # type: ignore[union-attr]


async def test_a_reply_without_an_id_is_sent_all_the_same() -> None:
    async with open_session(Notebook) as client:
        await client.send("mark", number=1)
        assert (await client.receive("said")).data == {"text": "marked 1"}


async def test_a_plain_handler_may_return_an_awaitable_and_keeps_its_turn() -> None:
    """A decorator that wraps an `async def` may make such a handler."""

    class Wrapped(ReactorModel):
        @connected
        def on_connect(self) -> None:
            self.notes: list[str] = []

        @event
        def slow(self, text: str):  # type: ignore[no-untyped-def]
            async def work() -> Said:
                await trio.sleep(1)
                self.notes.append(text)
                return Said(text=text)

            return work()

        @event
        def quick(self) -> Said:
            self.notes.append("quick")
            return Said(text="quick")

        @event
        def broken(self):  # type: ignore[no-untyped-def]
            async def work() -> None:
                raise CommandError("late", "in the awaitable")

            return work()

    async with open_session(Wrapped) as client:
        for id_, (name, data) in enumerate(
            [("slow", {"text": "a"}), ("quick", {}), ("broken", {}), ("slow", {"text": "b"}), ("quick", {})]
        ):
            await said(client, json.dumps({"type": name, "data": data, "id": id_}))
        await trio.sleep(5)
        assert client.session.model.notes == ["a", "quick", "b", "quick"]
        assert list(answers(client)) == [0, 1, 2, 3, 4], "answered in the order of the commands"
        assert answers(client)[2][1]["code"] == "late"


@pytest.mark.real_time  # virtual time stands still while a handler computes
async def test_handlers_that_never_wait_leave_the_loop_its_turn() -> None:
    """If the handlers of a batch of commands are slow, other tasks run in between."""
    turns: list[int] = []
    done: list[int] = []
    ended = trio.Event()

    class Busy(ReactorModel):
        @event
        def burn(self, number: int) -> None:
            until = time.perf_counter() + 0.002
            while time.perf_counter() < until:
                pass
            done.append(number)
            if number == LAST:
                ended.set()

        async def run(self) -> None:
            await self.connected.wait()
            while True:
                turns.append(len(done))
                await trio.lowlevel.checkpoint()

    async with open_session(Busy, executor=InlineExecutor()) as client:
        await client.transport.send(
            [json.dumps({"type": "burn", "data": {"number": number}}) for number in range(LAST + 1)]
        )
        await ended.wait()
    assert done == list(range(LAST + 1))
    assert len({count for count in turns if 0 < count <= LAST}) >= 3


GARBAGE = {
    "no json": ("hello", "bad_message"),
    "no object": ("[1]", "bad_message"),
    "no type": ('{"data": {}}', "bad_message"),
    "type of another type": ('{"type": 5}', "bad_message"),
    "data no object": ('{"type": "mark", "data": [1]}', "bad_message"),
    "id of another type": ('{"type": "mark", "data": {"number": 1}, "id": [1]}', "bad_message"),
    "id null": ('{"type": "mark", "data": {"number": 1}, "id": null}', "bad_message"),
    "a bomb": ("[" * 100_000, "bad_message"),
    "unknown event": ('{"type": "explode"}', "unknown_event"),
    "the runtime's own": ('{"type": "reactor.welcome"}', "unknown_event"),
    "missing field": ('{"type": "mark"}', "invalid_payload"),
    "unknown field": ('{"type": "mark", "data": {"number": 1, "x": 2}}', "invalid_payload"),
    "wrong type": ('{"type": "mark", "data": {"number": "1"}}', "invalid_payload"),
    "ping without t": ('{"type": "reactor.ping"}', "invalid_payload"),
    "unknown upload": ('{"type": "reactor.upload_abort", "data": {"upload_id": "u"}}', "upload_rejected"),
    "empty binary": (b"", "bad_message"),
    "unknown kind": (b"\x09\x00\x02{}", "bad_message"),
    "header too long": (struct.pack(">BH", 2, 500) + b"{}", "bad_message"),
    "media for no track": (struct.pack(">BH", 1, 2) + b"{}", "bad_message"),
    "chunk of no upload": (encode_upload_chunk(UploadChunk("u", 0, b"x")), "upload_rejected"),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_is_answered_and_survived(name: str) -> None:
    garbage, code = GARBAGE[name]
    async with open_session(Notebook) as client:
        await client.transport.send([garbage])
        error = await client.receive("reactor.error")
        assert error.data["code"] == code
        assert error.data["message"]
        await client.call("mark", number=1)


async def test_a_hundred_unreadable_messages_in_a_row_are_enough() -> None:
    async with open_session(Notebook) as client:
        await client.transport.send(["?"] * 99)
        await client.call("mark", number=1)
        await client.transport.send(["?"] * 100)
        ending = await client.ended()
        assert (ending.reason, ending.close_code) == ("too_many_errors", 1008)
        assert client.goodbye == "too_many_errors"


async def test_every_fault_of_a_payload_is_listed_at_its_path() -> None:
    class Strict(ReactorModel):
        @event
        def place(self, x: int = InputField(ge=0), name: str = InputField(max_length=3)) -> None: ...

    async with open_session(Strict) as client:
        with pytest.raises(CommandError) as refused:
            await client.call("place", x=-1, name="long", z=1)
        assert {error.path for error in refused.value.errors} == {"x", "name", "z"}
        assert refused.value.event == "place"


async def test_ping_is_answered_while_a_handler_is_busy() -> None:
    async with open_session(Notebook) as client:
        await client.send("wait", seconds=60)
        await trio.sleep(1)
        assert await client.ping() < 1


# ---- hooks and their order


async def test_commands_wait_for_connected() -> None:
    order: list[str] = []

    class Slow(ReactorModel):
        @connected
        async def on_connect(self, client: ClientInfo) -> None:
            await trio.sleep(5)
            assert client is self.client
            order.append(f"connected {client.id} {client.address}")

        @event
        def act(self) -> None:
            order.append("act")

        async def run(self) -> None:
            order.append("run")
            await trio.sleep_forever()

    async with open_session(Slow) as client:
        await client.call("act")
    assert order == ["run", "connected session-1 memory", "act"]


async def test_what_run_does_before_its_first_await_is_done_before_connected() -> None:
    class First(ReactorModel):
        async def run(self) -> None:
            self.order = ["run"]
            await trio.sleep_forever()

        @connected
        def on_connect(self) -> None:
            self.order.append("connected")

    for _ in range(20):  # the order of ready tasks is shuffled
        async with open_session(First) as client:
            await trio.sleep(1)
            assert client.session.model.order == ["run", "connected"]


async def test_a_failing_connected_ends_the_session_and_disconnected_still_runs() -> None:
    ran = []

    class Broken(ReactorModel):
        @connected
        async def on_connect(self) -> None:
            raise ValueError("no luck")

        @disconnected
        def on_disconnect(self) -> None:
            ran.append("disconnected")

    async with open_session(Broken) as client:
        ending = await client.ended()
        assert (ending.reason, ending.close_code) == ("model_error", 1011)
        assert (await client.receive("reactor.error")).data["code"] == "model_error"
    assert ran == ["disconnected"]


async def test_disconnected_does_not_run_if_connected_was_never_entered() -> None:
    ran = []

    class Stillborn(ReactorModel):
        async def run(self) -> None:
            raise ValueError("at once")

        @connected
        def on_connect(self) -> None:
            ran.append("connected")

        @disconnected
        def on_disconnect(self) -> None:
            ran.append("disconnected")

    async with open_session(Stillborn) as client:
        assert (await client.ended()).reason == "model_error"
        assert not client.session.connected.is_set()
    assert ran == []


async def test_a_hanging_disconnected_is_cut_off_and_a_failing_one_is_contained() -> None:
    class Hanging(ReactorModel):
        @disconnected
        async def on_disconnect(self) -> None:
            await trio.sleep_forever()

    class Failing(ReactorModel):
        @disconnected
        async def on_disconnect(self) -> None:
            raise ValueError("too late to matter")

    began = trio.current_time()
    async with open_session(Hanging, limits=Limits(hook_timeout=7)) as client:
        await trio.sleep(1)
    assert trio.current_time() - began == pytest.approx(8, abs=0.5)
    async with open_session(Failing) as client:
        await trio.sleep(1)
    assert client.session.ending is not None
    assert client.session.ending.reason == "client_closed"


async def test_send_in_disconnected_does_nothing_and_emit_returns_false() -> None:
    results = []

    class Talkative(ReactorModel):
        @disconnected
        async def on_disconnect(self) -> None:
            await self.send(Said(text="too late"))
            results.append(await self.emit(Picture(screen=np.zeros((4, 4, 3), np.uint8))))

    async with open_session(Talkative) as client:
        await trio.sleep(1)
    assert results == [False]
    assert "too late" not in str(client.transcript)


# ---- endings


async def test_a_dead_socket_ends_a_sleeping_handler_at_once() -> None:
    """The socket of a client dies while a handler sleeps for a minute."""
    async with open_session(Notebook) as client:
        await client.send("wait", seconds=60)
        await trio.sleep(1)
        died = trio.current_time()
        client.transport.cut()
        ending = await client.ended()
        assert trio.current_time() - died < 1
        assert ending.reason == "connection_lost"
        assert client.session.model.notes == ["wait 60", "disconnected"]


async def test_a_client_that_leaves_politely() -> None:
    async with open_session(Notebook) as client:
        await client.call("mark", number=1)
        model = client.session.model
        await client.aclose()
        assert (await client.ended()).reason == "client_closed"
    assert model.notes == [1, "disconnected"]


async def test_run_that_returns_ends_the_session_politely_after_the_last_frame() -> None:
    class Short(ReactorModel):
        fps = 10
        buffer_size = 20

        async def run(self) -> None:
            await self.connected.wait()
            for shade in range(12):
                await self.emit(Picture(screen=np.full((8, 8, 3), shade * 20, np.uint8)))
            await self.send(Said(text="done"))

    async with open_session(Short) as client:
        ending = await client.ended()
        assert (ending.reason, ending.close_code) == ("finished", 1000)
        assert client.goodbye == "finished"
        frames = [frame.seq async for frame in client.frames()]
        assert frames == list(range(12))
        assert client.closed is not None
        assert client.closed.code == 1000
        assert received(client)[-1] == {"type": "reactor.goodbye", "data": {"reason": "finished"}}


async def test_run_that_fails_ends_its_session_and_no_other_one_notices() -> None:
    ran: list[str] = []

    class Fragile(ReactorModel):
        @connected
        def on_connect(self) -> None:
            self.broken = trio.Event()

        @event
        def break_run(self) -> None:
            self.broken.set()

        @event
        def hello(self) -> Said:
            return Said(text="still here")

        async def run(self) -> None:
            await self.connected.wait()
            await self.broken.wait()
            raise ZeroDivisionError("the author's bug")

        @disconnected
        def on_disconnect(self) -> None:
            ran.append(self.client.id)

    host = await load_host(Fragile)
    async with open_session(host) as victim, open_session(host) as other:
        before = len(other.transcript)
        await victim.send("break_run")
        ending = await victim.ended()
        assert (ending.reason, ending.close_code) == ("model_error", 1011)
        error = await victim.receive("reactor.error")
        assert error.data["code"] == "model_error"
        assert "author" not in json.dumps(error.data)
        assert victim.closed is not None
        assert victim.closed.code == 1011
        assert ran == [victim.session.id]
        assert len(other.transcript) == before, "the other one is unaware"
        reply = await other.call("hello")
        assert reply is not None


async def test_a_client_that_answers_no_ping_is_lost() -> None:
    async with open_session(Notebook, limits=Limits(heartbeat=20)) as client:
        await trio.sleep(100)
        assert client.session.ending is None, "an idle client that answers pings is kept"
        client.transport.freeze()
        began = trio.current_time()
        assert (await client.ended()).reason == "heartbeat_lost"
        assert trio.current_time() - began <= 41


async def test_a_client_that_accepts_no_byte_is_cut_off() -> None:
    async with open_session(Notebook, limits=Limits(send_timeout=10, heartbeat=1000)) as client:
        await client.send("say", text="x" * 100_000, times=1000)
        client.transport.stall()
        began = trio.current_time()
        assert (await client.ended()).reason == "slow_client"
        assert 9 < trio.current_time() - began < 25
        assert client.session.model.notes[-1] == "disconnected"


async def test_a_drain_says_goodbye_and_closes_with_1001() -> None:
    async with open_session(Notebook) as client:
        await client.send("wait", seconds=1000)
        await trio.sleep(1)
        began = trio.current_time()
        client.session.drain()
        client.session.drain()
        ending = await client.ended()
        assert trio.current_time() - began < 1
        assert (ending.reason, ending.close_code) == ("shutting_down", 1001)
        assert client.goodbye == "shutting_down"
        assert client.session.model.notes[-1] == "disconnected"


async def test_a_session_that_is_cancelled_runs_disconnected_and_lets_the_cancellation_on() -> None:
    ran = []

    class Model(ReactorModel):
        @disconnected
        async def on_disconnect(self) -> None:
            await trio.sleep(0.5)
            ran.append("disconnected")

    with trio.CancelScope() as scope:
        async with open_session(Model) as client:
            await trio.sleep(1)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert ran == ["disconnected"]
    assert client.session.ending is not None
    assert client.session.ending.reason == "cancelled"


async def test_connected_is_cleared_as_soon_as_the_client_is_gone() -> None:
    seen = []

    class Watching(ReactorModel):
        async def run(self) -> None:
            await self.connected.wait()
            try:
                await trio.sleep_forever()
            finally:
                seen.append(self.connected.is_set())

    async with open_session(Watching) as client:
        await trio.sleep(1)
        assert client.session.connected.is_set()
    assert seen == [False]


async def test_an_unexpected_failure_of_the_runtime_ends_one_session_with_1011(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_session(Notebook) as client:
        await trio.sleep(1)
        whole = MemoryTransport.send_nowait

        def broken(transport: MemoryTransport, messages: Any) -> bool:
            if transport is client.transport:
                return whole(transport, messages)
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr(MemoryTransport, "send_nowait", broken)
        await client.send("mark", number=1)
        assert (await client.ended()).reason == "internal_error"
        with pytest.raises(TransportClosed, match="1011"):
            await client.receive("never")
        assert client.session.model.notes == [1, "disconnected"]


# ---- isolation


async def test_forty_clients_never_see_each_other() -> None:
    loads = []

    class Private(ReactorModel):
        def load(self, config: dict[str, Any]) -> None:
            loads.append(config)
            self.weights = object()

        @connected
        def on_connect(self) -> None:
            self.value = ""

        @event(dedupe=True)
        async def put(self, value: str) -> Said:
            self.value = value
            await trio.sleep(0.01)
            return Said(text=self.value)

        async def run(self) -> None:
            while True:
                await self.connected.wait()
                await trio.sleep(0.05)
                await self.send(Said(text=self.value))

    host = await load_host(Private, {"checkpoint": "x"})
    weights = set()

    async def one(number: int) -> None:
        async with open_session(host) as client:
            for round_ in range(10):
                value = f"{number}/{round_}"
                reply = await client.call("put", value=value)
                assert reply is not None
                assert reply.data == {"text": value}
                await trio.sleep(0.03 * (number % 7))
            weights.add(id(client.session.model.weights))
            foreign = {
                message["data"]["text"] for message in received(client) if message["type"] == "said"
            } - {f"{number}/{round_}" for round_ in range(10)}
            assert foreign <= {""}

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(one, number)
    assert loads == [{"checkpoint": "x"}]
    assert len(weights) == 1, "all share the loaded weights"


async def test_what_a_handler_assigns_is_the_sessions_own() -> None:
    host = await load_host(Notebook)
    async with open_session(host) as one, open_session(host) as two:
        await one.call("mark", number=1)
        await two.call("mark", number=2)
        assert one.session.model.notes == [1]
        assert two.session.model.notes == [2]
        assert not hasattr(host.prototype, "notes")


# ---- load, compute, and mistakes of a model


async def test_load_may_be_async_and_gets_the_config() -> None:
    class Loader(ReactorModel):
        async def load(self, config: dict[str, Any]) -> None:
            await trio.sleep(10)
            self.config = config
            self.doubled = await self.compute(lambda x: x * 2, config["x"])

    async with open_session(Loader, {"x": 21}) as client:
        assert client.session.model.config == {"x": 21}
        assert client.session.model.doubled == 42


async def test_a_failing_load_raises_to_whoever_loads() -> None:
    class Unloadable(ReactorModel):
        def load(self, config: dict[str, Any]) -> None:
            raise FileNotFoundError("weights.pt")

    with pytest.raises(FileNotFoundError, match=r"weights\.pt"):
        async with open_session(Unloadable):
            raise AssertionError("unreachable")


async def test_compute_returns_the_result_and_raises_what_the_function_raises() -> None:
    class Computing(ReactorModel):
        @event
        async def divide(self, a: int, b: int) -> Said:
            try:
                return Said(text=str(await self.compute(divmod, a, b)))
            except ZeroDivisionError:
                raise CommandError("by_zero", "b must not be 0") from None

        @event(in_thread=True)
        def blocking(self) -> Said:
            return Said(text="from a thread")

    async with open_session(Computing) as client:
        assert (await client.call("divide", a=7, b=2)).data == {"text": "(3, 1)"}  # type: ignore[union-attr]
        with pytest.raises(CommandError, match="by_zero"):
            await client.call("divide", a=7, b=0)
        assert (await client.call("blocking")).data == {"text": "from a thread"}  # type: ignore[union-attr]


async def test_outside_a_session_a_model_says_what_is_missing() -> None:
    model = Notebook()
    with pytest.raises(NoSession, match=r"Notebook\.send needs a session"):
        await model.send(Said(text="x"))
    with pytest.raises(NoSession, match=r"Notebook\.client needs a session"):
        _ = model.client
    with pytest.raises(NoSession, match="compute"):
        await model.compute(print)
    with pytest.raises(AttributeError, match=r"Notebook\.client belongs to the runtime"):
        model.client = 5  # type: ignore[assignment]


# ---- uploads


async def test_a_command_waits_aside_for_its_upload_and_delays_no_other() -> None:
    class Model(ReactorModel):
        @connected
        def on_connect(self) -> None:
            self.notes: list[Any] = []

        @event(dedupe=True)
        def use(self, image: UploadedFile) -> None:
            self.notes.append(image.data)

        @event
        def mark(self, number: int) -> None:
            self.notes.append(number)

    def start(upload_id: str, size: int) -> str:
        data = {"upload_id": upload_id, "name": "n", "mime_type": "image/png", "size": size}
        return json.dumps({"type": "reactor.upload_start", "data": data, "id": f"start {upload_id}"})

    def use(upload_id: str, id_: str) -> str:
        return json.dumps({"type": "use", "data": {"image": {"upload_id": upload_id}}, "id": id_})

    async with open_session(Model) as client:
        await said(client, start("u1", 6))
        await said(client, use("u1", "use 1"))
        await client.call("mark", number=1)
        assert client.session.model.notes == [1]
        await said(client, start("u2", 3))
        await said(client, use("u2", "use 2"))  # supersedes `use 1`, which still waits
        await client.transport.send([encode_upload_chunk(UploadChunk("u1", 0, b"abc"))])
        await client.transport.send([encode_upload_chunk(UploadChunk("u1", 3, b"def"))])
        await client.transport.send([encode_upload_chunk(UploadChunk("u2", 0, b"xyz"))])
        await trio.sleep(1)
        assert client.session.model.notes == [1, b"xyz"]
        await said(client, use("u1", "use 3"))
        await said(client, use("never", "use 4"))
        await trio.sleep(1)
        assert client.session.model.notes == [1, b"xyz", b"abcdef"]
        kinds = {id_: (kind, data.get("code")) for id_, (kind, data) in answers(client).items()}
        assert kinds["use 1"] == ("reactor.superseded", None)
        assert kinds["use 2"] == kinds["use 3"] == ("reactor.ack", None)
        assert kinds["use 4"] == ("reactor.error", "unresolved_upload")
        assert kinds["start u1"] == kinds["start u2"] == ("reactor.upload_complete", None)


async def test_an_upload_that_never_comes_times_out_its_command() -> None:
    class Model(ReactorModel):
        @event
        def use(self, image: UploadedFile) -> None: ...

    data = {"upload_id": "u", "name": "n", "mime_type": "image/png", "size": 6}
    async with open_session(Model, limits=Limits(upload_timeout=30)) as client:
        await said(client, json.dumps({"type": "reactor.upload_start", "data": data}))
        began = trio.current_time()
        with pytest.raises(CommandError, match="unresolved_upload"):
            await client.call("use", image={"upload_id": "u"})
        assert trio.current_time() - began == pytest.approx(30)
        async with trio.open_nursery() as nursery:

            async def use() -> None:
                with pytest.raises(CommandError, match="unresolved_upload"):
                    await client.call("use", image={"upload_id": "u"})

            nursery.start_soon(use)
            await trio.sleep(1)
            began = trio.current_time()
            await said(client, '{"type": "reactor.upload_abort", "data": {"upload_id": "u"}, "id": "abort"}')
        assert trio.current_time() == began, "a failed upload fails its commands at once"
        assert answers(client)["abort"] == ("reactor.ack", {})


async def test_a_large_upload_is_spooled_and_arrives_whole() -> None:
    class Model(ReactorModel):
        @event
        def use(self, files: list[UploadedFile]) -> Said:
            return Said(text=" ".join(f"{len(file.data)}:{file.data[-3:].decode()}" for file in files))

    large = b"a" * 3_000_000 + b"end"
    async with open_session(Model, limits=Limits(spool_bytes=1_000_000)) as client:
        progress: list[tuple[int, int]] = []
        handle = await client.upload(large, name="large.bin", on_progress=lambda *p: progress.append(p))
        small = await client.upload(b"small", name="small.bin")
        empty = await client.upload(b"", name="empty.bin")
        reply = await client.call("use", files=[handle, small, empty])
        assert reply is not None
        assert reply.data == {"text": "3000003:end 5:all 0:"}
        assert progress[-1] == (3000003, 3000003)
        assert len(progress) == 12


async def test_upload_limits_are_checked_before_any_byte() -> None:
    class Model(ReactorModel):
        @event
        def use(self, image: UploadedFile = InputField(max_size=3, mime_types=["image/*"])) -> None: ...

    limits = Limits(max_upload_bytes=100, max_session_upload_bytes=150, max_uploads=3)
    async with open_session(Model, limits=limits) as client:
        for size, code in [
            (101, "upload_too_large"),
            (100, None),
            (51, "upload_quota"),
            (4, None),
            (2, None),
        ]:
            if code is None:
                last = await client.upload(b"x" * size, name="a.png")
            else:
                with pytest.raises(CommandError, match=code):
                    await client.upload(b"x" * size, name="a.png")
        with pytest.raises(CommandError, match="upload_quota"):
            await client.upload(b"x", name="fourth.png")
        await client.call("use", image=last)


async def test_the_parameters_own_limits_are_told_by_code() -> None:
    class Model(ReactorModel):
        @event
        def use(self, image: UploadedFile = InputField(max_size=3, mime_types=["image/*"])) -> None: ...

    async with open_session(Model) as client:
        large = await client.upload(b"1234", name="a.png")
        text = await client.upload(b"123", name="a.txt")
        with pytest.raises(CommandError, match="upload_too_large") as refused:
            await client.call("use", image=large)
        assert [error.path for error in refused.value.errors] == ["image"]
        with pytest.raises(CommandError, match="upload_type"):
            await client.call("use", image=text)


# ---- back-pressure


async def test_send_waits_while_the_client_is_behind_and_memory_stays_bounded() -> None:
    async with open_session(Notebook, limits=Limits(send_timeout=1000, heartbeat=1000)) as client:
        client.transport.stall()
        await client.send("say", text="x" * 10_000, times=5_000)
        await client.send("mark", number=1)
        await trio.sleep(60)
        waiting = client.session.statistics()
        assert waiting.messages_waiting == 256
        assert waiting.commands_waiting == 1, "the handler before it waits, with more to send"
        client.transport.cut()
        assert (await client.ended()).reason == "connection_lost"


async def test_answers_that_find_no_room_wait_for_it_and_none_is_lost() -> None:
    limits = Limits(max_queued_messages=2, send_timeout=1000, heartbeat=1000)
    async with open_session(Notebook, limits=limits) as client:
        for number in range(200):
            await said(client, json.dumps({"type": "unknown", "id": number}))
        await trio.sleep(1)
        assert list(answers(client)) == list(range(200))


@pytest.mark.parametrize("how", ["swallows", "shields"])
async def test_a_model_that_does_not_end_is_named_and_does_not_keep_its_client(how: str) -> None:
    done = trio.Event()

    class Stubborn(ReactorModel):
        @event
        async def go(self) -> None:
            if how == "shields":
                with trio.CancelScope(shield=True):
                    await done.wait()
            while not done.is_set():
                try:
                    await trio.sleep(1)
                except trio.Cancelled:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(1)

    with capture_logs() as logs:
        async with open_session(Stubborn, limits=Limits(hook_timeout=7)) as client:
            await client.send("go")
            await trio.sleep(1)
            began = trio.current_time()
            client.session.drain()
            with pytest.raises(TransportClosed) as closed:
                await client.call("go")
            assert closed.value.code == 1001
            assert client.goodbye == "shutting_down"
            assert trio.current_time() - began == pytest.approx(7, abs=2)
            await trio.sleep(100)
            assert client.session.ending is not None
            done.set()
            assert (await client.ended()).reason == "shutting_down"
    [said] = [entry for entry in logs if entry["event"] == "the model goes on after its session"]
    assert re.search(r"Stubborn\.go at .*test_session\.py:\d+ \(task session-1/dispatch\)", said["waits_for"])


@pytest.mark.parametrize(
    ("field", "value", "takes"),
    [
        ("max_uploads", "9", "an int"),
        ("max_uploads", 9.5, "an int"),
        ("max_uploads", True, "an int"),
        ("heartbeat", None, "a number"),
    ],
)
def test_a_limit_of_another_type_is_an_error_that_names_it(field: str, value: Any, takes: str) -> None:
    with pytest.raises(TypeError, match=f"'{field}' must be {takes}"):
        Limits(**{field: value})


def test_a_limit_out_of_range_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="'heartbeat' must be > 0"):
        Limits(heartbeat=0)
