"""Connections before they are sessions: how many there may be, and which descriptors are kept back. No I/O.

A client that says nothing holds a descriptor until its time for a request is over, and no limit of sessions
has seen it yet. So there are two bounds: of all connections, which the descriptors of the process give, and
of those that have no session. Beyond either a few connections more are read, for a shorter time, so that
`/health` and `/metrics` are answered whatever else is full. The next one takes the place of the oldest of
them that has not said what it wants: a client that says nothing keeps nobody out.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESERVED: Final = 8
"""Connections that are read beyond the bounds."""
RESERVED_SECONDS: Final = 2.0
"""How long such a one may take for its request."""
MOST_DESCRIPTORS: Final = 65536
"""What the soft limit of descriptors is raised to at most."""
KEPT_SHARE: Final = 8
"""Of so many descriptors one is kept back for everything else: the model's files, and those of uploads."""
LEAST_KEPT: Final = 8

Limit = Literal["connections", "unfinished", "address", "host", "token"]
"""What a client was refused for: all connections, those without a session, those of one address, ..."""


class Pass:
    """One connection's way through the gate."""

    def __init__(self, gate: Gate, *, is_reserved: bool) -> None:
        self._gate = gate
        self.is_reserved = is_reserved
        """Whether it is beyond the bounds: only `/health` and `/metrics` are answered, and soon."""
        self.is_busy = False
        """Whether its request was read, and is being answered: it keeps its place until it was."""
        self.is_answered = False
        """Whether the answer was begun."""
        self.was_evicted = False
        """Whether a newer connection got its place."""
        self.on_eviction: Callable[[], object] = _ignore
        """Called, in whoever's task it is, when that happens; the connection is to end then."""
        self._is_unfinished = True
        self._is_inside = True

    def has_session(self) -> None:
        """The request was granted: it is a session from now on, or waits in line for one."""
        if self._is_unfinished and not self.is_reserved:
            self._is_unfinished = False
            self._gate.unfinished -= 1

    def leave(self) -> None:
        """The connection has ended; a second time does nothing."""
        if not self._is_inside:
            return
        self.has_session()
        self._is_inside = False
        if self.is_reserved:
            self._gate._reserved.pop(self, None)
        else:
            self._gate.connections -= 1


class Gate:
    """At most `max_connections`, of which at most `max_unfinished` have no session (0: no limit)."""

    def __init__(self, *, max_connections: int = 0, max_unfinished: int = 0) -> None:
        self.max_connections = max_connections
        self.max_unfinished = max_unfinished
        self.connections = 0
        """All that were let through and have not ended, but the reserved ones."""
        self.unfinished = 0
        """Of these, those without a session."""
        # Those beyond the bounds, the oldest first.
        self._reserved: dict[Pass, None] = {}
        self.refused: Counter[Limit] = Counter()
        """Clients by the limit that they met."""

    @property
    def reserved(self) -> int:
        """Those beyond the bounds, but for evicted ones, which are about to end."""
        return len(self._reserved)

    def enter(self) -> Pass | None:
        """Let a connection through; None: close it at once."""
        limit = self._over()
        if limit is None:
            self.connections += 1
            self.unfinished += 1
            return Pass(self, is_reserved=False)
        self.refused[limit] += 1
        if self.reserved >= RESERVED and not self._evict():
            return None
        passed = Pass(self, is_reserved=True)
        self._reserved[passed] = None
        return passed

    def _evict(self) -> bool:
        oldest = next((each for each in self._reserved if not each.is_busy), None)
        if oldest is None:
            return False
        del self._reserved[oldest]
        oldest.was_evicted = True
        oldest.on_eviction()
        return True

    def _over(self) -> Limit | None:
        if self.max_connections and self.connections >= self.max_connections:
            return "connections"
        if self.max_unfinished and self.unfinished >= self.max_unfinished:
            return "unfinished"
        return None


def raise_descriptor_limit() -> int | None:
    """Raise the soft limit of descriptors to the hard one; returns what it is now, None if there is none."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return descriptor_limit()
    return None


def descriptor_limit() -> int | None:
    """The soft limit of descriptors; None where there is none."""
    with suppress(ImportError, OSError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return None if soft == resource.RLIM_INFINITY else soft
    return None


def connections_for(descriptors: int | None, in_use: int) -> int:
    """How many connections so many descriptors are good for, of which some are in use; 0: any number."""
    if descriptors is None:
        return 0
    kept = max(LEAST_KEPT, min(descriptors // KEPT_SHARE, 1024))
    return max(1, descriptors - in_use - kept - RESERVED)


def descriptors_in_use() -> int:
    """Open descriptors of this process; a guess where it cannot be asked."""
    for folder in _folders():
        with suppress(OSError):
            return len(os.listdir(folder))  # noqa: PTH208  the names alone, not one path each
    return 32


def _folders() -> Iterator[str]:
    yield "/proc/self/fd"
    yield "/dev/fd"


def _ignore() -> None:
    pass
