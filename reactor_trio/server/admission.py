"""Counts the sessions of a server and the clients in the queue for one, and says which is next. No I/O.

`server.reception` asks for a place when it grants a request for a WebSocket, and `server.sessions` gives it
up when that connection has ended, so a place also covers the handshake. The queue is first come, first
served: while a client waits, no later client gets a session.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Place:
    """One connection's place: a session, or a position in the queue. Made by `Admission.enter`."""

    def __init__(self, admission: Admission, network: str | None = None) -> None:
        self._admission = admission
        self.network = network
        """The client's network (`server.address`); None: the place counts for no network."""
        self.position: int | None = None
        """Position in the queue, 1 is next; 0: has a session; None: given up."""
        self.on_change: Callable[[], object] = _ignore
        """Called when `position` has changed, in the task of another connection that enters or leaves."""

    def leave(self) -> None:
        """Give the place up; a second time does nothing."""
        self._admission._leave(self)

    def _move(self, position: int) -> None:
        if position != self.position:
            self.position = position
            self.on_change()


class Admission:
    """At most `max_sessions` sessions (0: no limit), and at most `max_waiting` clients in the queue for one.

    Clients of one network have at most `max_per_network` places of both kinds together (0: no limit).
    """

    def __init__(self, *, max_sessions: int = 0, max_waiting: int = 0, max_per_network: int = 0) -> None:
        self._max_sessions = max_sessions
        self._max_waiting = max_waiting
        self._max_per_network = max_per_network
        self._of_network: Counter[str] = Counter()
        self._sessions = 0
        self._queue: list[Place] = []

    @property
    def sessions(self) -> int:
        """Connections that were let in and have not ended."""
        return self._sessions

    @property
    def waiting(self) -> int:
        """Connections in the queue."""
        return len(self._queue)

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a session nor a client in the queue."""
        return not (self._sessions or self._queue)

    @property
    def has_room(self) -> bool:
        """Whether one more client may enter, if only to wait."""
        return self._has_free_session or len(self._queue) < self._max_waiting

    @property
    def _has_free_session(self) -> bool:
        return not self._max_sessions or self._sessions < self._max_sessions

    def admits(self, network: str | None) -> bool:
        """Whether this network has fewer than `max_per_network` places."""
        most = self._max_per_network
        return not most or network is None or self._of_network[network] < most

    def enter(self, network: str | None = None) -> Place:
        """Take a place. Raises `RuntimeError` if there is no room: ask `has_room` first."""
        if not self.has_room:
            raise RuntimeError("neither a session nor the queue has room")
        place = Place(self, network)
        if network is not None:
            self._of_network[network] += 1
        self._queue.append(place)
        self._advance()
        return place

    def _leave(self, place: Place) -> None:
        if place.position is None:
            return
        if place.position == 0:
            self._sessions -= 1
        else:
            self._queue.remove(place)
        place.position = None
        if place.network is not None:
            self._of_network[place.network] -= 1
            if not self._of_network[place.network]:
                del self._of_network[place.network]
        self._advance()

    def _advance(self) -> None:
        while self._queue and self._has_free_session:
            self._sessions += 1
            self._queue.pop(0)._move(0)
        for position, place in enumerate(self._queue, 1):
            place._move(position)


def _ignore() -> None:
    pass
