"""The contract of all executors and ways into a thread: results, context, lanes, one rule of cancellation.

A call that waits is not made if it is cancelled. A call that runs is waited for if it is cancelled, or
abandoned if its lane says so.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import outcome
import pytest
import trio
import trio.testing

from reactor_trio.compute.executor import Executor, ThreadExecutor, is_stuck
from reactor_trio.compute.lanes import DECODE, ENCODE, FILES, HANDLERS, PAYLOADS, Device, Lane, encoder_lane
from reactor_trio.testing import DeviceCost, InlineExecutor

T = TypeVar("T")
Way = Callable[[Callable[[], Any]], Awaitable[Any]]
"""An async function that has another function called off the loop, and returns its result."""

TEST_TIMEOUT = 20.0
GPU = Device("cuda:0").lane
STREAM = encoder_lane("session-1/screen")
LANES = (HANDLERS, ENCODE, DECODE, PAYLOADS, FILES, GPU, STREAM)
ABANDONING = Lane("abandoning", abandons=True)
"""A lane that abandons its calls in Trio's threads; `DECODE` abandons them in threads of its own."""


# ---- the ways into a thread


@asynccontextmanager
async def by_run(executor: Executor, lane: Lane) -> AsyncIterator[Way]:
    async def call(fn: Callable[[], Any]) -> Any:
        return await executor.run(lane, fn)

    yield call


@asynccontextmanager
async def by_begin(executor: Executor, lane: Lane) -> AsyncIterator[Way]:
    async def call(fn: Callable[[], Any]) -> Any:
        results: list[outcome.Outcome[Any]] = []
        here = trio.Event()

        def done(result: outcome.Outcome[Any]) -> None:
            results.append(result)
            here.set()

        await trio.lowlevel.checkpoint_if_cancelled()
        pending = executor.begin(lane, fn, done)
        try:
            await here.wait()
        finally:
            if not results and pending is not None:
                await pending.end()
        [result] = results
        return result.unwrap()

    yield call


@asynccontextmanager
async def by_worker(executor: Executor, lane: Lane) -> AsyncIterator[Way]:
    async with executor.open_worker(lane, "of the test") as worker:
        yield worker.run


WAYS = [
    *(pytest.param(by_run, lane, id=f"run-{lane}") for lane in (*LANES, ABANDONING)),
    *(pytest.param(by_begin, lane, id=f"begin-{lane}") for lane in LANES if lane.has_own_threads),
    pytest.param(by_worker, GPU, id="worker"),
]
MAKERS = [
    pytest.param(lambda: ThreadExecutor(cores=1), id="1-core"),
    pytest.param(lambda: ThreadExecutor(cores=3), id="3-cores"),
    pytest.param(InlineExecutor, id="inline"),
    pytest.param(lambda: DeviceCost(0.25), id="device"),
]
all_ways = pytest.mark.parametrize(("way", "lane"), WAYS)
all_executors = pytest.mark.parametrize("make", MAKERS)
in_threads = pytest.mark.parametrize("make", MAKERS[:2])


class Gate:
    """A call that sets `began` when it begins, and ends when `go_on` is set."""

    def __init__(self) -> None:
        self.began, self.ended = trio.Event(), trio.Event()
        self.go_on = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self) -> str:
        self._token.run_sync_soon(self.began.set)
        assert self.go_on.wait(TEST_TIMEOUT)
        self._token.run_sync_soon(self.ended.set)
        return "gone on"


class Occupied:
    """As many calls as the lane runs at a time, so that one more call has to wait."""

    def __init__(self, executor: Executor, lane: Lane, cores: int) -> None:
        self._executor = executor
        self._lane = lane
        self.gates = [Gate() for _ in range(lane.size(cores))]

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            for gate in self.gates:
                nursery.start_soon(self._executor.run, self._lane, gate)
            for gate in self.gates:
                await gate.began.wait()
            try:
                yield
            finally:
                for gate in self.gates:
                    gate.go_on.set()


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


# ---- the outcome


@pytest.mark.real_time
@all_executors
@all_ways
async def test_the_caller_gets_the_result_or_the_very_error(make: Any, way: Any, lane: Lane) -> None:
    class Panic(BaseException):
        """Like an exception of a library that is not written in Python."""

    with trio.fail_after(TEST_TIMEOUT):
        async with way(make(), lane) as call:
            assert await call(lambda: 7) == 7
            for error in (ValueError("no picture"), StopAsyncIteration(), Panic()):
                with pytest.raises(type(error)) as caught:
                    await call(raising(error))
                assert caught.value is error
            assert await call(lambda: "goes on") == "goes on"


@pytest.mark.real_time
@all_executors
@pytest.mark.parametrize("lane", [*LANES, ABANDONING], ids=str)
async def test_run_hands_on_all_arguments_whatever_their_names(make: Any, lane: Lane) -> None:
    assert await make().run(lane, dict, {"lane": 1}, fn=2) == {"lane": 1, "fn": 2}


@pytest.mark.real_time
@in_threads
@all_ways
async def test_a_call_is_not_made_in_the_thread_of_the_loop(make: Any, way: Any, lane: Lane) -> None:
    async with way(make(), lane) as call:
        assert await call(threading.get_ident) != threading.get_ident()


@pytest.mark.real_time
@all_executors
@pytest.mark.parametrize("lane", [*LANES, ABANDONING], ids=str)
async def test_run_is_in_the_callers_context(make: Any, lane: Lane) -> None:
    variable = contextvars.ContextVar("variable", default="nobody's")
    variable.set("the caller's")
    assert await make().run(lane, variable.get) == "the caller's"


@pytest.mark.real_time
@in_threads
async def test_all_calls_of_a_worker_are_in_one_thread_and_keep_its_context(make: Any) -> None:
    variable = contextvars.ContextVar("variable", default="nobody's")
    async with make().open_worker(GPU, "of the test") as worker:
        threads = {await worker.run(threading.get_ident) for _ in range(5)}
        await worker.run(variable.set, "of the call before")
        assert await worker.run(variable.get) == "of the call before"
    assert len(threads) == 1


@pytest.mark.real_time
@all_executors
@pytest.mark.parametrize("lane", [lane for lane in LANES if not lane.has_own_threads], ids=str)
async def test_begin_is_refused_where_a_task_would_have_to_wait(make: Any, lane: Lane) -> None:
    with pytest.raises(ValueError, match=f"lane {lane} has no threads of its own"):
        make().begin(lane, len, print)


# ---- the calls that run


@pytest.mark.real_time
@in_threads
@all_ways
async def test_running_shows_a_call_from_its_begin_to_its_end(make: Any, way: Any, lane: Lane) -> None:
    executor, gate = make(), Gate()
    asked = trio.current_time()
    with trio.fail_after(TEST_TIMEOUT):
        async with way(executor, lane) as call, trio.open_nursery() as nursery:
            nursery.start_soon(call, gate)
            await gate.began.wait()
            [running] = executor.running()
            assert running.lane == lane
            assert running.name == ("of the test" if way is by_worker else repr(gate))
            assert asked <= running.asked <= running.began <= trio.current_time()
            assert is_stuck(executor, -1) == lane.is_device
            assert not is_stuck(executor, TEST_TIMEOUT)
            gate.go_on.set()
    assert executor.running() == ()


@pytest.mark.real_time
@in_threads
@all_ways
async def test_a_call_that_waits_does_not_run_yet(make: Any, way: Any, lane: Lane) -> None:
    executor = make()
    occupied = Occupied(executor, lane, executor._cores)
    order: list[str] = []
    with trio.fail_after(TEST_TIMEOUT):
        async with way(executor, lane) as call, trio.open_nursery() as nursery:
            async with occupied.full():
                for name in ("first", "second"):
                    nursery.start_soon(call, lambda name=name: order.append(name))  # type: ignore[misc]
                    await trio.testing.wait_all_tasks_blocked(0.01)
                assert len(executor.running()) == len(occupied.gates)
                assert order == []
    assert sorted(order) == ["first", "second"]
    if lane.size(executor._cores) == 1:
        assert order == ["first", "second"], "calls begin in the order in which they were asked for"


# ---- a call that is cancelled before it runs


@pytest.mark.real_time
@all_executors
@all_ways
async def test_a_call_of_a_task_that_is_cancelled_already_is_not_made(
    make: Any, way: Any, lane: Lane
) -> None:
    made: list[str] = []
    with trio.fail_after(TEST_TIMEOUT):
        async with way(make(), lane) as call:
            with trio.CancelScope() as scope:
                scope.cancel()
                await call(lambda: made.append("cancelled"))
            assert scope.cancelled_caught
            await call(lambda: made.append("later"))
    assert made == ["later"]


@pytest.mark.real_time
@in_threads
@all_ways
async def test_a_call_that_is_cancelled_while_it_waits_is_not_made(make: Any, way: Any, lane: Lane) -> None:
    executor, made = make(), list[str]()
    occupied = Occupied(executor, lane, executor._cores)
    with trio.fail_after(TEST_TIMEOUT):
        async with way(executor, lane) as call:
            async with occupied.full():
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        for _ in range(50):
                            nursery.start_soon(call, lambda: made.append("cancelled"))
                        await trio.testing.wait_all_tasks_blocked(0.01)
                        scope.cancel()
                assert scope.cancelled_caught, "nobody waits for the calls that run"
            await call(lambda: made.append("later"))
    assert made == ["later"]
    assert executor.running() == ()


async def test_a_call_that_is_cancelled_while_it_waits_for_a_device_is_not_made() -> None:
    for way in (by_run, by_worker):
        made: list[str] = []
        async with way(DeviceCost(10.0), GPU) as call, trio.open_nursery() as nursery:
            nursery.start_soon(call, lambda made=made: made.append("first"))  # type: ignore[misc]
            await trio.sleep(1)
            with trio.move_on_after(5) as scope:
                await call(lambda made=made: made.append("cancelled"))  # type: ignore[misc]
            assert scope.cancelled_caught
        assert made == ["first"]


# ---- a call that is cancelled while it runs


@pytest.mark.real_time
@in_threads
@all_ways
async def test_a_call_that_is_cancelled_while_it_runs_is_waited_for_or_abandoned(
    make: Any, way: Any, lane: Lane
) -> None:
    executor, gate, over = make(), Gate(), trio.Event()
    results: list[str] = []
    with trio.fail_after(TEST_TIMEOUT):
        async with way(executor, lane) as call, trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def cancelled() -> None:
                with scope:
                    results.append(await call(gate))
                    await trio.lowlevel.checkpoint()
                over.set()

            nursery.start_soon(cancelled)
            await gate.began.wait()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert over.is_set() == lane.abandons
            assert len(executor.running()) == 1, "it has kept its thread either way"
            gate.go_on.set()
            await gate.ended.wait()
            await over.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
    # If no task waits for the call any more, its result is dropped.
    assert results == ([] if lane.abandons or way is by_begin else ["gone on"])
    assert scope.cancelled_caught
    assert executor.running() == ()


@pytest.mark.real_time
@in_threads
@pytest.mark.parametrize("lane", [DECODE, ABANDONING], ids=str)
async def test_what_an_abandoned_call_raises_is_thrown_away_and_its_thread_goes_on(
    make: Any, lane: Lane
) -> None:
    executor, gate = make(), Gate()

    def fail() -> None:
        gate()
        raise ValueError("no picture")

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.run, lane, fail)
            await gate.began.wait()
            nursery.cancel_scope.cancel()
        gate.go_on.set()
        for _ in range(10):
            assert await executor.run(lane, lambda: "goes on") == "goes on"


@pytest.mark.parametrize("way", [by_run, by_worker])
async def test_a_device_that_works_is_waited_for(way: Any) -> None:
    executor, results = DeviceCost(10.0), list[str]()
    async with way(executor, GPU) as call:
        with trio.move_on_after(5) as scope:
            results.append(await call(lambda: "a result"))
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert trio.current_time() == 10
    assert results == ["a result"]
    assert executor.running() == ()


# ---- a call that is cancelled after it ran, and the owner of a call that no task waits for


@pytest.mark.real_time
@all_executors
@pytest.mark.parametrize("lane", [ENCODE, STREAM], ids=str)
async def test_to_end_a_call_that_is_over_does_nothing(make: Any, lane: Lane) -> None:
    results: list[outcome.Outcome[int]] = []
    here = trio.Event()

    def done(result: outcome.Outcome[int]) -> None:
        results.append(result)
        here.set()

    with trio.fail_after(TEST_TIMEOUT):
        pending = make().begin(lane, lambda: 7, done)
        await here.wait()
        await pending.end()
        await pending.end()
    assert [result.unwrap() for result in results] == [7]


@pytest.mark.real_time
@all_executors
@pytest.mark.parametrize("lane", [ENCODE, DECODE, STREAM], ids=str)
async def test_a_call_that_was_ended_hands_nothing_over(make: Any, lane: Lane) -> None:
    executor, results = make(), list[object]()
    with trio.fail_after(TEST_TIMEOUT):
        for _ in range(20):
            pending = executor.begin(lane, lambda: 7, results.append)
            await pending.end()
            seen = len(results)
            await executor.run(lane, lambda: None)
            assert len(results) == seen


@pytest.mark.real_time
@in_threads
async def test_to_end_a_call_that_runs_is_to_wait_for_it_even_if_that_is_cancelled(make: Any) -> None:
    executor, gate, ended = make(), Gate(), trio.Event()
    results: list[object] = []

    async def end() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await pending.end()
        ended.set()

    with trio.fail_after(TEST_TIMEOUT):
        pending = executor.begin(ENCODE, gate, results.append)
        await gate.began.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not ended.is_set()
            gate.go_on.set()
            await ended.wait()
    assert results == []


@pytest.mark.real_time
@in_threads
async def test_the_last_call_of_a_worker_is_made_even_if_it_is_cancelled_while_it_waits(make: Any) -> None:
    executor, made = make(), list[str]()
    occupied = Occupied(executor, GPU, 1)
    with trio.fail_after(TEST_TIMEOUT):
        async with executor.open_worker(GPU, "of the test") as worker, occupied.full():
            with trio.move_on_after(0.01) as scope:
                await worker.finish(lambda: made.append("the last"))
            assert scope.cancelled_caught
            assert made == ["the last"], "it has not waited for the lane"


# ---- back to the loop from a thread


def lane_of(param: Any) -> Lane:
    lane: Lane = param.values[1]
    return lane


THAT_CALL_BACK = [each for each in WAYS if not lane_of(each).has_own_threads]
THAT_DO_NOT = [each for each in WAYS if lane_of(each).has_own_threads]


@pytest.mark.real_time
@in_threads
@pytest.mark.parametrize(("way", "lane"), THAT_CALL_BACK)
async def test_a_thread_can_call_the_loop(make: Any, way: Any, lane: Lane) -> None:
    async def square(number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number * number

    def back() -> tuple[int, int]:
        trio.from_thread.check_cancelled()
        return trio.from_thread.run(square, 3), trio.from_thread.run_sync(abs, -3)

    with trio.fail_after(TEST_TIMEOUT):
        async with way(make(), lane) as call:
            assert await call(back) == (9, 3)
            assert await call(back) == (9, 3)


@pytest.mark.real_time
@in_threads
@pytest.mark.parametrize(("way", "lane"), THAT_DO_NOT)
async def test_a_thread_of_a_lanes_own_is_told_that_it_cannot_call_the_loop(
    make: Any, way: Any, lane: Lane
) -> None:
    async with way(make(), lane) as call:
        with pytest.raises(RuntimeError, match="wasn't created by Trio"):
            await call(trio.from_thread.check_cancelled)


def asks(gate: Gate) -> None:
    gate()
    trio.from_thread.check_cancelled()


def waits_on_the_loop(gate: Gate) -> None:
    trio.from_thread.run_sync(gate.began.set)
    trio.from_thread.run(trio.sleep_forever)


@pytest.mark.real_time
@in_threads
@pytest.mark.parametrize(
    ("way", "lane", "listen"),
    [
        pytest.param(*each.values, listen, id=f"{each.id}-{listen.__name__}")
        for each in THAT_CALL_BACK
        for listen in (asks, waits_on_the_loop)
        # A function on the loop that an abandoned call waits for belongs to the Trio run, and goes on.
        if not (lane_of(each).abandons and listen is waits_on_the_loop)
    ],
)
async def test_a_thread_learns_that_its_call_was_cancelled(
    make: Any, way: Any, lane: Lane, listen: Callable[[Gate], None]
) -> None:
    gate, heard = Gate(), list[str]()

    def called() -> None:
        try:
            listen(gate)
        except trio.Cancelled:
            heard.append("cancelled")
            raise
        finally:
            gate._token.run_sync_soon(gate.ended.set)

    with trio.fail_after(TEST_TIMEOUT):
        with trio.CancelScope() as scope:
            # A worker is cancelled as a whole, because its thread belongs to the session's run task.
            async with way(make(), lane) as call, trio.open_nursery() as nursery:
                nursery.start_soon(call, called)
                await gate.began.wait()
                scope.cancel()
                gate.go_on.set()
        await gate.ended.wait()
    assert scope.cancelled_caught
    assert heard == ["cancelled"]
