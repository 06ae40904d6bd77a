"""Rates: the token bucket alone, and the limits of a session that use it, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import orjson
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio import ReactorModel, UploadedFile, event
from reactor_trio.client import Superseded, open_client
from reactor_trio.errors import CommandError
from reactor_trio.link.host import ModelHost
from reactor_trio.link.rates import Rates
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, encode_media, encode_upload_chunk
from reactor_trio.protocol.client_messages import Invoke
from reactor_trio.protocol.text import encode_client_text
from reactor_trio.server.serve import Server
from reactor_trio.server.settings import ServerSettings
from reactor_trio.session.inbox import TIME_SLICE
from reactor_trio.session.limits import Limits
from reactor_trio.testing import InlineExecutor, SessionClient, memory_transport_pair, open_session
from reactor_trio.wire.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

RATE = 10.0
KIB = 1024

# ---- the bucket

rates = st.floats(0.01, 1e4)
bursts = st.floats(1, 1e4)
steps = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), min_size=1, max_size=60)


@given(rates, bursts, steps)
def test_never_more_than_burst_and_rate_in_any_window(
    rate: float, burst: float, steps: list[tuple[float, int]]
) -> None:
    bucket, now = TokenBucket(rate, burst, 0.0), 0.0
    taken: list[tuple[float, float]] = []
    for pause, amount in steps:
        now += pause
        if not bucket.take(now, amount):
            taken.append((now, amount))
    for first, (start, _) in enumerate(taken):
        total = 0.0
        for end, amount in taken[first:]:
            total += amount
            assert total <= (burst + rate * (end - start)) * (1 + 1e-9) + 1e-6


@given(rates, bursts, steps)
def test_who_waits_as_long_as_told_gets_through_and_no_one_waits_for_nothing(
    rate: float, burst: float, steps: list[tuple[float, int]]
) -> None:
    bucket, now = TokenBucket(rate, burst, 0.0), 0.0
    for pause, amount in steps:
        wanted = min(amount, burst)
        now += pause
        wait = bucket.take(now, wanted)
        if wait > 1e-3:
            assert bucket.take(now + wait / 2, wanted)
        now += wait + (1e-9 if wait else 0)
        if wait:
            assert not bucket.take(now + 1e-6, wanted)
            now += 1e-6


@given(rates, bursts, st.integers(1, 30))
def test_what_is_given_back_was_never_taken(rate: float, burst: float, count: int) -> None:
    bucket, twin = TokenBucket(rate, burst, 0.0), TokenBucket(rate, burst, 0.0)
    for _ in range(count):
        if not bucket.take(0.0):
            bucket.give_back()
    assert bucket.take(0.0, burst) == pytest.approx(twin.take(0.0, burst), abs=1e-6)
    for _ in range(count):
        bucket.give_back(burst)  # the bucket never holds more than `burst`
    assert not bucket.take(0.0, burst)
    assert bucket.take(0.0, 1.0)


@given(rates, bursts, steps)
def test_who_pays_its_debts_keeps_the_rate(rate: float, burst: float, steps: list[tuple[float, int]]) -> None:
    bucket, now, spent = TokenBucket(rate, burst, 0.0), 0.0, []
    for pause, amount in steps:
        now += pause
        bucket.spend(now, amount)
        spent.append((now, amount))
        now += bucket.debt(now)
    largest = max(amount for _, amount in steps)
    for first, (start, _) in enumerate(spent):
        total = 0.0
        for end, amount in spent[first:]:
            total += amount
            assert total <= (burst + largest + rate * (end - start)) * (1 + 1e-9) + 1e-6


# ---- commands


class Slider(ReactorModel):
    def __init__(self) -> None:
        self.values: list[int] = []
        self.go_on = trio.Event()

    def load(self, config: dict[str, Any]) -> None:
        self.values = []
        self.go_on = trio.Event()

    @event
    def step(self) -> None:
        self.values.append(0)

    @event
    async def block(self) -> None:
        await self.go_on.wait()

    @event(dedupe=True)
    def slide(self, value: int) -> None:
        self.values.append(value)

    @event
    def measure(self, file: UploadedFile) -> None:
        self.values.append(file.size)


async def answers(client: SessionClient, texts: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Send all texts at once; returns type and data of each message that the session answers with."""
    seen = len(client.transcript)
    await client.transport.send(texts)
    await trio.testing.wait_all_tasks_blocked()
    written = [entry for entry in client.transcript[seen:] if entry.direction == "<"]
    found = [orjson.loads(entry.message) for entry in written]
    return [(each["type"], each["data"]) for each in found]


def commands(count: int, name: str = "step", **data: Any) -> list[str]:
    return [encode_client_text(name, data, number) for number in range(count)]


async def test_commands_beyond_the_rate_are_overloaded_and_told_when() -> None:
    async with open_session(Slider, limits=Limits(max_events_per_second=RATE)) as client:
        got = await answers(client, commands(13))
        assert [type_ for type_, _ in got] == [names.ACK] * 10 + [names.ERROR] * 3
        assert got[-1][1] == {
            "code": "overloaded",
            "message": "more than 10 commands a second; this one was not taken",
            "event": "step",
            "retry_after": 0.1,
        }
        assert client.session.model.values == [0] * 10
        await trio.sleep(got[-1][1]["retry_after"])
        got = await answers(client, commands(2))
        assert [type_ for type_, _ in got] == [names.ACK, names.ERROR]


async def test_the_python_client_sees_when_to_try_again() -> None:
    async with open_session(Slider, limits=Limits(max_events_per_second=1)) as client:
        await client.call("step")
        with pytest.raises(CommandError, match="overloaded") as refused:
            await client.call("step")
        assert refused.value.retry_after is not None
        await trio.sleep(refused.value.retry_after)
        await client.call("step")
    assert CommandError("x", "y").retry_after is None


async def test_a_superseded_command_does_not_count() -> None:
    async with open_session(Slider, limits=Limits(max_events_per_second=RATE)) as client:
        assert await answers(client, [encode_client_text("block", {})]) == []
        sliders = [encode_client_text("slide", {"value": value}, value) for value in range(100)]
        got = await answers(client, sliders)
        assert [type_ for type_, _ in got] == [names.SUPERSEDED] * 99
        client.session.model.go_on.set()
        got = await answers(client, commands(9))
        assert [type_ for type_, _ in got] == [names.ACK] * 9 + [names.ERROR]
        assert client.session.model.values == [99] + [0] * 8


async def test_one_that_waits_aside_for_its_upload_gives_its_token_back_too() -> None:
    start = {"upload_id": "u", "name": "a", "mime_type": "b", "size": 3}

    class Dedupes(Slider):
        @event(dedupe=True)
        def put(self, file: UploadedFile) -> None:
            self.values.append(file.size)

    async with open_session(Dedupes, limits=Limits(max_events_per_second=RATE)) as client:
        put = [encode_client_text("put", {"file": {"upload_id": "u"}}, number) for number in range(50)]
        got = await answers(client, [encode_client_text(names.UPLOAD_START, start), *put])
        assert [type_ for type_, _ in got] == [names.UPLOAD_READY] + [names.SUPERSEDED] * 49
        assert [type_ for type_, _ in await answers(client, commands(10))] == [names.ACK] * 9 + [names.ERROR]


async def test_pings_are_answered_whatever_the_rate() -> None:
    async with open_session(Slider, limits=Limits(max_events_per_second=1)) as client:
        pings = [encode_client_text(names.PING, {"t": 0}, number) for number in range(20)]
        got = await answers(client, [*commands(5), *pings])
        assert [type_ for type_, _ in got].count(names.PONG) == 20


async def test_without_a_limit_all_are_taken() -> None:
    async with open_session(Slider, limits=Limits(max_events_per_second=0)) as client:
        got = await answers(client, commands(1000))
        assert [type_ for type_, _ in got] == [names.ACK] * 1000


async def test_a_rate_below_one_still_lets_one_through() -> None:
    counts = Rates(Limits(max_events_per_second=0.5))
    command = Invoke("x", {})
    counts.command(command, trio.current_time())
    with pytest.raises(Exception, match=r"more than 0\.5 commands") as refused:
        counts.command(command, trio.current_time())
    assert getattr(refused.value, "retry_after", None) == 2.0


# ---- messages of all kinds


class Slow:
    """Costs the loop 1 ms whenever it is made, and is then refused. Stands for any slow work on a message."""

    def __attrs_post_init__(self) -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(0.001)
        raise ValueError("refused")


@attrs.frozen
class Costly(Slow):
    number: int


class Weighs(ReactorModel):
    @event
    def weigh(self, what: Costly) -> None:
        raise AssertionError("it was refused")


async def test_however_much_one_client_sends_at_once_others_have_their_turn() -> None:
    host = await ModelHost.load(Weighs, executor=InlineExecutor(), limits=Limits(max_events_per_second=0))
    ours, theirs = memory_transport_pair()
    waits: list[float] = []

    async def other_task() -> None:
        while True:
            asked = trio.current_time()
            await trio.lowlevel.checkpoint()
            waits.append(trio.current_time() - asked)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.session(theirs).run)
        await ours.receive()
        flood = [encode_client_text("weigh", {"what": {"number": number}}, number) for number in range(200)]
        nursery.start_soon(other_task)
        await ours.send(flood)
        answered = 0
        while answered < len(flood):
            answered += len(await ours.receive())
        nursery.cancel_scope.cancel(reason="the test is over")
    assert answered == 200
    # A message costs 2 ms here. Trio shuffles the ready tasks, so two steps of the session may come before
    # the other task has its turn.
    assert max(waits) <= 2 * (TIME_SLICE + 0.002) + 1e-9


FLOODS: dict[str, Callable[[int], str | bytes]] = {
    "unknown commands": lambda number: encode_client_text("nothing", {}, f"f{number}"),
    "pings": lambda number: encode_client_text(names.PING, {"t": number}, f"f{number}"),
    "refused commands": lambda number: encode_client_text("step", {"no": 1}, f"f{number}"),
    "frames of no track": lambda number: encode_media(
        MediaFrame(track="none", seq=number, pts=0.0, codec="raw", payload=b"", width=0, height=0)
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_messages_beyond_the_rate_are_read_later_and_none_is_lost(kind: str) -> None:
    limits = Limits(max_messages_per_second=100, max_events_per_second=0, max_bad_messages=10_000)
    async with open_session(Slider, limits=limits) as client:
        await answers(client, commands(100))
        began, seen = trio.current_time(), len(client.transcript)
        await client.transport.send([FLOODS[kind](number) for number in range(300)])
        await client.call("step")
        took = trio.current_time() - began
        written = [entry for entry in client.transcript[seen:] if entry.direction == "<"]
        assert len(written) == 301
        # One second's worth of messages is on credit.
        assert 1.9 < took < 3.1


async def test_a_client_that_keeps_to_the_rate_of_messages_never_waits() -> None:
    async with open_session(Slider, limits=Limits(max_messages_per_second=100)) as client:
        for _ in range(500):
            began = trio.current_time()
            await client.ping()
            assert trio.current_time() == began
            await trio.sleep(0.01)


# ---- bytes


LIMITED = Limits(max_message_bytes=64 * KIB, upload_chunk_bytes=32 * KIB, max_bytes_per_second=64 * KIB)


async def test_an_upload_is_slowed_down_and_not_refused() -> None:
    async with open_session(Slider, limits=LIMITED) as client:
        began = trio.current_time()
        handle = await client.upload(bytes(640 * KIB))
        # One second's worth passes at once, and the last chunk is on credit.
        assert trio.current_time() - began == pytest.approx(9, abs=0.6)
        await client.call("measure", file=handle)
        assert client.session.model.values == [640 * KIB]


async def test_commands_and_pings_wait_for_a_second_at_most_beside_an_upload() -> None:
    """Each waits a second at most for a message ahead of it on the wire; the client has one chunk there."""
    slowest = 0.0
    async with open_session(Slider, limits=LIMITED) as client:
        chunks = [encode_upload_chunk(UploadChunk("none", 0, bytes(60 * KIB))) for _ in range(2)]
        await client.transport.send(chunks)  # the bytes of this second, and of one more
        for _ in range(5):
            await client.transport.send(chunks[:1])
            began = trio.current_time()
            await client.call("step")
            await client.ping()
            slowest = max(slowest, trio.current_time() - began)
    assert 0.5 < slowest < 2.2


async def test_a_session_that_is_slowed_down_keeps_its_heartbeat_and_ends_politely() -> None:
    limits = Limits(
        max_message_bytes=64 * KIB,
        upload_chunk_bytes=64 * KIB - 256,
        max_bytes_per_second=256 * KIB,
        heartbeat=10.0,
    )
    async with open_session(Slider, limits=limits) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.upload, bytes(10_000 * KIB))
            await trio.sleep(30)
            assert client.session.ending is None
            nursery.cancel_scope.cancel(reason="the test is over")
        began = trio.current_time()
        await client.aclose()
        await client.ended()
        # The session first pays for the bytes that the connection holds: a megabyte in memory; over a socket,
        # the bytes of one read.
        assert trio.current_time() - began < 8


@pytest.mark.real_time
async def test_over_a_socket_the_sender_is_slowed_down() -> None:
    """In real time, since the kernel's buffers hold bytes back. Takes half a second."""
    limits = Limits(max_message_bytes=512 * KIB, upload_chunk_bytes=64 * KIB, max_bytes_per_second=8192 * KIB)

    async def load() -> ModelHost:
        return await ModelHost.load(Slider, limits=limits)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            server = Server(ServerSettings(port=0), name="slider")
            await nursery.start(server.run, load)
            async with open_client(f"ws://{server.authority}") as client:
                began = trio.current_time()
                handle = await client.upload(bytes(12_288 * KIB))
                assert 0.4 < trio.current_time() - began < 5
                await client.call("measure", file=handle)
            nursery.cancel_scope.cancel(reason="the test is over")


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_events_per_second": -1},
        {"max_messages_per_second": -1},
        {"max_bytes_per_second": -1},
        {"max_bytes_per_second": 1024 * KIB - 1},
    ],
)
def test_rates_out_of_range_are_value_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Limits(**wrong)


def test_superseded_is_no_overload() -> None:
    assert Superseded("slide").retry_after is None
