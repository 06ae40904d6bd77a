"""Who may have a session now, who waits for one, and in what order. No I/O, and nothing here waits.

A place is taken when the request is answered and given up when the connection has ended, so what a
handshake takes is covered. The line is first come, first served: while someone waits, nobody overtakes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Place:
    """One connection's place: in a session, or in the line. Made by `Admission.enter`."""

    def __init__(self, admission: Admission, network: str | None = None) -> None:
        self._admission = admission
        self.network = network
        """Where it comes from (`server.address`); None: it does not count."""
        self.position: int | None = None
        """Place in the line, 1 is next; 0: let in; None: given up."""
        self.on_change: Callable[[], object] = _ignore
        """Called, in whoever's task it is, when `position` has changed."""

    def leave(self) -> None:
        """Give the place up; a second time does nothing."""
        self._admission._leave(self)

    def _move(self, position: int) -> None:
        if position != self.position:
            self.position = position
            self.on_change()


class Admission:
    """At most `max_sessions` places (0: no limit), and a line of at most `max_waiting` before them.

    Of both together, at most `max_per_network` for those who come from one network (0: no limit).
    """

    def __init__(self, *, max_sessions: int = 0, max_waiting: int = 0, max_per_network: int = 0) -> None:
        self._max_sessions = max_sessions
        self._max_waiting = max_waiting
        self._max_per_network = max_per_network
        self._of_network: Counter[str] = Counter()
        self._sessions = 0
        self._line: list[Place] = []

    @property
    def sessions(self) -> int:
        """Connections that were let in and have not ended."""
        return self._sessions

    @property
    def waiting(self) -> int:
        """Connections in the line."""
        return len(self._line)

    @property
    def is_empty(self) -> bool:
        """Whether nobody is here, neither in a session nor in the line."""
        return not (self._sessions or self._line)

    @property
    def has_room(self) -> bool:
        """Whether one more may come, be it to wait."""
        return self._has_free_session or len(self._line) < self._max_waiting

    @property
    def _has_free_session(self) -> bool:
        return not self._max_sessions or self._sessions < self._max_sessions

    def admits(self, network: str | None) -> bool:
        """Whether those who come from there do not have all of their places already."""
        most = self._max_per_network
        return not most or network is None or self._of_network[network] < most

    def enter(self, network: str | None = None) -> Place:
        """Take a place. Raises `RuntimeError` if there is no room: ask first."""
        if not self.has_room:
            raise RuntimeError("neither a session nor the line has room")
        place = Place(self, network)
        if network is not None:
            self._of_network[network] += 1
        self._line.append(place)
        self._advance()
        return place

    def _leave(self, place: Place) -> None:
        if place.position is None:
            return
        if place.position == 0:
            self._sessions -= 1
        else:
            self._line.remove(place)
        place.position = None
        if place.network is not None:
            self._of_network[place.network] -= 1
            if not self._of_network[place.network]:
                del self._of_network[place.network]
        self._advance()

    def _advance(self) -> None:
        while self._line and self._has_free_session:
            self._sessions += 1
            self._line.pop(0)._move(0)
        for position, place in enumerate(self._line, 1):
            place._move(position)


def _ignore() -> None:
    pass
