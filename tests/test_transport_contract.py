"""The promises of `Transport`, sentence by sentence, for every implementation that `transport_ends` lists.

`ours` is the end under test; `peer` is the other end: a reader that can pause, speak, hang up or vanish. The
clock is the real one, since some of the ends are real sockets; the tests wait for events rather than times.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.wire.transport import Transport
from transport_ends import IMPLEMENTATIONS, Ends, Implementation, TransportPeer

pytestmark = pytest.mark.real_time

DEADLINE = 60.0
PATIENCE = 2 * DEADLINE
"""Seconds that a write waits for its peer: longer than a test may take. A test of a stall takes `SHORT`."""
SHORT = 0.3
A_MOMENT = 0.03
"""Seconds for a task to begin its wait; if the task is slower, the test shows less, but does not fail."""
CHUNK = bytes(200_000)
MANY = [CHUNK] * 60
"""More than any network between the two ends holds."""


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    return IMPLEMENTATIONS[request.param]


@pytest.fixture
def ends(implementation: Implementation) -> Callable[..., Ends]:
    def make(send_timeout: float = PATIENCE) -> Ends:
        return implementation.make(send_timeout)

    return make


async def until(is_so: Callable[[], object]) -> None:
    """Wait until `is_so()` is true; the test's deadline bounds the wait."""
    while not is_so():  # noqa: ASYNC110  the ends have no event for it
        await trio.sleep(0.001)


async def received(transport: Transport, count: int) -> list[str | bytes]:
    messages: list[str | bytes] = []
    while len(messages) < count:
        batch = await transport.receive()
        assert batch, "at least one"
        messages += batch
    return messages


async def end_of(transport: Transport, before: list[str | bytes] | None = None) -> TransportClosed:
    """Receive until the end, and return it."""
    messages = [] if before is None else before
    while True:
        try:
            messages += await transport.receive()
        except TransportClosed as closed:
            return closed


async def blocked_write(transport: Transport) -> None:
    """Write to a peer that does not read, until another task ends the connection."""
    with pytest.raises(TransportClosed):
        await transport.send(MANY)


# ---- receive


async def test_whole_messages_arrive_in_order_however_many(ends: Callable[..., Ends]) -> None:
    said = [f"{number} \u00e9" if number % 3 else bytes([number % 256]) * number for number in range(500)]
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.say, *said)
                assert await received(ours, len(said)) == said


async def test_what_arrived_before_the_end_is_returned_first(ends: Callable[..., Ends]) -> None:
    before: list[str | bytes] = []
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            await peer.say("one", b"two")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.hang_up, 4321)
                closed = await end_of(ours, before)
            assert before == ["one", b"two"]
            assert closed.code == 4321
            assert (await end_of(ours)).code == 4321, "and again"


async def test_a_peer_that_vanishes_is_1006(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer), trio.open_nursery() as nursery:
            nursery.start_soon(peer.vanish)
            assert (await end_of(ours)).code == 1006


async def test_a_cancelled_receive_loses_no_message(ends: Callable[..., Ends]) -> None:
    said = [str(number) for number in range(300)]
    heard: list[str | bytes] = []
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer), trio.open_nursery() as nursery:

            async def say() -> None:
                for message in said:
                    await peer.say(message)

            nursery.start_soon(say)
            turn = 0
            while len(heard) < len(said):
                turn += 1
                with trio.CancelScope() as scope:
                    if turn % 2:
                        scope.cancel(reason="test")
                    elif turn % 5 == 0:
                        scope.deadline = trio.current_time() + 0.0005
                    heard += await ours.receive()
    assert heard == said


# ---- send, send_nowait, has_unsent


async def test_messages_are_written_in_order_and_also_in_parts(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            await ours.send(["one", b"two", (b"th", memoryview(b"r"), b"ee"), "", "f\u00f6ur"])
            await ours.send([])
            await ours.send(["five"])
            expected = ["one", b"two", b"three", "f\u00f6ur", "five"]
            await until(lambda: len([each for each in peer.received if each]) >= len(expected))
            assert [each for each in peer.received if each] == expected


async def test_a_large_write_goes_on_as_the_peer_reads(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            await ours.send([*MANY, "end"])
            await until(lambda: peer.received and peer.received[-1] == "end")
            assert peer.received == [*MANY, "end"]


async def test_writing_at_once_takes_all_or_nothing_and_keeps_the_order(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            peer.pause()
            taken: list[str | bytes] = []
            for number in range(10_000):
                message = b"%d " % number + bytes(10_000)
                if not ours.send_nowait([message]):
                    break
                taken.append(message)
            else:
                raise AssertionError("it would have had to wait")
            if ours.has_unsent:
                assert not ours.send_nowait(["overtakes nothing"])
            peer.resume()
            await ours.send([])  # without messages: waits until the rest is written
            assert not ours.has_unsent
            await ours.send(["last"])
            await until(lambda: peer.received and peer.received[-1] == "last")
            assert peer.received == [*taken, "last"]


async def test_a_peer_that_accepts_nothing_stalls_the_writer_and_ends_the_reader(
    ends: Callable[..., Ends],
) -> None:
    with trio.fail_after(DEADLINE):
        async with ends(SHORT) as (ours, peer):
            peer.pause()
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    assert isinstance(await end_of(ours), TransportClosed)

                nursery.start_soon(read)
                with pytest.raises(TransportStalled):
                    await ours.send(MANY)
            with pytest.raises(TransportClosed):
                await ours.send(["no more"])
            assert not ours.send_nowait(["nor this"])


async def test_nothing_is_written_to_a_connection_that_is_closed(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.hang_up, 1000)
                await end_of(ours)
            for attempt in (ours.send(["late"]), ours.ping(), ours.receive()):
                with pytest.raises(TransportClosed):
                    await attempt
            assert not ours.send_nowait(["late"])
            await ours.aclose(1000, "does nothing")


async def test_after_a_cancelled_send_the_peer_reads_whole_messages_and_then_the_end(
    ends: Callable[..., Ends],
) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            peer.pause()
            with trio.move_on_after(A_MOMENT) as scope:
                await ours.send(MANY)
            assert scope.cancelled_caught
            peer.resume()
            await ours.abort()
            assert isinstance(await end_of(ours), TransportClosed)
            assert [each for each in peer.received if each != CHUNK] == []


# ---- both ways at once


async def test_a_write_that_waits_keeps_nothing_from_being_received(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer), trio.open_nursery() as nursery:
            peer.pause()
            nursery.start_soon(blocked_write, ours)
            await trio.sleep(A_MOMENT)
            await peer.say("stop")
            assert await ours.receive() == ["stop"]
            await ours.abort()


async def test_a_ping_that_arrives_while_a_write_waits_keeps_nothing_from_being_received(
    ends: Callable[..., Ends],
) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer), trio.open_nursery() as nursery:
            peer.pause()
            nursery.start_soon(blocked_write, ours)
            await trio.sleep(A_MOMENT)
            if isinstance(peer, TransportPeer):
                for _ in range(5):
                    await peer.transport.ping()
            await peer.say("stop")
            assert await ours.receive() == ["stop"]
            await ours.abort()


# ---- last_received, ping


async def test_the_time_of_the_last_byte_is_kept_while_somebody_listens(
    implementation: Implementation, ends: Callable[..., Ends]
) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer), trio.open_nursery() as nursery:
            before = trio.current_time()
            await trio.sleep(0.02)
            assert ours.last_received >= before + 0.02, "nobody listens: it is now"
            heard: list[str | bytes] = []
            nursery.start_soon(end_of, ours, heard)
            await peer.say("x")
            await until(lambda: heard)
            if implementation.sees_every_byte:
                await until(lambda: ours.last_received < trio.current_time() - 0.01)
                quiet = ours.last_received
                assert quiet >= before
                await trio.sleep(0.02)
                assert ours.last_received == quiet
                await peer.say("y")
                await until(lambda: ours.last_received > quiet)
            else:
                await trio.sleep(0.02)
                now = trio.current_time()
                assert ours.last_received >= now
            nursery.cancel_scope.cancel(reason="the test is over")


async def test_the_answer_to_a_ping_shows_in_the_time_of_the_last_byte(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, _), trio.open_nursery() as nursery:
            nursery.start_soon(end_of, ours)
            await trio.sleep(0.02)
            for _ in range(3):
                pinged = trio.current_time()
                await ours.ping()
                await until(lambda pinged=pinged: ours.last_received >= pinged)
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel(reason="the test is over")


async def test_a_ping_does_not_go_out_in_the_middle_of_a_message(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            for number in range(20):
                await ours.send([f"{number}", CHUNK])
                await ours.ping()
            await until(lambda: len([each for each in peer.received if each]) == 40)


# ---- the end


async def test_a_polite_close_tells_the_peer_and_ends_the_reader(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            closed: list[TransportClosed] = []

            async def read() -> None:
                closed.append(await end_of(ours))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await ours.send(["last words"])
                await ours.aclose(1001, "shutting_down")
            assert [each.code for each in closed] == [1001]
            await until(lambda: peer.received == ["last words"])
            await ours.aclose(1000, "closing what is closed does nothing")
            await ours.abort()
            with pytest.raises(TransportClosed):
                await ours.send(["late"])


async def test_a_close_that_nobody_receives_beside_is_answered_all_the_same(
    ends: Callable[..., Ends],
) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            await peer.say("on its way")
            await ours.aclose(1000, "finished")
            assert (await end_of(ours)).code == 1000


async def test_receive_may_begin_while_a_close_is_under_way(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer), trio.open_nursery() as nursery:
            peer.pause()  # so that its answer comes late
            nursery.start_soon(ours.aclose, 1000, "finished")
            await trio.sleep(0.01)
            nursery.start_soon(end_of, ours)
            nursery.start_soon(end_of, ours)
            await trio.sleep(0.01)
            peer.resume()


async def test_a_cancelled_close_is_by_force(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            peer.pause()
            with trio.move_on_after(0.02) as scope:
                await ours.aclose(1000, "never answered")
            assert scope.cancelled_caught
            assert isinstance(await end_of(ours), TransportClosed)
            with pytest.raises(TransportClosed):
                await ours.send(["late"])


async def test_an_abort_ends_whoever_waits_and_may_be_repeated(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            peer.pause()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_of, ours)
                nursery.start_soon(blocked_write, ours)
                await trio.sleep(0.02)
                await ours.abort()
            await ours.abort()
            await ours.aclose(1000, "does nothing")
            assert (await end_of(ours)).code == 1006


async def test_an_abort_says_no_word(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer):
            await ours.abort()
            if isinstance(peer, TransportPeer):
                assert (await end_of(peer.transport)).code == 1006


async def test_closing_and_ending_at_once_are_no_error(ends: Callable[..., Ends]) -> None:
    with trio.fail_after(DEADLINE):
        async with ends() as (ours, peer), trio.open_nursery() as nursery:
            nursery.start_soon(end_of, ours)
            nursery.start_soon(ours.aclose, 1000, "finished")
            nursery.start_soon(peer.hang_up, 1001)
