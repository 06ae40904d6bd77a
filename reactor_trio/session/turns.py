"""Alternates the steps of `inference` and the handlers in a session of a `ReactorPipeline`.

The run task and the dispatch task take turns, and neither can starve the other. Waiting handlers run before
the next step, for at most `TIME_SLICE` seconds (`session/inbox.py`) unless a single handler takes longer;
then a waiting step runs. If no step runs or waits, handlers run at once, as in any session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from reactor_trio.session.coalescing import CoalescingSendChannel


class Turns:
    """The turns of one session's run task and dispatch task.

    The run task calls `begin_step`, `end_step` and `pause`; the dispatch task `begin_handling` and
    `end_handling`.
    """

    def __init__(self, inbox: CoalescingSendChannel[Any]) -> None:
        self._inbox = inbox
        self.stepping = False
        """Whether a step runs, so that no handler may run."""
        self._handling = False
        # Awaited by the dispatch task; set by `end_step`, which passes the turn to it.
        self._may_handle: trio.Event | None = None
        # Awaited by the run task; set by `end_handling`, which passes the turn to it.
        self._may_step: trio.Event | None = None
        # Awaited by `pause`; set when handlers have run.
        self._news: trio.Event | None = None

    async def begin_step(self, *, at_once: bool = False) -> None:
        """Wait until no handler runs, and, unless `at_once`, until waiting commands have had their turn.

        If cancelled, the step has not begun, and `end_step` must not be called.
        """
        await trio.lowlevel.checkpoint()
        # The dispatch task does not wait any more as soon as work has been put into the inbox.
        if self._handling or not (at_once or self._inbox.receiver_waits):
            self._may_step = trio.Event()
            try:
                await self._may_step.wait()
            except trio.Cancelled:
                if self._may_step.is_set():  # passed to this task before `Cancelled` was raised
                    self.end_step()
                raise
            finally:
                self._may_step = None
        self.stepping = True

    def end_step(self) -> None:
        """End the step. The dispatch task gets the turn if it waits."""
        self.stepping = False
        if self._may_handle is not None:
            self._handling = True
            self._may_handle.set()

    async def begin_handling(self) -> None:
        """Wait until no step runs; not always a checkpoint.

        If cancelled, handling has not begun, and `end_handling` must not be called.
        """
        if self.stepping:
            self._may_handle = trio.Event()
            try:
                await self._may_handle.wait()
            except trio.Cancelled:
                if self._may_handle.is_set():
                    self.end_handling()
                raise
            finally:
                self._may_handle = None
        self._handling = True

    def end_handling(self) -> None:
        """End the handling. The run task gets the turn if it waits, even if more commands wait."""
        self._handling = False
        self.handled()
        if self._may_step is not None:
            self.stepping = True
            self._may_step.set()

    def handled(self) -> None:
        """Wake `pause`: a handler has run, and may have given an idle generator work to do."""
        if self._news is not None:
            self._news.set()

    async def pause(self, seconds: float) -> None:
        """Wait until a handler has run, for at most so many seconds. May be cancelled at any time."""
        self._news = trio.Event()
        with trio.move_on_after(seconds):
            await self._news.wait()
        self._news = None
