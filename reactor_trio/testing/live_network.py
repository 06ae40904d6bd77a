"""The network of one client while a test runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from reactor_trio.testing.network import Direction, Link
    from reactor_trio.testing.pipe import Pipe
    from reactor_trio.testing.transport import MemoryTransport


class LiveNetwork:
    """The network of one client while a test runs, `client.network`; made by `open_session`."""

    def __init__(self, client: MemoryTransport) -> None:
        self._client = client
        up, down = client.pipes
        self._pipes: dict[Direction, Pipe] = {"up": up, "down": down}

    def stall(self) -> None:
        """The client stops reading: the server's `send` fills the buffer, and then times out."""
        self._client.stall()

    def freeze(self) -> None:
        """The client stops reading and writing, as a suspended process does: pings stay unanswered."""
        self._client.freeze()

    def resume(self) -> None:
        """End `stall` or `freeze`: the client reads and writes again."""
        self._client.resume()

    def cut(self) -> None:
        """Break the connection now; what was on its way is lost, and both sides notice at once."""
        self._client.cut()

    def cut_after(self, count: int, direction: Direction) -> None:
        """Break the connection when `count` more bytes have arrived in this direction; see `Link.cut_at`.

        Bytes that were written before, and are still on their way, count among them.
        """
        pipe = self._pipes[direction]
        pipe.cut_at(pipe.arrived + count)

    def lose(self) -> None:
        """Deliver nothing from now on, in either direction, and tell neither side: a half-open connection.

        Writing succeeds until the buffer is full. Only a time-out notices: the heartbeat, or `send_timeout`.
        """
        for pipe in self._pipes.values():
            pipe.lose()

    def change(self, direction: Direction | None = None, /, **fields: Any) -> None:
        """Change fields of `Link` for what is written from now on: `change("down", bandwidth=10_000)`.

        Without a direction, both. Raises `TypeError` for an unknown field, `ValueError` as `Link` does.
        """
        for name, pipe in self._pipes.items():
            if direction in (None, name):
                pipe.link = attrs.evolve(pipe.link, **fields)

    def link(self, direction: Direction) -> Link:
        """Return the properties of this direction now."""
        return self._pipes[direction].link

    def arrived(self, direction: Direction) -> int:
        """Return how many bytes have arrived in this direction so far, read or not."""
        return self._pipes[direction].arrived
