"""Runs that are the same each time: virtual time, and one order of tasks for a seed."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio._core import _run as trio_run
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")


class TookTooLong(AssertionError):
    """A test took more virtual time than it may: it waits for what never comes, or the limit is too low."""


# Virtual seconds that each `run` may take; None: as many as it likes.
_limit: float | None = None


@contextmanager
def virtual_limit(seconds: float | None) -> Iterator[None]:
    """In this block each `run` may take so many virtual seconds; then it raises `TookTooLong`."""
    global _limit  # one test runs at a time
    before, _limit = _limit, seconds
    try:
        yield
    finally:
        _limit = before


@contextmanager
def deterministic_scheduling(seed: int = 0) -> Iterator[None]:
    """Trio shuffles the tasks that are ready at once; in this block the shuffle follows `seed`.

    There is no public switch for it. These two names are the ones that pytest-trio and Hypothesis set for
    the same purpose, and a test tells if a new Trio lacks them.
    """
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]  # type: ignore[misc]
        trio_run._r.setstate(before[1])


def run(
    async_fn: Callable[..., Awaitable[T]],
    *args: Any,
    seed: int = 0,
    clock: MockClock | None = None,
    instruments: tuple[trio.abc.Instrument, ...] | list[trio.abc.Instrument] = (),
) -> T:
    """Run `async_fn(*args)` in virtual time: hours of sleep take no time, and each run is the same.

    The clock jumps to the next deadline whenever every task waits. So nothing in it may wait for a thread
    or for another process. A deadlock waits for ever, unless the pytest plugin sets a limit, as it does,
    or `trio.fail_after` is around what may hang. `seed` decides in which order ready tasks run.

    Raises what `async_fn` raises, and `TookTooLong` beyond the test's virtual seconds.
    """

    async def limited() -> T:
        return await _limited(async_fn, args)

    clock = clock or MockClock(autojump_threshold=0)
    with deterministic_scheduling(seed):
        return trio.run(limited, clock=clock, instruments=instruments)


async def _limited(async_fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    limit = _limit
    if limit is None:
        return await async_fn(*args)
    # What ends in the last moment is in time.
    with trio.move_on_at(math.nextafter(trio.current_time() + limit, math.inf)):
        return await async_fn(*args)
    raise TookTooLong(f"the test took more than {limit:g} virtual seconds")
