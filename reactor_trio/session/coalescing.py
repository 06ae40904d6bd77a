"""A memory channel in which a newer value may take the place of an older one of the same key.

The channel keeps all documented promises of `trio.open_memory_channel`: exceptions, closing, cloning,
statistics, and cancellation that loses no value. The channel adds keys, `send(value, key)`: a waiting value
of the same key is removed and returned to the sender, and the new value goes to the end of the buffer. The
remaining values are therefore in the order of arrival, and a receiver that overwrites state ends in the same
state as without coalescing (docs/design.md#the-coalescing-channel, tested in `tests/test_coalescing.py`).

A sender that replaces its own value again and again would keep the key from ever being received. So the
latest value of a key that has been replaced for longer than `max_defer` seconds keeps its place, and newer
values of the key replace each other behind it.

The inbox of a session is such a channel (`session/inbox.py`). Here are its two ends; the state that the ends
share is in `session/coalescing_state.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import outcome
import trio

from reactor_trio.session.coalescing_state import ChannelState, CoalescingChannelStatistics, WaitingSender

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from types import TracebackType

T = TypeVar("T")


class CoalescingSendChannel(trio.abc.AsyncResource, Generic[T]):
    """A sending end of a coalescing channel, made by `open_coalescing_channel` or `clone`."""

    def __init__(self, channel: ChannelState[T]) -> None:
        self._channel = channel
        self._closed = False
        # Tasks that wait in a `send` of this clone: `close` wakes them.
        self._tasks: set[trio.lowlevel.Task] = set()
        channel.open_send_channels += 1

    def __repr__(self) -> str:
        return f"<coalescing send channel at {id(self):#x}, using channel at {id(self._channel):#x}>"

    def statistics(self) -> CoalescingChannelStatistics:
        """Numbers for this channel, all clones together."""
        return self._channel.statistics()

    @property
    def buffered(self) -> int:
        """Number of values in the buffer."""
        return len(self._channel.buffer)

    def waiting(self) -> Iterator[T]:
        """Iterate over the values in the buffer, oldest first.

        The iterator is valid until the next `send` or `receive` on the channel.
        """
        return (value for value, _ in self._channel.buffer.values())

    @property
    def receiver_waits(self) -> bool:
        """Whether a task waits in `receive`, so that no value is ahead of a value that is sent now."""
        return bool(self._channel.receivers)

    def would_replace(self, key: Hashable) -> bool:
        """Whether `send_nowait` with this key would replace a waiting value now, and so need no room.

        The answer holds for the present step only: once the key has been replaced for `max_defer` seconds,
        its next value needs room.
        """
        return not self._channel.senders and self._channel.would_replace(key, trio.current_time())

    def replaceable(self, key: Hashable) -> T | None:
        """The value that `send_nowait` with this key would replace; None if no value would be replaced."""
        if not self.would_replace(key):
            return None
        ticket = self._channel.keys[key].latest
        return None if ticket is None else self._channel.buffer[ticket][0]

    def send_nowait(self, value: T, key: Hashable = None) -> T | None:
        """Like `send`, but raises `trio.WouldBlock` where `send` would wait."""
        if self._closed:
            raise trio.ClosedResourceError
        if self._channel.open_receive_channels == 0:
            raise trio.BrokenResourceError
        now = 0.0  # the clock is read only where the time is used
        if not self._channel.receivers:
            now = 0.0 if key is None else trio.current_time()
            if self._channel.senders or not self._channel.has_room(key, now):
                raise trio.WouldBlock
        return self._channel.put(value, key, now)

    async def send(self, value: T, key: Hashable = None) -> T | None:
        """Append a value, remove a waiting value of the same key, and return the removed value.

        Returns None if no value was replaced; without a key no value is ever replaced. Waits while the
        channel is full. Raises `trio.ClosedResourceError` if this end is closed, and
        `trio.BrokenResourceError` if no receiving end is open. If cancelled, the value was not sent and no
        value was replaced.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            removed = self.send_nowait(value, key)
        except trio.WouldBlock:
            return await self._wait(value, key)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return removed

    async def _wait(self, value: T, key: Hashable) -> T | None:
        task = trio.lowlevel.current_task()
        self._tasks.add(task)
        self._channel.senders[task] = WaitingSender(value, key, self._tasks)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._tasks.remove(task)
            del self._channel.senders[task]
            self._channel.admit_senders()  # the value of a later sender may fit
            return trio.lowlevel.Abort.SUCCEEDED

        removed: T | None = await trio.lowlevel.wait_task_rescheduled(abort)
        return removed

    def clone(self) -> CoalescingSendChannel[T]:
        """Make another sending end of the same channel, which is closed on its own.

        Raises `trio.ClosedResourceError` if this end is closed.
        """
        if self._closed:
            raise trio.ClosedResourceError
        return CoalescingSendChannel(self._channel)

    def close(self) -> None:
        """Close this end. After the last one, receivers get the waiting values, then `EndOfChannel`."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            trio.lowlevel.reschedule(task, outcome.Error(trio.ClosedResourceError()))
            del self._channel.senders[task]
        self._tasks.clear()
        self._channel.admit_senders()
        self._channel.open_send_channels -= 1
        if self._channel.open_send_channels == 0:
            self._channel.end_receivers()

    async def aclose(self) -> None:
        """Close this end, and checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __enter__(self) -> CoalescingSendChannel[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class CoalescingReceiveChannel(trio.abc.ReceiveChannel[T]):
    """A receiving end of a coalescing channel, made by `open_coalescing_channel` or `clone`."""

    def __init__(self, channel: ChannelState[T]) -> None:
        self._channel = channel
        self._closed = False
        # Tasks that wait in a `receive` of this clone: `close` wakes them.
        self._tasks: set[trio.lowlevel.Task] = set()
        channel.open_receive_channels += 1

    def __repr__(self) -> str:
        return f"<coalescing receive channel at {id(self):#x}, using channel at {id(self._channel):#x}>"

    def statistics(self) -> CoalescingChannelStatistics:
        """Numbers for this channel, all clones together."""
        return self._channel.statistics()

    def receive_nowait(self) -> T:
        """Like `receive`, but raises `trio.WouldBlock` where `receive` would wait."""
        if self._closed:
            raise trio.ClosedResourceError
        try:
            return self._channel.get()
        except trio.WouldBlock:
            if self._channel.open_send_channels == 0:
                raise trio.EndOfChannel from None
            raise

    async def receive(self) -> T:
        """Wait for the oldest value and take it.

        Raises `trio.EndOfChannel` when no value waits and no sending end is open, and
        `trio.ClosedResourceError` if this end is closed. If cancelled, no value was taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            value = self.receive_nowait()
        except trio.WouldBlock:
            return await self._wait()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return value

    async def _wait(self) -> T:
        task = trio.lowlevel.current_task()
        self._tasks.add(task)
        self._channel.receivers[task] = self._tasks

        def abort(_: object) -> trio.lowlevel.Abort:
            self._tasks.remove(task)
            del self._channel.receivers[task]
            return trio.lowlevel.Abort.SUCCEEDED

        value: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return value

    def clone(self) -> CoalescingReceiveChannel[T]:
        """Make another receiving end of the same channel; each value goes to one of the clones.

        Raises `trio.ClosedResourceError` if this end is closed.
        """
        if self._closed:
            raise trio.ClosedResourceError
        return CoalescingReceiveChannel(self._channel)

    def close(self) -> None:
        """Close this end. After the last receiving end, the waiting values are thrown away.

        Every waiting or later `send` then raises `trio.BrokenResourceError`.
        """
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            trio.lowlevel.reschedule(task, outcome.Error(trio.ClosedResourceError()))
            del self._channel.receivers[task]
        self._tasks.clear()
        self._channel.open_receive_channels -= 1
        if self._channel.open_receive_channels == 0:
            self._channel.break_senders()

    async def aclose(self) -> None:
        """Close this end, and checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __enter__(self) -> CoalescingReceiveChannel[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_coalescing_channel(
    max_buffer_size: int, *, max_defer: float = 1.0
) -> tuple[CoalescingSendChannel[T], CoalescingReceiveChannel[T]]:
    """Open a channel that holds at most `max_buffer_size` values, and return its two ends.

    With `max_buffer_size` 0, `send` waits until a receiver takes the value. `max_defer`, in seconds, is how
    long newer values of a key may replace older ones before the latest value keeps its place. So at most two
    values of a key wait at a time. Every operation is O(1). Unlike Trio's channel, this channel is always
    bounded.

    Raises `TypeError` if `max_buffer_size` is no integer, and `ValueError` if `max_buffer_size` or
    `max_defer` is negative.
    """
    if not isinstance(max_buffer_size, int) or isinstance(max_buffer_size, bool):
        raise TypeError("max_buffer_size must be an integer: every queue is bounded")
    if max_buffer_size < 0 or max_defer < 0:
        raise ValueError("max_buffer_size and max_defer must be >= 0")
    channel: ChannelState[T] = ChannelState(max_buffer_size, max_defer)
    return CoalescingSendChannel(channel), CoalescingReceiveChannel(channel)
