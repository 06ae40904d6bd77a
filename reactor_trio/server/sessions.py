"""The sessions of one server, and the clients in the queue for one: served, counted, and asked to end.

See docs/design.md#endings and docs/design.md#shutting-down.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from reactor_trio.server.admission import Admission
from reactor_trio.server.waiting_client import WaitingClient
from reactor_trio.session.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from reactor_trio.contract.contract import Contract
    from reactor_trio.declare.identity import Identity
    from reactor_trio.server.admission import Place
    from reactor_trio.server.http import Upgrade
    from reactor_trio.server.settings import ServerSettings
    from reactor_trio.wire.transport import Transport


class Drainable(Protocol):
    """A session, or a client in the queue for one."""

    def drain(self) -> None:
        """Ask it to say goodbye to its client and end."""

    @property
    def is_in_its_last_hook(self) -> bool:
        """Whether it runs `@disconnected` and nothing else; that hook is cut off by its own timeout."""
        ...


class ServedSession(Drainable, Protocol):
    """The part of `session.session.Session` that the server uses."""

    async def run(self) -> object:
        """Serve the client until the session has ended."""


class ServedHost(Protocol):
    """The part of `link.host.ModelHost` that the server uses."""

    @property
    def contract(self) -> Contract: ...
    @property
    def limits(self) -> Limits: ...
    def session(
        self,
        transport: Transport,
        *,
        address: str = "",
        identity: Identity | None = None,
        early: Sequence[str | bytes] = (),
    ) -> ServedSession: ...


@attrs.frozen(eq=False)
class Granted:
    """A request for a WebSocket that was granted. `Sessions.serve` takes it, and gives its place up."""

    upgrade: Upgrade
    place: Place
    address: str
    identity: Identity | None


class Sessions:
    """Serves each client that has a place, and can ask all of them to end."""

    def __init__(self, settings: ServerSettings) -> None:
        self.admission = Admission(
            max_sessions=settings.max_sessions,
            max_waiting=settings.max_waiting,
            max_per_network=settings.max_sessions_per_address,
        )
        """The places of connections that have a session or are in the queue, from their handshake on."""
        self.drained = trio.Event()
        """Set when `drain` was called and no place is taken any more."""
        self._max_wait = settings.max_wait
        self._host: ServedHost | None = None
        self._is_draining = False
        self._drainable: set[Drainable] = set()

    @property
    def limits(self) -> Limits:
        """The limits of the loaded model's host; the defaults while the model is loading."""
        return Limits() if self._host is None else self._host.limits

    @property
    def hook_timeout(self) -> float:
        """Seconds that a session's `@disconnected` may take; 0 while the model is loading."""
        return 0.0 if self._host is None else self._host.limits.hook_timeout

    @property
    def only_hooks_are_left(self) -> bool:
        """Whether there are sessions and each of them runs its `@disconnected`. From any thread."""
        left = tuple(self._drainable)
        return bool(left) and all(each.is_in_its_last_hook for each in left)

    def open(self, host: ServedHost) -> None:
        """Take the host of the loaded model; clients can be served from now on."""
        self._host = host

    async def serve(self, granted: Granted, opening: AbstractAsyncContextManager[Transport]) -> None:
        """Open the client's transport, keep the client in the queue until it is let in, and run its session.

        The place is given up at the end in any case. Raises what `opening` raises, and nothing for a
        client that goes away. If cancelled, the session runs its `@disconnected` first.
        """
        host, place = self._host, granted.place
        assert host is not None, "a request for a WebSocket is granted only when the model is loaded"
        try:
            async with opening as transport:
                early: Sequence[str | bytes] | None = ()
                if place.position:
                    early = await self._wait_in_queue(transport, granted)
                if early is not None:
                    session = host.session(
                        transport, address=granted.address, identity=granted.identity, early=early
                    )
                    with self._drains(session):
                        await session.run()
        finally:
            place.leave()
            self._check_drained()

    async def _wait_in_queue(self, transport: Transport, granted: Granted) -> Sequence[str | bytes] | None:
        """The messages that the client sent while it waited, or None if it was not let in."""
        waiting = WaitingClient(
            transport, granted.place, self.limits, max_wait=self._max_wait, address=granted.address
        )
        with self._drains(waiting):
            return waiting.early if await waiting.run() else None

    def drain(self) -> None:
        """Ask all sessions and waiting clients to end, and each one that begins later, at once."""
        self._is_draining = True
        for each in tuple(self._drainable):
            each.drain()
        self._check_drained()

    def _check_drained(self) -> None:
        if self._is_draining and self.admission.is_empty:
            self.drained.set()

    @contextmanager
    def _drains(self, each: Drainable) -> Iterator[None]:
        self._drainable.add(each)
        if self._is_draining:  # the client was let in before `drain`, and its handshake has ended after it
            each.drain()
        try:
            yield
        finally:
            self._drainable.discard(each)
