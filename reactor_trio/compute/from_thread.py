"""Calls from a worker thread to what belongs to the loop."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def on_loop(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function that belongs to the loop callable from worker threads too, which then wait for it.

    So a plain `inference`, or what `compute` runs, may set `self.output.fps`.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if trio.lowlevel.in_trio_run():
            return function(*args, **kwargs)
        return trio.from_thread.run_sync(functools.partial(function, *args, **kwargs))

    return call
