"""Timers: a sleep ends at its time, which may be reset, and can be cancelled like any sleep of Trio."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from reactor_trio.session import timers
from reactor_trio.session.timers import Timer

TEST_TIMEOUT = 1000.0
"""Seconds after which a test fails: virtual seconds, except in the tests on the real clock."""


async def sleep(timer: Timer, time: float, woken: list[float]) -> None:
    await timer.sleep_until(time)
    woken.append(trio.current_time())


async def test_timers_end_at_their_times() -> None:
    woken: list[float] = []
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for time in (5, 1, 3, 3, 0, -1, 4):
                nursery.start_soon(sleep, Timer(), time, woken)
    assert woken == [0, 0, 1, 3, 3, 4, 5]


async def test_one_task_sleeps_again_and_again() -> None:
    timer = Timer()
    with trio.fail_after(TEST_TIMEOUT):
        for time in range(100):
            await timer.sleep_until(time / 8)
            assert trio.current_time() == time / 8


async def test_a_timer_that_is_reset_for_ever_leaves_nothing_behind() -> None:
    timer, other, woken = Timer(), Timer(), list[float]()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep, other, 300, woken)
            nursery.start_soon(sleep, timer, 500, woken)
            await wait_all_tasks_blocked()
            for number in range(10_000):
                timer.reset(400 + number % 7)
                assert len(timers._wakers.get()._entries) <= 2 * timers.KEPT_ENTRIES + 3
            timer.reset(200)
    assert woken == [200, 300]


async def test_timers_that_are_cancelled_leave_nothing_behind() -> None:
    woken: list[float] = []
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep, Timer(), 900, woken)
            for _ in range(1000):
                with trio.move_on_after(0.001):
                    await Timer().sleep_until(800)
                assert len(timers._wakers.get()._entries) <= 2 * timers.KEPT_ENTRIES + 3
    assert woken == [900]


@pytest.mark.parametrize("resets", [[2], [9], [1], [0], [-5], [math.inf, 7], [20, 3, 20, 6], [8, 8, 8]])
async def test_a_timer_may_be_reset(resets: Sequence[float]) -> None:
    timer, woken = Timer(), list[float]()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep, timer, 5, woken)
            await trio.sleep(1)
            for time in resets:
                timer.reset(time)
    assert woken == [max(1, resets[-1])]


async def test_a_timer_for_ever_lasts_until_it_is_reset() -> None:
    timer, woken = Timer(), list[float]()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep, timer, math.inf, woken)
            await trio.sleep(100)
            assert woken == []
            timer.reset(101)
    assert woken == [101]


async def test_resetting_what_is_over_or_never_began_does_nothing() -> None:
    timer = Timer()
    with trio.fail_after(TEST_TIMEOUT):
        timer.reset(7)
        await timer.sleep_until(1)
        timer.reset(0)
        await timer.sleep_until(2)
        assert trio.current_time() == 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timer.sleep_until, 3)
            await wait_all_tasks_blocked()
            timer.reset(trio.current_time())
            # The task is woken already, but has not run yet: it must not be woken twice.
            await trio.lowlevel.cancel_shielded_checkpoint()
            timer.reset(50)
        assert trio.current_time() == 2


async def test_a_timer_is_a_checkpoint_also_if_its_time_is_over() -> None:
    timer = Timer()
    with trio.testing.assert_checkpoints():
        await timer.sleep_until(-math.inf)
    with trio.CancelScope() as scope:
        scope.cancel()
        await timer.sleep_until(-math.inf)
    assert scope.cancelled_caught


async def test_a_cancelled_timer_ends_at_once_and_the_next_one_is_as_good() -> None:
    timer, other, woken = Timer(), Timer(), list[float]()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep, other, 4, woken)
            with trio.move_on_after(1) as scope:
                await timer.sleep_until(3)
            assert scope.cancelled_caught
            assert trio.current_time() == 1
            with trio.move_on_after(1) as scope:
                await timer.sleep_until(math.inf)
            assert scope.cancelled_caught
            await timer.sleep_until(6)
            assert trio.current_time() == 6
    assert woken == [4]


async def test_a_timer_that_was_reset_can_be_cancelled() -> None:
    timer = Timer()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timer.sleep_until, 5)
            await trio.sleep(1)
            timer.reset(9)
            timer.reset(3)
            nursery.cancel_scope.cancel()
        await trio.sleep(20)


async def test_timers_go_on_when_the_time_came_between_two_looks_at_the_clock() -> None:
    # As if Trio, but not yet the instrument that wakes tasks, had seen the shared scope's deadline pass.
    timer, woken = Timer(), list[float]()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep, timer, 2, woken)
            await trio.sleep(1)
            for _ in range(3):
                scope = timers._wakers.get()._scope
                assert scope is not None
                scope.cancel()
                await wait_all_tasks_blocked()
        await timer.sleep_until(3)
    assert (woken, trio.current_time()) == ([2], 3)


@pytest.mark.real_time
async def test_on_the_real_clock() -> None:
    timer, other = Timer(), Timer()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(other.sleep_until, math.inf)
            await timer.sleep_until(began + 0.01)
            assert trio.current_time() >= began + 0.01
            other.reset(trio.current_time())


def test_each_run_has_its_own() -> None:
    async def main() -> float:
        await Timer().sleep_until(3)
        return trio.current_time()

    for _ in range(3):
        assert trio.run(main, clock=MockClock(autojump_threshold=0)) == 3


TIMES = st.integers(0, 12).map(lambda n: n / 4)
ACTIONS = st.lists(st.tuples(TIMES, st.integers(0, 3), TIMES | st.just(math.inf) | st.none()), max_size=30)


@given(begins=st.lists(TIMES, min_size=4, max_size=4), actions=ACTIONS)
async def test_whatever_is_reset_and_cancelled_each_timer_ends_once_and_when_it_should(
    begins: list[float], actions: list[tuple[float, int, float | None]]
) -> None:
    """Each action has a time, the number of a timer, and the timer's new time, or None to cancel its task.

    Actions happen 1/8 s after their times, so no timer is due at the moment of an action.
    """
    ended: dict[int, float] = {}

    async def one(number: int, timer: Timer, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await timer.sleep_until(begins[number])
        finally:
            assert number not in ended
            ended[number] = trio.current_time()

    all_timers = [Timer() for _ in begins]
    scopes = [trio.CancelScope() for _ in begins]
    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            for number, (timer, scope) in enumerate(zip(all_timers, scopes, strict=True)):
                nursery.start_soon(one, number, timer, scope)
            for time, number, new in sorted(actions, key=lambda action: action[0]):
                await trio.sleep_until(time + 0.125)
                await wait_all_tasks_blocked()
                if new is None:
                    scopes[number].cancel()
                else:
                    all_timers[number].reset(new)
    assert ended == {number: expected(number, begins[number], actions) for number in range(len(begins))}


def expected(number: int, due: float, actions: list[tuple[float, int, float | None]]) -> float:
    for time, which, new in sorted(actions, key=lambda action: action[0]):
        now = time + 0.125
        if which != number or due <= now:
            continue
        if new is None:
            return now
        due = max(new, now)
    return min(due, 100.0)
