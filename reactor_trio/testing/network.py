"""The network between a client and its session in memory: scripted, and the same in every run."""

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
"""What a direction holds before `send` waits: about what the kernels of two machines would."""


@attrs.frozen(kw_only=True)
class Link:
    """One direction of a connection. Bytes are those of the messages; WebSocket's own framing is free.

    Raises `ValueError` for a value out of range.
    """

    delay: float = attrs.field(default=0.0, validator=ge(0))
    """Seconds from the last byte's leaving to its arrival."""
    jitter: float = attrs.field(default=0.0, validator=ge(0))
    """Up to this many seconds more, drawn evenly for each message. Nothing overtakes: it is one stream."""
    bandwidth: float | None = attrs.field(default=None, validator=optional(gt(0)))
    """Bytes a second; None: as many as come."""
    buffer_bytes: int = attrs.field(default=BUFFER_BYTES, validator=[instance_of(int), ge(1)])
    """Bytes that were written and not yet read; then `send` waits, and after `send_timeout` gives up."""
    returns_after: float = attrs.field(default=0.0, validator=ge(0))
    """Seconds for which `send` and `ping` go on after their last byte has left.

    On a machine with other work the answer to a ping may be read before the task that wrote it goes on.
    """
    cut_at: int | None = attrs.field(default=None, validator=optional([instance_of(int), ge(0)]))
    """The connection breaks, both ways, when this many bytes have arrived since it was made.

    A message of which a part is missing is not delivered.
    """


@attrs.frozen(kw_only=True)
class Network:
    """What lies between a client and the server: `open_session(Painter, network=Network(delay=0.05))`.

    `delay` and `jitter` are in seconds one way, `bandwidth` in bytes a second, and count for each direction
    on its own; `up` (from the client) or `down` replaces them for one direction. `seed` decides what jitter
    is drawn; clients of the same network draw differently. Without arguments everything arrives at once.

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
        """What this direction is like at first."""
        return (self.up if direction == "up" else self.down) or self._both

    # Made at once, so that a number out of range is refused where the network is written down.
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
        """Where one direction of one connection draws its jitter from: numbers in [0, 1)."""
        # Seeded by text: `random` hashes it with SHA-512, so that it is the same in every process.
        return random.Random(f"{self.seed}/{connection}/{direction}").random
