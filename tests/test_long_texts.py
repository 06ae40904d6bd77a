"""Long messages are read and validated in a lane of their own: in order; other clients do not wait."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any, TypeVar

import attrs
import pytest
import trio

from reactor_trio import (
    CommandError,
    ModelMessage,
    ReactorModel,
    UploadedFile,
    connected,
    disconnected,
    event,
)
from reactor_trio.compute.executor import ThreadExecutor
from reactor_trio.compute.lanes import PAYLOADS
from reactor_trio.link.reading import INLINE_CHARACTERS, INLINE_CHARACTERS_TRIED
from reactor_trio.protocol.binary import UploadChunk, encode_upload_chunk
from reactor_trio.session.limits import Limits
from reactor_trio.testing import SessionClient, load_host, open_session
from slow_executor import SlowExecutor

T = TypeVar("T")
READING = 2.0
"""Seconds that the reading of a long text takes in these tests."""
LONG = "x" * 20_000


class Said(ModelMessage):
    text: str


@dataclass
class Row:
    size: int
    name: str = ""


class Notebook(ReactorModel):
    """Keeps the beginnings of the texts of `say`, in order."""

    gone: list[str]

    def load(self, config: dict[str, Any]) -> None:
        self.gone = []

    @connected
    def on_connect(self) -> None:
        self.notes: list[str] = []

    @disconnected
    def on_disconnect(self) -> None:
        self.gone.extend(self.notes)

    @event
    def say(self, text: str, rows: list[Row] | None = None) -> Said:
        self.notes.append(text[:9])
        return Said(text=text[:9])

    @event
    def use(self, files: list[UploadedFile], text: str = "") -> Said:
        return Said(text=f"{len(files)} files")


async def post(client: SessionClient, *messages: dict[str, Any] | str) -> None:
    await client.transport.send(
        [each if isinstance(each, str) else json.dumps({"data": {}, **each}) for each in messages]
    )


def say(id_: int, text: str) -> dict[str, Any]:
    return {"type": "say", "data": {"text": text}, "id": id_}


def answered(client: SessionClient) -> list[tuple[Any, str, Any]]:
    """The server's messages so far, each as the id that it answers, its code or type, and its data."""
    found = []
    for entry in client.transcript:
        if entry.direction == "<" and isinstance(entry.message, str):
            message = json.loads(entry.message)
            data = message["data"]
            if message["type"] not in ("reactor.welcome", "reactor.upload_ready", "reactor.upload_complete"):
                found.append((message.get("reply_to"), data.get("code", message["type"]), data))
    return found


async def answers(client: SessionClient, count: int) -> list[tuple[Any, str]]:
    """Wait for `count` answers; return all so far, each as the id that it answers and its code or type."""
    while len(answered(client)) < count:  # noqa: ASYNC110  a transcript sets no event
        await trio.sleep(0.01)
    return [each[:2] for each in answered(client)]


async def test_what_comes_behind_a_long_command_waits_for_it_and_others_do_not() -> None:
    executor = SlowExecutor(READING, PAYLOADS, one_at_a_time=True)
    host = await load_host(Notebook, executor=executor)
    async with open_session(host) as client, open_session(host) as other:
        await post(
            client, say(1, "first"), say(2, "long" + LONG), say(3, "third"), {"type": "nothing", "id": 4}
        )
        began = trio.current_time()
        for number in range(5):
            await other.call("say", text=str(number))
        assert trio.current_time() - began < 0.1
        assert await answers(client, 4) == [(1, "said"), (2, "said"), (3, "said"), (4, "unknown_event")]
        assert trio.current_time() - began == pytest.approx(READING, abs=0.1)
        assert client.session.model.notes == ["first", "longxxxxx", "third"]
        assert executor.calls == 1


async def test_answers_before_a_long_text_do_not_wait_for_it() -> None:
    async with open_session(Notebook, executor=SlowExecutor(READING, PAYLOADS, one_at_a_time=True)) as client:
        began = trio.current_time()
        await post(client, say(1, "first"), say(2, LONG))
        assert await answers(client, 1) == [(1, "said")]
        assert trio.current_time() - began < 0.1


async def test_each_kind_of_long_text_gets_its_answer() -> None:
    wrong = {f"f{number}": 1 for number in range(3000)}
    rows = [{"size": 1}] * 900
    async with open_session(Notebook, executor=SlowExecutor(READING, PAYLOADS, one_at_a_time=True)) as client:
        await post(
            client,
            {"type": "say", "data": {"text": "a", "rows": rows}, "id": 1},
            {"type": "say", "data": {"text": "a", "rows": [*rows, {}]}, "id": 2},
            {"type": "say", "data": wrong, "id": 3},
            {"type": "nothing", "data": wrong, "id": 4},
            {"type": "reactor.ping", "data": {"t": 1, **wrong}, "id": 5},
            {"type": "reactor.nothing", "data": wrong, "id": 6},
            {"type": "reactor.upload_abort", "data": {"upload_id": LONG}, "id": 7},
            {"type": "use", "data": {"files": [{"upload_id": "none"}], "text": LONG}, "id": 8},
            '{"type":"say","id":9,"data":{"text":"' + LONG + '"',
            '{"type":"say","id":10,"data":' + "[" * 10_000,
            {"type": "reactor.ping", "data": {"t": 1}, "id": 11},
        )
        found = await answers(client, 11)
        assert found == [
            (1, "said"),
            (2, "invalid_payload"),
            (3, "invalid_payload"),
            (4, "unknown_event"),
            (5, "invalid_payload"),
            (6, "unknown_event"),
            (7, "invalid_payload"),
            (8, "unresolved_upload"),
            (None, "bad_message"),
            (None, "bad_message"),
            (11, "reactor.pong"),
        ]
        assert client.session.statistics().counts.bad_messages == 2


async def test_a_rate_holds_for_long_commands_too() -> None:
    limits = Limits(max_events_per_second=2)
    async with open_session(Notebook, limits=limits) as client:  # reading takes no time here
        await post(client, *(say(number, LONG) for number in range(4)))
        assert [code for _, code in await answers(client, 4)] == ["said", "said", "overloaded", "overloaded"]


async def test_a_client_that_is_lost_gives_its_place_back_after_the_one_call() -> None:
    executor = SlowExecutor(READING, PAYLOADS, one_at_a_time=True)
    host = await load_host(Notebook, executor=executor)
    async with open_session(host) as stays, open_session(host) as leaves:
        await post(leaves, say(1, "a"), *(say(number, "late" + LONG) for number in range(2, 9)))
        assert await answers(leaves, 1) == [(1, "said")]
        await leaves.transport.abort()
        began = trio.current_time()
        await stays.call("say", text=LONG)
        assert trio.current_time() - began <= 2 * READING + 0.1
        await trio.sleep(10 * READING)
        assert executor.calls <= 3
        assert leaves.session.ending is not None


async def test_nothing_is_begun_for_a_text_that_was_read_when_the_session_had_ended() -> None:
    class Model(Notebook):
        async def run(self) -> None:
            await self.connected.wait()
            await trio.sleep(READING / 2)

    executor = SlowExecutor(READING, PAYLOADS, one_at_a_time=True)
    host = await load_host(Model, executor=executor)
    async with open_session(host) as client:
        upload = {"upload_id": "u", "name": "n", "mime_type": "a/b", "size": 6}
        use = {"type": "use", "data": {"files": [{"upload_id": "u"}], "text": LONG}}
        await post(client, {"type": "reactor.upload_start", "data": upload}, use, say(2, "never"))
        ending = await client.ended()
        assert ending.reason == "finished"
        assert executor.calls == 1
    assert host.prototype.gone == []


async def test_a_long_command_waits_for_its_uploads() -> None:
    count = 130  # an error lists 100 faults at most, so the uploads are asked for in two goes
    executor = SlowExecutor(READING, PAYLOADS, one_at_a_time=True)
    async with open_session(Notebook, executor=executor) as client:
        ids = [f"u{number}" for number in range(count)]
        for id_ in ids:
            upload = {"upload_id": id_, "name": "n", "mime_type": "a/b", "size": 1}
            await post(client, {"type": "reactor.upload_start", "data": upload})
        refs = [{"upload_id": id_} for id_ in ids]
        await post(
            client, {"type": "use", "data": {"files": refs, "text": LONG}, "id": "use"}, say(1, "next")
        )
        assert await answers(client, 1) == [(1, "said")]
        await client.transport.send([encode_upload_chunk(UploadChunk(id_, 0, b"x")) for id_ in ids])
        assert (await answers(client, 2))[1] == ("use", "said")
        assert answered(client)[1][2] == {"text": f"{count} files"}
        assert executor.calls >= 2


@pytest.mark.parametrize(
    ("tp", "value"),
    [
        (Any, [[1, {"a": [None, "b"]}]] * 1500),
        (dict, {f"k{number}": {"a": [number]} for number in range(1500)}),
        (list[dict[str, Any]], [{"a": [1, 2], "b": {"c": "d"}}] * 1500),
        (list[list[int]] | dict[str, list[float]], [[1, 2]] * 3000),
        (dict[str, tuple[Row, ...]], {f"k{number}": ({"size": 1},) for number in range(1500)}),
    ],
)
async def test_a_handler_gets_all_of_a_long_payload(tp: Any, value: Any) -> None:
    given = []

    def put(self: Any, x: Any) -> None:
        given.append(x)

    put.__annotations__ = {"x": tp, "return": None}
    model = type("Model", (ReactorModel,), {"put": event(name="put")(put)})
    async with open_session(model) as client:
        await client.call("put", x=value)
    assert json.loads(json.dumps(given[0], default=attrs_or_dataclass)) == json.loads(json.dumps(value))


def attrs_or_dataclass(value: Any) -> Any:
    return {"size": value.size}


async def test_a_validator_that_fails_in_the_thread_costs_its_command() -> None:
    class Panic(BaseException):
        """A `BaseException` that is no `Exception`."""

    def panic(_instance: object, _attribute: object, value: int) -> None:
        if value == 13:
            raise Panic

    @attrs.frozen
    class Box:
        size: int = attrs.field(validator=panic)

    def put(self: Any, boxes: Any) -> None: ...

    put.__annotations__ = {"boxes": list[Box], "return": None}
    model = type("Model", (ReactorModel,), {"put": event(name="put")(put)})
    async with open_session(model, executor=SlowExecutor(READING, PAYLOADS, one_at_a_time=True)) as client:
        await client.call("put", boxes=[{"size": 1}] * 2000)
        with pytest.raises(CommandError, match="internal_error"):
            await client.call("put", boxes=[{"size": 1}] * 2000 + [{"size": 13}])
        await client.call("put", boxes=[{"size": 1}])


@dataclass
class Twin:
    size: str


@pytest.mark.parametrize(("tp", "limit"), [(Any, INLINE_CHARACTERS), (Row | Twin, INLINE_CHARACTERS_TRIED)])
async def test_a_text_is_long_from_a_length_that_depends_on_what_the_model_takes(tp: Any, limit: int) -> None:
    def put(self: Any, x: Any, note: str = "") -> None: ...

    put.__annotations__ = {"x": tp, "note": str, "return": None}
    model = type("Model", (ReactorModel,), {"put": event(name="put")(put)})
    executor = SlowExecutor(READING, PAYLOADS, one_at_a_time=True)
    async with open_session(model, executor=executor) as client:
        frame = '{"type":"put","id":%d,"data":{"x":{"size":1},"note":"%s"}}'
        room = limit - len(frame % (1, ""))
        await post(client, frame % (1, "n" * room))
        assert await answers(client, 1) == [(1, "reactor.ack")]
        assert executor.calls == 0
        await post(client, frame % (2, "n" * (room + 1)))
        assert await answers(client, 2) == [(1, "reactor.ack"), (2, "reactor.ack")]
        assert executor.calls == 1


@pytest.mark.real_time
async def test_long_texts_are_validated_in_a_real_thread_and_short_ones_are_not() -> None:
    threads = set()

    def note(_instance: object, _attribute: object, _value: int) -> None:
        threads.add(threading.get_ident())

    @attrs.frozen
    class Box:
        size: int = attrs.field(validator=note)

    def put(self: Any, boxes: Any) -> None: ...

    put.__annotations__ = {"boxes": list[Box], "return": None}
    model = type("Model", (ReactorModel,), {"put": event(name="put")(put)})
    with trio.fail_after(60):
        async with open_session(model, executor=ThreadExecutor()) as client:
            await client.call("put", boxes=[{"size": 1}])
            assert threads == {threading.get_ident()}
            threads.clear()
            await client.call("put", boxes=[{"size": 1}] * 20_000)
            assert len(threads) == 1
            assert threading.get_ident() not in threads
            with pytest.raises(CommandError, match="invalid_payload"):
                await client.call("put", boxes=[{"size": 1}] * 20_000 + [{}])


@dataclass
class Deep:
    v: Deep | Deeper | int | None = None


@dataclass
class Deeper:
    v: Deeper | Deep | int | None = None


async def test_what_may_be_nested_can_be_structured_and_echoed() -> None:
    class Anything(ModelMessage):
        value: Any

    def put(self: Any, x: Any) -> None: ...

    def echo(self: Any, x: Any) -> Any:
        return Anything(value=x)

    put.__annotations__ = {"x": Deep | Deeper, "return": None}
    echo.__annotations__ = {"x": Any, "return": Anything}
    model = type("Model", (ReactorModel,), {"put": event(name="put")(put), "echo": event(name="echo")(echo)})
    async with open_session(model) as client:
        value: Any = 1
        for _ in range(97):
            value = {"v": value}
        await client.call("put", x=value)
        reply = await client.call("echo", x=value)
        assert reply is not None
        assert reply.data == {"value": value}
        inner = value
        while isinstance(inner["v"], dict):
            inner = inner["v"]
        inner["v"] = "wrong"
        with pytest.raises(CommandError) as caught:
            await client.call("put", x=value)
        assert caught.value.errors[0].message.startswith("must be ")
        with pytest.raises(CommandError, match="nested more than 100 levels deep"):
            await client.call("put", x={"v": {"v": value}})
