"""The scripted network of the test kit: when each byte arrives, and how a connection can break."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import trio

from reactor_trio import ModelMessage, Output, ReactorModel, Video, disconnected, event
from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.session.limits import Limits
from reactor_trio.testing import (
    Link,
    MemoryTransport,
    Network,
    load_host,
    memory_transport_pair,
    open_session,
    open_sessions,
    run,
)

KB = 1000


class Said(ModelMessage):
    text: str


class Picture(Output):
    screen: Video


class Echo(ReactorModel):
    @event
    def echo(self, text: str) -> Said:
        return Said(text=text)

    @event
    async def say(self, text: str, times: int) -> None:
        for _ in range(times):
            await self.send(Said(text=text))

    @disconnected
    def on_disconnect(self) -> None:
        self.left = trio.current_time()


async def arrivals(reader: MemoryTransport, count: int) -> list[tuple[float, int]]:
    """The time at which each of the next `count` messages was read, and its size."""
    read: list[tuple[float, int]] = []
    while len(read) < count:
        batch = await reader.receive()
        read += [(trio.current_time(), len(message)) for message in batch]
    return read


async def sent_and_read(network: Network, *messages: str | bytes) -> list[tuple[float, int]]:
    """Write the messages at once, and read them at the other end."""
    client, server = memory_transport_pair(network=network)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, messages)
        return await arrivals(server, len(messages))


# ---- times


async def test_without_a_network_everything_arrives_at_once() -> None:
    assert await sent_and_read(Network(), b"x" * 10_000, "y") == [(0.0, 10_000), (0.0, 1)]


async def test_delay_is_one_way_and_exact() -> None:
    async with open_session(Echo, network=Network(delay=0.05)) as client:
        assert trio.current_time() == 0.05, "the welcome"
        began = trio.current_time()
        await client.call("echo", text="there and back")
        assert trio.current_time() == began + 0.05 + 0.05
        assert await client.ping() == pytest.approx(0.1)


async def test_bandwidth_delays_by_size_and_messages_queue_up() -> None:
    network = Network(delay=0.5, bandwidth=100 * KB)
    assert await sent_and_read(network, b"x" * 50_000, b"y" * 50_000, b"z" * 10) == [
        (1.0, 50_000),
        (1.5, 50_000),
        (1.5001, 10),
    ]


@pytest.mark.parametrize("buffer_bytes", [1, 7, 1000, 1_000_000])
async def test_the_size_of_the_buffer_changes_no_arrival(buffer_bytes: int) -> None:
    network = Network(bandwidth=1000.0, buffer_bytes=buffer_bytes)
    [(first, _), (second, _)] = await sent_and_read(network, b"x" * 1500, b"y" * 500)
    assert (first, second) == (pytest.approx(1.5), pytest.approx(2.0))


async def test_the_directions_are_independent() -> None:
    network = Network(delay=1.0, up=Link(delay=3.0, bandwidth=10.0))
    client, server = memory_transport_pair(network=network)
    await client.send([b"x" * 10])
    await server.send([b"y" * 10])
    assert await arrivals(client, 1) == [(1.0, 10)]
    assert await arrivals(server, 1) == [(4.0, 10)]


def test_jitter_is_seeded_in_bounds_and_nothing_overtakes() -> None:
    async def spread(seed: int, name: str = "a") -> list[float]:
        network = Network(delay=0.1, jitter=0.02, seed=seed)
        client, server = memory_transport_pair(network=network, name=name)
        late: list[float] = []

        async def write() -> None:
            for _ in range(50):
                await client.send([b"x"])
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for number in range(50):
                [(at, _)] = await arrivals(server, 1)
                late.append(at - number * 0.05)
        return late

    once = run(spread, 1)
    assert once == run(spread, 1)
    assert once != run(spread, 2)
    assert once != run(spread, 1, "b"), "another connection of the same network"
    assert all(0.1 <= each < 0.1200001 for each in once)
    assert max(once) - min(once) > 0.01

    async def burst() -> list[tuple[float, int]]:
        return await sent_and_read(Network(jitter=5.0), *(b"x" * n for n in range(1, 40)))

    order = run(burst)
    assert [size for _, size in order] == list(range(1, 40))
    assert all(a <= b for (a, _), (b, _) in itertools.pairwise(order))


async def test_a_network_may_change_while_a_test_runs() -> None:
    async with open_session(Echo) as client:
        assert await client.ping() == 0
        client.network.change(delay=0.25)
        assert await client.ping() == 0.5
        client.network.change("up", delay=0.0)
        assert await client.ping() == 0.25
        assert client.network.link("down").delay == 0.25
        with pytest.raises(TypeError):
            client.network.change(latency=1)


async def test_what_was_written_before_a_change_keeps_its_time() -> None:
    client, server = memory_transport_pair(network=Network(bandwidth=10.0))
    await client.send([b"x" * 10])
    up, _ = client.pipes
    up.link = Link(bandwidth=100.0)
    await client.send([b"y" * 100])
    assert await arrivals(server, 2) == [(1.0, 10), (2.0, 100)]


@pytest.mark.parametrize(
    "fields",
    [{"delay": -1}, {"jitter": -0.1}, {"bandwidth": 0}, {"buffer_bytes": 0}],
    ids=lambda fields: next(iter(fields)),
)
def test_a_number_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Network(**fields)


# ---- back-pressure


async def test_send_waits_for_the_bytes_that_do_not_fit() -> None:
    client, server = memory_transport_pair(network=Network(bandwidth=10 * KB, buffer_bytes=20 * KB))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrivals, server, 1)
        await client.send([b"x" * 50 * KB])
        assert trio.current_time() == pytest.approx(3.0), "20 KB wait, 30 KB have been read"
    assert trio.current_time() == pytest.approx(5.0)


async def test_a_slow_reader_is_kept_and_a_stalled_one_is_cut_off() -> None:
    """Progress is measured in bytes: a reader of 100 bytes a second is slow, but not stalled."""
    client, server = memory_transport_pair(network=Network(bandwidth=100.0, buffer_bytes=KB), send_timeout=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrivals, server, 1)
        await client.send([b"x" * 10 * KB])
        assert trio.current_time() == pytest.approx(90)
    server.stall()
    stalled = trio.current_time()
    with pytest.raises(TransportStalled, match="10 s"):
        await client.send([b"x" * 10 * KB])
    assert trio.current_time() == stalled + 10
    with pytest.raises(TransportStalled):
        await client.send([b"x"])


async def test_a_reader_that_resumes_in_time_is_kept() -> None:
    async with open_session(Echo, network=Network(buffer_bytes=KB), limits=Limits(send_timeout=10)) as client:
        client.network.stall()
        await client.send("say", text="x" * 400, times=100)
        await trio.sleep(9)
        client.network.resume()
        for _ in range(100):
            await client.receive("said")
        assert client.session.ending is None
        assert trio.current_time() == 9


async def test_a_reader_that_stalls_for_good_ends_its_session_and_no_other() -> None:
    host = await load_host(Echo, limits=Limits(send_timeout=10))
    networks = [Network(buffer_bytes=KB), Network()]
    async with open_sessions(host, 2, network=networks) as (slow, fast):
        slow.network.stall()
        await slow.send("say", text="x" * 400, times=1000)
        assert (await slow.ended()).reason == "slow_client"
        assert trio.current_time() == 10
        assert await fast.ping() == 0


async def test_send_nowait_keeps_the_order_and_takes_all_or_nothing() -> None:
    client, server = memory_transport_pair(network=Network(delay=1.0, bandwidth=KB, buffer_bytes=100))
    assert client.send_nowait([b"a" * 40, b"b" * 40])
    assert not client.send_nowait([b"c" * 21])
    assert not client.has_unsent
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, [b"d" * 50])
        await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert not client.send_nowait([b"e"]), "a send is under way"
        read = [message for _ in range(3) for message in await server.receive()]
    assert read == [b"a" * 40, b"b" * 40, b"d" * 50]


async def test_a_send_that_is_cancelled_half_way_leaves_the_stream_torn() -> None:
    client, server = memory_transport_pair(network=Network(buffer_bytes=100))
    server.stall()
    with trio.move_on_after(1) as scope:
        await client.send([b"x" * 150])
    assert scope.cancelled_caught
    with pytest.raises(TransportClosed, match="1006"):
        await client.send([b"y"])
    assert not client.send_nowait([b"y"])


async def test_a_slow_link_shows_the_newest_frame_and_never_slows_the_model() -> None:
    steps = []

    class Noise(ReactorModel):
        fps = 10

        async def run(self) -> None:
            await self.connected.wait()
            for number in range(50):
                pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
                await self.emit(Picture(screen=pixels))
                steps.append(trio.current_time())
            await trio.sleep(5)

    narrow = Network(down=Link(bandwidth=10 * KB, buffer_bytes=2 * KB))
    async with open_session(Noise, network=narrow) as client:
        seqs = [frame.seq async for frame in client.frames()]
    assert steps[-1] < 5
    assert len(seqs) < 25, "a frame takes about 0.25 s"
    assert seqs == sorted(set(seqs))
    assert seqs[-1] == 49


# ---- endings


async def test_a_cut_loses_what_was_on_its_way_and_both_sides_notice() -> None:
    async with open_session(Echo, network=Network(delay=1.0)) as client:
        await client.send("echo", text="lost")
        await trio.sleep(0.5)
        client.network.cut()
        cut = trio.current_time()
        assert (await client.ended()).reason == "connection_lost"
        with pytest.raises(TransportClosed, match="1006"):
            await client.receive()
        assert trio.current_time() == cut == client.session.model.left
        assert client.transcript.of_type("echo") == type(client.transcript)([])


@pytest.mark.parametrize(
    ("cut_at", "whole"), [(0, 0), (1, 0), (99, 0), (100, 1), (101, 1), (299, 2), (300, 3)]
)
async def test_a_cut_at_byte_n_delivers_the_whole_messages_before_it(cut_at: int, whole: int) -> None:
    network = Network(delay=1.0, up=Link(delay=1.0, bandwidth=100.0, cut_at=cut_at))
    client, server = memory_transport_pair(network=network)
    await client.send([b"x" * 100] * 3)
    read: list[Any] = []
    with suppress(TransportClosed):
        while True:
            read += await server.receive()
    assert read == [b"x" * 100] * whole
    assert trio.current_time() == pytest.approx(1 + cut_at / 100)
    with pytest.raises(TransportClosed, match="1006"):
        await client.receive()
    with pytest.raises(TransportClosed, match="1006"):
        await client.send(["after"])


async def test_cut_after_counts_from_now_and_sees_what_is_on_its_way() -> None:
    async with open_session(Echo, network=Network(up=Link(bandwidth=100.0, delay=1.0))) as client:
        began = client.network.arrived("up")
        await client.transport.send([b"?" * 100, b"?" * 100])
        client.network.cut_after(150, "up")
        await client.ended()
        assert trio.current_time() == pytest.approx(2.5)
        assert client.network.arrived("up") - began <= 150
        assert len(client.transcript.of_type("unreadable")) == 1


async def test_half_open_loss_is_found_by_the_heartbeat_alone() -> None:
    async with open_session(Echo, limits=Limits(heartbeat=20)) as client:
        await trio.sleep(50)
        client.network.lose()
        lost = trio.current_time()
        await client.send("echo", text="into the void")
        await trio.sleep(9)
        assert client.closed is None
        assert client.session.ending is None, "neither side is told"
        assert (await client.ended()).reason == "heartbeat_lost"
        assert lost + 20 <= trio.current_time() <= lost + 41
        assert len(client.transcript.of_type("echo")) == 0


async def test_half_open_loss_is_found_by_a_writer_whose_buffer_fills() -> None:
    client, server = memory_transport_pair(network=Network(buffer_bytes=KB), send_timeout=10)
    up, _ = client.pipes
    up.lose()
    await client.send([b"x" * KB])
    with pytest.raises(TransportStalled):
        await client.send([b"x"])
    assert trio.current_time() == 10
    with trio.move_on_after(100) as scope:
        await server.receive()
    assert scope.cancelled_caught, "it is never told"


async def test_a_frozen_client_answers_no_ping_until_it_resumes() -> None:
    async with open_session(Echo, limits=Limits(heartbeat=20)) as client:
        client.network.freeze()
        await trio.sleep(15)
        client.network.resume()
        await client.call("echo", text="awake")
        await trio.sleep(100)
        assert client.session.ending is None
        client.network.freeze()
        assert (await client.ended()).reason == "heartbeat_lost"


async def test_the_closing_handshake_crosses_the_network() -> None:
    async with open_session(Echo, network=Network(delay=0.25)) as client:
        began = trio.current_time()
        await client.aclose()
        assert trio.current_time() == began + 0.5
        assert (await client.ended()).reason == "client_closed"


async def test_what_was_said_before_a_close_arrives_before_it() -> None:
    class Short(ReactorModel):
        async def run(self) -> None:
            await self.connected.wait()
            await self.send(Said(text="the last word"))

    async with open_session(Short, network=Network(delay=0.5, bandwidth=KB)) as client:
        assert (await client.receive()).data == {"text": "the last word"}
        with pytest.raises(TransportClosed, match="1000 finished"):
            await client.receive()
        assert client.goodbye == "finished"


async def test_a_peer_that_aborts_is_noticed_behind_what_it_wrote() -> None:
    client, server = memory_transport_pair(network=Network(delay=1.0))
    await server.send(["before"])
    await server.abort()
    assert await client.receive() == ["before"]
    with pytest.raises(TransportClosed, match="1006"):
        await client.receive()
    assert trio.current_time() == 1.0
    with pytest.raises(TransportClosed, match="1006"):
        await client.send(["after"])


async def test_a_close_that_nobody_answers_ends_when_it_is_cancelled() -> None:
    client, server = memory_transport_pair()
    server.stall()
    with trio.move_on_after(3) as scope:
        await client.aclose(1000, "bye")
    assert scope.cancelled_caught
    server.resume()
    with pytest.raises(TransportClosed, match="1000 bye"):
        await server.receive()


async def test_a_closed_end_takes_no_more_but_reads_on_for_the_answer() -> None:
    client, server = memory_transport_pair(network=Network(delay=1.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.aclose, 1000, "")
        await server.send(["too late to matter"])
        with pytest.raises(TransportClosed, match="1000"):
            await server.receive()
    assert trio.current_time() == 2.0
    with pytest.raises(TransportClosed, match="1000"):
        await client.receive()


# ---- several clients


async def test_several_clients_share_the_model_and_nothing_else() -> None:
    loaded: list[dict[str, Any]] = []

    class Loading(Echo):
        def load(self, config: dict[str, Any]) -> None:
            loaded.append(config)

    async with open_sessions(Loading, 3, network=Network(jitter=0.1)) as clients:
        replies = [await client.call("echo", text=str(number)) for number, client in enumerate(clients)]
        assert [reply.data["text"] for reply in replies if reply] == ["0", "1", "2"]
        assert [client.session.id for client in clients] == ["session-1", "session-2", "session-3"]
        assert loaded == [{}], "the model was loaded once"
        assert len({await client.ping() for client in clients}) == 3, "each draws its own jitter"


async def test_there_must_be_a_network_for_each_client() -> None:
    with pytest.raises(ValueError, match="3 clients need 3 networks, not 1"):
        async with open_sessions(Echo, 3, network=[Network()]):
            raise AssertionError("unreachable")
