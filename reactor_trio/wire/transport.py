"""The seam between a conversation and the network: whole messages, in batches.

A session, a client that waits for one, and the Python client know a connection only as a `Transport`.
`wire/websocket.py` implements it over a WebSocket, `wire/asgi.py` over that of an ASGI server, and
`testing/transport.py` in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    Parts = tuple[bytes | memoryview, ...]
    Outgoing = str | bytes | Parts
    """A message to write: `str` is a text message, the others are binary. A frame is sent in parts, so that
    its payload is not copied behind its head."""


def whole(message: Outgoing) -> str | bytes:
    """The message in one piece, as the peer receives it."""
    return b"".join(message) if isinstance(message, tuple) else message


class Transport(Protocol):
    """One connection, from the moment that messages may go both ways until its end.

    The tasks: one task calls `receive`, and one other calls `send`, `send_nowait` and `ping`. Any task may
    call `aclose` and `abort` beside them, more than once; a call that waits then ends with `TransportClosed`.
    Reading and writing do not wait for each other: while a write waits for the peer, `receive` goes on, and
    the transport's own answers to the peer (a pong, a close) are written when there is room for them.

    Nothing is unbounded: messages that nobody receives wait in the network, and `send` returns only when the
    network has taken its messages, so that a slow peer slows its writer.

    The end: how a connection ended is decided once. The peer's close gives its code and reason (RFC 6455,
    section 7.4; 1005 for none), a lost connection and `abort` give 1006, `aclose` gives its own arguments.
    From then on `receive` (once it has returned the messages that arrived before), `send` and `ping` raise
    `TransportClosed` with them, as often as they are called. No other exception leaves the methods: an
    implementation translates those of the library below (`foreign_errors`).

    An implementation is made for a connection that is open, by a context manager that closes it by force
    when it is left. `send_timeout` (seconds) is an argument there, and so is the size of the largest message
    that a network may bring (bytes; a larger one ends the connection with 1009).

    `tests/test_transport_contract.py` holds all implementations to these sentences; `tests/transport_ends.py`
    lists them, and another is one entry more.
    """

    @property
    def last_received(self) -> float:
        """When the last byte of the peer arrived, a pong's included, in seconds of Trio's clock.

        While no task waits in `receive` it is now: bytes that arrive then are not seen, and a silence of this
        side's own making must not look like the peer's. It is also now, always, where a server below pings
        the peer by itself and shows no pongs (an ASGI server): the `Heartbeat` then finds no peer lost, and
        the server below ends the connection.
        """
        ...

    async def receive(self) -> Sequence[str | bytes]:
        """Wait for the peer and return whole messages that have arrived, in order and at least one.

        One call returns a few milliseconds' worth of them, so that a peer that sends very many leaves the
        loop to others. Not always a checkpoint if messages are there. Raises `TransportClosed` once the peer
        has closed or the connection is lost, after the messages that arrived before. If cancelled, no message
        is lost.
        """
        ...

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Write the messages in order, in as few writes as they need. Not always a checkpoint.

        No messages at all are allowed: only what `send_nowait` has begun is written then. Raises
        `TransportClosed`, or `TransportStalled` if the peer accepted no byte for `send_timeout` seconds. If
        cancelled, a message may be cut in its middle, and nothing more can be sent: call `abort`.
        """
        ...

    def send_nowait(self, messages: Sequence[Outgoing]) -> bool:
        """Write the messages if no waiting is needed, so that an answer goes out without a task switch.

        Returns False, having written nothing, if they would have to wait or the connection has ended. An
        implementation that cannot tell returns False always. Not to be called while `send` is under way.
        """
        ...

    @property
    def has_unsent(self) -> bool:
        """Whether `send_nowait` began a message whose rest the next `send` must write; `send([])` does."""
        ...

    async def ping(self) -> None:
        """Write a ping; its answer shows in `last_received`. Errors and cancellation are those of `send`.

        Where a server below pings the peer by itself, it is a checkpoint that writes nothing, and raises
        `TransportClosed` after the end.
        """
        ...

    async def aclose(self, code: int, reason: str) -> None:
        """Close politely, and wait for the peer's answer: messages that still arrive are thrown away.

        There is no time limit: put a deadline around it. A task in `receive` may be beside it, and gets
        `TransportClosed`. Does nothing if the connection has ended. If cancelled, the connection is closed by
        force.
        """
        ...

    async def abort(self) -> None:
        """Close by force, with no word to the peer. Never raises `TransportClosed`, also after the end."""
        ...
