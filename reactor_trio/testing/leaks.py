"""Leaks: things that outlive their session. Looked for when a session in memory ends, and when a test ends.

A session's own nursery makes leaks rare. They are left by a model that starts a task in a nursery that is not
the session's, by an abandoned thread, by a session that was made and never run, or by a bug of the runtime.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, TYPE_CHECKING

import attrs
import trio

from reactor_trio.link import host, uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from reactor_trio.session.session import Session

# The session whose tasks started the current task, in whatever nursery: tasks inherit context variables.
_session: ContextVar[Session | None] = ContextVar("reactor_trio_session", default=None)


@attrs.frozen
class Leak:
    """One thing that was still there after its session had ended."""

    session_id: str
    kind: str
    """`task`, `thread`, `file`, `channel` or `outbox`."""
    what: str
    """A description: which thing, and where it is."""

    def __str__(self) -> str:
        return f"{self.session_id}: {self.what}"


@attrs.frozen
class _Watched:
    session: Session
    # The token of the session's Trio run: until that run is over the session may go on.
    token: trio.lowlevel.TrioToken


class LeakWatch:
    """A context manager that notes each session made while it is entered, in any thread; see `leaks`."""

    def __init__(self) -> None:
        self._sessions: list[_Watched] = []
        self._files: list[tuple[IO[bytes], Session | None]] = []
        # Leaks that were found when a session ended; they may be gone by the end of the test.
        self._found: list[Leak] = []
        self._open_file: Callable[[], IO[bytes]] = uploads._temporary_file

    def __enter__(self) -> LeakWatch:
        host.watchers.append(self._made)
        _watches.append(self)
        self._open_file = uploads._temporary_file
        uploads._temporary_file = self._temporary_file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        uploads._temporary_file = self._open_file
        _watches.remove(self)
        host.watchers.remove(self._made)

    def _made(self, session: Session) -> None:
        self._sessions.append(_Watched(session, trio.lowlevel.current_trio_token()))

    def _temporary_file(self) -> IO[bytes]:
        # A temporary file has no name to look for later. A thread has the context of its caller's task.
        file = self._open_file()
        self._files.append((file, _session.get()))
        return file

    def ended(self, session: Session) -> None:
        """Look for tasks and threads of a session whose `run` has just returned, in the task that ran it."""
        self._found += _tasks(session)
        if sum(each.session.id == session.id for each in self._sessions) == 1:
            self._found += _threads(session)

    def leaks(self) -> list[Leak]:
        """Return each leak once. Sessions whose Trio run still goes on are left out."""
        over = [each.session for each in self._sessions if _is_over(each.token)]
        found = list(self._found)
        for session in over:
            found += [*_threads(session), *left_open(session)]
        found += [
            Leak(session.id if session else "a session", "file", f"temporary file {file.name} is open")
            for file, session in self._files
            if not file.closed and (session is None or session in over)
        ]
        return list(dict.fromkeys(found))


_watches: list[LeakWatch] = []


@contextmanager
def watched(session: Session) -> Iterator[None]:
    """Let each `LeakWatch` look for leaks when this block, which runs a session, has ended."""
    before = _session.set(session)
    try:
        yield
    finally:
        _session.reset(before)
        for watch in _watches:
            watch.ended(session)


def _is_over(token: trio.lowlevel.TrioToken) -> bool:
    try:
        token.run_sync_soon(lambda: None)
    except trio.RunFinishedError:
        return True
    return False


def _tasks(session: Session) -> Iterator[Leak]:
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        if task.context.get(_session) is session and task is not trio.lowlevel.current_task():
            yield Leak(session.id, "task", f"task {task.name!r} goes on{_where(task)}")


def _where(task: trio.lowlevel.Task) -> str:
    """Return the place at which the task waits: the innermost line outside of Trio."""
    library = os.path.dirname(trio.__file__)  # noqa: PTH120  frames have plain texts for paths
    lines = [
        f" at {frame.f_code.co_filename}:{line}"
        for frame, line in task.iter_await_frames()
        if not frame.f_code.co_filename.startswith(library)
    ]
    return lines[-1] if lines else ""


def _threads(session: Session) -> Iterator[Leak]:
    # A worker thread is called `<function> from <task>` while it works, and a task `<session's id>/...`.
    for thread in threading.enumerate():
        _, _, task = thread.name.partition(" from ")
        if task.startswith(f"{session.id}/"):
            yield Leak(session.id, "thread", f"thread {thread.name!r} still runs")


def left_open(session: Session) -> list[Leak]:
    """Return the session's queues that are still open; once the session has ended there must be none."""
    return [*_channel_ends(session), *_outbox(session)]


def _channel_ends(session: Session) -> Iterator[Leak]:
    numbers = session.inbox.statistics()
    for count, end in ((numbers.open_send_channels, "sending"), (numbers.open_receive_channels, "receiving")):
        if count:
            ends = "end is" if count == 1 else f"ends ({count}) are"
            yield Leak(session.id, "channel", f"{end} {ends} open: inbox{_never(session)}")


def _outbox(session: Session) -> Iterator[Leak]:
    if any(link.is_open for link in session.links.statistics()):
        yield Leak(session.id, "outbox", f"the outbox is open{_never(session)}")


def _never(session: Session) -> str:
    return " (the session was made and never run)" if session.ending is None else ""
