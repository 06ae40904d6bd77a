"""A call of a function off the loop, and the one rule for a call that is cancelled.

A call waits, runs, and is over. It waits for its lane and for a thread: if it is cancelled then, the
function is not called. Once it runs it cannot be stopped, so its caller waits for its end; only where the
lane `abandons` calls the caller does not wait, and the result or error is thrown away. This holds for each
way into a thread: `Executor.run`, `Executor.begin`, and the worker of `Executor.open_worker`.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import outcome

    from reactor_trio.compute.lanes import Lane

T = TypeVar("T")


@attrs.frozen
class RunningCall:
    """A call that runs, as logs and `/health` see it."""

    lane: Lane
    name: str
    asked: float
    """When the call was asked for, in seconds of Trio's clock."""
    began: float
    """When its thread began with it, in seconds of Trio's clock."""


class PendingCall(Protocol):
    """A call that no task waits for. It belongs to the caller of `Executor.begin`."""

    async def end(self) -> None:
        """Cancel the call, and return when it is over. Its outcome is not handed over any more.

        If the task that awaits this is cancelled, it waits all the same. Returns at once if the call is over.
        """


@attrs.define(eq=False)
class Call(Generic[T]):
    """A call of one executor, made by its `Calls`."""

    lane: Lane
    # Holds the function until it is taken: by the thread that makes the call, or by `cancel`.
    _fn: list[Callable[[], T]]
    # The name, or the function: its name is looked up only if it is asked for.
    _named: str | Callable[[], T]
    _running: dict[Call[Any], None]
    _now: Callable[[], float]
    asked: float
    """When the call was asked for, in seconds of Trio's clock."""
    began: float = math.inf
    """When its thread began with it; infinity before that."""
    # Called on the loop with the outcome. None: the outcome is not wanted, or not any more.
    _done: Callable[[outcome.Outcome[T]], object] | None = None
    _given_up: Callable[[], object] | None = None

    @property
    def name(self) -> str:
        """The qualified name of the function, or the name that the caller gave to the call."""
        return self._named if isinstance(self._named, str) else name_of(self._named)

    # ---- in the thread

    def take(self) -> Callable[[], T] | None:
        """The function, to be given to `run`; None if the call was cancelled. From any thread."""
        try:
            return self._fn.pop()
        except IndexError:
            return None

    def run(self, fn: Callable[[], T]) -> T:
        """Call the function; meanwhile this is one of the calls that run."""
        self._begin()
        try:
            return fn()
        finally:
            self._end()

    @contextmanager
    def runs(self) -> Iterator[None]:
        """In this block the call is one of those that run, without a thread."""
        self._begin()
        try:
            yield
        finally:
            self._end()

    def _begin(self) -> None:
        self.began = self._now()
        self._running[self] = None

    def _end(self) -> None:
        del self._running[self]

    # ---- on the loop

    def hand_over_to(
        self, done: Callable[[outcome.Outcome[T]], object], given_up: Callable[[], object]
    ) -> None:
        """Have `done` called with the outcome, or `given_up` if the function will not be called.

        At most one of them is called, on the loop, and neither may raise.
        """
        self._done, self._given_up = done, given_up

    def hand_over(self, result: outcome.Outcome[T]) -> None:
        """Call `done` with the outcome, unless the call was abandoned."""
        done, self._done = self._done, None
        if done is not None:
            done(result)

    def cancel(self) -> bool:
        """Cancel the call; returns False if it runs and must be waited for: its outcome is handed over."""
        if self.take() is not None:
            self._done = None
            if self._given_up is not None:
                self._given_up()
        elif self.lane.abandons:
            self._done = None
        return self._done is None

    async def end(self) -> None:
        """See `PendingCall.end`."""
        if self.cancel():
            return
        over = trio.Event()
        self._done = partial(_set, over)
        with trio.CancelScope(shield=True):
            await over.wait()


class Calls:
    """The calls of one executor, and the one place that notes which of them run."""

    def __init__(self) -> None:
        # In the order in which they began. A thread sets and deletes its own item: safe under Python's lock.
        self._running: dict[Call[Any], None] = {}

    def make(self, lane: Lane, fn: Callable[[], T], name: str | None = None) -> Call[T]:
        """A call that is asked for now. Without a `name` it has that of the function."""
        now = trio.lowlevel.current_clock().current_time
        return Call(lane, [fn], fn if name is None else name, self._running, now, now())

    def running(self) -> tuple[RunningCall, ...]:
        """The calls that run now, in the order in which they began. From any thread."""
        calls = self._running.copy()
        return tuple([RunningCall(each.lane, each.name, each.asked, each.began) for each in calls])


def name_of(fn: Callable[..., object]) -> str:
    """The qualified name of a function, also of one in a `partial`."""
    while isinstance(fn, partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or repr(fn)


def _set(event: trio.Event, _: object) -> None:
    event.set()
