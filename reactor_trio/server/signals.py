"""Receives the signals that end a server in a thread, also while the main thread is blocked.

Python runs signal handlers in the main thread, between two bytecode instructions. A main thread that is in C
code, or waits for a lock, runs none. So the number of a signal is written into a socket when it arrives
(`signal.set_wakeup_fd`), and a thread reads it from there.

A forked child, as of `multiprocessing`, gets Python's own handling of signals back. It shares the socket with
its parent, so a signal for the child would end the parent too.
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
"""The byte that `tell` writes instead of a signal's number."""


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that end a server: SIGINT, SIGTERM, and SIGHUP (the terminal is closed).

    Not SIGHUP if it was ignored when the process was started, as by `nohup`. SIGINT is one even then, since a
    shell without job control starts background processes with SIGINT ignored.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return tuple(numbers)


class SignalSocket:
    """Takes the signals of the process; `wait` returns them, in order, in one thread.

    Several signals of one kind may be merged into one, as with all signals.
    """

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        # Whether Python writes into the socket when a signal arrives; otherwise `_handle` does.
        self._is_wired = False
        self._before: dict[signal.Signals, Any] = {}
        _of_this_process.add(self)

    def take(self) -> None:
        """Handle the signals from now on. Only in the main thread."""
        for signum in ending_signals():
            self._before[signum] = signal.signal(signum, self._handle)

    def give_back(self) -> None:
        """Undo `take`, and close the socket. Only in the main thread, and while no thread is in `wait`."""
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before.clear()
        self._read.close()
        self._write.close()
        _of_this_process.discard(self)

    @contextmanager
    def wired(self) -> Iterator[None]:
        """In this block, inside of `trio.run`, signals are received even while the main thread is blocked."""
        before = self.wire()  # the socket of Trio
        try:
            yield
        finally:
            self._is_wired = False
            signal.set_wakeup_fd(before)

    def wire(self) -> int:
        """Begin what `wired` does; returns the descriptor that it replaces. Only in the main thread."""
        before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._is_wired = True
        return before

    def _handle(self, signum: int, frame: object) -> None:
        if not self._is_wired:
            self._put(bytes([signum]))

    def tell(self) -> None:
        """Make `wait` return None."""
        self._put(_NEWS)

    def _put(self, data: bytes) -> None:
        with suppress(OSError):  # the socket is full, so the reader has signals to read; or it is closed
            self._write.send(data)

    def wait(self, seconds: float | None) -> signal.Signals | None:
        """Wait for a signal; returns None if none arrives in so many seconds, or `tell` is called."""
        self._read.settimeout(None if seconds is None else max(seconds, 0.001))
        try:
            data = self._read.recv(1)
        except TimeoutError:
            return None
        if data == _NEWS or not data:
            return None
        # Python writes every signal that has a handler, such as SIGCHLD.
        return signal.Signals(data[0]) if data[0] in self._before else None

    def _leave_child(self) -> None:
        self._is_wired = False
        signal.set_wakeup_fd(-1)
        self.give_back()


_of_this_process: weakref.WeakSet[SignalSocket] = weakref.WeakSet()


class _Forking(threading.local):
    """Blocks signals in a thread while it forks: one may arrive before the child has its own handling."""

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
