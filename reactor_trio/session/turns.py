"""Whose turn it is in a session of a `ReactorPipeline`: a step of `inference`, or handlers.

Two tasks take turns, and neither can starve the other. Handlers that wait run before the next step, for at
most `STEP` seconds unless one of them takes longer by itself; then a step that waits goes first. Where no
step is under way, and none waits, handlers run at once, as in any session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from reactor_trio.session.coalescing import CoalescingSendChannel


class Turns:
    """Of the run task, which steps, and the dispatcher, which handles. All but the waiting is synchronous."""

    def __init__(self, inbox: CoalescingSendChannel[Any]) -> None:
        self._inbox = inbox
        self.stepping = False
        """Whether a step is under way, so that no handler may run."""
        self._handling = False
        # Set by `end_step`, which then has given the turn away; the dispatcher waits for it.
        self._may_handle: trio.Event | None = None
        # Set by `end_handling` in the same way; the run task waits for it.
        self._may_step: trio.Event | None = None
        # Set when handlers have run; `pause` waits for it.
        self._news: trio.Event | None = None

    async def begin_step(self, *, at_once: bool = False) -> None:
        """Wait until neither a handler runs nor, unless `at_once`, a command waits that came before.

        If cancelled, there is nothing to end.
        """
        await trio.lowlevel.checkpoint()
        # The dispatcher is not idle from the moment at which something is put into the inbox.
        if self._handling or not (at_once or self._inbox.receiver_waits):
            self._may_step = trio.Event()
            try:
                await self._may_step.wait()
            except trio.Cancelled:
                if self._may_step.is_set():  # given while the cancellation was on its way
                    self.end_step()
                raise
            finally:
                self._may_step = None
        self.stepping = True

    def end_step(self) -> None:
        """Let handlers run; if they wait, they are next."""
        self.stepping = False
        if self._may_handle is not None:
            self._handling = True
            self._may_handle.set()

    async def begin_handling(self) -> None:
        """Wait until no step is under way; not always a checkpoint. If cancelled, there is nothing to end."""
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
        """Let the next step begin; if it waits, it is next, whatever is in the inbox."""
        self._handling = False
        self.handled()
        if self._may_step is not None:
            self.stepping = True
            self._may_step.set()

    def handled(self) -> None:
        """A handler has run: there may be something to do for a generator that idles."""
        if self._news is not None:
            self._news.set()

    async def pause(self, seconds: float) -> None:
        """Wait until a handler has run, at most for so long. If cancelled, nothing has changed."""
        self._news = trio.Event()
        with trio.move_on_after(seconds):
            await self._news.wait()
        self._news = None
