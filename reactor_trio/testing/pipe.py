"""`Pipe`: one direction of a connection in memory, with the segments under way and their times of arrival.

A pipe has no task. The time at which a segment arrives is computed when the segment is written; a reader
sleeps until the first segment's time, a writer until there is room. So the order of tasks changes nothing.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactor_trio.testing.network import Link

SEGMENT_BYTES = 16 * 1024
"""The largest segment of a link of limited bandwidth, so that a writer sees progress often."""
SEGMENT_SECONDS = 0.1
"""The longest time that one segment may take, so that a slow link is not taken for a dead one."""


@attrs.frozen
class Ping:
    """A ping under way: the reader answers with a `Pong`."""


@attrs.frozen
class Pong:
    """The answer to a ping."""


@attrs.frozen
class Close:
    """One half of the closing handshake."""

    code: int
    reason: str


Item = str | bytes | Ping | Pong | Close


@attrs.define(eq=False)
class _Segment:
    arrives: float
    size: int
    # The message that is complete with the last byte of this segment; None: a part of one.
    item: Item | None


class Pipe:
    """One direction. `on_cut(time)` is called once it is known when byte `link.cut_at` arrives."""

    def __init__(self, link: Link, draw: Callable[[], float], on_cut: Callable[[float], object]) -> None:
        self._link = link
        self._draw = draw
        self._on_cut = on_cut
        self._segments: deque[_Segment] = deque()
        self._buffered = 0
        # Bytes accepted, and bytes read, since the beginning.
        self._accepted = 0
        self._read = 0
        # The link is busy since `_busy_since`, with `_busy_bytes`, until `_free_at`. That time is computed
        # from the sum of the bytes, so that a message takes as long in one segment as in many.
        self._busy_since = -math.inf
        self._busy_bytes = 0
        self._free_at = -math.inf
        self._last_arrival = -math.inf
        self._jitter = 0.0
        self._lost = False
        self.ends_at = math.inf
        """From this time on nothing arrives: the reader finds the connection broken."""
        self.refuses_at = math.inf
        """From this time on nothing is accepted: the writer finds the connection broken."""
        # Set whenever something was written, read or changed, and replaced by a new event then.
        self.changed = trio.Event()

    def notify(self) -> None:
        """Wake all tasks that wait for this direction."""
        self.changed.set()
        self.changed = trio.Event()

    @property
    def link(self) -> Link:
        """The properties of this direction now."""
        return self._link

    @link.setter
    def link(self, link: Link) -> None:
        # Segments that were accepted keep their times; later ones begin when those have left.
        self._busy_since, self._busy_bytes = max(self._free_at, trio.current_time()), 0
        self._free_at = self._busy_since
        self._link = link

    # ---- the writer's side

    def room(self) -> int:
        """Bytes that can be accepted now."""
        return self._link.buffer_bytes - self._buffered

    def refused(self) -> bool:
        """Whether the writer finds the connection broken."""
        return trio.current_time() >= self.refuses_at

    def accept(self, item: Item, size: int, start: int = 0) -> int:
        """Take bytes of an item of `size` bytes from `start` on, as many as there is room for.

        Returns the byte up to which it was taken: `size` if the item is whole in here.
        """
        end = min(size, start + self.room())
        if size and end <= start:
            return start
        if start == 0:
            self._jitter = self._link.jitter * self._draw() if self._link.jitter else 0.0
        if size == 0:
            self._append(0, item)
        while start < end:
            count = min(end - start, self._segment_bytes())
            start += count
            self._append(count, item if start == size else None)
        self.notify()
        return start

    def _segment_bytes(self) -> int:
        bandwidth = self._link.bandwidth
        if bandwidth is None:
            return self._link.buffer_bytes
        return max(1, min(SEGMENT_BYTES, int(bandwidth * SEGMENT_SECONDS)))

    def _append(self, size: int, item: Item | None) -> None:
        cut_at = self._link.cut_at
        if cut_at is None or self._lost or self._accepted + size < cut_at:
            self._place(size, item, math.inf if self._lost else self._arrival(size))
            return
        # Bytes behind the cut are accepted, as by a kernel, and never arrive.
        head = max(0, cut_at - self._accepted)
        if head or not self._accepted:
            arrives = self._arrival(head)
            self._place(head, item if head == size else None, arrives)
            self._on_cut(arrives)
        if size > head or not head:
            self._place(size - head, None, math.inf)

    def _place(self, size: int, item: Item | None, arrives: float) -> None:
        self._segments.append(_Segment(arrives, size, item))
        self._accepted += size
        self._buffered += size

    def _arrival(self, size: int) -> float:
        """Return the time at which the last byte of the next `size` bytes arrives."""
        link = self._link
        now = trio.current_time()
        if now >= self._free_at:
            self._busy_since, self._busy_bytes = now, 0
        self._busy_bytes += size
        self._free_at = self._busy_since
        if link.bandwidth is not None:
            self._free_at += self._busy_bytes / link.bandwidth
        self._last_arrival = max(self._last_arrival, self._free_at + link.delay + self._jitter)
        return self._last_arrival

    # ---- the reader's side

    @property
    def arrived(self) -> int:
        """Bytes that have arrived since the beginning, read or not."""
        horizon = min(trio.current_time(), self.ends_at)
        return self._read + sum(each.size for each in self._segments if each.arrives <= horizon)

    def first(self) -> Item | None:
        """Return the message that the next `read` completes; None if there is none."""
        return self._segments[0].item if self._is_there() else None

    def read(self) -> tuple[bool, Item | None]:
        """Read the next segment, if it has arrived. Return whether it has, and the item that it completes."""
        if not self._is_there():
            return False, None
        segment = self._segments.popleft()
        self._buffered -= segment.size
        self._read += segment.size
        return True, segment.item

    def _is_there(self) -> bool:
        return bool(self._segments) and self._segments[0].arrives <= min(trio.current_time(), self.ends_at)

    def next_event(self) -> float:
        """Return the time of the next arrival, or of the end, unless something changes before."""
        return min(self._segments[0].arrives if self._segments else math.inf, self.ends_at)

    def ended(self) -> bool:
        """Whether the reader finds the connection broken: nothing is there, and nothing will come."""
        return trio.current_time() >= self.ends_at and not self._is_there()

    # ---- the end

    def break_at(self, time: float) -> None:
        """Break the connection for both sides at this time; segments that arrive later are lost."""
        self.ends_at = min(self.ends_at, time)
        self.refuses_at = min(self.refuses_at, time)
        self.notify()

    def finish(self) -> float:
        """The writer has gone: end the connection for the reader after all segments. Returns that time."""
        if self._lost:
            return math.inf
        self.ends_at = min(self.ends_at, max(self._last_arrival, trio.current_time() + self._link.delay))
        self.notify()
        return self.ends_at

    def refuse(self, time: float) -> None:
        """The reader has gone: refuse what is written from this time on."""
        self.refuses_at = min(self.refuses_at, time)
        self.notify()

    def cut_at(self, count: int) -> None:
        """Break the connection when byte `count` arrives, even if that byte was written before."""
        self._link = attrs.evolve(self._link, cut_at=count)
        if count > self._accepted:
            return
        before = self._read
        for segment in self._segments:
            if before + segment.size >= count:
                self._on_cut(max(self._share(segment, count - before), trio.current_time()))
                return
            before += segment.size
        self._on_cut(trio.current_time())

    def _share(self, segment: _Segment, count: int) -> float:
        """Return the time at which byte `count` of a segment arrives; bytes arrive evenly."""
        bandwidth = self._link.bandwidth
        return segment.arrives - ((segment.size - count) / bandwidth if bandwidth else 0.0)

    def lose(self) -> None:
        """Deliver nothing from now on, and tell neither side."""
        now = trio.current_time()
        self._lost = True
        for segment in self._segments:
            if segment.arrives > now:
                segment.arrives = math.inf
        self.notify()
