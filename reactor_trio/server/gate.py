"""Limits the number of connections, with and without a session. No I/O, but for counting descriptors.

`server.connections` calls `Gate.enter` for each accepted connection before it reads a byte, and `Pass.leave`
when the connection is closed. A client that sends no request holds a descriptor until `handshake_timeout`,
and no limit of sessions counts it yet. So there are two bounds: one for all connections, which follows from
the descriptors of the process, and one for the connections that have no session. Beyond either bound the
gate lets `RESERVED` further connections in, for `RESERVED_SECONDS`, so that `/health` and `/metrics` are
answered under any load. When those are taken too, a new connection replaces the oldest of them whose request
has not been read yet: clients that send nothing cannot keep the others out.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESERVED: Final = 8
"""Connections that are let in beyond the bounds."""
RESERVED_SECONDS: Final = 2.0
"""Seconds that such a connection may take to send its request."""
MOST_DESCRIPTORS: Final = 65536
"""The most that the soft limit of descriptors is raised to."""
KEPT_SHARE: Final = 8
"""One of so many descriptors is kept for other uses: the files of the model and of uploads."""
LEAST_KEPT: Final = 8
"""Descriptors that are kept at least."""

Limit = Literal["connections", "unfinished", "address", "host", "token"]
"""The limit that a refused client met: of all connections, of those without a session, of its address, ...

`host` and `token` are not limits of a number: the Host header was not allowed, or the token was wrong.
"""


class Pass:
    """One connection that the gate has let in. Made by `Gate.enter`."""

    def __init__(self, gate: Gate, *, is_reserved: bool) -> None:
        self._gate = gate
        self.is_reserved = is_reserved
        """Whether it is beyond the bounds, where only `/health` and `/metrics` are answered."""
        self.is_busy = False
        """Whether its request was read and the answer is not sent yet: such a connection is not evicted."""
        self.is_answered = False
        """Whether the first byte of the answer may have been sent."""
        self.was_evicted = False
        """Whether a newer connection has replaced it."""
        self.on_eviction: Callable[[], object] = _ignore
        """Called on eviction, in the task of the newer connection; the evicted one must then end."""
        self._is_unfinished = True
        self._is_inside = True

    def has_session(self) -> None:
        """Say that the request was granted: the connection has a session, or a place in the queue for one."""
        if self._is_unfinished and not self.is_reserved:
            self._is_unfinished = False
            self._gate.unfinished -= 1

    def leave(self) -> None:
        """Say that the connection has ended. Calling it again does nothing."""
        if not self._is_inside:
            return
        self.has_session()
        self._is_inside = False
        if self.is_reserved:
            self._gate._reserved.pop(self, None)
        else:
            self._gate.connections -= 1


class Gate:
    """Lets in at most `max_connections`, at most `max_unfinished` of them without a session (0: no limit)."""

    def __init__(self, *, max_connections: int = 0, max_unfinished: int = 0) -> None:
        self.max_connections = max_connections
        self.max_unfinished = max_unfinished
        self.connections = 0
        """Connections that were let in and have not ended, without the reserved ones."""
        self.unfinished = 0
        """The part of `connections` that has no session."""
        # The connections beyond the bounds, the oldest first.
        self._reserved: dict[Pass, None] = {}
        self.refused: Counter[Limit] = Counter()
        """Number of refused clients by the limit that they met."""

    @property
    def reserved(self) -> int:
        """Connections beyond the bounds; evicted ones, which are about to end, do not count."""
        return len(self._reserved)

    def enter(self) -> Pass | None:
        """Let a connection in; returns None if it is to be closed at once."""
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
    """Raise the soft limit of descriptors to the hard one, `MOST_DESCRIPTORS` at most.

    Returns the soft limit, or None if there is none. Called by the command line before the server starts.
    """
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
    """Number of connections for which `descriptors` suffice if `in_use` of them are taken; 0: any number."""
    if descriptors is None:
        return 0
    kept = max(LEAST_KEPT, min(descriptors // KEPT_SHARE, 1024))
    return max(1, descriptors - in_use - kept - RESERVED)


def descriptors_in_use() -> int:
    """Open descriptors of this process; 32 where the system does not tell."""
    for folder in _folders():
        with suppress(OSError):
            return len(os.listdir(folder))  # noqa: PTH208  the names alone, not one path each
    return 32


def _folders() -> Iterator[str]:
    yield "/proc/self/fd"
    yield "/dev/fd"


def _ignore() -> None:
    pass
