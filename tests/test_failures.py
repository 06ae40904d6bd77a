"""Exceptions that end at a session and exceptions that travel on, of every class."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
import trio

from reactor_trio.session.failures import contained, interrupts_are_raised, split
from traces import kept_cancelled


class Panic(BaseException):
    """Like `pyo3_runtime.PanicException`, the panic of a library in Rust."""


FAILURES: dict[str, Callable[[], BaseException]] = {
    "an Exception": lambda: ValueError("x"),
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "SystemExit": lambda: SystemExit(3),
    "a panic": lambda: Panic("index out of bounds"),
    "asyncio.CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
}


@pytest.mark.parametrize("make", FAILURES.values(), ids=FAILURES)
async def test_a_failure_of_any_class_is_handed_over(make: Callable[[], BaseException]) -> None:
    seen: list[BaseException] = []
    failure = make()

    def raises() -> None:
        raise failure

    with contained(seen.append):
        raises()
    assert seen == [failure]
    with contained(seen.append):
        raise BaseExceptionGroup("nested", [BaseExceptionGroup("deeper", [failure])])
    assert seen == [failure, failure]


async def test_of_a_group_the_failure_is_handled_and_cancelled_travels_on() -> None:
    seen: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        with contained(seen.append):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_fails_while_cancelled)
                await trio.sleep_forever()
        raise AssertionError("the cancellation was swallowed")
    assert scope.cancelled_caught
    assert [type(failure) for failure in seen] == [Panic]


async def _fails_while_cancelled() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise Panic("in the cleanup")


async def test_cancelled_travels_on_while_a_scope_around_it_is_cancelled() -> None:
    seen: list[BaseException] = []
    with trio.move_on_after(1) as scope, contained(seen.append):
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert seen == []


async def test_a_cancelled_that_was_kept_is_a_failure_if_nothing_is_cancelled() -> None:
    seen: list[BaseException] = []
    cancelled = await kept_cancelled()
    with contained(seen.append):
        raise cancelled
    with trio.CancelScope() as scope:  # noqa: ASYNC100
        scope.cancel()
        # Inside the shield nothing is cancelled.
        with trio.CancelScope(shield=True), contained(seen.append):  # noqa: ASYNC100
            raise cancelled
    assert seen == [cancelled, cancelled]


async def test_an_interrupt_travels_on_where_ctrl_c_may_be_one() -> None:
    seen: list[BaseException] = []
    with pytest.raises(KeyboardInterrupt), contained(seen.append):
        raise KeyboardInterrupt
    with pytest.raises(BaseExceptionGroup) as left, contained(seen.append):
        raise BaseExceptionGroup("both", [KeyboardInterrupt(), Panic("x")])
    assert [type(each) for each in left.value.exceptions] == [KeyboardInterrupt]
    assert [type(failure) for failure in seen] == [Panic]


async def test_an_interrupt_is_a_failure_where_the_process_takes_the_signal_itself() -> None:
    seen: list[BaseException] = []
    token = interrupts_are_raised.set(False)
    try:
        with contained(seen.append):
            raise KeyboardInterrupt
    finally:
        interrupts_are_raised.reset(token)
    assert [type(failure) for failure in seen] == [KeyboardInterrupt]


async def test_a_coroutine_that_is_closed_where_it_waits_ends() -> None:
    seen: list[BaseException] = []

    async def waits() -> None:
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)

    async def contains() -> None:
        with contained(seen.append):
            await waits()
        raise AssertionError("it went on")

    coroutine = contains()
    coroutine.send(None)  # runs to the point at which it waits
    coroutine.close()
    assert seen == []


async def test_outside_of_any_task_cancelled_travels_on() -> None:
    cancelled = await kept_cancelled()

    def in_thread() -> None:
        with contained(lambda _: None):
            raise cancelled

    with pytest.raises(trio.Cancelled), trio.CancelScope():
        await _in_real_thread(in_thread)


async def _in_real_thread(function: Callable[[], None]) -> None:
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as failure:
            raised.append(failure)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    raise raised[0]


def test_split_names_the_one_failure_of_a_group() -> None:
    failure, interrupt = Panic("x"), KeyboardInterrupt()
    assert split(BaseExceptionGroup("one", [failure])) == (failure, None)
    found, rest = split(BaseExceptionGroup("two", [failure, interrupt]))
    assert found is failure
    assert isinstance(rest, BaseExceptionGroup)
    assert rest.exceptions == (interrupt,)
