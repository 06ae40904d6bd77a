"""Sleeps until a time that may be moved, many a second: a pacer wakes up for every frame.

Trio's way to wake up at a time is a cancel scope with a deadline, which is used up each time: to make one,
enter it, have it cancelled and leave it is a fifth of what the loop does for a frame. So here all naps of a
Trio run share one scope, which is never cancelled: its deadline only says until when the loop may wait, and
each time that it has waited, an instrument looks who is to wake up, and moves the deadline on.
"""

from __future__ import annotations

import itertools
import math
from heapq import heapify, heappop, heappush
from typing import Any

import trio

FORGOTTEN = 64
"""Entries without a task that stay in any case: to throw them away costs a look at all entries."""
TASK_NAME = "reactor-trio/naps"
"""Of the task that holds that scope. It belongs to the Trio run, not to a session, and lasts as long."""


class Nap:
    """The naps of one task, one after the other. Belongs to the Trio run that it is first used in."""

    def __init__(self) -> None:
        # None before the first nap: a session that shows nothing needs none.
        self._alarm: _Alarm | None = None
        self._entry: _Entry | None = None

    async def until(self, time: float) -> None:
        """Sleep until `time`, in seconds of Trio's clock, or until what `move` makes of it.

        Infinity is never. Always a checkpoint, also if `time` is over. If cancelled, it ends at once.
        """
        alarm = self._alarm
        if alarm is None:
            alarm = self._alarm = _alarm_of_this_run()
        self._entry = alarm.ring_at(time, trio.lowlevel.current_task())
        try:
            await trio.lowlevel.wait_task_rescheduled(self._give_up)
        finally:
            self._entry = None

    def move(self, time: float) -> None:
        """Have the nap that goes on end at another time; does nothing if there is none, or it is over."""
        entry, alarm = self._entry, self._alarm
        if alarm is not None and entry is not None and entry[2] is not None:
            task = entry[2]
            alarm.forget(entry)
            self._entry = alarm.ring_at(time, task)

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        assert self._alarm is not None
        assert self._entry is not None
        self._alarm.forget(self._entry)
        return trio.lowlevel.Abort.SUCCEEDED


_Entry = list[Any]
"""Time, a number that tells equal times apart, and the task to wake: None once it is awake, or was moved."""

_alarms: trio.lowlevel.RunVar[_Alarm] = trio.lowlevel.RunVar("reactor_trio.session.naps")


class _Alarm(trio.abc.Instrument):
    """Wakes the tasks of one Trio run at their times."""

    def __init__(self) -> None:
        # A heap. An entry without a task stays until its time, or until most of them have none.
        self._entries: list[_Entry] = []
        self._forgotten = 0
        self._numbers = itertools.count()
        self._now = trio.lowlevel.current_clock().current_time
        # That of `watch`, once it runs: the loop waits no longer than until its deadline.
        self._scope: trio.CancelScope | None = None

    def ring_at(self, time: float, task: trio.lowlevel.Task) -> _Entry:
        entry = [time, next(self._numbers), task]
        if time < math.inf:
            heappush(self._entries, entry)
            if self._entries[0] is entry:
                self._set()
        return entry

    def forget(self, entry: _Entry) -> None:
        """Wake nobody at this entry's time."""
        entry[2] = None
        if entry[0] == math.inf:  # it is not in the heap
            return
        self._forgotten += 1
        # A pacer of one frame in 100 s that is moved 30 times a second would leave 3000.
        if self._forgotten > max(FORGOTTEN, len(self._entries) // 2):
            self._entries = [each for each in self._entries if each[2] is not None]
            self._forgotten = 0
            heapify(self._entries)

    def after_io_wait(self, timeout: float) -> None:
        """Trio's hook."""
        if self._entries and self._entries[0][0] <= self._now():
            self._ring()

    def _ring(self) -> None:
        entries, now = self._entries, self._now()
        while entries and (entries[0][0] <= now or entries[0][2] is None):
            entry = heappop(entries)
            if entry[2] is None:
                self._forgotten -= 1
            else:
                trio.lowlevel.reschedule(entry[2])
                entry[2] = None
        self._set()

    def _set(self) -> None:
        if self._scope is not None:
            self._scope.deadline = self._entries[0][0] if self._entries else math.inf

    async def watch(self) -> None:
        """A system task, for as long as the run lasts."""
        while True:
            with trio.CancelScope() as self._scope:
                self._set()
                await trio.sleep_forever()
            # The time came between the instrument's look at the clock and Trio's own: it looks again at once.


def _alarm_of_this_run() -> _Alarm:
    try:
        return _alarms.get()
    except LookupError:
        alarm = _Alarm()
        _alarms.set(alarm)
        trio.lowlevel.add_instrument(alarm)
        trio.lowlevel.spawn_system_task(alarm.watch, name=TASK_NAME)
        return alarm
