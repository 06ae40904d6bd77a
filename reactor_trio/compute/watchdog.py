"""The watchdog of the loop: which task held it, where, and for how long (DESIGN, section 5.3).

All sessions share one loop, so a step of one task that blocks stops every client. At the ends of each
step an instrument looks at the time, no more: that is what a command pays. A thread looks every `limit`
seconds whether the step under way is overdue, and only then samples the loop's stack, again and again
while it lasts. When the step is over, the place that was seen most often is logged, once for each place.
"""

from __future__ import annotations

import math
import os
import site
import sys
import sysconfig
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import outcome
import trio
from structlog.contextvars import STRUCTLOG_KEY_PREFIX

from reactor_trio.logs.logger import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

LIMIT = 0.050
"""Seconds that one step of a task may hold the loop."""
HUNG = 5.0
"""Seconds after which a step that still goes on is logged; if it never ends, nothing else would be."""
MAX_PLACES = 1000
"""Places that are logged, in all."""
LAG_PERIOD = 0.1
"""Seconds between two measurements of the loop's lag."""
ADVICE = (
    "block in a thread: await self.compute(...), @event(in_thread=True) on a plain def handler, or a plain "
    "def inference"
)
NO_ADVICE = "no line of the model's: the machine, or the runtime, was too slow"

log = get_logger(__name__)


@attrs.frozen
class Place:
    """Where a step was."""

    file: str
    line: int
    handler: str | None
    """The outermost function of the author's in this step, such as `Painter.set_prompt` or `Painter.run`.

    None: there is none, nor one of a library's; the runtime was slow, or the machine.
    """

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@attrs.define(eq=False)
class _Samples:
    """What was seen of one overdue step."""

    began: float
    places: Counter[Place] = attrs.field(factory=Counter)
    said_hung: bool = False


class Watchdog(trio.abc.Instrument):
    """Notices steps longer than `limit` seconds; `on_stall` is called with the length of each.

    Only for use in `watching`. `clock` and `frame`, the loop's innermost frame now, are there for tests.
    """

    # Slots, as the two hooks run at every step of every task: a sixth less.
    __slots__ = (
        "_began",
        "_clock",
        "_frame",
        "_limit",
        "_loop_thread",
        "_on_stall",
        "_samples",
        "_seen",
        "_stopped",
        "_task",
    )

    def __init__(
        self,
        on_stall: Callable[[float], object] | None = None,
        *,
        limit: float = LIMIT,
        clock: Callable[[], float] = time.perf_counter,
        frame: Callable[[], FrameType | None] | None = None,
    ) -> None:
        self._on_stall = on_stall
        self._limit = limit
        self._clock = clock
        self._loop_thread = threading.get_ident()
        self._frame = frame or self._loop_frame
        # Written by the loop at each step; read by the thread. Infinity: no step is under way.
        self._began = math.inf
        self._task: trio.lowlevel.Task | None = None
        # Written by the thread, read by the loop when the step with the same `began` is over.
        self._samples: _Samples | None = None
        self._seen: set[object] = set()
        # Set by `stop`; the thread waits for it between two looks.
        self._stopped = threading.Event()

    # ---- on the loop, at every step: what stands here is what all commands pay

    # Calling a hook costs more than what it does. So a step ends where the next one begins, or the loop
    # waits: at many clients that is half the price of `after_task_step`.

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
        if self._on_stall is not None:
            self._on_stall(seconds)
        samples, place = self._samples, None
        if samples is not None and samples.began == began and samples.places:
            [(place, _)] = samples.places.most_common(1)
        self._say("the loop was blocked", task, place, seconds)

    def _say(self, text: str, task: trio.lowlevel.Task, place: Place | None, seconds: float) -> None:
        key = (text, place.file, place.line) if place else (text, task.name.rpartition("/")[2])
        if key in self._seen or len(self._seen) >= MAX_PLACES:
            return
        self._seen.add(key)
        details: dict[str, object] = {"session_id": _session_id(task)}
        if place is not None:
            details |= {"handler": place.handler, "place": str(place)}
        details["advice"] = ADVICE if place and place.handler else NO_ADVICE
        shown = {name: value for name, value in details.items() if value is not None}
        log.warning(text, milliseconds=round(1000 * seconds), task=task.name, **shown)

    # ---- in the thread

    def look(self) -> float:
        """Sample the step under way if it is overdue; returns in how many seconds to look again."""
        began, task = self._began, self._task
        if began == math.inf or task is None:
            return self._limit
        seconds = self._clock() - began
        if seconds < self._limit:
            return self._limit - seconds
        frame = self._frame()
        place = None if frame is None else place_of(frame)
        if self._began != began:  # it has ended while its stack was read
            return self._limit
        samples = self._samples
        if samples is None or samples.began != began:
            samples = self._samples = _Samples(began)
        if place is not None:
            samples.places[place] += 1
        if seconds >= HUNG and not samples.said_hung:
            samples.said_hung = True
            self._say("the loop is blocked, still", task, place, seconds)
        return self._limit

    def watch(self) -> None:
        """What the thread does, until `stop`."""
        wait = self._limit
        while not self._stopped.wait(wait):
            wait = self.look()

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()

    def _loop_frame(self) -> FrameType | None:
        return sys._current_frames().get(self._loop_thread)


@contextmanager
def watching(watchdog: Watchdog) -> Iterator[None]:
    """Watch the loop in this block. Only in its thread."""
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
    """Tell `observe` again and again how late the loop was. Runs until it is cancelled."""
    due = trio.current_time()
    while True:
        due += period
        await trio.sleep_until(due)
        now = trio.current_time()
        observe(now - due)
        due = max(due, now - period)  # what was missed is not made up for


def _session_id(task: trio.lowlevel.Task) -> object:
    """What the session's task had bound for all of its log lines; tasks inherit it, also the author's."""
    name = f"{STRUCTLOG_KEY_PREFIX}session_id"
    found = next((value for variable, value in task.context.items() if variable.name == name), None)
    return None if found is Ellipsis else found  # so structlog marks what is not bound any more


# ---- whose code is it?

_PACKAGE = Path(__file__).parents[1]
_RUNTIME = tuple(
    f"{folder}{os.sep}" for folder in (_PACKAGE, Path(trio.__file__).parent, Path(outcome.__file__).parent)
)
_DEMO = f"{_PACKAGE / 'demo'}{os.sep}"
_LIBRARIES = tuple(
    f"{folder}{os.sep}"
    for folder in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)
_RUNNER = (os.path.join(os.path.dirname(trio.__file__), "_core", "_run.py"), "unrolled_run")  # noqa: PTH118, PTH120


def place_of(frame: FrameType) -> Place:
    """Where a step is, given its innermost frame: in the innermost line that the model's author wrote.

    That is one that is neither of the runtime, nor of the standard library, nor of an installed package. If
    there is none, it is the first line below the runtime's, such as that of a model that is installed, and
    if there is none of these, the innermost.
    """
    frames = list(_frames(frame))
    authored = [each for each in frames if is_authored(each.f_code.co_filename)]
    theirs = authored or _below_runtime(frames)
    innermost = theirs[0] if theirs else frame
    handler = theirs[-1].f_code.co_qualname if theirs else None
    return Place(innermost.f_code.co_filename, innermost.f_lineno, handler)


def is_authored(file: str) -> bool:
    """Whether this is the code of a model's author, going by where it is."""
    # Generated code has a name in angle brackets in place of a file.
    return file.startswith(_DEMO) or not file.startswith(("<", *_RUNTIME, *_LIBRARIES))


def _below_runtime(frames: list[FrameType]) -> list[FrameType]:
    below: list[FrameType] = []
    for each in frames:
        if each.f_code.co_filename.startswith(_RUNTIME):
            break
        below.append(each)
    return below[-1:]


def _frames(frame: FrameType) -> Iterator[FrameType]:
    """From the innermost one outwards, as far as the task's step goes."""
    current: FrameType | None = frame
    while current is not None and (current.f_code.co_filename, current.f_code.co_name) != _RUNNER:
        yield current
        current = current.f_back
