"""The coalescing channel: the contract of Trio's memory channel, and values with a key."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from reactor_trio.session.coalescing import open_coalescing_channel

DEADLINE = 5.0
"""Seconds of real or virtual time after which a test counts as hung."""


def drain(receive: Any) -> list[Any]:
    values = []
    while True:
        try:
            values.append(receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return values


# ---- values with a key


async def test_a_newer_value_replaces_the_waiting_one_and_goes_to_the_end() -> None:
    send, receive = open_coalescing_channel(10)
    assert send.send_nowait("A", "ref") is None
    send.send_nowait("mark 1")
    assert send.send_nowait("B", "ref") == "A"
    send.send_nowait("mark 2")
    assert send.send_nowait("C", "ref") == "B"
    assert drain(receive) == ["mark 1", "mark 2", "C"]
    assert send.statistics().superseded == 2


async def test_without_a_key_nothing_is_replaced() -> None:
    send, receive = open_coalescing_channel(10)
    assert [send.send_nowait(n) for n in range(3)] == [None, None, None]
    assert drain(receive) == [0, 1, 2]


async def test_replacing_needs_no_room() -> None:
    send, receive = open_coalescing_channel(2)
    send.send_nowait(1, "k")
    send.send_nowait(2)
    with pytest.raises(trio.WouldBlock):
        send.send_nowait(3, "other")
    assert send.would_replace("k")
    assert send.send_nowait(4, "k") == 1
    assert drain(receive) == [2, 4]


async def test_a_key_that_waited_for_too_long_keeps_its_place() -> None:
    send, receive = open_coalescing_channel(10, max_defer=1.0)
    send.send_nowait("a0", "k")
    send.send_nowait("x")
    await trio.sleep(1.5)
    assert send.send_nowait("a1", "k") is None, "a0 is held"
    send.send_nowait("y")
    assert send.send_nowait("a2", "k") == "a1", "newer ones coalesce behind it"
    await trio.sleep(1.5)
    assert send.send_nowait("a3", "k") == "a2", "at most one is held"
    assert drain(receive) == ["a0", "x", "y", "a3"]


async def test_a_flood_cannot_starve_its_own_event() -> None:
    """Other values always wait ahead: a value of the key that kept no place would never be received."""
    send, receive = open_coalescing_channel(8, max_defer=1.0)
    taken: list[tuple[float, str]] = []
    for step in range(100):
        send.send_nowait(f"flood {step}", "flood")
        while send.buffered < 8:
            send.send_nowait("other")
        await trio.sleep(0.1)
        taken += [(trio.current_time(), receive.receive_nowait()) for _ in range(4)]
    floods = [time for time, value in taken if value.startswith("flood")]
    gaps = [after - before for before, after in itertools.pairwise(floods)]
    assert len(floods) >= 5
    assert max(gaps) < 2.0


async def test_a_full_channel_refuses_what_would_have_to_wait_behind_a_held_value() -> None:
    send, receive = open_coalescing_channel(2, max_defer=1.0)
    send.send_nowait("a0", "k")
    send.send_nowait("x")
    await trio.sleep(2)
    with pytest.raises(trio.WouldBlock):
        send.send_nowait("a1", "k")
    assert drain(receive) == ["a0", "x"], "nothing was lost by the attempt"


# ---- the contract of Trio's memory channel


async def test_values_wait_in_order_and_the_bound_holds() -> None:
    send, receive = open_coalescing_channel(3)
    for n in range(3):
        await send.send(n)
    with pytest.raises(trio.WouldBlock):
        send.send_nowait(3)
    assert [await receive.receive() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(trio.WouldBlock):
        receive.receive_nowait()


async def test_send_and_receive_are_checkpoints() -> None:
    send, receive = open_coalescing_channel(1)
    with assert_checkpoints():
        await send.send(1)
    with assert_checkpoints():
        await receive.receive()
    with assert_checkpoints():
        await send.aclose()
    with assert_checkpoints():
        await receive.aclose()


async def test_a_waiting_receiver_gets_the_value_from_hand_to_hand() -> None:
    send, receive = open_coalescing_channel(0)
    got = []

    async def take() -> None:
        got.append(await receive.receive())

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.WouldBlock):
                receive.receive_nowait()
            send.send_nowait("v", "k")
    assert got == ["v"]


async def test_size_zero_lets_a_sender_wait_for_its_receiver() -> None:
    send, receive = open_coalescing_channel(0)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send.send, "v")
            await wait_all_tasks_blocked()
            assert send.statistics().tasks_waiting_send == 1
            assert receive.receive_nowait() == "v"


async def test_senders_wait_in_line() -> None:
    send, receive = open_coalescing_channel(1)
    send.send_nowait(0)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            for n in (1, 2, 3):
                nursery.start_soon(send.send, n)
                await wait_all_tasks_blocked()
            taken = [await receive.receive() for _ in range(4)]
    assert taken == [0, 1, 2, 3]


async def test_a_sender_that_waits_may_replace_when_its_turn_comes() -> None:
    send, receive = open_coalescing_channel(1)
    send.send_nowait("x")
    removed = []

    async def put(value: str) -> None:
        removed.append(await send.send(value, "k"))

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, "a")
            await wait_all_tasks_blocked()
            nursery.start_soon(put, "b")
            await wait_all_tasks_blocked()
            assert receive.receive_nowait() == "x"
    assert sorted(removed, key=str) == [None, "a"]
    assert drain(receive) == ["b"]


async def test_a_cancelled_send_sends_and_replaces_nothing() -> None:
    send, receive = open_coalescing_channel(1)
    send.send_nowait("x")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send.send, "a", "k")
            await wait_all_tasks_blocked()
            scope.cancel()
    assert drain(receive) == ["x"]
    with trio.CancelScope() as scope:
        scope.cancel()
        await send.send("b")
    assert scope.cancelled_caught
    assert drain(receive) == []


async def test_whoever_stood_behind_a_cancelled_sender_moves_up() -> None:
    send, receive = open_coalescing_channel(2, max_defer=10)
    send.send_nowait("x")
    send.send_nowait("a", "k")
    first = trio.CancelScope()

    async def put_first() -> None:
        with first:
            await send.send("y")

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_first)
            await wait_all_tasks_blocked()
            nursery.start_soon(send.send, "b", "k")  # "b" could replace "a", but its sender waits in line
            await wait_all_tasks_blocked()
            assert send.statistics().tasks_waiting_send == 2
            first.cancel()
    assert drain(receive) == ["x", "b"]


async def test_a_cancelled_receive_takes_nothing() -> None:
    send, receive = open_coalescing_channel(1)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive.receive)
            await wait_all_tasks_blocked()
            scope.cancel()
    send.send_nowait("v")
    assert drain(receive) == ["v"]


async def test_when_all_senders_are_closed_receivers_drain_and_then_end() -> None:
    send, receive = open_coalescing_channel(2)
    clone = send.clone()
    send.send_nowait(1)
    send.close()
    clone.send_nowait(2)
    clone.close()
    assert [await receive.receive(), await receive.receive()] == [1, 2]
    with pytest.raises(trio.EndOfChannel):
        await receive.receive()
    with pytest.raises(trio.EndOfChannel):
        receive.receive_nowait()


async def test_closing_the_last_sender_wakes_a_waiting_receiver() -> None:
    send, receive = open_coalescing_channel(2)

    async def take() -> None:
        with pytest.raises(trio.EndOfChannel):
            await receive.receive()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            send.close()


async def test_closing_the_last_receiver_breaks_senders_and_throws_away() -> None:
    send, receive = open_coalescing_channel(1)
    clone = receive.clone()
    send.send_nowait(1, "k")

    async def put() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await send.send(2)

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await wait_all_tasks_blocked()
            receive.close()
            assert send.statistics().tasks_waiting_send == 1
            clone.close()
    with pytest.raises(trio.BrokenResourceError):
        send.send_nowait(3)
    assert send.statistics().current_buffer_used == 0


async def test_closing_an_end_wakes_those_who_wait_through_it() -> None:
    send, receive = open_coalescing_channel(0)
    other_send, other_receive = send.clone(), receive.clone()

    async def put() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await send.send(1)

    async def take() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await receive.receive()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await wait_all_tasks_blocked()
            send.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            receive.close()
    assert (other_send.statistics().open_send_channels, other_send.statistics().open_receive_channels) == (
        1,
        1,
    )
    other_receive.close()
    other_send.close()


async def test_a_closed_end_refuses_everything_and_closes_twice() -> None:
    send, receive = open_coalescing_channel(1)
    for end in (send, receive):
        end.close()
        end.close()
        with pytest.raises(trio.ClosedResourceError):
            end.clone()
    with pytest.raises(trio.ClosedResourceError):
        send.send_nowait(1)
    with pytest.raises(trio.ClosedResourceError):
        await send.send(1)
    with pytest.raises(trio.ClosedResourceError):
        receive.receive_nowait()
    with pytest.raises(trio.ClosedResourceError):
        await receive.receive()


async def test_clones_share_the_values() -> None:
    send, receive = open_coalescing_channel(4)
    with send, receive, send.clone() as send2, receive.clone() as receive2:
        send.send_nowait(1)
        send2.send_nowait(2)
        assert (receive2.receive_nowait(), receive.receive_nowait()) == (1, 2)
    assert send.statistics().open_send_channels == 0


async def test_statistics_tell_what_happens() -> None:
    send, receive = open_coalescing_channel(3)
    send.send_nowait(1)
    send.send_nowait(2, "k")
    send.send_nowait(3, "k")
    receive.receive_nowait()
    numbers = send.statistics()
    assert numbers == receive.statistics()
    assert (numbers.current_buffer_used, numbers.peak_buffer_used, numbers.max_buffer_size) == (1, 2, 3)
    assert (numbers.open_send_channels, numbers.open_receive_channels, numbers.superseded) == (1, 1, 1)
    assert (numbers.tasks_waiting_send, numbers.tasks_waiting_receive) == (0, 0)


@pytest.mark.parametrize("size", [-1, 1.5, True, float("inf")])
async def test_the_size_is_a_bound(size: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_buffer_size"):
        open_coalescing_channel(size)


# ---- properties


class Reference:
    """The documented behaviour of the channel, in the plainest code."""

    def __init__(self, size: int, max_defer: float) -> None:
        self.size, self.max_defer = size, max_defer
        self.values: deque[tuple[Any, Any]] = deque()
        self.since: dict[Any, float] = {}
        self.held: dict[Any, int] = {}  # key -> id() of its item

    def send(self, value: Any, key: Any, now: float) -> Any:
        waiting = [item for item in self.values if key is not None and item[1] == key]
        free = [item for item in waiting if self.held.get(key) != id(item)]
        if free and not (key not in self.held and now - self.since[key] > self.max_defer):
            self.values.remove(free[0])
            self.values.append((value, key))
            return free[0][0]
        if len(self.values) >= self.size:
            raise trio.WouldBlock
        if free:
            self.held[key] = id(free[0])
        if key is not None:
            self.since[key] = now
        self.values.append((value, key))
        return None

    def receive(self) -> Any:
        if not self.values:
            raise trio.WouldBlock
        item = self.values.popleft()
        if self.held.get(item[1]) == id(item):
            del self.held[item[1]]
        return item[0]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from([None, "a", "b", "c"])),
        st.tuples(st.just("receive"), st.none()),
        st.tuples(st.just("sleep"), st.sampled_from([0.3, 1.1])),
    ),
    max_size=60,
)


@given(operations=operations, size=st.integers(1, 5))
async def test_it_does_what_the_plain_model_does(operations: list[Any], size: int) -> None:
    send, receive = open_coalescing_channel(size, max_defer=1.0)
    model = Reference(size, 1.0)
    for number, (what, arg) in enumerate(operations):
        if what == "sleep":
            await trio.sleep(arg)
            continue
        if what == "send":
            value = (number, arg)
            outcomes = [
                _outcome(send.send_nowait, value, arg),
                _outcome(model.send, value, arg, trio.current_time()),
            ]
        else:
            outcomes = [_outcome(receive.receive_nowait), _outcome(model.receive)]
        assert outcomes[0] == outcomes[1]
        assert send.buffered <= size
        for key in "abc":
            waiting = [item for item, its_key in send._channel.buffer.values() if its_key == key]
            assert len(waiting) <= 2
    assert drain(receive) == [item[0] for item in model.values]


def _outcome(fn: Any, *args: Any) -> Any:
    try:
        return fn(*args)
    except trio.WouldBlock:
        return "would block"


commands = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.sampled_from(["set_a", "set_b", "reset", "double_b"]), st.integers(0, 9)),
        st.tuples(st.just("sleep"), st.just(0)),
    ),
    max_size=80,
)
DEDUPED = {"set_a", "set_b"}


def apply(state: dict[str, int], name: str, value: int) -> None:
    """A deduplicated handler only overwrites one key of the state; the others read and write any key."""
    match name:
        case "set_a":
            state["a"] = value
        case "set_b":
            state["b"] = value
        case "reset":
            state.update(a=0, b=0, resets=state["resets"] + 1)
        case "double_b":
            state["doubles"] += value


@settings(max_examples=300)
@given(commands=commands)
async def test_coalescing_changes_no_outcome_for_handlers_that_overwrite(
    commands: list[tuple[str, int]],
) -> None:
    """After any interleaving the state is the same as without coalescing.

    See docs/design.md#the-coalescing-channel.
    """
    send, receive = open_coalescing_channel(100, max_defer=1.0)
    plain = {"a": -1, "b": -1, "resets": 0, "doubles": 0}
    coalesced = dict(plain)
    for name, value in commands:
        if name == "take":
            with contextlib.suppress(trio.WouldBlock):
                apply(coalesced, *receive.receive_nowait())
        elif name == "sleep":
            await trio.sleep(0.7)
        else:
            apply(plain, name, value)
            send.send_nowait((name, value), name if name in DEDUPED else None)
    for name, value in drain(receive):
        apply(coalesced, name, value)
    assert coalesced == plain
