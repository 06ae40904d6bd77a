"""A budget of log lines for each place in the code, since clients decide how often the code gets there.

A page that is refused, a handler that fails, a session that begins: each makes a line, or a traceback, and a
client can cause as many as it can send requests. So each place may log so many characters at once and so many
a second. Further lines are counted and not written; the next line of the place says how many were left out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

BURST = 256 * 1024
"""Characters that one place may log at once: a thousand lines of new sessions, a hundred tracebacks."""
RATE = 8 * 1024
"""Characters a second that one place may log after that: some 700 MB a day."""
MAX_PLACES = 1000
"""Places with a budget of their own. Further ones share one: code made at run time may have any number."""


@attrs.define(eq=False)
class Place:
    """The budget of one place."""

    what: str
    """The event of its first line."""
    tokens: float
    at: float
    left_out: int = 0
    """Lines that were left out since the last line that was written."""


class Repeats:
    """Decides which lines are written. Called from any thread; `clock` is in seconds.

    There is no lock, since the thread that has it may not be scheduled: races between threads let a line too
    many through, which does no harm.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, burst: float = BURST) -> None:
        self.suppressed = 0
        """Lines that were left out, in all."""
        self.owes = False
        """Whether lines were left out of which no line has told yet."""
        self.on_owing: Callable[[], object] = bool
        """Called when `owes` becomes true: from then on `settle` has something to tell."""
        self._clock = clock
        self._burst = burst
        self._places: dict[Hashable, Place] = {}
        self._others = self._new("(others)")

    def _new(self, what: str) -> Place:
        return Place(what, self._burst, self._clock())

    def place(self, key: Hashable, what: Callable[[], str]) -> Place:
        """The budget of a place in the code. `what` is called for its first line."""
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= MAX_PLACES:
                return self._others
            place = self._places[key] = self._new(what())
        return place

    def admit(self, place: Place) -> bool:
        """Whether a line may be written. If so, call `charge` when it is."""
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
        """Take a written line off the budget. Returns how many lines before it were left out."""
        place.tokens -= characters
        left_out, place.left_out = place.left_out, 0
        return left_out

    def settle(self) -> Iterator[tuple[str, int]]:
        """For each place that may log again: the event of its first line, and how many lines were left out.

        A place that logs again before this is called tells the number with its next line.
        """
        now = self._clock()
        owing = [place for place in (*tuple(self._places.values()), self._others) if place.left_out]
        for place in owing:
            if place.tokens + RATE * (now - place.at) > 0:
                yield place.what, self.charge(place, 0)
        self.owes = any(place.left_out for place in owing)
