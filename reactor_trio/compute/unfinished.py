"""Descriptions of what keeps a session or a process from ending: calls, tasks, a blocked loop, children."""

from __future__ import annotations

import sys
import threading
from itertools import chain
from typing import TYPE_CHECKING

from reactor_trio.compute.places import is_authored, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import trio

    from reactor_trio.compute.executor import Executor

MAX_NAMED = 10
"""So many of each kind are named, and the others counted."""


def calls_in_threads(executor: Executor, now: float) -> list[str]:
    """Describe the calls that run in threads of the runtime; `now` in seconds of Trio's clock."""
    return [f"{call.name} in lane {call.lane}, for {now - call.asked:.0f} s" for call in executor.running()]


def tasks_of_authors(nurseries: Iterable[trio.Nursery]) -> list[str]:
    """Describe the tasks in and below the nurseries that wait in an author's code. From any thread."""
    try:
        return [described for task in _below(nurseries) if (described := _described(task)) is not None]
    except RuntimeError:  # the loop goes on, and has changed a set of tasks meanwhile
        return []


def _below(nurseries: Iterable[trio.Nursery]) -> Iterator[trio.lowlevel.Task]:
    for child in chain.from_iterable(nursery.child_tasks for nursery in nurseries):
        yield child
        yield from _below(child.child_nurseries)


def _described(task: trio.lowlevel.Task) -> str | None:
    frames = [each for each in task.iter_await_frames() if is_authored(each[0].f_code.co_filename)]
    if task.child_nurseries or not frames:
        return None
    frame, line = frames[-1]
    handler = frames[0][0].f_code.co_qualname
    return f"{handler} at {frame.f_code.co_filename}:{line} (task {task.name})"


def blocked_loop(thread: int) -> str:
    """Describe where the loop is that runs in this thread and does not answer."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "the loop"
    place = place_of(frame)
    return f"{place.handler or 'the loop'} at {place}, which blocks the loop"


def threads_and_children() -> list[str]:
    """Describe the threads and children that Python waits for at its end: those that are no daemons."""
    main = threading.main_thread()
    threads = [f"thread {each.name}" for each in threading.enumerate() if not (each.daemon or each is main)]
    # Not imported for this purpose: a process with children of `multiprocessing` has imported it.
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing is not None else []
    return threads + [f"process {each.name} (pid {each.pid})" for each in children if not each.daemon]


def listed(names: Iterable[str], otherwise: str) -> str:
    """The names in one line, or `otherwise` if there are none."""
    names = [*names]
    more = [f"and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return "; ".join([*names[:MAX_NAMED], *more]) or otherwise
