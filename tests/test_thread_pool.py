"""A lane's own threads: the order of calls, the number of threads and their end; sessions that encode there.

`test_executors.py` tests calls that are cancelled, for all ways into a thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import outcome
import pytest
import trio
import trio.testing

from reactor_trio import Output, ReactorModel, Video
from reactor_trio.compute import pool as pool_module
from reactor_trio.compute.calls import Calls
from reactor_trio.compute.executor import Executor, ThreadExecutor
from reactor_trio.compute.lanes import ENCODE, Lane
from reactor_trio.compute.pool import ThreadPool
from reactor_trio.link import encoding
from reactor_trio.media.jpeg import encode_jpeg
from reactor_trio.testing import open_session

pytestmark = pytest.mark.real_time

T = TypeVar("T")

TEST_TIMEOUT = 20.0


class Gate:
    """A call that sets `began` when it begins, and ends when the test sets `go_on`."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.go_on = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self) -> str:
        self._token.run_sync_soon(self.began.set)
        assert self.go_on.wait(TEST_TIMEOUT)
        return "gone on"


CALLS = Calls()
LANE = Lane("of the test", has_own_threads=True)


async def run(pool: ThreadPool, fn: Callable[[], T]) -> T:
    return await pool.run(CALLS.make(LANE, fn))


def threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


async def test_a_call_gives_its_result_or_its_error() -> None:
    pool = ThreadPool(1, "of the pool")
    with trio.fail_after(TEST_TIMEOUT):
        assert await run(pool, lambda: 7) == 7
        assert await run(pool, threading.current_thread) is not threading.current_thread()
        for error in (ValueError("no picture"), KeyboardInterrupt(), StopAsyncIteration()):
            with pytest.raises(type(error)) as caught:
                await run(pool, raising(error))
            assert caught.value is error
        assert await run(pool, lambda: "goes on") == "goes on"


async def test_no_more_calls_at_a_time_than_threads_and_in_their_order() -> None:
    pool = ThreadPool(2, "one of two")
    gates = [Gate() for _ in range(3)]
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for gate in gates:
                nursery.start_soon(run, pool, gate)
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
        results.append(await run(pool, fn))

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for fn in (gate, lambda: "second", last.set):
                nursery.start_soon(call, fn)
                await trio.testing.wait_all_tasks_blocked()
            await gate.began.wait()
            gate.go_on.set()
            assert last.wait(TEST_TIMEOUT), "the loop is busy here"
    assert set(results) == {"gone on", "second", None}


async def test_threads_end_when_there_is_nothing_to_do_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.01)
    pool = ThreadPool(2, "one that ends")
    with trio.fail_after(TEST_TIMEOUT):
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(run, pool, lambda: None)
            while threads("one that ends"):  # noqa: ASYNC110  a thread that ends sets no event
                await trio.sleep(0.01)


def test_a_pool_may_be_used_in_one_run_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.2)
    pool = ThreadPool(1, "of the pool")

    async def use() -> str:
        with trio.fail_after(TEST_TIMEOUT):
            await run(pool, lambda: None)
            return await run(pool, lambda: "done")

    assert [trio.run(use), trio.run(use)] == ["done", "done"]


async def test_a_thread_that_cannot_be_started_fails_its_own_call_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, go, called = ThreadPool(2, "test"), threading.Event(), []

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, pool, go.wait)
            await trio.testing.wait_all_tasks_blocked()
            with monkeypatch.context() as patch:
                patch.setattr(trio.lowlevel, "start_thread_soon", refuse)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    await run(pool, lambda: called.append("refused"))
            go.set()
        await run(pool, lambda: called.append("later"))
    assert called == ["later"]


# ---- calls that no task waits for


def raise_error() -> None:
    raise ValueError("no picture")


async def test_what_a_call_has_given_is_handed_over_on_the_loop() -> None:
    pool, token = ThreadPool(1, "of the pool"), trio.lowlevel.current_trio_token()
    results: list[outcome.Outcome[object]] = []
    all_here = trio.Event()

    def done(result: outcome.Outcome[object]) -> None:
        assert trio.lowlevel.current_trio_token() is token
        results.append(result)
        if len(results) == 3:
            all_here.set()

    with trio.fail_after(TEST_TIMEOUT):
        for call in (threading.get_ident, raise_error, lambda: "last"):
            pool.begin(CALLS.make(LANE, call), done)
        await all_here.wait()
    thread, error, last = results
    assert thread.unwrap() != threading.get_ident()
    with pytest.raises(ValueError, match="no picture"):
        error.unwrap()
    assert last.unwrap() == "last"


async def begun(executor: Executor, lane: Lane, fn: Callable[[], T], *, short: bool = False) -> T:
    """The result of the call that `executor.begin` begins."""
    results: list[outcome.Outcome[T]] = []
    here = trio.Event()

    def done(result: outcome.Outcome[T]) -> None:
        results.append(result)
        here.set()

    with trio.fail_after(TEST_TIMEOUT):
        executor.begin(lane, fn, done, short=short)
        await here.wait()
    [result] = results
    return result.unwrap()


async def test_a_short_call_is_made_at_once_where_a_thread_would_only_take_turns_with_the_loop() -> None:
    this = threading.get_ident()
    assert await begun(ThreadExecutor(cores=1), ENCODE, threading.get_ident, short=True) == this
    assert await begun(ThreadExecutor(cores=1), ENCODE, threading.get_ident) != this
    assert await begun(ThreadExecutor(cores=2), ENCODE, threading.get_ident, short=True) != this


async def test_the_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert await begun(ThreadExecutor(), ENCODE, threading.get_ident) != threading.get_ident()
    assert ThreadExecutor()._cores == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3, 4}, raising=False)
    assert ThreadExecutor()._cores == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert ThreadExecutor()._cores == 5


# ---- a session on real threads


class Picture(Output):
    screen: Video


class Film(ReactorModel):
    fps = 200

    async def run(self) -> None:
        await self.connected.wait()
        while True:
            await self.emit(Picture(screen=np.zeros((8, 8, 3), np.uint8)))


@pytest.mark.parametrize("cores", [1, 2])
async def test_a_session_encodes_on_the_loop_or_in_threads(
    cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded_in = set[int]()

    def encode(pixels: np.ndarray, quality: int) -> bytes:
        encoded_in.add(threading.get_ident())
        return encode_jpeg(pixels, quality)

    monkeypatch.setattr(encoding, "encode_jpeg", encode)
    with trio.fail_after(TEST_TIMEOUT):
        async with open_session(Film, executor=ThreadExecutor(cores=cores)) as client:
            seqs = [(await client.frame("screen")).seq for _ in range(20)]
    assert seqs == sorted(set(seqs))
    assert (threading.get_ident() in encoded_in) == (cores == 1)
    assert len(encoded_in) >= 1


async def test_a_session_that_ends_waits_for_the_thread_that_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    gates = [Gate()]

    def encode(pixels: np.ndarray, quality: int) -> bytes:
        gates[0]()
        return encode_jpeg(pixels, quality)

    monkeypatch.setattr(encoding, "encode_jpeg", encode)
    executor = ThreadExecutor(cores=2)
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:

            async def visit() -> None:
                async with open_session(Film, executor=executor):
                    await gates[0].began.wait()

            nursery.start_soon(visit)
            await gates[0].began.wait()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert [call.name for call in executor.running()] == ["_jpeg"]
            assert nursery.child_tasks, "it is not over"
            gates[0].go_on.set()
    assert executor.running() == ()


async def test_a_session_that_ends_gives_up_a_picture_that_waits_for_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, encoded = Gate(), list[int]()

    def encode(pixels: np.ndarray, quality: int) -> bytes:
        encoded.append(int(pixels.mean()))
        return encode_jpeg(pixels, quality)

    monkeypatch.setattr(encoding, "encode_jpeg", encode)
    monkeypatch.setattr(encoding, "SHORT_PIXELS", 0)
    executor = ThreadExecutor(cores=1)
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.run, ENCODE, gate)
            await gate.began.wait()
            async with open_session(Film, executor=executor) as client:
                while not client.session.output.statistics().emitted:  # noqa: ASYNC110  no event says so
                    await trio.sleep(0.001)
            assert len(executor.running()) == 1, "the thread is at something else, and nobody waited for it"
            gate.go_on.set()
        await executor.run(ENCODE, lambda: None)
    assert encoded == []


async def test_an_encoder_that_cannot_be_begun_ends_its_own_session_and_is_not_the_models_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    executor = ThreadExecutor(cores=2)
    with trio.fail_after(TEST_TIMEOUT):
        monkeypatch.setattr(trio.lowlevel, "start_thread_soon", refuse)
        async with open_session(Film, executor=executor) as client:
            ended = await client.ended()
        assert (ended.close_code, ended.reason) == (1011, "internal_error")
        monkeypatch.undo()
        async with open_session(Film, executor=executor) as client:
            assert (await client.frame("screen")).seq == 0
