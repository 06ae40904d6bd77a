"""An executor without threads, for tests under a mock clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactor_trio.compute.executor import RunningCall

T = TypeVar("T")


class InlineExecutor:
    """Runs blocking work where it is called: a mock clock would not wait for a thread.

    Work takes no virtual time, and no two calls overlap.
    """

    async def run(self, lane: str, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call `fn` after a checkpoint. If cancelled, it was not called."""
        await trio.lowlevel.checkpoint()
        return fn(*args, **kwargs)

    def running(self) -> tuple[RunningCall, ...]:
        """Nothing ever runs in a thread here."""
        return ()
