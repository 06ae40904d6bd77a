"""`MemoryTransport`: a `Transport` without a socket, for tests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.testing.network import Network
from reactor_trio.testing.pipe import Close, Item, Ping, Pipe, Pong
from reactor_trio.wire.transport import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactor_trio.wire.transport import Outgoing

    Listener = Callable[[str | bytes], object]

MOST_AT_ONCE = 1000
"""Messages that one `receive` returns at most: about as many as a WebSocket reads in one step."""
LOST = "the connection was lost"


class MemoryTransport:
    """One end of a connection in memory; see `wire.transport.Transport` for its methods.

    `stall()` makes this end stop reading: the peer's `send` fills the buffer and then times out.
    `freeze()` makes it stop writing too, as a process does that was suspended: pings stay unanswered.
    `resume()` ends either. `cut()` breaks the connection, as a pulled cable does once the kernel notices.
    """

    def __init__(self, incoming: Pipe, outgoing: Pipe, *, send_timeout: float) -> None:
        self._in = incoming
        self._out = outgoing
        self._send_timeout = send_timeout
        self._closed: TransportClosed | None = None
        # Nothing more is read: the closing handshake is done, or the connection has broken.
        self._ended = False
        # This end has sent its close: messages that still come are thrown away (RFC 6455, 1.4).
        self._is_closing = False
        # A write was cut short: the peer would read the next bytes as the rest of that message.
        self._torn = False
        self._is_receiving = False
        # Whole messages only: a ping or a close does not go out in the middle of one.
        self._writing = trio.Lock()
        self._last_received = trio.current_time()
        self._stalled = False
        self._frozen = False
        # Replaced by `freeze`, set by `resume`; a frozen writer waits for it.
        self._thawed = trio.Event()
        self.on_receive: Listener = _ignore
        """Called with each message that `receive` returns."""
        self.on_send: Listener = _ignore
        """Called with each message that `send` has written."""

    @property
    def pipes(self) -> tuple[Pipe, Pipe]:
        """The direction that begins here, and the one that ends here."""
        return self._out, self._in

    @property
    def last_received(self) -> float:
        """See `Transport.last_received`; a stalled end does not listen either."""
        is_deaf = self._stalled or not self._is_receiving
        return trio.current_time() if is_deaf else self._last_received

    @property
    def closed(self) -> TransportClosed | None:
        """The error of this end's closing; None while it is open."""
        return self._closed

    # ---- reading

    async def receive(self) -> Sequence[str | bytes]:
        """See `Transport.receive`."""
        await trio.lowlevel.checkpoint()
        self._is_receiving = True
        try:
            while True:
                messages = self._read()
                if messages:
                    return messages
                if self._ended:
                    raise _again(self._closed)
                await self._next_read()
        finally:
            self._is_receiving = False

    async def _next_read(self) -> None:
        await _change(self._in, math.inf if self._stalled else self._in.next_event())

    def _read(self) -> list[str | bytes]:
        """Read the messages that have arrived, up to a close. Notices the end when all have been read."""
        messages: list[str | bytes] = []
        if self._stalled or self._ended:
            return messages
        something = False
        while not (messages and (isinstance(self._in.first(), Close) or len(messages) >= MOST_AT_ONCE)):
            was_there, item = self._in.read()
            if not was_there:
                break
            something = True
            self._last_received = trio.current_time()
            if isinstance(item, str | bytes):
                if not self._is_closing:
                    messages.append(item)
                    self.on_receive(item)
            elif item is not None:
                self._control(item)
        if not messages and not self._ended and self._in.ended():
            self._end(TransportClosed(1006, LOST))
        if something or self._ended:  # the peer has room again, or `aclose` waits for the end
            self._in.notify()
        return messages

    def _control(self, item: Ping | Pong | Close) -> None:
        match item:
            case Ping():
                self._out.accept(Pong(), 0)
            case Close(code, reason):
                if not self._is_closing:
                    self._out.accept(Close(code, reason), 0)  # the other half of the handshake
                self._end(TransportClosed(code, reason))

    def _end(self, closed: TransportClosed) -> None:
        self._closed = self._closed or closed
        self._ended = True

    # ---- writing

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """See `Transport.send`."""
        async with self._writing:
            for message in map(whole, messages):
                await self._write(message, _size(message))
                self.on_send(message)

    def send_nowait(self, messages: Sequence[Outgoing]) -> bool:
        """See `Transport.send_nowait`."""
        if self._frozen or self._writing.locked() or self._fault() is not None:
            return False
        taken = [whole(message) for message in messages]
        sizes = [_size(message) for message in taken]
        if sum(sizes) > self._out.room():
            return False
        for message, size in zip(taken, sizes, strict=True):
            self._out.accept(message, size)
            self.on_send(message)
        return True

    @property
    def has_unsent(self) -> bool:
        """See `Transport.has_unsent`: `send_nowait` takes messages whole or not at all."""
        return False

    async def _write(self, item: Item, size: int) -> None:
        written = 0
        gives_up = trio.current_time() + self._send_timeout
        try:
            while True:
                while self._frozen:
                    await self._thawed.wait()
                    gives_up = trio.current_time() + self._send_timeout
                self._check_open()
                before, written = written, self._out.accept(item, size, written)
                if written == size:
                    break
                if written > before:
                    gives_up = trio.current_time() + self._send_timeout
                elif trio.current_time() >= gives_up:
                    self._give_up()
                await _change(self._out, min(gives_up, self._out.refuses_at))
            if self._out.link.returns_after:
                await trio.sleep(self._out.link.returns_after)
        except trio.Cancelled:
            self._torn = 0 < written < size
            raise

    def _give_up(self) -> None:
        self._closed = TransportStalled(1006, f"no byte was accepted for {self._send_timeout:g} s")
        self._abort()
        raise _again(self._closed)

    def _check_open(self) -> None:
        fault = self._fault()
        if fault is not None:
            raise fault

    def _fault(self) -> TransportClosed | None:
        """Return the error of a write at this time; None if this end can write."""
        if self._closed is not None:
            return _again(self._closed)
        return TransportClosed(1006, LOST) if self._torn or self._out.refused() else None

    async def ping(self) -> None:
        """See `Transport.ping`."""
        async with self._writing:
            await self._write(Ping(), 0)

    # ---- the end

    async def aclose(self, code: int, reason: str) -> None:
        """See `Transport.aclose`."""
        try:
            async with self._writing:
                if self._fault() is None:
                    self._out.accept(Close(code, reason), 0)
                    self._closed, self._is_closing = TransportClosed(code, reason), True
            while self._is_closing and not self._ended:
                if not self._is_receiving:
                    self._read()
                if not self._ended:
                    await self._next_read()
        except trio.Cancelled:
            self._abort()
            raise

    async def abort(self) -> None:
        """See `Transport.abort`."""
        self._abort()
        await trio.lowlevel.checkpoint()

    def _abort(self) -> None:
        self._end(TransportClosed(1006, "closed by force"))
        self._in.refuse(self._out.finish())
        self._in.notify()

    def cut(self) -> None:
        """Break the connection: messages under way are lost, and each end notices when it reads or writes."""
        for pipe in (self._in, self._out):
            pipe.break_at(trio.current_time())

    def stall(self) -> None:
        """Stop reading, until `resume`."""
        self._stalled = True

    def freeze(self) -> None:
        """Stop reading and writing, until `resume`."""
        self._stalled = self._frozen = True
        self._thawed = trio.Event()

    def resume(self) -> None:
        """Read and write again."""
        if self._stalled:
            self._last_received = trio.current_time()
        self._stalled = self._frozen = False
        self._thawed.set()
        self._in.notify()


def memory_transport_pair(
    *, send_timeout: float = 10.0, network: Network | None = None, name: str = ""
) -> tuple[MemoryTransport, MemoryTransport]:
    """Make two connected ends: the client's and the server's.

    `send_timeout` is in seconds of Trio's clock: an end that can write no byte for so long gives up. `name`
    tells the connections of one `network` apart, so that each draws its own jitter.
    """
    network = network or Network()

    def break_at(time: float) -> None:
        for pipe in (up, down):
            pipe.break_at(time)

    up = Pipe(network.link("up"), network.draws(name, "up"), break_at)
    down = Pipe(network.link("down"), network.draws(name, "down"), break_at)
    client = MemoryTransport(down, up, send_timeout=send_timeout)
    server = MemoryTransport(up, down, send_timeout=send_timeout)
    return client, server


async def _change(pipe: Pipe, until: float) -> None:
    """Wait until something changes in the pipe, but not longer than `until` (seconds of Trio's clock)."""
    changed = pipe.changed
    if math.isinf(until):
        await changed.wait()
    else:
        with trio.move_on_at(until):
            await changed.wait()


def _again(closed: TransportClosed | None) -> TransportClosed:
    """Copy the exception: the traceback of one that is raised twice would grow."""
    assert closed is not None
    return type(closed)(closed.code, closed.reason)


def _size(message: str | bytes) -> int:
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())


def _ignore(message: str | bytes) -> None:
    pass
