"""How much one place in the code may log: clients decide how often it comes by there.

A page that is refused, a handler that fails, a session that begins: each is a line, or a traceback, and a
client may cause as many as it can send. So each place has so many characters at once and so many a second.
What is beyond that is counted, not written, and the next line from there says how many were left out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

BURST = 256 * 1024
"""Characters that one place may log at once: a thousand sessions' beginnings, a hundred tracebacks."""
RATE = 8 * 1024
"""Characters a second that it may log after that: some 700 MB a day."""
MAX_PLACES = 1000
"""Places that are told apart; further ones share one budget: code made at run time may have any number."""


@attrs.define(eq=False)
class Place:
    """The budget of one place."""

    what: str
    """What it said first."""
    tokens: float
    at: float
    left_out: int = 0
    """Lines that were not written, and of which no line has told yet."""


class Repeats:
    """Decides which lines are written. Called from any thread; `clock` is in seconds.

    Threads may get into each other's way here: a line too many is no harm, and a lock might be held by a
    thread that is not scheduled.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, burst: float = BURST) -> None:
        self.suppressed = 0
        """Lines that were left out, in all."""
        self.owes = False
        """Whether there are lines of which nobody has been told yet that they were left out."""
        self.on_owing: Callable[[], object] = bool
        """Called when `owes` becomes true: `settle` is to be asked from now on."""
        self._clock = clock
        self._burst = burst
        self._places: dict[Hashable, Place] = {}
        self._others = self._new("(others)")

    def _new(self, what: str) -> Place:
        return Place(what, self._burst, self._clock())

    def place(self, key: Hashable, what: Callable[[], str]) -> Place:
        """The budget of a place in the code; `what` is asked once."""
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= MAX_PLACES:
                return self._others
            place = self._places[key] = self._new(what())
        return place

    def admit(self, place: Place) -> bool:
        """Whether a line may be written; if so, `charge` must be told of it."""
        now = self._clock()
        place.tokens = min(self._burst, place.tokens + RATE * (now - place.at))
        place.at = now
        if place.tokens > 0:
            return True
        place.left_out += 1
        self.suppressed += 1
        if not self.owes:
            self.owes = True
            self.on_owing()
        return False

    def charge(self, place: Place, characters: int) -> int:
        """A line was written. Returns how many before it were left out."""
        place.tokens -= characters
        left_out, place.left_out = place.left_out, 0
        return left_out

    def settle(self) -> Iterator[tuple[str, int]]:
        """What places that may speak again said, and how many more lines from there were left out.

        A place that goes on tells of it with its next line.
        """
        now = self._clock()
        owing = [place for place in (*tuple(self._places.values()), self._others) if place.left_out]
        for place in owing:
            if place.tokens + RATE * (now - place.at) > 0:
                yield place.what, self.charge(place, 0)
        self.owes = any(place.left_out for place in owing)
