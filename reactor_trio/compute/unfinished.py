"""What keeps a session or a process from ending: calls in threads, tasks, a blocked loop, children."""

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
"""Of each kind, so many are named."""


def calls_in_threads(executor: Executor, now: float) -> list[str]:
    """What the runtime has handed to threads; `now` in seconds of Trio's clock."""
    return [f"{call.name} in lane {call.lane}, for {now - call.asked:.0f} s" for call in executor.running()]


def tasks_of_authors(nurseries: Iterable[trio.Nursery]) -> list[str]:
    """The tasks in and below these that wait in a line that a model's author wrote; from any thread."""
    try:
        return [described for task in _below(nurseries) if (described := _described(task)) is not None]
    except RuntimeError:  # the loop goes on, and has changed what was looked at
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
    """Where the loop is, which runs in this thread and does not answer."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "the loop"
    place = place_of(frame)
    return f"{place.handler or 'the loop'} at {place}, which blocks the loop"


def threads_and_children() -> list[str]:
    """What Python waits for at the end of a process: threads that are no daemons, and child processes."""
    main = threading.main_thread()
    threads = [f"thread {each.name}" for each in threading.enumerate() if not (each.daemon or each is main)]
    # Not imported for this: a process that has children of this kind has it.
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing is not None else []
    return threads + [f"process {each.name} (pid {each.pid})" for each in children if not each.daemon]


def listed(names: Iterable[str], otherwise: str) -> str:
    """The names in a line, or what is said without any."""
    names = [*names]
    more = [f"and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return "; ".join([*names[:MAX_NAMED], *more]) or otherwise
