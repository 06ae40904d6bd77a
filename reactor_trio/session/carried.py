"""What a lost frame was the first to reflect passes on to the next frame of its track."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactor_trio.session.latency import MAX_APPLIED

if TYPE_CHECKING:
    from reactor_trio.session.latency import Applied


class Carried:
    """Commands whose frame was lost: the next frame of the track is the first to reflect them."""

    def __init__(self) -> None:
        self._applied: tuple[Applied, ...] = ()

    def add(self, applied: tuple[Applied, ...]) -> None:
        """Take over from a frame that is newer than all before."""
        if applied:
            self._applied = (*self._applied, *applied)[-MAX_APPLIED:]

    def add_older(self, applied: tuple[Applied, ...]) -> None:
        """Take over from a frame that is older than all before."""
        if applied:
            self._applied = (*applied, *self._applied)[-MAX_APPLIED:]

    def hand_on(self, applied: tuple[Applied, ...]) -> tuple[Applied, ...]:
        """What the next frame reflects first, with what is its own."""
        if not self._applied:
            return applied
        self.add(applied)
        applied, self._applied = self._applied, ()
        return applied
