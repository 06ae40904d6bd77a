"""A connection in memory that checks a session against the rules of `Transport`; the test plays the client.

The client's methods are synchronous, so that they can be called at any scheduling point, from an instrument
too. Each rule that the session breaks is noted in `faults`.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.wire.transport import whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reactor_trio.wire.transport import Outgoing


class StrictTransport:
    """The server's end; `read` has the messages that the client has read, each with its time.

    The network holds up to `capacity` bytes for a client that has paused. With `short_writes` the network
    takes only a part of every second `send_nowait`; the next write must send the rest.
    """

    def __init__(
        self, *, send_timeout: float, capacity: float = math.inf, short_writes: bool = False
    ) -> None:
        self.faults: list[str] = []
        self.read: list[tuple[float, str | bytes]] = []
        self.close_code: int | None = None
        """The code of the server's close frame; None if the server closed by force, or after the client."""
        self.aborted = False
        self._send_timeout = send_timeout
        self._capacity = capacity
        self._began = trio.current_time()
        self._last_received = self._began
        self._arrived: deque[str | bytes] = deque()
        self._on_the_way: deque[str | bytes] = deque()
        self._rest: deque[str | bytes] = deque()
        self._short_writes, self._is_short = short_writes, False
        self._reads = True
        # For good: the client sends nothing any more; nothing but time or `cut` ends the connection.
        self._is_frozen = self._is_lost = False
        self._gone: TransportClosed | None = None
        self._busy: set[str] = set()
        self._torn = False
        # Set at any change, and replaced by a new event.
        self._changed = trio.Event()

    @property
    def has_ended(self) -> bool:
        """Whether the connection is over, ended by either side."""
        return self._gone is not None

    @property
    def is_read(self) -> bool:
        """Whether each side has read all messages of the other, and the session waits for more."""
        on_the_way = self._arrived or self._on_the_way or self._rest
        return not on_the_way and self._busy == {"receive"}

    # ---- the client

    def arrive(self, *messages: str | bytes) -> None:
        """The client sends messages."""
        if self._gone is None and not self._is_frozen:
            self._arrived.extend(messages)
            self._notify()

    def hang_up(self, code: int = 1000) -> None:
        """The client closes politely, if it still can."""
        if not self._is_lost:
            self._end(TransportClosed(code, "the client left"))

    def cut(self) -> None:
        """The connection breaks."""
        self._end(TransportClosed(1006, "connection lost"))

    def freeze(self) -> None:
        """The client answers nothing any more, while the network still takes all messages."""
        self.pause()
        self._is_frozen = self._is_lost = True
        self._capacity = math.inf
        self._notify()

    def stall(self) -> None:
        """The network takes nothing any more."""
        self.pause()
        self._is_lost = True
        self._capacity = 0

    def pause(self) -> None:
        """The client stops reading; the network takes `capacity` bytes for it."""
        self._reads = False

    def resume(self) -> None:
        """The client reads on, if it still can."""
        self._reads = not self._is_lost
        self._deliver()

    def _end(self, how: TransportClosed) -> None:
        self._gone = self._gone or how
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _deliver(self) -> None:
        if self._reads:
            now = trio.current_time() - self._began
            self.read += [(now, message) for message in self._on_the_way]
            self._on_the_way.clear()
            self._last_received = trio.current_time()
            if self.close_code is not None:
                self._end(TransportClosed(self.close_code, "closed"))
            self._notify()

    # ---- the session

    @property
    def last_received(self) -> float:
        return self._last_received if "receive" in self._busy else trio.current_time()

    @property
    def has_unsent(self) -> bool:
        return bool(self._rest)

    async def receive(self) -> Sequence[str | bytes]:
        with self._alone("receive"):
            await trio.lowlevel.checkpoint()
            while not self._arrived:
                self._raise_if_gone()
                await self._changed.wait()
            messages = list(self._arrived)
            self._arrived.clear()
            self._last_received = trio.current_time()
            return messages

    async def send(self, messages: Sequence[Outgoing]) -> None:
        with self._alone("write"):
            await self._write([*self._take_rest(), *map(whole, messages)])

    async def ping(self) -> None:
        with self._alone("write"):
            await self._write([*self._take_rest(), ""])
            if self._reads:
                self._last_received = trio.current_time()

    def send_nowait(self, messages: Sequence[Outgoing]) -> bool:
        self._note(self._torn, "send_nowait on a torn stream")
        self._note(self.close_code is not None, "send_nowait after the close")
        if "write" in self._busy or self._rest or self._gone is not None or self._is_full():
            return False
        self._is_short = not self._is_short
        if self._short_writes and self._is_short:
            self._rest.extend(map(whole, messages))
        else:
            self._put(*map(whole, messages))
        return True

    async def aclose(self, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        # A write may be under way still: the close frame stands in line behind it.
        while "write" in self._busy and self._gone is None:
            await self._changed.wait()
        if self._gone is not None or self._torn:
            return
        try:
            with self._alone("write"):
                await self._write(self._take_rest())
            self.close_code = code
            self._deliver()
            while self._gone is None:
                await self._changed.wait()
        except TransportClosed:
            pass
        except trio.Cancelled:
            self.cut()
            raise

    async def abort(self) -> None:
        self.aborted = True
        self.cut()
        await trio.lowlevel.checkpoint()

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        self._note(what in self._busy, f"two tasks {what} at a time")
        self._note(what == "write" and self._torn, "a write after one that was cancelled")
        self._note(self.aborted, f"{what} after abort")
        self._busy.add(what)
        try:
            yield
        finally:
            self._busy.discard(what)
            self._notify()

    def _note(self, is_fault: bool, text: str) -> None:
        if is_fault:
            self.faults.append(text)

    def _take_rest(self) -> list[str | bytes]:
        rest = list(self._rest)
        self._rest.clear()
        return rest

    async def _write(self, messages: Sequence[str | bytes]) -> None:
        try:
            await trio.lowlevel.checkpoint()
            self._raise_if_closed()
            for message in messages:
                await self._room()
                self._put(message)
        except trio.Cancelled:
            self._torn = True
            raise
        self._raise_if_gone()

    def _put(self, *messages: str | bytes) -> None:
        self._on_the_way.extend(message for message in messages if message)
        self._deliver()

    def _is_full(self) -> bool:
        return sum(map(len, self._on_the_way)) >= self._capacity

    async def _room(self) -> None:
        self._raise_if_gone()
        while self._is_full():
            with trio.move_on_after(self._send_timeout) as scope:
                await self._changed.wait()
            if scope.cancelled_caught and self._gone is None:
                self._gone = TransportStalled(1006, "no byte was accepted for too long")
                self._notify()
            self._raise_if_gone()

    def _raise_if_gone(self) -> None:
        if self._gone is not None:
            raise type(self._gone)(self._gone.code, self._gone.reason)

    def _raise_if_closed(self) -> None:
        self._raise_if_gone()
        if self.close_code is not None:  # and the client has not answered yet
            raise TransportClosed(self.close_code, "closed")
