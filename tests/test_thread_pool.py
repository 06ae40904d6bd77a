"""The threads of the encode lane: order, bounds, cancellation, and that none is left over."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from reactor_trio.compute import pool as pool_module
from reactor_trio.compute.executor import ENCODE, ThreadExecutor
from reactor_trio.compute.pool import ThreadPool

TEST_TIMEOUT = 20.0


class Gate:
    """A call that says when it has begun, and ends when it is let go."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.go_on = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self) -> str:
        self._token.run_sync_soon(self.began.set)
        assert self.go_on.wait(TEST_TIMEOUT)
        return "gone on"


def threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


async def test_a_call_gives_its_result_or_its_error_and_runs_in_the_callers_context() -> None:
    pool = ThreadPool(1, "of the pool")
    variable = contextvars.ContextVar("variable", default="nobody's")
    variable.set("the caller's")
    with trio.fail_after(TEST_TIMEOUT):
        assert await pool.run(lambda: 7) == 7
        assert await pool.run(threading.current_thread) is not threading.current_thread()
        assert await pool.run(variable.get) == "the caller's"
        for error in (ValueError("no picture"), KeyboardInterrupt(), StopAsyncIteration()):
            with pytest.raises(type(error)) as caught:
                await pool.run(raising(error))
            assert caught.value is error
        assert await pool.run(lambda: "goes on") == "goes on"


async def test_no_more_calls_at_a_time_than_threads_and_in_their_order() -> None:
    pool = ThreadPool(2, "one of two")
    gates = [Gate() for _ in range(3)]
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for gate in gates:
                nursery.start_soon(pool.run, gate)
                await trio.testing.wait_all_tasks_blocked()
            await gates[0].began.wait()
            await gates[1].began.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not gates[2].began.is_set()
            gates[1].go_on.set()
            await gates[2].began.wait()
            assert threads("one of two") == 2
            for gate in gates:
                gate.go_on.set()


async def test_a_thread_goes_on_with_the_next_call_while_the_loop_is_busy() -> None:
    pool = ThreadPool(1, "of the pool")
    gate, last = Gate(), threading.Event()
    results: list[object] = []

    async def call(fn: Callable[[], object]) -> None:
        results.append(await pool.run(fn))

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for fn in (gate, lambda: "second", last.set):
                nursery.start_soon(call, fn)
                await trio.testing.wait_all_tasks_blocked()
            await gate.began.wait()
            gate.go_on.set()
            assert last.wait(TEST_TIMEOUT), "the loop is busy here"
    assert set(results) == {"gone on", "second", None}


async def test_a_call_that_is_cancelled_before_it_began_is_never_made() -> None:
    pool = ThreadPool(1, "of the pool")
    gate, made = Gate(), []
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, gate)
            await gate.began.wait()
            with trio.move_on_after(0.01) as waiting:
                await pool.run(lambda: made.append("cancelled while it waited"))
            with trio.CancelScope() as before:
                before.cancel()
                await pool.run(lambda: made.append("cancelled before it was asked for"))
            gate.go_on.set()
        await pool.run(lambda: made.append("later"))
    assert waiting.cancelled_caught
    assert before.cancelled_caught
    assert made == ["later"]


async def test_a_call_that_is_cancelled_later_is_waited_for_and_gives_its_result() -> None:
    pool = ThreadPool(1, "of the pool")
    gate, results = Gate(), []
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def call() -> None:
                with scope:
                    results.append(await pool.run(gate))
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(call)
            await gate.began.wait()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert results == []
            gate.go_on.set()
    assert results == ["gone on"]
    assert scope.cancelled_caught


async def test_threads_end_when_there_is_nothing_to_do_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.01)
    pool = ThreadPool(2, "one that ends")
    with trio.fail_after(TEST_TIMEOUT):
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(pool.run, lambda: None)
            while threads("one that ends"):  # noqa: ASYNC110  a thread that ends sets no event
                await trio.sleep(0.01)


def test_a_pool_may_be_used_in_one_run_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.2)
    pool = ThreadPool(1, "of the pool")

    async def use() -> str:
        with trio.fail_after(TEST_TIMEOUT):
            await pool.run(lambda: None)
            return await pool.run(lambda: "done")

    assert [trio.run(use), trio.run(use)] == ["done", "done"]


async def test_the_encode_lane_says_what_runs_in_it() -> None:
    executor = ThreadExecutor(cores=1)
    gate = Gate()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.run, ENCODE, gate)
            await gate.began.wait()
            [call] = executor.running()
            assert (call.lane, call.asked <= call.began) == (ENCODE, True)
            gate.go_on.set()
    assert executor.running() == ()


async def test_a_thread_that_cannot_be_started_fails_its_own_call_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, go, called = ThreadPool(2, "test"), threading.Event(), []

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, go.wait)
            await trio.testing.wait_all_tasks_blocked()
            with monkeypatch.context() as patch:
                patch.setattr(trio.lowlevel, "start_thread_soon", refuse)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    await pool.run(lambda: called.append("refused"))
            go.set()
        await pool.run(lambda: called.append("later"))
    assert called == ["later"]
