"""Commands of lost frames: they pass on to the next frame of the same track."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from reactor_trio.session.applied import MAX_APPLIED

if TYPE_CHECKING:
    from reactor_trio.session.applied import Applied


class Carried:
    """Keeps the commands of a track's lost frames: the next frame of the track is the first to reflect them.

    A frame may be lost while an older frame is still to be sent, and the older frame does not reflect the
    commands of the newer one. So each command is kept with the `seq` of its frame. At most `MAX_APPLIED`
    commands are kept, the newest.
    """

    def __init__(self) -> None:
        # In the order of `seq`.
        self._lost: list[tuple[int, Applied]] = []

    def add(self, seq: int, applied: tuple[Applied, ...]) -> None:
        """Keep the commands of the lost frame `seq`; those of one `seq` stay in the order of the calls."""
        if applied:
            self._lost += [(seq, each) for each in applied]
            self._lost.sort(key=itemgetter(0))
            del self._lost[:-MAX_APPLIED]

    def hand_on(self, seq: int, applied: tuple[Applied, ...]) -> tuple[Applied, ...]:
        """The commands that frame `seq` is the first to reflect: those of lost frames, then `applied`."""
        if not self._lost:
            return applied
        older = [each for lost, each in self._lost if lost <= seq]
        self._lost = self._lost[len(older) :]
        return (*older, *applied)[-MAX_APPLIED:]
