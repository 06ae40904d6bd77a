"""When a peer is pinged, and when it is lost, in virtual time; a ping takes time, as on a busy machine."""

from __future__ import annotations

import pytest
import trio

from fake_transport import FakeTransport
from reactor_trio import ReactorModel, event
from reactor_trio.client.client import Client
from reactor_trio.client.connection import HEARTBEAT
from reactor_trio.errors import TransportClosed
from reactor_trio.server.admission import Admission
from reactor_trio.server.waiting_client import WaitingClient
from reactor_trio.session.limits import Limits
from reactor_trio.testing import Link, Network, memory_transport_pair, open_session, open_sessions
from reactor_trio.wire.heartbeat import WAITED, Heartbeat

INTERVAL = 7.0
"""Seconds. Not 20, the interval of the Python client: the client's own pings would be its signs of life."""
LATE = 0.004
"""Seconds after which the task that wrote a ping goes on; the answer has been read long before."""


class Idle(ReactorModel):
    @event
    def nothing(self) -> None:
        pass


class Peer:
    """The part of a transport that `Heartbeat` uses; the test decides when bytes arrive."""

    def __init__(self) -> None:
        self.last_received = trio.current_time()
        self.pings: list[float] = []
        self.ping_takes = 0.0
        self.answers = True

    def talk(self) -> None:
        self.last_received = trio.current_time()

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()
        self.pings.append(trio.current_time())
        if self.answers:
            self.talk()
        await trio.sleep(self.ping_takes)


async def beat(heartbeat: Heartbeat, peer: Peer) -> bool:
    await trio.sleep_until(heartbeat.next_at)
    return await heartbeat.beat(peer)  # type: ignore[arg-type]


@pytest.mark.parametrize("ping_takes", [0.0, LATE, 3 * INTERVAL])
async def test_a_peer_that_answers_within_the_ping_is_kept(ping_takes: float) -> None:
    heartbeat, peer = Heartbeat(INTERVAL), Peer()
    peer.ping_takes = ping_takes
    for _ in range(10):
        assert await beat(heartbeat, peer)
    assert len(peer.pings) == 10


async def test_a_peer_that_is_silent_is_lost_one_interval_after_the_ping() -> None:
    heartbeat, peer = Heartbeat(INTERVAL), Peer()
    peer.answers = False
    assert await beat(heartbeat, peer)
    assert not await beat(heartbeat, peer)
    assert peer.pings == [INTERVAL]
    assert trio.current_time() == 2 * INTERVAL


async def test_a_peer_that_talks_and_answers_no_ping_is_kept() -> None:
    heartbeat, peer = Heartbeat(INTERVAL), Peer()
    peer.answers = False
    for _ in range(10):
        assert await beat(heartbeat, peer)
        await trio.sleep(1)
        peer.talk()
    assert await beat(heartbeat, peer)
    assert not await beat(heartbeat, peer), "and is lost once it is silent"


async def test_a_ping_that_waited_leaves_the_peer_all_of_its_time_to_answer() -> None:
    heartbeat, peer = Heartbeat(INTERVAL), Peer()
    peer.answers, peer.ping_takes = False, INTERVAL - 1
    assert await beat(heartbeat, peer)
    went_out = trio.current_time()
    assert heartbeat.next_at == went_out + INTERVAL
    await trio.sleep(INTERVAL - 1)
    peer.talk()
    assert await beat(heartbeat, peer)


async def test_a_write_that_waited_was_waiting_for_a_living_peer() -> None:
    heartbeat, peer = Heartbeat(INTERVAL), Peer()
    peer.answers = False
    assert await beat(heartbeat, peer)
    began = trio.current_time()
    heartbeat.wrote(began)
    assert heartbeat.next_at == began + INTERVAL, "one that did not wait says nothing of the peer"
    await trio.sleep(2 * WAITED)
    heartbeat.wrote(began)
    assert heartbeat.next_at == began + 2 * WAITED + INTERVAL


async def test_an_answer_that_lies_unread_as_the_beat_comes_is_read_first() -> None:
    heartbeat, peer = Heartbeat(INTERVAL), Peer()
    peer.answers = False
    assert await beat(heartbeat, peer)

    async def read() -> None:
        await trio.sleep_until(heartbeat.next_at)  # woken in the same pass of the loop as `beat`
        await trio.lowlevel.checkpoint()
        peer.talk()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        assert await beat(heartbeat, peer)


async def test_a_silence_in_which_this_side_was_suspended_does_not_count() -> None:
    heartbeat, peer = Heartbeat(INTERVAL), Peer()
    peer.answers = False
    assert await beat(heartbeat, peer)
    await trio.sleep(3 * INTERVAL)  # this side was suspended, and read nothing
    assert await heartbeat.beat(peer)  # type: ignore[arg-type]
    assert len(peer.pings) == 2, "it is asked again"
    assert not await beat(heartbeat, peer)


async def test_a_client_that_nobody_listens_to_is_not_lost() -> None:
    limits = Limits(max_message_bytes=2048, upload_chunk_bytes=1024, max_bytes_per_second=2048, heartbeat=0.2)
    async with open_session(Idle, limits=limits) as client:
        # The receive task waits because of `max_bytes_per_second`, and reads nothing meanwhile.
        await client.upload(bytes(20_000), name="slow.bin")
        assert client.session.ending is None
        assert trio.current_time() > 5


async def test_only_a_silent_peer_is_asked() -> None:
    heartbeat, peer = Heartbeat(INTERVAL, only_silent=True), Peer()
    for _ in range(5):
        await trio.sleep(INTERVAL - 1)
        peer.talk()
        if trio.current_time() >= heartbeat.next_at:
            assert await heartbeat.beat(peer)  # type: ignore[arg-type]
    assert peer.pings == []
    heard, peer.answers = peer.last_received, False
    while await beat(heartbeat, peer):
        pass
    assert peer.pings == [heard + INTERVAL]
    assert trio.current_time() == heard + 2 * INTERVAL


# ---- the three users of `Heartbeat`: sessions, clients in the queue, the Python client


@pytest.mark.parametrize("returns_after", [0.0, LATE, 1.5 * INTERVAL])
async def test_idle_clients_that_answer_at_once_keep_their_sessions(returns_after: float) -> None:
    network = Network(down=Link(returns_after=returns_after))
    async with open_sessions(Idle, 3, network=network, limits=Limits(heartbeat=INTERVAL)) as clients:
        await trio.sleep(20 * INTERVAL)
        for client in clients:
            assert client.session.ending is None
            await client.call("nothing")


async def test_a_client_that_stops_answering_is_lost_however_long_a_ping_takes() -> None:
    network = Network(down=Link(returns_after=LATE))
    async with open_session(Idle, network=network, limits=Limits(heartbeat=INTERVAL)) as client:
        await trio.sleep(3.5 * INTERVAL)
        client.network.freeze()
        assert (await client.ended()).reason == "heartbeat_lost"
        assert trio.current_time() < 6 * INTERVAL


@pytest.mark.parametrize("returns_after", [0.0, LATE])
async def test_idle_clients_that_answer_at_once_keep_their_place_in_line(returns_after: float) -> None:
    admission = Admission(max_sessions=1, max_waiting=1)
    admission.enter()
    network = Network(down=Link(returns_after=returns_after))
    client, server = memory_transport_pair(network=network)
    waiting = WaitingClient(
        server, admission.enter(), Limits(heartbeat=INTERVAL), max_wait=10 * INTERVAL, address="test"
    )
    codes: list[int] = []

    async def read() -> None:
        try:
            while True:
                await client.receive()
        except TransportClosed as closed:
            codes.append(closed.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        assert not await waiting.run()
    assert codes == [1013], "it was there until its time in line was over"
    assert trio.current_time() >= 10 * INTERVAL


async def test_the_python_client_keeps_a_server_that_answers_within_the_ping() -> None:
    server = FakeTransport()
    server.ping_returns_after = LATE
    async with Client.over(server) as client:
        await trio.sleep(10.5 * HEARTBEAT)
        assert client.closed is None
        assert server.pings == 10


async def test_the_python_clients_ping_may_wait_behind_a_slow_upload() -> None:
    server = FakeTransport()
    async with Client.over(server) as client:
        server.accepting = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, "reset")
            await trio.sleep(3 * HEARTBEAT)  # the link is slow: the upload is still being written
            server.accepting.set()
        assert client.closed is None
        await trio.sleep(3 * HEARTBEAT)
        assert client.closed is None
        server.pongs = False
        with pytest.raises(TransportClosed, match="not a byte"):
            await client.receive()
