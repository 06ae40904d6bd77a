"""Uploads of which nothing comes any more: they would keep their place in the quotas for ever."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

LOOK = 1.0
"""Seconds until the next look while this side does not listen."""


class StallWatch:
    """The uploads under way of one session, and one task that waits for the first to stall.

    An upload stalls when no byte of it has come for `timeout` seconds in which this side listened. `give_up`
    is then called and awaited, and has to `forget` it.
    """

    def __init__(self, timeout: float, give_up: Callable[[str], Awaitable[None]]) -> None:
        self._timeout = timeout
        self._give_up = give_up
        self._nursery: trio.Nursery | None = None
        # When something last came, in seconds of `_listened`; whoever was silent for the longest is first.
        self._last: dict[str, float] = {}
        self._is_watching = False
        # For how long receive did not listen, and since when it does not.
        self._deaf = 0.0
        self._deaf_since: float | None = None

    def begin(self, nursery: trio.Nursery) -> None:
        """Watch in a task of this nursery, for as long as an upload is under way."""
        self._nursery = nursery

    def stop(self) -> None:
        """The session ends: no task is started any more."""
        self._nursery = None

    def heard(self, upload_id: str) -> None:
        """Something came of an upload, or it has begun."""
        self._last.pop(upload_id, None)
        self._last[upload_id] = self._listened()
        if not self._is_watching and self._nursery is not None:
            self._is_watching = True
            self._nursery.start_soon(self._watch, name="watch uploads")

    def forget(self, upload_id: str) -> None:
        """It is complete, or has failed."""
        self._last.pop(upload_id, None)

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Nothing is read meanwhile: a silence is not the client's."""
        self._deaf_since = began = trio.current_time()
        try:
            yield
        finally:
            self._deaf_since = None
            self._deaf += trio.current_time() - began

    def _listened(self) -> float:
        now = trio.current_time() if self._deaf_since is None else self._deaf_since
        return now - self._deaf

    async def _watch(self) -> None:
        try:
            while self._last:
                upload_id, last = next(iter(self._last.items()))
                due = last + self._timeout + self._deaf
                if self._deaf_since is not None:
                    await trio.sleep(LOOK)
                elif trio.current_time() < due:
                    await trio.sleep_until(due)
                else:
                    await self._give_up(upload_id)
        finally:
            self._is_watching = False
