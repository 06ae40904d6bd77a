"""The seam between a session and the wire: whole messages, in batches.

The session knows nothing else of WebSockets. `wire/websocket.py` implements it on trio-websocket,
`testing/` in memory; the Python client uses the same two from the other side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    Parts = tuple[bytes | memoryview, ...]
    Outgoing = str | bytes | Parts
    """A message to write. One in parts is binary: so no frame is copied to put its head before it."""


def whole(message: Outgoing) -> str | bytes:
    """The message in one, as the peer receives it."""
    return b"".join(message) if isinstance(message, tuple) else message


class Transport(Protocol):
    """One connection. `receive` is used by one task, `send` and `ping` by one other.

    Reading and writing do not wait for each other: while a write waits for the peer, `receive` goes on, and
    what the peer is answered by the transport itself (a pong, a close) is written when there is room for it.
    `tests/test_transport_contract.py` holds all implementations to what is said here.
    """

    @property
    def last_received(self) -> float:
        """When the last byte arrived, in seconds of Trio's clock.

        While nobody waits in `receive` it is now: what arrives then is not seen, and a silence of this side's
        own making must not look like the peer's.
        """
        ...

    async def receive(self) -> Sequence[str | bytes]:
        """Wait for the peer and return whole messages that have arrived, in order and at least one.

        A few milliseconds' worth of them at a time, so that a peer that sends very many leaves the loop to
        others. Not always a checkpoint if messages are there. Raises `TransportClosed` once the peer has
        closed or the connection is lost; what arrived before that is returned first. If cancelled, no message
        is lost.
        """
        ...

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Write the messages in order, as few writes as they need. Not always a checkpoint.

        Raises `TransportClosed`, or `TransportStalled` if the peer accepted no byte for `send_timeout`
        seconds. If cancelled, the stream may be torn: nothing may be sent any more but `abort`.
        """

    def send_nowait(self, messages: Sequence[Outgoing]) -> bool:
        """Write the messages if that needs no waiting: an answer goes out without a task switch.

        Returns False, having written nothing, if it would have to wait. Only for when no `send` is under
        way.
        """
        ...

    @property
    def has_unsent(self) -> bool:
        """Whether the next `send`, of nothing at least, must write what `send_nowait` began."""
        ...

    async def ping(self) -> None:
        """Write a ping; the answer shows in `last_received`. Errors and cancellation as in `send`."""

    async def aclose(self, code: int, reason: str) -> None:
        """Close politely and wait for the peer's answer; `receive` may be waited on beside it, and ends then.

        Closing a connection that is closed does nothing. If cancelled, it is closed by force.
        """

    async def abort(self) -> None:
        """Close by force, with no word to the peer. Never raises `TransportClosed`."""
