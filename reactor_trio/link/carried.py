"""What a lost frame was the first to reflect passes on to the next frame of its track."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from reactor_trio.session.applied import MAX_APPLIED

if TYPE_CHECKING:
    from reactor_trio.session.applied import Applied


class Carried:
    """Commands whose frame was lost: the next frame of the track is the first to reflect them.

    Frames may be lost in any order, and one may be lost while an older one is yet to be sent, which does not
    reflect what came after it: so each command goes with the `seq` of its frame.
    """

    def __init__(self) -> None:
        # In the order of `seq`.
        self._lost: list[tuple[int, Applied]] = []

    def add(self, seq: int, applied: tuple[Applied, ...]) -> None:
        """Take over from the frame of this number; of one number, in the order of the calls."""
        if applied:
            self._lost += [(seq, each) for each in applied]
            self._lost.sort(key=itemgetter(0))
            del self._lost[:-MAX_APPLIED]

    def hand_on(self, seq: int, applied: tuple[Applied, ...]) -> tuple[Applied, ...]:
        """What the frame of this number reflects first: its own, and what was lost up to it."""
        if not self._lost:
            return applied
        older = [each for lost, each in self._lost if lost <= seq]
        self._lost = self._lost[len(older) :]
        return (*older, *applied)[-MAX_APPLIED:]
