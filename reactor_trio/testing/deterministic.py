"""Runs of Trio that are the same each time: in virtual time, with an order of tasks that a seed decides."""

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
    """A run took more virtual time than its test allows: there is a deadlock, or the limit is too low."""


# Virtual seconds that each `run` may take; None: no limit.
_limit: float | None = None


@contextmanager
def virtual_limit(seconds: float | None) -> Iterator[None]:
    """Let each `run` in this block raise `TookTooLong` after so many virtual seconds; None: never."""
    global _limit  # one test runs at a time
    before, _limit = _limit, seconds
    try:
        yield
    finally:
        _limit = before


@contextmanager
def deterministic_scheduling(seed: int = 0) -> Iterator[None]:
    """Let `seed` decide, in this block, in which order Trio runs tasks that are ready at the same time.

    Trio has no public switch for its shuffle. pytest-trio and Hypothesis set the same two private names for
    the same purpose, and a test fails if a new Trio lacks them.
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
    """Run `async_fn(*args)` in virtual time: an hour of sleep takes no time, and each run is the same.

    The clock jumps to the next deadline whenever every task waits. So no task may wait for a thread or for
    another process. In a test of pytest the plugin sets a limit of virtual seconds; elsewhere a deadlock
    lasts for ever unless `trio.fail_after` ends it. `seed` decides in which order ready tasks run.

    Raises what `async_fn` raises, and `TookTooLong` if the run exceeds the limit.
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
    # A run that ends exactly at the limit is in time.
    with trio.move_on_at(math.nextafter(trio.current_time() + limit, math.inf)):
        return await async_fn(*args)
    raise TookTooLong(f"the test took more than {limit:g} virtual seconds")
