"""A memory channel in which a newer value may take the place of an older one of the same key.

It behaves like `trio.open_memory_channel` in all that its documentation promises: exceptions, closing,
cloning, statistics, and cancellation that loses nothing. What it adds is `send(value, key)`: a waiting
value of the same key is removed and handed back to the sender, and the new one goes to the end. So what
survives is in the order of arrival, and for receivers that overwrite state the outcome is the same as
without coalescing (docs/design.md#the-coalescing-channel; `tests/test_coalescing.py` proves it).

A flood of one key could push its own value back for ever. So a key that has waited for longer than
`max_defer` seconds keeps its present value in its place, and newer ones coalesce behind it.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs
import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from types import TracebackType

T = TypeVar("T")


@attrs.frozen
class CoalescingChannelStatistics:
    """Trio's `MemoryChannelStatistics`, and what coalescing did."""

    current_buffer_used: int
    max_buffer_size: int
    open_send_channels: int
    open_receive_channels: int
    tasks_waiting_send: int
    tasks_waiting_receive: int
    peak_buffer_used: int
    superseded: int
    """Values that a newer one of the same key has replaced, since the channel was made."""


@attrs.define(eq=False)
class _Waiting:
    """The values of one key that wait: at most two, `held` before `latest`."""

    latest: int | None
    """Ticket of the value that the next one of this key replaces."""
    since: float
    """When the first value of the present chain of replacements arrived (Trio's clock)."""
    held: int | None = None
    """Ticket of the value that keeps its place."""


@attrs.frozen(eq=False)
class _Sender(Generic[T]):
    """What a task waits with in `send`, and the end through which it does."""

    value: T
    key: Hashable
    end: CoalescingSendChannel[T]


@attrs.define(eq=False)
class _Channel(Generic[T]):
    """What both ends share. All of its methods are synchronous, so no lock is needed."""

    max_buffer_size: int
    max_defer: float
    # Ticket -> (value, key), in order. An OrderedDict removes from its middle and its front in O(1).
    buffer: OrderedDict[int, tuple[T, Hashable]] = attrs.field(factory=OrderedDict)
    keys: dict[Hashable, _Waiting] = attrs.field(factory=dict)
    tickets: Iterator[int] = attrs.field(factory=itertools.count)
    open_send_channels: int = 0
    open_receive_channels: int = 0
    # Tasks that wait in `send` and in `receive`, oldest first, and by which end. Whoever wakes a task takes
    # it off both, here and there: an end that is closed in the same step must not wake it a second time.
    senders: OrderedDict[trio.lowlevel.Task, _Sender[T]] = attrs.field(factory=OrderedDict)
    receivers: OrderedDict[trio.lowlevel.Task, CoalescingReceiveChannel[T]] = attrs.field(factory=OrderedDict)
    peak_buffer_used: int = 0
    superseded: int = 0

    def statistics(self) -> CoalescingChannelStatistics:
        return CoalescingChannelStatistics(
            current_buffer_used=len(self.buffer),
            max_buffer_size=self.max_buffer_size,
            open_send_channels=self.open_send_channels,
            open_receive_channels=self.open_receive_channels,
            tasks_waiting_send=len(self.senders),
            tasks_waiting_receive=len(self.receivers),
            peak_buffer_used=self.peak_buffer_used,
            superseded=self.superseded,
        )

    # An operation looks at the time once, as `now`: a key that must be held a moment later would need room
    # that nobody has made sure of.

    def has_room(self, key: Hashable, now: float) -> bool:
        return len(self.buffer) < self.max_buffer_size or self.would_replace(key, now)

    def would_replace(self, key: Hashable, now: float) -> bool:
        """Whether a new value of `key` would replace one that waits."""
        waiting = self.keys.get(key) if key is not None else None
        return waiting is not None and waiting.latest is not None and not self._must_hold(waiting, now)

    def _must_hold(self, waiting: _Waiting, now: float) -> bool:
        return waiting.held is None and now - waiting.since > self.max_defer

    def put(self, value: T, key: Hashable, now: float) -> T | None:
        """Hand the value to a waiting receiver or append it; return the value it replaced."""
        if self.receivers:
            task, end = self.receivers.popitem(last=False)
            end._tasks.remove(task)
            trio.lowlevel.reschedule(task, outcome.Value(value))
            return None
        ticket = next(self.tickets)
        removed = self._take_key(key, ticket, now) if key is not None else None
        self.buffer[ticket] = (value, key)
        self.peak_buffer_used = max(self.peak_buffer_used, len(self.buffer))
        return removed

    def _take_key(self, key: Hashable, ticket: int, now: float) -> T | None:
        """Make `ticket` the key's latest; return the value that this replaces."""
        waiting = self.keys.get(key)
        if waiting is None:
            self.keys[key] = _Waiting(ticket, now)
            return None
        replaced, waiting.latest = waiting.latest, ticket
        if replaced is None or self._must_hold(waiting, now):
            waiting.held = replaced if replaced is not None else waiting.held
            waiting.since = now
            return None
        self.superseded += 1
        return self.buffer.pop(replaced)[0]

    def get(self) -> T:
        """The oldest value. Raises `trio.WouldBlock` if there is none."""
        if self.buffer:
            ticket, (value, key) = self.buffer.popitem(last=False)
            if key is not None:
                self._forget(key, ticket)
            self._admit_senders()
            return value
        if self.senders:  # a channel of size 0: from hand to hand
            task, sender = self.senders.popitem(last=False)
            sender.end._tasks.remove(task)
            trio.lowlevel.reschedule(task, outcome.Value(None))
            return sender.value
        raise trio.WouldBlock

    def _forget(self, key: Hashable, ticket: int) -> None:
        waiting = self.keys[key]
        if waiting.held == ticket:
            waiting.held = None
        else:
            waiting.latest = None
        if waiting.held is None and waiting.latest is None:
            del self.keys[key]

    def _admit_senders(self) -> None:
        # In line, even where a later sender's key could be replaced at once: the order of arrival is the
        # promise of this channel, and a value must not be superseded by one whose `send` may be cancelled.
        if not self.senders:
            return
        now = trio.current_time()
        while self.senders:
            task, sender = next(iter(self.senders.items()))
            if not self.has_room(sender.key, now):
                return
            del self.senders[task]
            sender.end._tasks.remove(task)
            trio.lowlevel.reschedule(task, outcome.Value(self.put(sender.value, sender.key, now)))

    def break_senders(self) -> None:
        """The last receiver has gone: what waits is thrown away, as in Trio's channel."""
        for task, sender in self.senders.items():
            sender.end._tasks.remove(task)
            trio.lowlevel.reschedule(task, outcome.Error(trio.BrokenResourceError()))
        self.senders.clear()
        self.buffer.clear()
        self.keys.clear()

    def end_receivers(self) -> None:
        """The last sender has gone, and nothing waits."""
        for task, end in self.receivers.items():
            end._tasks.remove(task)
            trio.lowlevel.reschedule(task, outcome.Error(trio.EndOfChannel()))
        self.receivers.clear()


class CoalescingSendChannel(trio.abc.AsyncResource, Generic[T]):
    """The sending end; see the module's docstring and `open_coalescing_channel`."""

    def __init__(self, channel: _Channel[T]) -> None:
        self._channel = channel
        self._closed = False
        # Tasks that wait in a `send` through this very clone: `close` wakes them.
        self._tasks: set[trio.lowlevel.Task] = set()
        channel.open_send_channels += 1

    def __repr__(self) -> str:
        return f"<coalescing send channel at {id(self):#x}, using channel at {id(self._channel):#x}>"

    def statistics(self) -> CoalescingChannelStatistics:
        """Numbers for this channel, all clones together."""
        return self._channel.statistics()

    @property
    def buffered(self) -> int:
        """How many values wait."""
        return len(self._channel.buffer)

    def waiting(self) -> Iterator[T]:
        """The values that wait, oldest first; for as long as nothing is sent or received."""
        return (value for value, _ in self._channel.buffer.values())

    @property
    def receiver_waits(self) -> bool:
        """Whether a task waits in `receive`, so that nothing is ahead of what is sent now."""
        return bool(self._channel.receivers)

    def would_replace(self, key: Hashable) -> bool:
        """Whether `send_nowait` with this key would replace a waiting value now, and so need no room.

        A moment later the key may have waited for `max_defer`: then it does need room.
        """
        return not self._channel.senders and self._channel.would_replace(key, trio.current_time())

    def replaceable(self, key: Hashable) -> T | None:
        """The value that `send_nowait` with this key would replace; None if there is none."""
        if not self.would_replace(key):
            return None
        ticket = self._channel.keys[key].latest
        return None if ticket is None else self._channel.buffer[ticket][0]

    def send_nowait(self, value: T, key: Hashable = None) -> T | None:
        """Like `send`, but raises `trio.WouldBlock` where that would wait."""
        if self._closed:
            raise trio.ClosedResourceError
        if self._channel.open_receive_channels == 0:
            raise trio.BrokenResourceError
        now = 0.0  # not asked for where nobody uses it
        if not self._channel.receivers:
            now = 0.0 if key is None else trio.current_time()
            if self._channel.senders or not self._channel.has_room(key, now):
                raise trio.WouldBlock
        return self._channel.put(value, key, now)

    async def send(self, value: T, key: Hashable = None) -> T | None:
        """Append a value, in place of a waiting one of the same key; return the one it replaced.

        Without a key nothing is replaced. Waits while the channel is full. Raises
        `trio.ClosedResourceError` if this end is closed, `trio.BrokenResourceError` if no receiver is
        left. If cancelled, the value was not sent and nothing was replaced.
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
        self._channel.senders[task] = _Sender(value, key, self)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._tasks.remove(task)
            del self._channel.senders[task]
            self._channel._admit_senders()  # whoever stood behind this one may fit
            return trio.lowlevel.Abort.SUCCEEDED

        removed: T | None = await trio.lowlevel.wait_task_rescheduled(abort)
        return removed

    def clone(self) -> CoalescingSendChannel[T]:
        """Another sending end of the same channel, to be closed on its own."""
        if self._closed:
            raise trio.ClosedResourceError
        return CoalescingSendChannel(self._channel)

    def close(self) -> None:
        """Close this end; when it was the last one, receivers get what waits and then `EndOfChannel`."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            trio.lowlevel.reschedule(task, outcome.Error(trio.ClosedResourceError()))
            del self._channel.senders[task]
        self._tasks.clear()
        self._channel._admit_senders()
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
    """The receiving end; see the module's docstring and `open_coalescing_channel`."""

    def __init__(self, channel: _Channel[T]) -> None:
        self._channel = channel
        self._closed = False
        # Tasks that wait in a `receive` through this very clone: `close` wakes them.
        self._tasks: set[trio.lowlevel.Task] = set()
        channel.open_receive_channels += 1

    def __repr__(self) -> str:
        return f"<coalescing receive channel at {id(self):#x}, using channel at {id(self._channel):#x}>"

    def statistics(self) -> CoalescingChannelStatistics:
        """Numbers for this channel, all clones together."""
        return self._channel.statistics()

    def receive_nowait(self) -> T:
        """Like `receive`, but raises `trio.WouldBlock` where that would wait."""
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

        Raises `trio.EndOfChannel` when nothing waits and no sender is left, `trio.ClosedResourceError` if
        this end is closed. If cancelled, no value was taken.
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
        self._channel.receivers[task] = self

        def abort(_: object) -> trio.lowlevel.Abort:
            self._tasks.remove(task)
            del self._channel.receivers[task]
            return trio.lowlevel.Abort.SUCCEEDED

        value: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return value

    def clone(self) -> CoalescingReceiveChannel[T]:
        """Another receiving end of the same channel; the clones share the values between them."""
        if self._closed:
            raise trio.ClosedResourceError
        return CoalescingReceiveChannel(self._channel)

    def close(self) -> None:
        """Close this end; when it was the last one, what waits is thrown away and senders are told."""
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
    """Open a channel that holds at most `max_buffer_size` values (0: from hand to hand).

    `max_defer` (seconds) is how long newer values of a key may push it back before its place is held; at
    most two values of a key ever wait. Every operation is O(1). Unlike Trio's channel it is always bounded.

    Raises `TypeError` if the size is no integer, `ValueError` if it or `max_defer` is negative.
    """
    if not isinstance(max_buffer_size, int) or isinstance(max_buffer_size, bool):
        raise TypeError("max_buffer_size must be an integer: every queue is bounded")
    if max_buffer_size < 0 or max_defer < 0:
        raise ValueError("max_buffer_size and max_defer must be >= 0")
    channel: _Channel[T] = _Channel(max_buffer_size, max_defer)
    return CoalescingSendChannel(channel), CoalescingReceiveChannel(channel)
