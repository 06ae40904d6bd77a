"""Timers: sleeps until a time that can be changed during the sleep, cheap enough for every frame of a pacer.

Trio wakes a task at a given time by a cancel scope with a deadline, which can be used once. Making, entering,
cancelling and leaving a scope takes a fifth of the loop's CPU time for a frame. So all timers of a Trio run
share one scope, whose deadline bounds how long the loop waits for I/O. After each such wait, an instrument
wakes the tasks whose times have come, and sets the deadline to the next time.
"""

from __future__ import annotations

import itertools
import math
from heapq import heapify, heappop, heappush
from typing import Any

import trio

KEPT_ENTRIES = 64
"""Number of cancelled entries that may always stay in the heap, since removing them visits all entries."""
TASK_NAME = "reactor-trio/timers"
"""Name of the system task that holds the shared scope. The task runs as long as the Trio run."""


class Timer:
    """Lets one task sleep again and again. `OutputStream` uses timers for its pacer.

    One task at a time may sleep. A timer belongs to the Trio run in which it is first used.
    """

    def __init__(self) -> None:
        # None before the first sleep: a session without output needs no waker.
        self._waker: _Waker | None = None
        self._entry: _Entry | None = None

    async def sleep_until(self, time: float) -> None:
        """Sleep until `time`, in seconds of Trio's clock, or until the time that `reset` sets meanwhile.

        Infinity means until `reset`. Always a checkpoint, even if `time` has passed. If cancelled, the sleep
        ends at once, and the timer can be used again.
        """
        waker = self._waker
        if waker is None:
            waker = self._waker = _waker_of_this_run()
        self._entry = waker.add(time, trio.lowlevel.current_task())
        try:
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        finally:
            self._entry = None

    def reset(self, time: float) -> None:
        """Change the wake-up time of the current sleep. Does nothing if no sleep is in progress."""
        entry, waker = self._entry, self._waker
        if waker is not None and entry is not None and entry[2] is not None:
            task = entry[2]
            waker.cancel(entry)
            self._entry = waker.add(time, task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        assert self._waker is not None
        assert self._entry is not None
        self._waker.cancel(self._entry)
        return trio.lowlevel.Abort.SUCCEEDED


_Entry = list[Any]
"""Wake-up time, a number that orders equal times, and the task; None once it is woken, reset or cancelled."""

_wakers: trio.lowlevel.RunVar[_Waker] = trio.lowlevel.RunVar("reactor_trio.session.timers")


class _Waker(trio.abc.Instrument):
    """Wakes the sleeping tasks of one Trio run at their times."""

    def __init__(self) -> None:
        # A heap. A cancelled entry has no task; it stays until its time, or until most are cancelled.
        self._entries: list[_Entry] = []
        self._cancelled = 0
        self._numbers = itertools.count()
        self._now = trio.lowlevel.current_clock().current_time
        # The scope of `watch`, once it runs: the loop waits for I/O until its deadline at most.
        self._scope: trio.CancelScope | None = None

    def add(self, time: float, task: trio.lowlevel.Task) -> _Entry:
        """Wake `task` at `time`, in seconds of Trio's clock; returns the entry, which can be cancelled."""
        entry = [time, next(self._numbers), task]
        if time < math.inf:
            heappush(self._entries, entry)
            if self._entries[0] is entry:
                self._set_deadline()
        return entry

    def cancel(self, entry: _Entry) -> None:
        """Cancel an entry: its task is not woken at the entry's time."""
        entry[2] = None
        if entry[0] == math.inf:  # not in the heap
            return
        self._cancelled += 1
        # A timer for a frame in 100 s that is reset 30 times a second would leave 3000 entries.
        if self._cancelled > max(KEPT_ENTRIES, len(self._entries) // 2):
            self._entries = [each for each in self._entries if each[2] is not None]
            self._cancelled = 0
            heapify(self._entries)

    def after_io_wait(self, timeout: float) -> None:
        """Wake the tasks that are due. Called by Trio after each wait for I/O."""
        if self._entries and self._entries[0][0] <= self._now():
            self._wake_due()

    def _wake_due(self) -> None:
        entries, now = self._entries, self._now()
        while entries and (entries[0][0] <= now or entries[0][2] is None):
            entry = heappop(entries)
            if entry[2] is None:
                self._cancelled -= 1
            else:
                trio.lowlevel.reschedule(entry[2])
                entry[2] = None
        self._set_deadline()

    def _set_deadline(self) -> None:
        if self._scope is not None:
            self._scope.deadline = self._entries[0][0] if self._entries else math.inf

    async def watch(self) -> None:
        """Hold the shared scope. A system task, which runs as long as the Trio run."""
        while True:
            with trio.CancelScope() as self._scope:
                self._set_deadline()
                await trio.sleep_forever()
            # Trio cancelled the scope, since its deadline passed after the instrument had read the clock.
            # The instrument reads the clock again in the next pass of the loop.


def _waker_of_this_run() -> _Waker:
    try:
        return _wakers.get()
    except LookupError:
        waker = _Waker()
        _wakers.set(waker)
        trio.lowlevel.add_instrument(waker)
        trio.lowlevel.spawn_system_task(waker.watch, name=TASK_NAME)
        return waker
