"""An executor whose work takes virtual time, as work in threads takes real time."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from reactor_trio.testing import InlineExecutor

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactor_trio.compute.lanes import Lane

T = TypeVar("T")


class SlowExecutor(InlineExecutor):
    """Each call takes `seconds` of virtual time, and goes on when its caller is cancelled, as in a thread.

    With `lanes` only calls in these lanes are slow, with `only` only calls of this function; other calls are
    made at once. Slow calls run side by side, or, with `one_at_a_time`, one after the other.
    """

    def __init__(
        self,
        seconds: float,
        *lanes: Lane,
        only: Callable[..., object] | None = None,
        one_at_a_time: bool = False,
    ) -> None:
        self.seconds = seconds
        """Virtual seconds that the next call takes; may be changed at any time."""
        self.calls = 0
        """Slow calls that have begun."""
        self.most = 0
        """The highest number of slow calls that were asked for and had not ended."""
        self._lanes = lanes
        self._only = only
        self._turn = trio.Lock() if one_at_a_time else nullcontext()
        self._asked = 0

    async def run(self, lane: Lane, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Let the time pass, then call `fn`, unless the caller is cancelled before the call has begun."""
        if (self._lanes and lane not in self._lanes) or self._only not in (None, fn):
            return await super().run(lane, fn, *args, **kwargs)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._asked += 1
        self.most = max(self.most, self._asked)
        try:
            async with self._turn:
                self.calls += 1
                with trio.CancelScope(shield=True), self.passing(fn):
                    await trio.sleep(self.seconds)
                return fn(*args, **kwargs)
        finally:
            self._asked -= 1

    def passing(self, fn: Callable[..., object]) -> AbstractContextManager[object]:
        """A context around the time of each slow call; a subclass may take notes in it."""
        return nullcontext()
