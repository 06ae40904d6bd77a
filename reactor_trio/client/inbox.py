"""What has arrived and was not asked for: bounded queues in which the oldest makes room.

A client that ignores progress messages or frames must still get its answers, so the receive task never
waits for a reader; it drops, and counts what it dropped.
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
    # Set by `put` before the task is rescheduled; not by `end`.
    item: T | None = None


class Inbox(Generic[T]):
    """A queue whose readers may pick; an item goes to the reader that has waited longest for such a one."""

    def __init__(self, max_items: int) -> None:
        if max_items < 1:
            raise ValueError(f"a queue holds at least 1 item, not {max_items}")
        self.dropped = 0
        self._items: deque[T] = deque(maxlen=max_items)
        self._readers: deque[_Reader[T]] = deque()
        self._ended: TransportClosed | None = None

    def put(self, item: T) -> None:
        """Add the newest; a full queue drops its oldest."""
        for reader in self._readers:
            if reader.wants(item):
                self._readers.remove(reader)
                reader.item = item
                trio.lowlevel.reschedule(reader.task)
                return
        self.dropped += len(self._items) == self._items.maxlen
        self._items.append(item)

    def end(self, closed: TransportClosed) -> None:
        """No more will come; what is there can still be taken."""
        self._ended = closed
        for reader in self._readers:
            trio.lowlevel.reschedule(reader.task)
        self._readers.clear()

    async def take(self, wants: Callable[[T], bool] = lambda item: True) -> T:
        """The oldest item that is wanted; the others stay, in order.

        Raises `TransportClosed` when there is none and none will come. If cancelled, nothing is lost.
        """
        # Before the item is taken, not after: a cancellation here would lose it.
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
            # In the very step of the cancellation: with an event, `put` could still give an item to a reader
            # that is cancelled and has not run yet.
            self._readers.remove(reader)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if reader.item is None:
            assert self._ended is not None  # since it was rescheduled without an item
            raise again(self._ended)
        return reader.item


class Incoming(Generic[T]):
    """`async for` over what arrives; it ends with the connection.

    Not an async generator: one that is left by `break` would have to be finalised by its user.
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
