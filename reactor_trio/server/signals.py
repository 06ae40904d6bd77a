"""The signals that end a server, heard by a thread: also while a line of the model blocks the loop.

Python runs its own handlers in the main thread, and only between two lines: one that hangs in C code, or
waits for a lock, keeps them from running. So the number of a signal is written into a socket as it arrives
(`signal.set_wakeup_fd`), and a thread reads it there.

A child that was forked, as by `multiprocessing`, gets Python's own handling back. Else a signal that is meant
for the child would end its parent too, which has the other end of that socket.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEWS = b"\0"
"""In the place of a signal: something else has happened."""


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals by which a server is told to end.

    SIGHUP, of a terminal that is closed, is not one of them where it was ignored from the start, as by
    `nohup`. SIGINT always is: a shell without job control ignores it for what it starts in the background.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return tuple(numbers)


class SignalSocket:
    """Takes the signals of the process; `wait` gives them to one thread, in their order.

    Several of a kind may come as one, as with all signals.
    """

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        # Whether Python writes into the socket as a signal arrives. Else its handler in the main thread does.
        self._is_wired = False
        self._before: dict[signal.Signals, Any] = {}
        _of_this_process.add(self)

    def take(self) -> None:
        """From now on the signals end nothing by themselves. Only in the main thread."""
        for signum in ending_signals():
            self._before[signum] = signal.signal(signum, self._handle)

    def give_back(self) -> None:
        """Undo `take`, and free the socket. Only in the main thread, and when nobody waits."""
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before.clear()
        self._read.close()
        self._write.close()
        _of_this_process.discard(self)

    @contextmanager
    def wired(self) -> Iterator[None]:
        """In this block, inside of `trio.run`, signals are heard whatever the main thread does."""
        before = self.wire()  # Trio's: it too writes signals into a socket
        try:
            yield
        finally:
            self._is_wired = False
            signal.set_wakeup_fd(before)

    def wire(self) -> int:
        """The same from now on; returns what was in its place. Only in the main thread."""
        before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._is_wired = True
        return before

    def _handle(self, signum: int, frame: object) -> None:
        if not self._is_wired:
            self._put(bytes([signum]))

    def tell(self) -> None:
        """Have `wait` return None."""
        self._put(_NEWS)

    def _put(self, data: bytes) -> None:
        with suppress(OSError):  # full: whoever reads has enough to do; or closed
            self._write.send(data)

    def wait(self, seconds: float | None) -> signal.Signals | None:
        """Wait for the next signal; None if none has come in so many seconds, or `tell` was called."""
        self._read.settimeout(None if seconds is None else max(seconds, 0.001))
        try:
            data = self._read.recv(1)
        except TimeoutError:
            return None
        if data == _NEWS or not data:
            return None
        # Other signals that have a handler of Python's are written here too, such as SIGCHLD.
        return signal.Signals(data[0]) if data[0] in self._before else None

    def _leave_child(self) -> None:
        self._is_wired = False
        signal.set_wakeup_fd(-1)
        self.give_back()


_of_this_process: weakref.WeakSet[SignalSocket] = weakref.WeakSet()


class _Forking(threading.local):
    """What a thread that forks has blocked meanwhile: a signal for the child may come before it is ready."""

    before: set[int] | None = None

    def block(self) -> None:
        if _of_this_process:
            self.before = signal.pthread_sigmask(
                signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            )

    def unblock(self) -> None:
        if self.before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.before)
            self.before = None

    def leave_parent(self) -> None:
        for each in list(_of_this_process):
            each._leave_child()
        self.unblock()


if hasattr(os, "register_at_fork"):
    _forking = _Forking()
    os.register_at_fork(
        before=_forking.block, after_in_parent=_forking.unblock, after_in_child=_forking.leave_parent
    )
