"""The messages before a session: places in the server's queue, and then the welcome."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from reactor_trio.client.errors import again
from reactor_trio.client.messages import Welcome
from reactor_trio.errors import HandshakeFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from reactor_trio.errors import TransportClosed

WELCOME_TIMEOUT = 10.0
"""Seconds in which the welcome must come: the server sends it at once, so only the network can delay it."""


class Greeting:
    """The place where the read task puts the greeting; one task waits for the welcome."""

    def __init__(self, on_queued: Callable[[int], object] | None) -> None:
        self.welcome: Welcome | None = None
        self._on_queued = on_queued
        self._failure: HandshakeFailed | None = None
        self._closed: TransportClosed | None = None
        # Place in the server's queue (1 is next) that `on_queued` is still to be called with, or None.
        self._position: int | None = None
        # Set by the read task with a place in the queue, the welcome or the end; `wait` waits for it.
        self._news = trio.Event()

    def take_welcome(self, data: Mapping[str, Any]) -> Welcome | None:
        """Read the server's welcome; returns None if it cannot be read, or if there was one before."""
        if self.welcome is not None:
            return None
        try:
            self.welcome = Welcome.read(data)
        except HandshakeFailed as error:
            self._failure = error
        self._news.set()
        return self.welcome

    def take_position(self, position: int) -> None:
        """Keep the place that a `reactor.queued` of the server names."""
        if self.welcome is None:
            self._position = position
            self._news.set()

    def end(self, closed: TransportClosed) -> None:
        """Make `wait` raise, because the connection has ended."""
        self._closed = closed
        self._news.set()

    async def wait(self) -> None:
        """Wait for the welcome, and call `on_queued` with each place in the queue until then.

        Raises `HandshakeFailed` for a welcome that cannot be read or does not come in time, `TransportClosed`
        if the connection ends, and any error of `on_queued`.
        """
        with trio.move_on_after(WELCOME_TIMEOUT) as timeout:
            while self.welcome is None and self._failure is None and self._closed is None:
                await self._news.wait()
                self._news = trio.Event()
                timeout.deadline = math.inf
                if self._position is not None and self._on_queued is not None:
                    position, self._position = self._position, None
                    self._on_queued(position)
        if self._failure is not None:
            raise self._failure
        if self.welcome is None and self._closed is not None:
            raise again(self._closed)
        if self.welcome is None:
            raise HandshakeFailed(f"the server sent no reactor.welcome within {WELCOME_TIMEOUT:g} s")
