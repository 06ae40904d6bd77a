"""Functions of the loop that a worker thread may call too."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def on_loop(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function that belongs to the loop callable from threads of Trio's too: the thread waits for it.

    So a plain `inference`, or a function that `compute` runs, may set `self.output.fps`. A thread that is not
    Trio's gets a `RuntimeError`.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if trio.lowlevel.in_trio_run():
            return function(*args, **kwargs)
        return trio.from_thread.run_sync(functools.partial(function, *args, **kwargs))

    return call
