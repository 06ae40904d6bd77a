"""Bounded queues of the messages and frames that arrive and answer nothing.

A program may ignore progress messages or frames and must still get its answers. So the read task never waits
for a reader: a full queue drops its oldest item, and counts it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs
import trio

from reactor_trio.client.errors import again
from reactor_trio.errors import TransportClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


@attrs.define(eq=False)
class _Reader(Generic[T]):
    wants: Callable[[T], bool]
    task: trio.lowlevel.Task
    # Set by `put` before it reschedules the task; stays None if `end` reschedules it.
    item: T | None = None


class Inbox(Generic[T]):
    """A queue whose readers may choose: an item goes to the longest waiting reader that wants it."""

    def __init__(self, max_items: int) -> None:
        if max_items < 1:
            raise ValueError(f"a queue holds at least 1 item, not {max_items}")
        self.dropped = 0
        self._items: deque[T] = deque(maxlen=max_items)
        self._readers: deque[_Reader[T]] = deque()
        self._ended: TransportClosed | None = None

    def put(self, item: T) -> None:
        """Give an item to a reader, or append it; a full queue drops its oldest."""
        for reader in self._readers:
            if reader.wants(item):
                self._readers.remove(reader)
                reader.item = item
                trio.lowlevel.reschedule(reader.task)
                return
        self.dropped += len(self._items) == self._items.maxlen
        self._items.append(item)

    def end(self, closed: TransportClosed) -> None:
        """No more items will come; those in the queue can still be taken."""
        self._ended = closed
        for reader in self._readers:
            trio.lowlevel.reschedule(reader.task)
        self._readers.clear()

    async def take(self, wants: Callable[[T], bool] = lambda item: True) -> T:
        """Take the oldest item that the reader wants, or wait for one; the others stay in order.

        Raises `TransportClosed` if there is none and `end` was called. If cancelled, no item is lost.
        """
        # The checkpoint comes before the item is taken: a cancellation after it would lose the item.
        await trio.lowlevel.checkpoint()
        for index, item in enumerate(self._items):
            if wants(item):
                del self._items[index]
                return item
        return await self._wait(wants)

    async def _wait(self, wants: Callable[[T], bool]) -> T:
        if self._ended is not None:
            raise again(self._ended)
        reader = _Reader(wants, trio.lowlevel.current_task())
        self._readers.append(reader)

        def abort(_: object) -> trio.lowlevel.Abort:
            # This runs in the step of the cancellation. With an event, `put` could still give an item to a
            # reader that is cancelled and has not run yet.
            self._readers.remove(reader)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if reader.item is None:
            assert self._ended is not None  # since it was rescheduled without an item
            raise again(self._ended)
        return reader.item


class Incoming(Generic[T]):
    """`async for` over the items of an inbox; it ends with the connection.

    This is no async generator, because the user of such a one must close it after a `break`.
    """

    def __init__(self, take: Callable[[], Awaitable[T]]) -> None:
        self._take = take

    def __aiter__(self) -> Incoming[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self._take()
        except TransportClosed:
            raise StopAsyncIteration from None
