"""The network between a client and its session in memory: set by the test, and the same in every run."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import ge, gt, instance_of, optional

if TYPE_CHECKING:
    from collections.abc import Callable

Direction = Literal["up", "down"]
"""`up` is from the client to the server, `down` from the server to the client."""

BUFFER_BYTES = 1024 * 1024
"""Bytes that one direction holds before `send` waits: about as many as the kernels of two machines hold."""


@attrs.frozen(kw_only=True)
class Link:
    """The properties of one direction of a `Network`; not the link of a session in `reactor_trio.link`.

    Bytes are those of the messages; WebSocket's framing costs nothing. Raises `ValueError` for a value out
    of range.
    """

    delay: float = attrs.field(default=0.0, validator=ge(0))
    """Seconds between the departure and the arrival of a message's last byte."""
    jitter: float = attrs.field(default=0.0, validator=ge(0))
    """At most so many seconds more, drawn evenly for each message. The order is kept: it is one stream."""
    bandwidth: float | None = attrs.field(default=None, validator=optional(gt(0)))
    """Bytes a second; None: no limit."""
    buffer_bytes: int = attrs.field(default=BUFFER_BYTES, validator=[instance_of(int), ge(1)])
    """Bytes that may be written and not yet read. `send` waits at the limit, for `send_timeout` at most."""
    returns_after: float = attrs.field(default=0.0, validator=ge(0))
    """Seconds between the departure of the last byte and the return of `send` or `ping`.

    On a busy machine the answer to a ping may be read before the task that wrote the ping goes on.
    """
    cut_at: int | None = attrs.field(default=None, validator=optional([instance_of(int), ge(0)]))
    """The connection breaks in both directions when so many bytes have arrived since it was made.

    A message that has arrived in part is not delivered.
    """


@attrs.frozen(kw_only=True)
class Network:
    """The network between a client and the server: `open_session(Painter, network=Network(delay=0.05))`.

    `delay` and `jitter` are in seconds one way, `bandwidth` in bytes a second; each direction has them for
    itself. `up` (from the client) or `down` replaces them for one direction. `seed` decides which jitter is
    drawn; clients of one network draw different numbers. Without arguments messages arrive at once.

    Raises `ValueError` for a value out of range.
    """

    delay: float = 0.0
    jitter: float = 0.0
    bandwidth: float | None = None
    buffer_bytes: int = BUFFER_BYTES
    returns_after: float = 0.0
    seed: int = 0
    up: Link | None = None
    down: Link | None = None

    def link(self, direction: Direction) -> Link:
        """Return the properties with which this direction begins."""
        return (self.up if direction == "up" else self.down) or self._both

    # Made with the network, so that a number out of range is refused at the line that made the network.
    _both: Link = attrs.field(
        init=False,
        repr=False,
        default=attrs.Factory(
            lambda network: Link(
                delay=network.delay,
                jitter=network.jitter,
                bandwidth=network.bandwidth,
                buffer_bytes=network.buffer_bytes,
                returns_after=network.returns_after,
            ),
            takes_self=True,
        ),
    )

    def draws(self, connection: str, direction: Direction) -> Callable[[], float]:
        """Return the source of jitter of one direction of one connection: numbers in [0, 1)."""
        # A seed that is a text gives the same numbers in every process: `random` hashes it with SHA-512.
        return random.Random(f"{self.seed}/{connection}/{direction}").random
