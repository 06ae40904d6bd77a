"""A connection in memory: the same seam as a WebSocket, without one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
import trio

from reactor_trio.errors import TransportClosed, TransportStalled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Listener = Callable[[str | bytes], object]

BUFFER_BYTES = 1024 * 1024
"""What a direction holds before `send` waits: about what the kernels of two machines would."""


@attrs.frozen
class _Ping:
    """A ping on its way: read by the peer's `receive`, like everything else."""


@attrs.frozen
class _Close:
    code: int
    reason: str


class _Pipe:
    """One direction."""

    def __init__(self) -> None:
        self.items: deque[str | bytes | _Ping | _Close] = deque()
        self.bytes = 0
        self.broken = False
        # Replaced when it fires: set whenever something was put in, taken out, or broke.
        self.changed = trio.Event()

    def notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def put(self, item: str | bytes | _Ping | _Close) -> None:
        self.items.append(item)
        self.bytes += _size(item)
        self.notify()

    def break_(self) -> None:
        self.broken = True
        self.notify()


class MemoryTransport:
    """One end of a connection in memory; see `session.transport.Transport` for its methods.

    `stall()` makes this end stop reading: the peer's `send` fills the buffer and then times out.
    `freeze()` makes it stop writing too, as a process does that was suspended: pings stay unanswered.
    `cut()` breaks the connection, as a pulled cable does once the kernel notices.
    """

    def __init__(self, incoming: _Pipe, outgoing: _Pipe, *, send_timeout: float) -> None:
        self._in = incoming
        self._out = outgoing
        self._send_timeout = send_timeout
        self._closed: TransportClosed | None = None
        self._last_received = trio.current_time()
        self._stalled = False
        self._frozen = False
        self.peer: MemoryTransport
        self.on_receive: Listener = _ignore
        """Called with each message that `receive` returns."""
        self.on_send: Listener = _ignore
        """Called with each message that `send` has written."""

    @property
    def last_received(self) -> float:
        """When the peer last sent something that was read here, in seconds of Trio's clock."""
        return self._last_received

    @property
    def closed(self) -> TransportClosed | None:
        """How this end was closed; None while it is open."""
        return self._closed

    async def receive(self) -> Sequence[str | bytes]:
        """See `Transport.receive`."""
        await trio.lowlevel.checkpoint()
        while True:
            messages = [] if self._stalled else self._take()
            if messages:
                return messages
            if self._closed is not None:
                raise type(self._closed)(self._closed.code, self._closed.reason)
            await self._in.changed.wait()

    def _take(self) -> list[str | bytes]:
        messages: list[str | bytes] = []
        while self._in.items and not (messages and isinstance(self._in.items[0], _Close)):
            item = self._in.items.popleft()
            self._in.bytes -= _size(item)
            self._last_received = trio.current_time()
            if isinstance(item, _Close):
                self._peer_closed(item)
            elif isinstance(item, _Ping):
                self.peer._last_received = trio.current_time()  # the pong
            else:
                messages.append(item)
                self.on_receive(item)
        if self._in.broken and not messages:
            self._closed = self._closed or TransportClosed(1006, "the connection was lost")
        self._in.notify()
        return messages

    def _peer_closed(self, close: _Close) -> None:
        if self._closed is None:
            self._closed = TransportClosed(close.code, close.reason)
            self._out.put(_Close(close.code, close.reason))  # the other half of the handshake

    async def send(self, messages: Sequence[str | bytes]) -> None:
        """See `Transport.send`."""
        await trio.lowlevel.checkpoint()
        for message in messages:
            await self._room()
            self._out.put(message)
            self.on_send(message)

    def send_nowait(self, messages: Sequence[str | bytes]) -> bool:
        """See `Transport.send_nowait`."""
        if self._frozen or self._closed is not None or self._out.broken or self._out.bytes >= BUFFER_BYTES:
            return False
        for message in messages:
            self._out.put(message)
            self.on_send(message)
        return True

    @property
    def has_unsent(self) -> bool:
        """See `Transport.has_unsent`: what is sent here is sent whole."""
        return False

    async def _room(self) -> None:
        if self._frozen:
            await trio.sleep_forever()
        while True:
            if self._closed is not None or self._out.broken:
                raise self._closed or TransportClosed(1006, "the connection was lost")
            if self._out.bytes < BUFFER_BYTES:
                return
            with trio.move_on_after(self._send_timeout) as scope:
                await self._out.changed.wait()
            if scope.cancelled_caught:
                self._closed = TransportStalled(1006, f"no byte was accepted for {self._send_timeout:g} s")
                self.cut()

    async def ping(self) -> None:
        """See `Transport.ping`."""
        await trio.lowlevel.checkpoint()
        await self._room()
        self._out.put(_Ping())

    async def aclose(self, code: int, reason: str) -> None:
        """See `Transport.aclose`."""
        try:
            await trio.lowlevel.checkpoint()
            if self._closed is None and not self._out.broken:
                self._closed = TransportClosed(code, reason)
                self._out.put(_Close(code, reason))
                self._in.notify()
                while self._out.items and not self._out.broken:
                    await self._out.changed.wait()
        except trio.Cancelled:
            self.cut()
            raise

    async def abort(self) -> None:
        """See `Transport.abort`."""
        self.cut()
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        """Break the connection, with no word to either end."""
        self._closed = self._closed or TransportClosed(1006, "the connection was lost")
        self._in.break_()
        self._out.break_()

    def stall(self) -> None:
        """Stop reading for good."""
        self._stalled = True

    def freeze(self) -> None:
        """Stop reading and writing for good."""
        self._stalled = self._frozen = True


def memory_transport_pair(*, send_timeout: float = 10.0) -> tuple[MemoryTransport, MemoryTransport]:
    """Two connected ends. `send_timeout` is in seconds of Trio's clock."""
    there, back = _Pipe(), _Pipe()
    left = MemoryTransport(there, back, send_timeout=send_timeout)
    right = MemoryTransport(back, there, send_timeout=send_timeout)
    left.peer, right.peer = right, left
    return left, right


def _size(item: str | bytes | _Ping | _Close) -> int:
    return len(item) if isinstance(item, str | bytes) else 0


def _ignore(message: str | bytes) -> None:
    pass
