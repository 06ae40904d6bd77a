"""The state of a coalescing channel (`session/coalescing.py`), which all of its ends share.

The state holds the values that wait in the buffer and the tasks that wait in `send` and `receive`. All of its
methods are synchronous and run on the Trio loop, so no lock is needed.
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

T = TypeVar("T")


@attrs.frozen
class CoalescingChannelStatistics:
    """Numbers of one channel: those of Trio's `MemoryChannelStatistics`, the peak, and the replacements."""

    current_buffer_used: int
    max_buffer_size: int
    open_send_channels: int
    open_receive_channels: int
    tasks_waiting_send: int
    tasks_waiting_receive: int
    peak_buffer_used: int
    superseded: int
    """Number of values that a newer value of the same key has replaced since the channel was opened."""


@attrs.define(eq=False)
class _KeyedValues:
    """The waiting values of one key: at most two, with `held` before `latest` in the buffer."""

    latest: int | None
    """Ticket of the value that the next value of this key replaces."""
    since: float
    """When the first value of the present chain of replacements arrived, in seconds of Trio's clock."""
    held: int | None = None
    """Ticket of the value that keeps its place and is not replaced any more."""


@attrs.frozen(eq=False)
class WaitingSender(Generic[T]):
    """A `send` that waits for room."""

    value: T
    key: Hashable
    tasks: set[trio.lowlevel.Task]
    """The waiting tasks of the sending end through which this `send` was called."""


@attrs.define(eq=False)
class ChannelState(Generic[T]):
    """The buffer, the waiting tasks and the counters of one channel. Used by its ends alone."""

    max_buffer_size: int
    max_defer: float
    # Ticket -> (value, key), in order. An OrderedDict removes from its middle and its front in O(1).
    buffer: OrderedDict[int, tuple[T, Hashable]] = attrs.field(factory=OrderedDict)
    keys: dict[Hashable, _KeyedValues] = attrs.field(factory=dict)
    tickets: Iterator[int] = attrs.field(factory=itertools.count)
    open_send_channels: int = 0
    open_receive_channels: int = 0
    # Tasks that wait in `send` and in `receive`, oldest first. A receiver's value is the set of the tasks
    # that wait at its end. The code that wakes a task removes the task from the queue here and from the set
    # of its end: an end that is closed in the same step must not wake the task a second time.
    senders: OrderedDict[trio.lowlevel.Task, WaitingSender[T]] = attrs.field(factory=OrderedDict)
    receivers: OrderedDict[trio.lowlevel.Task, set[trio.lowlevel.Task]] = attrs.field(factory=OrderedDict)
    peak_buffer_used: int = 0
    superseded: int = 0

    def statistics(self) -> CoalescingChannelStatistics:
        """The numbers now."""
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

    # `now` is the time of Trio's clock, in seconds. An operation reads the clock once: if `put` read a later
    # time than `has_room`, a key could turn from replaceable to held in between and need room that was not
    # checked.

    def has_room(self, key: Hashable, now: float) -> bool:
        """Whether a new value of `key` would fit into the buffer, or replace a waiting value."""
        return len(self.buffer) < self.max_buffer_size or self.would_replace(key, now)

    def would_replace(self, key: Hashable, now: float) -> bool:
        """Whether a new value of `key` would replace a waiting value. False if `key` is None."""
        waiting = self.keys.get(key) if key is not None else None
        return waiting is not None and waiting.latest is not None and not self._must_hold(waiting, now)

    def _must_hold(self, waiting: _KeyedValues, now: float) -> bool:
        return waiting.held is None and now - waiting.since > self.max_defer

    def put(self, value: T, key: Hashable, now: float) -> T | None:
        """Hand the value to the first waiting receiver, or append it; return the value that it replaces.

        The caller has checked that there is room. Returns None if no value was replaced.
        """
        if self.receivers:
            task, tasks = self.receivers.popitem(last=False)
            tasks.remove(task)
            trio.lowlevel.reschedule(task, outcome.Value(value))
            return None
        ticket = next(self.tickets)
        removed = self._take_key(key, ticket, now) if key is not None else None
        self.buffer[ticket] = (value, key)
        self.peak_buffer_used = max(self.peak_buffer_used, len(self.buffer))
        return removed

    def _take_key(self, key: Hashable, ticket: int, now: float) -> T | None:
        """Make `ticket` the key's latest; return the replaced value, None if no value was replaced."""
        waiting = self.keys.get(key)
        if waiting is None:
            self.keys[key] = _KeyedValues(ticket, now)
            return None
        replaced, waiting.latest = waiting.latest, ticket
        if replaced is None or self._must_hold(waiting, now):
            waiting.held = replaced if replaced is not None else waiting.held
            waiting.since = now
            return None
        self.superseded += 1
        return self.buffer.pop(replaced)[0]

    def get(self) -> T:
        """Take the oldest value. Raises `trio.WouldBlock` if no value waits."""
        if self.buffer:
            ticket, (value, key) = self.buffer.popitem(last=False)
            if key is not None:
                self._forget(key, ticket)
            self.admit_senders()
            return value
        if self.senders:  # a channel of size 0 has no buffer
            task, sender = self.senders.popitem(last=False)
            sender.tasks.remove(task)
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

    def admit_senders(self) -> None:
        """Wake the tasks that wait in `send`, oldest first, for as long as there is room for their values.

        The first sender without room stops the loop, even where a later sender's key could be replaced at
        once: the channel promises the order of arrival, and a value must not be replaced by the value of a
        `send` that may still be cancelled.
        """
        if not self.senders:
            return
        now = trio.current_time()
        while self.senders:
            task, sender = next(iter(self.senders.items()))
            if not self.has_room(sender.key, now):
                return
            del self.senders[task]
            sender.tasks.remove(task)
            trio.lowlevel.reschedule(task, outcome.Value(self.put(sender.value, sender.key, now)))

    def break_senders(self) -> None:
        """Throw away all waiting values and raise `trio.BrokenResourceError` in every waiting `send`.

        Called when the last receiving end is closed. Trio's memory channel does the same.
        """
        for task, sender in self.senders.items():
            sender.tasks.remove(task)
            trio.lowlevel.reschedule(task, outcome.Error(trio.BrokenResourceError()))
        self.senders.clear()
        self.buffer.clear()
        self.keys.clear()

    def end_receivers(self) -> None:
        """Raise `EndOfChannel` in every waiting `receive`. Called when the last sending end is closed."""
        for task, tasks in self.receivers.items():
            tasks.remove(task)
            trio.lowlevel.reschedule(task, outcome.Error(trio.EndOfChannel()))
        self.receivers.clear()
