"""Lanes: how many calls of a kind run at a time, in which threads, and whether a cancelled call is abandoned.

A lane is a value: lanes that are equal are the same lane, wherever they were made. The executor knows none of
them by its name. All differences in how it treats the calls of two lanes are fields of the lanes.
"""

from __future__ import annotations

import attrs


@attrs.frozen(cache_hash=True)
class Lane:
    """Calls that share one limit."""

    name: str
    """As logs show it. Different lanes have different names."""
    limit: int | None = attrs.field(default=1, kw_only=True)
    """Calls at a time. None: one for each processor core that the process may use, `spare_cores` left out."""
    spare_cores: int = attrs.field(default=0, kw_only=True)
    """Processor cores that a lane without a `limit` leaves to others; it has one thread in any case."""
    has_own_threads: bool = attrs.field(default=False, kw_only=True)
    """Threads of the lane's own take its calls from a queue, at half the price of `trio.to_thread` for each.

    For the runtime's own calls, which are many and short: `trio.from_thread` does not work in these threads.
    """
    abandons: bool = attrs.field(default=False, kw_only=True)
    """A call that is cancelled while it runs is not waited for, and its result or error is thrown away."""
    is_device: bool = attrs.field(default=False, kw_only=True)
    """It stands for a compute device: a call that keeps it for too long is a failure of the server."""

    def size(self, cores: int) -> int:
        """Calls at a time where the process may use so many processor cores; at least 1."""
        return max(1, cores - self.spare_cores) if self.limit is None else self.limit

    def __str__(self) -> str:
        return self.name


HANDLERS = Lane("handlers", limit=32)
"""`@event(in_thread=True)` handlers."""
ENCODE = Lane("encode", limit=None, has_own_threads=True)
"""Media encoding that keeps nothing from call to call: JPEG, for all sessions."""
DECODE = Lane("decode", limit=None, spare_cores=1, has_own_threads=True, abandons=True)
"""Decoding of media that clients sent.

Its threads are not those of `ENCODE`: the picture of one client may take a decoder as long as 100 pictures of
the others take an encoder. A core is spared for the loop.
"""
PAYLOADS = Lane("payloads")
"""Reading and validating long texts; one at a time, since Python's lock lets one thread alone."""
FILES = Lane("files", limit=8)
"""Temporary files, `load`, and other work that waits for the disk."""


@attrs.frozen
class Device:
    """A compute device by its name, such as `cpu` or `cuda:1`; a `torch.device` is converted."""

    name: str = attrs.field(converter=str)

    @property
    def lane(self) -> Lane:
        """Its lane: one call at a time, for all sessions."""
        return Lane(f"device:{self.name}", is_device=True)


def encoder_lane(stream: str) -> Lane:
    """Lane of the encoder of one media stream: one call at a time, in order, and no other stream's."""
    return Lane(f"encoder:{stream}", has_own_threads=True)
