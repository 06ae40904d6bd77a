"""The process around the server: signals end the server, and deadlines end the process.

A thread takes the signals and keeps the deadlines, because the loop itself may not end: a line of the model
may block it. After the loop has ended, Python waits for threads that are no daemons before it ends the
process; the same thread limits that time.

See docs/design.md#shutting-down.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, Protocol

import trio

from reactor_trio.compute.unfinished import (
    blocked_loop,
    calls_in_threads,
    listed,
    tasks_of_authors,
    threads_and_children,
)
from reactor_trio.logs.logger import get_logger
from reactor_trio.server.signals import SignalSocket
from reactor_trio.server.systemd import notify
from reactor_trio.session.failures import contained, interrupts_are_raised, split

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractContextManager

    from reactor_trio.compute.executor import Executor
    from reactor_trio.server.serve import Server
    from reactor_trio.server.sessions import ServedHost

THREAD_SECONDS = 5.0
"""Seconds that threads may take to end after everything was cancelled, or after the server has ended."""
LOAD_SECONDS = 1.0
"""Seconds that `load` may take to end after it was cancelled; no client is connected yet."""
LEAVE_SECONDS = 0.5
"""Seconds that the process may take to end after a further signal."""
HOOK_SECONDS = 1.0
"""Seconds that a hook may take to end after it was cancelled for its timeout."""
INTERRUPTED = 128 + signal.SIGINT
"""The exit status if SIGINT ends the process while the model is loading."""
HOOK_POLL = 0.25
"""Seconds between two checks whether only hooks that are within their timeout still run."""

log = get_logger(__name__)


class Signals(Protocol):
    """The part of `SignalSocket` that `Shutdown` uses."""

    def wait(self, seconds: float | None) -> signal.Signals | None:
        """Wait for a signal; returns None if none arrives in so many seconds, or when `tell` is called."""

    def tell(self) -> None:
        """Make `wait` return None."""

    def wired(self) -> AbstractContextManager[None]:
        """In this block signals are received even while the main thread is blocked."""
        ...


def _nothing() -> None:
    pass


class Shutdown:
    """Ends a server when the process receives a signal, and ends the process by force if it does not end.

    Its own thread runs `follow`. `flush` writes the buffered lines of the log; `clock` and `exit_now` are for
    tests.
    """

    def __init__(
        self,
        executor: Executor,
        signals: Signals,
        *,
        clock: Callable[[], float] = time.monotonic,
        flush: Callable[[], object] = _nothing,
        exit_now: Callable[[int], NoReturn] = os._exit,
    ) -> None:
        self._executor = executor
        self._signals = signals
        self._clock = clock
        self._flush = flush
        self._exit_now = exit_now
        # Set by `runs`; used through `_token` only, as they belong to the loop.
        self._server: Server | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._root: trio.lowlevel.Task | None = None
        self._now: Callable[[], float] = clock
        self._loop_thread = threading.get_ident()
        # Written by the main thread, which then calls `tell` to wake the thread of `follow`.
        self._is_over = False
        self._is_leaving = False
        self._is_stopped = False
        self.status: int | None = None
        """The exit status, if a signal came before the model was loaded; None otherwise."""

    # ---- in the main thread

    @contextmanager
    def runs(self, server: Server) -> Iterator[None]:
        """The server runs in this block, inside of `trio.run`, and has ended when the block is left."""
        self._server = server
        self._root = trio.lowlevel.current_root_task()
        self._now = trio.lowlevel.current_clock().current_time
        self._token = trio.lowlevel.current_trio_token()
        try:
            with self._signals.wired():
                yield
        finally:
            self._is_over = True
            self._signals.tell()

    def leave(self) -> None:
        """Say that the process ends now: it is ended by force after `THREAD_SECONDS`."""
        self._is_leaving = True
        self._signals.tell()

    def stop(self) -> None:
        """End the thread of `follow`; the process continues."""
        self._is_stopped = self._is_over = True
        self._signals.tell()

    # ---- in the thread

    def follow(self) -> None:
        """Wait for the first signal; end the server, then the process, by force after their deadlines."""
        signum = self._heard(None)
        server = self._server
        if signum is not None:
            notify("STOPPING=1")
            if server is None or not server.ready.is_set():
                self._stop_loading(signum)
            else:
                self._drain(server)
        self._see_it_leave()

    def _stop_loading(self, signum: signal.Signals) -> None:
        log.info("stopped while the model was loading", signal=signum.name)
        status = 128 + signum
        if status == INTERRUPTED:
            self.status = status
        if self._server is not None:
            self._on_loop(self._server.cancel)
        self._heard(LOAD_SECONDS)
        if not self._is_over:
            self._end(status, "the model, which was loading")

    def _drain(self, server: Server) -> None:
        seconds = server.settings.drain_timeout
        log.info("draining", sessions=server.sessions, seconds=seconds)
        self._on_loop(server.drain)
        self._heard(seconds)
        if self._is_over:
            return
        log.warning("cancelling what is left", sessions=server.sessions)
        self._on_loop(server.cancel)
        began = self._clock()
        again = self._heard(THREAD_SECONDS)
        # A hook is cut off by its own timeout, so it is given that long.
        while again is None and self._only_hooks_are_left(server, self._clock() - began):
            again = self._heard(HOOK_POLL)
        if not self._is_over:
            self._end(1, self._what_is_left())

    def _only_hooks_are_left(self, server: Server, seconds: float) -> bool:
        if self._is_over or self._executor.running() or seconds > server.hook_timeout + HOOK_SECONDS:
            return False
        return server.only_hooks_are_left

    def _see_it_leave(self) -> None:
        while not (self._is_leaving or self._is_stopped):
            self._signals.wait(None)
        if self._is_stopped:
            return
        deadline = self._clock() + THREAD_SECONDS
        while (left := deadline - self._clock()) > 0:
            if self._signals.wait(left) is not None:
                deadline = min(deadline, self._clock() + LEAVE_SECONDS)
        self._end(self.status or 1, listed(threads_and_children(), "what runs at the end of a process"))

    def _heard(self, seconds: float | None) -> signal.Signals | None:
        """Wait for a signal; returns None if none arrives in so many seconds, or the server ends."""
        deadline = None if seconds is None else self._clock() + seconds
        while not self._is_over:
            left = None if deadline is None else deadline - self._clock()
            if left is not None and left <= 0:
                break
            if (signum := self._signals.wait(left)) is not None:
                return signum
        return None

    def _on_loop(self, function: Callable[[], object]) -> None:
        def call() -> None:
            # An exception in this callback would crash the loop (`TrioInternalError`).
            with contained(lambda failure: log.error("shutting down failed", exc_info=failure)):
                function()

        assert self._token is not None
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call)

    def _what_is_left(self) -> str:
        answered = threading.Event()
        self._on_loop(answered.set)
        blocked = [] if answered.wait(LEAVE_SECONDS) else [blocked_loop(self._loop_thread)]
        assert self._root is not None
        calls = calls_in_threads(self._executor, self._now())
        return listed(
            [*blocked, *calls, *tasks_of_authors(self._root.child_nurseries)],
            "a task that does not end when it is cancelled",
        )

    def _end(self, status: int, what: str) -> NoReturn:
        text = f"Stopped without waiting for: {what}"
        # In a thread, because the write blocks if the reader of standard error does not read.
        said = threading.Thread(target=_say, args=(text, self._flush), daemon=True)
        try:
            said.start()
        except RuntimeError:  # Python 3.12 starts no thread once the main thread has ended
            _say(text, self._flush)
        else:
            said.join(LEAVE_SECONDS)
        self._exit_now(status)


def _say(text: str, flush: Callable[[], object]) -> None:
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201
        sys.stdout.flush()
    flush()


@contextmanager
def shutting_down(
    executor: Executor, *, ends_process: bool = False, flush: Callable[[], object] = _nothing
) -> Iterator[Shutdown]:
    """Handle SIGINT, SIGTERM and SIGHUP in this block. Only in the main thread.

    `flush` may take `LEAVE_SECONDS` before the process is ended by force.

    With `ends_process` the process ends after the block. If it has not ended after `THREAD_SECONDS`, because
    of an author's thread that is no daemon, it is ended with status 1.
    """
    signals = SignalSocket()
    shutdown = Shutdown(executor, signals, flush=flush)
    thread = threading.Thread(target=shutdown.follow, name="reactor-trio shutdown", daemon=True)
    signals.take()
    thread.start()
    try:
        yield shutdown
    finally:
        if ends_process:
            signals.wire()
            shutdown.leave()
        else:
            shutdown.stop()
            thread.join()
            signals.give_back()


async def serve_process(
    server: Server,
    load: Callable[[], Awaitable[ServedHost]],
    *,
    shutdown: Shutdown,
    announce: Callable[[Server], None],
) -> None:
    """Run the server until a signal ends it (docs/design.md#shutting-down). Only from the main thread.

    `announce` is called once the server is ready. Raises what `Server.run` raises. Ends the process with
    status 1, without cleaning up, if a thread, a task or the loop does not end.
    """
    failure: BaseException | None = None
    token = interrupts_are_raised.set(False)
    try:
        with shutdown.runs(server):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_announce, server, announce, name="server/announce")
                try:
                    await server.run(load)
                except BaseException as raised:  # noqa: ASYNC103  `split` lets cancellation pass
                    failure, rest = split(raised)
                    if rest is not None:
                        raise rest from None  # noqa: ASYNC104  `split` lets cancellation pass
                nursery.cancel_scope.cancel(reason="the server has ended")
    finally:
        interrupts_are_raised.reset(token)
    if failure is not None:
        raise failure


async def _announce(server: Server, announce: Callable[[Server], None]) -> None:
    await server.ready.wait()
    announce(server)
