"""Gives up uploads of which no bytes arrive any more, so that they free their place in the quotas."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

LOOK = 1.0
"""Seconds between the checks of the watching task while the receive task does not read."""


class StallWatch:
    """Watches the unfinished uploads of one session, in one task that waits for the next upload to stall.

    An upload stalls when no byte of it has come for `timeout` seconds; times in which the receive task did
    not read (`deaf`) do not count. `give_up` is then awaited with the id of the upload, and must call
    `forget`. `Uploads` calls the methods.
    """

    def __init__(self, timeout: float, give_up: Callable[[str], Awaitable[None]]) -> None:
        self._timeout = timeout
        self._give_up = give_up
        self._nursery: trio.Nursery | None = None
        # When bytes of each upload last came, in seconds of `_listened`; the longest silent is first.
        self._last: dict[str, float] = {}
        self._is_watching = False
        # Seconds in which the receive task did not read, and the time since when it does not read now.
        self._deaf = 0.0
        self._deaf_since: float | None = None

    def begin(self, nursery: trio.Nursery) -> None:
        """Start watching in this nursery: its task lives as long as an upload is unfinished."""
        self._nursery = nursery

    def stop(self) -> None:
        """Start no task any more: the session ends."""
        self._nursery = None

    def heard(self, upload_id: str) -> None:
        """Note that an upload has begun, or that bytes of it came."""
        self._last.pop(upload_id, None)
        self._last[upload_id] = self._listened()
        if not self._is_watching and self._nursery is not None:
            self._is_watching = True
            self._nursery.start_soon(self._watch, name="watch uploads")

    def forget(self, upload_id: str) -> None:
        """Watch an upload no more: it is complete, or has failed."""
        self._last.pop(upload_id, None)

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Within the block the receive task reads nothing, so that no upload stalls because of it."""
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
