"""What comes before a session: places in the server's line, and then the welcome."""

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
"""Seconds for the welcome: it is sent before the model is asked anything, so only a network can delay it."""


class Greeting:
    """The read task puts in what the server says; one task waits for the welcome."""

    def __init__(self, on_queued: Callable[[int], object] | None) -> None:
        self.welcome: Welcome | None = None
        self._on_queued = on_queued
        self._failure: HandshakeFailed | None = None
        self._closed: TransportClosed | None = None
        # Place in the server's line, 1 is next; None before it has named one.
        self._position: int | None = None
        # Set by the read task with a place in the line, the welcome or the end; `wait` waits for it.
        self._news = trio.Event()

    def take_welcome(self, data: Mapping[str, Any]) -> Welcome | None:
        """The server's welcome; None if it cannot be read, or is not the first one."""
        if self.welcome is not None:
            return None
        try:
            self.welcome = Welcome.read(data)
        except HandshakeFailed as error:
            self._failure = error
        self._news.set()
        return self.welcome

    def take_position(self, position: int) -> None:
        """The server's `reactor.queued`."""
        if self.welcome is None:
            self._position = position
            self._news.set()

    def end(self, closed: TransportClosed) -> None:
        """The connection has ended."""
        self._closed = closed
        self._news.set()

    async def wait(self) -> None:
        """Wait for the welcome, and tell of the places in line until then.

        Raises `HandshakeFailed`, also if there is none in time, `TransportClosed`, and what `on_queued`
        raises.
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
