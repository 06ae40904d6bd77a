"""Runs that are the same each time: virtual time, and one order of tasks for a seed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio._core import _run as trio_run
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")


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


def run(async_fn: Callable[..., Awaitable[T]], *args: Any, seed: int = 0) -> T:
    """Run `async_fn(*args)` in virtual time: hours of sleep take no time, and each run is the same.

    The clock jumps to the next deadline whenever every task waits. So nothing in it may wait for a thread
    or for another process. A deadlock would wait for ever: put `trio.fail_after` around what may hang.
    """
    with deterministic_scheduling(seed):
        return trio.run(async_fn, *args, clock=MockClock(autojump_threshold=0))
