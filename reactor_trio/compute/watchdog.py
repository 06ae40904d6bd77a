"""The watchdog of the loop: which task held it, where, and for how long (docs/design.md#the-watchdog).

All sessions share one loop, so a step of one task that blocks stops every client. At both ends of a step an
instrument reads the clock, and does no more, since every command pays for it. A thread looks every `limit`
seconds whether the current step is overdue. Only then it samples the loop's stack, again and again until the
step is over. Then the place that was sampled most often is logged, once for each place.

No line is to blame for time that the machine did not give to the loop (`loop_time`): the thread reads the
times of the loop's thread now and then, and a step is blamed for the rest alone.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import attrs
import trio
from structlog.contextvars import STRUCTLOG_KEY_PREFIX

from reactor_trio.compute.loop_time import Reading, ThreadUsage, excused
from reactor_trio.compute.places import place_in, stack_of
from reactor_trio.logs.logger import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from reactor_trio.compute.loop_time import Usage
    from reactor_trio.compute.places import Place

LIMIT = 0.050
"""Seconds that one step of a task may hold the loop."""
HUNG = 5.0
"""Seconds after which a step is logged that is not over: if it never ends, it would not be logged at all."""
MAX_PLACES = 1000
"""At most so many places are logged in the life of a process."""
LAG_PERIOD = 0.1
"""Seconds between two measurements of the loop's lag."""
ADVICE = (
    "block in a thread: await self.compute(...), @event(in_thread=True) on a plain def handler, or a plain "
    "def inference"
)
NO_ADVICE = "no line of the model's: the machine, or the runtime, was too slow"
CLIENT_ADVICE = (
    "not the model's doing: what this session's client sent took so long to read; --max-message-bytes, "
    "--max-messages-per-second and --max-bytes-per-second bound it"
)
GC_ADVICE = "Python's garbage collector looked at all objects: make fewer of them in sessions, and no circles"

log = get_logger(__name__)


@attrs.define(eq=False)
class _Samples:
    """The places that were sampled in one overdue step."""

    began: float
    places: Counter[Place] = attrs.field(factory=Counter)
    said_hung: bool = False


class Watchdog(trio.abc.Instrument):
    """Notices steps longer than `limit` seconds; `on_stall` is called with the length of each.

    Use it in `watching`, which tells the watchdog how to read the loop's `usage`. Tests pass a `clock`, and a
    `frame` that returns the loop's innermost frame.
    """

    # Slots, as the two hooks run at every step of every task: a sixth less.
    __slots__ = (
        "_bases",
        "_began",
        "_clock",
        "_due",
        "_frame",
        "_late",
        "_limit",
        "_loop_thread",
        "_on_stall",
        "_samples",
        "_seen",
        "_stopped",
        "_task",
        "_usage",
    )

    def __init__(
        self,
        on_stall: Callable[[float], object] | None = None,
        *,
        limit: float = LIMIT,
        clock: Callable[[], float] = time.perf_counter,
        frame: Callable[[], FrameType | None] | None = None,
        usage: Callable[[], Usage] | None = None,
    ) -> None:
        self._on_stall = on_stall
        self._limit = limit
        self._clock = clock
        self._loop_thread = threading.get_ident()
        self._frame = frame or self._loop_frame
        self._usage = usage
        # Written by the thread: the readings of its last two looks before the current step was overdue; the
        # time of its next look; and the seconds by which its looks were late, in all.
        self._bases: tuple[Reading | None, Reading | None] = None, None
        self._due = math.inf
        self._late = 0.0
        # Written by the loop at each step; read by the thread. Infinity while no step is under way.
        self._began = math.inf
        self._task: trio.lowlevel.Task | None = None
        # Written by the thread; read by the loop when the step is over that has the same `began`.
        self._samples: _Samples | None = None
        self._seen: set[object] = set()
        # Set by `stop`. The thread waits for it between two looks.
        self._stopped = threading.Event()

    # ---- on the loop, at every step: all commands pay for these lines

    # To call a hook costs more than its body. So a step ends where the next one begins, or where the loop
    # waits: with many clients that is half the price of `after_task_step`.

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio's hook."""
        now = self._clock()
        if now - self._began > self._limit:
            self._stalled(now)
        self._task = task
        self._began = now

    def before_io_wait(self, timeout: float) -> None:
        """Trio's hook."""
        now = self._clock()
        if now - self._began > self._limit:
            self._stalled(now)
        self._began = math.inf

    # ---- on the loop, after a step that was too long

    def _stalled(self, now: float) -> None:
        began, task = self._began, self._task
        assert task is not None
        seconds = now - began
        held, collecting = self._held(now, seconds)
        if held <= self._limit:  # for want of a processor
            return
        if self._on_stall is not None:
            self._on_stall(seconds)
        if held - collecting <= self._limit:
            self._say("the garbage collector held the loop", task, None, seconds, GC_ADVICE)
            return
        samples, place = self._samples, None
        if samples is not None and samples.began == began and samples.places:
            [(place, _)] = samples.places.most_common(1)
        self._say("the loop was blocked", task, place, seconds)

    def _held(self, now: float, seconds: float) -> tuple[float, float]:
        """Seconds of a step that are not excused, and how many of them the garbage collector took."""
        reading, (older, newer) = self._read(now), self._bases
        # A step began between two readings: the older of them covers all of it.
        base = newer if newer is not None and newer.at <= now - seconds else older
        if reading is None or base is None:
            return seconds, 0.0
        collecting = reading.usage.collecting - base.usage.collecting
        return seconds - excused(base, reading), collecting

    def _read(self, now: float) -> Reading | None:
        if self._usage is None:
            return None
        return Reading(now, self._usage(), self._late + max(0.0, now - self._due))

    def _say(
        self,
        text: str,
        task: trio.lowlevel.Task,
        place: Place | None,
        seconds: float,
        advice: str | None = None,
    ) -> None:
        key = (text, place.file, place.line) if place else (text, task.name.rpartition("/")[2])
        if key in self._seen or len(self._seen) >= MAX_PLACES:
            return
        self._seen.add(key)
        session_id = _session_id(task)
        details: dict[str, object] = {"session_id": session_id}
        if place is not None:
            details |= {"handler": place.handler, "place": str(place)}
        if advice is None:
            reads = session_id is not None and task.name.endswith("/receive")
            advice = ADVICE if place and place.handler else CLIENT_ADVICE if reads else NO_ADVICE
        details["advice"] = advice
        shown = {name: value for name, value in details.items() if value is not None}
        log.warning(text, milliseconds=round(1000 * seconds), task=task.name, **shown)

    # ---- in the thread

    def look(self) -> float:
        """Sample the step under way if it is overdue; returns in how many seconds to look again."""
        began, task = self._began, self._task
        now = self._clock()
        seconds = now - began
        if task is None or seconds < self._limit:
            self._bases = self._bases[1], self._read(now)
            return self._limit if began == math.inf else self._limit - seconds
        # Before the stack is read: `_held` gives Python's lock away and takes it anew, so that this thread
        # can drop the frames before another one asks for the lock.
        held, _ = self._held(now, seconds)
        place = place_in(stack_of(self._frame()))
        if self._began != began:  # it has ended while its stack was read
            return self._limit
        samples = self._samples
        if samples is None or samples.began != began:
            samples = self._samples = _Samples(began)
        if place is not None:
            samples.places[place] += 1
        if held >= HUNG and not samples.said_hung:
            samples.said_hung = True
            self._say("the loop is blocked, still", task, place, seconds)
        return self._limit

    def watch(self) -> None:
        """Look again and again until `stop`. The thread runs this."""
        wait = self._limit
        while True:
            # The time of a look counts as lateness too: this thread has Python's lock meanwhile, and may lose
            # the processor with the lock in its hands.
            now = self._clock()
            self._late, self._due = self._late + max(0.0, now - self._due), now + wait
            if self._stopped.wait(wait):
                return
            wait = self.look()

    def read_usage_by(self, usage: Callable[[], Usage]) -> None:
        """Set how the loop's times are read, unless the constructor did. Call it before the thread begins."""
        if self._usage is None and self._clock is time.perf_counter:
            self._usage = usage
        first = self._read(self._clock())
        self._bases = first, first

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()

    def _loop_frame(self) -> FrameType | None:
        return sys._current_frames().get(self._loop_thread)


@contextmanager
def watching(watchdog: Watchdog) -> Iterator[None]:
    """Watch the loop in this block. Only in its thread."""
    with ExitStack() as stack:
        if hasattr(time, "pthread_getcpuclockid"):  # not on macOS: there a step is blamed for all its time
            usage = ThreadUsage()
            stack.callback(usage.close)
            stack.enter_context(usage.counting_collections())
            watchdog.read_usage_by(usage.read)
        with _thread(watchdog):
            yield


@contextmanager
def _thread(watchdog: Watchdog) -> Iterator[None]:
    thread = threading.Thread(target=watchdog.watch, name="reactor-trio watchdog", daemon=True)
    trio.lowlevel.add_instrument(watchdog)
    thread.start()
    try:
        yield
    finally:
        watchdog.stop()
        thread.join()
        trio.lowlevel.remove_instrument(watchdog)


async def measure_lag(observe: Callable[[float], object], *, period: float = LAG_PERIOD) -> None:
    """Measure the loop's lag every `period` seconds, and call `observe` with it, in seconds.

    Runs until it is cancelled.
    """
    due = trio.current_time()
    while True:
        due += period
        await trio.sleep_until(due)
        now = trio.current_time()
        observe(now - due)
        due = max(due, now - period)  # measurements that were missed are not made up for


def _session_id(task: trio.lowlevel.Task) -> object:
    """The session's id, which its task has bound for all log lines: all its tasks inherit the context."""
    name = f"{STRUCTLOG_KEY_PREFIX}session_id"
    found = next((value for variable, value in task.context.items() if variable.name == name), None)
    return None if found is Ellipsis else found  # structlog's mark of a name that is not bound any more
