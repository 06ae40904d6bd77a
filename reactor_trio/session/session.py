"""A session: one copy of the model, its tasks, and the order in which they start and end.

A connection is one session and its link (`link/link.py`). A connection has four tasks:

    receive   the link's task; reads the transport, decodes and validates messages and hands them to the
              session; never waits for a handler
    dispatch  the session's task; waits for the inbox, and runs hooks and handlers one at a time
    run       the session's task; runs the model's `run`, or the generator of a pipeline
    send      the link's task; waits for the outbox, writes the waiting messages in batches, and sends pings

Further tasks only wait for a time or finish work of the four: the pacer here, and those that `link/link.py`
lists. The run and dispatch tasks end first. The link and the pacer still run while the session plays out the
last frames and tells the client why it ends, and are cancelled then. `@disconnected` runs last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from structlog.contextvars import bound_contextvars

from reactor_trio.compute.unfinished import listed, tasks_of_authors
from reactor_trio.contract.inputs import bound_inputs
from reactor_trio.declare.connected import Connected
from reactor_trio.model.pipeline import ReactorPipeline
from reactor_trio.session import endings
from reactor_trio.session.applied import AppliedCommands
from reactor_trio.session.copies import copy_for
from reactor_trio.session.failures import contained, is_client_gone
from reactor_trio.session.handlers import Handlers, model_text
from reactor_trio.session.inbox import Inbox
from reactor_trio.session.inputs import SessionInputs
from reactor_trio.session.links import Links
from reactor_trio.session.observer import SessionState, SessionStatistics
from reactor_trio.session.pacing import OutputStream
from reactor_trio.session.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from reactor_trio.declare.tracks import Output
    from reactor_trio.model.messages import ModelMessage
    from reactor_trio.model.model import ReactorModel
    from reactor_trio.session.context import SessionContext
    from reactor_trio.session.endings import Ending, LinkEnding

LATE = 1.0
"""Seconds after `hook_timeout` at which the log names a model that still runs after its session's end."""


class Session:
    """One session with its own copy of the model, from the welcome message to `@disconnected`.

    `ModelHost.session` (`link/host.py`) makes a `Session` for a client and attaches the client's link. The
    server, or the test kit, awaits `run` once. The model reaches its session through `send` and `emit`; a
    link reports its own end to `link_ended`.
    """

    def __init__(self, context: SessionContext, prototype: ReactorModel) -> None:
        self.context = context
        """Settings, client, log and counters, shared by all parts of the session."""
        self.id = context.id
        self.client = context.client
        self.ending: Ending | None = None
        """Why the session ended; None while the session runs. Only the first call of `end` sets it."""
        self.connected = Connected()
        self.links = Links()
        """The session's clients; `ModelHost` attaches them before `run`."""
        self._log = context.log
        self._limits = context.limits
        copied = copy_for(self, prototype)
        self.model = copied.model
        self._not_copied = copied.failure
        applied = AppliedCommands()
        self.output = OutputStream(
            context, applied, self.links.viewers, fps=copied.fps, buffer_size=copied.buffer_size
        )
        self.inputs = SessionInputs(
            bound_inputs(type(self.model)), max_bytes=self._limits.max_input_bytes, counts=context.counts
        )
        self._handlers = Handlers(context, self.model, self.connected, applied, self.end)
        is_pipeline = isinstance(self.model, ReactorPipeline)
        self.inbox = Inbox(context, self._handlers, has_steps=is_pipeline)
        """The queue of the commands and files that the links have received."""
        self._pipeline: Pipeline | None = None
        if self.inbox.turns is not None:
            assert isinstance(self.model, ReactorPipeline)
            self._pipeline = Pipeline(context, self.model, self.inbox.turns)
        # Around the run and dispatch tasks. Cancelled by `end`.
        self._work_scope = trio.CancelScope()
        # Whether the runtime itself has failed, so that the client has not been told why the session ends.
        self._is_broken = False
        self._farewell_begun = False
        # Starts the task `_late`. Set by `run` while its nursery is open; called by `end`.
        self._watch_the_end: Callable[[], object] | None = None
        self._is_in_its_last_hook = False
        # Around the farewell. Cancelled when the client is lost: no goodbye can reach it.
        self._farewell_scope = trio.CancelScope()
        # Around the wait for the last frames. Cancelled by `drain`: waiting frames are not shown any more.
        self._playing_scope = trio.CancelScope()

    # ---- life

    async def run(self) -> Ending:
        """Serve the client until the session ends; returns the reason. To be called once.

        A failure of the model, or of the runtime, ends this session alone; the failure is logged, never
        raised. If cancelled, the connection is closed by force, `@disconnected` runs, and `Cancelled` is
        raised.
        """
        self._log.info("session started", address=self.client.address)
        # All tasks and threads of the session inherit the variable: the author's log lines carry the id too.
        with bound_contextvars(session_id=self.id):
            try:
                with contained(self._broke):
                    self.context.observer.session_started(self)
                    async with trio.open_nursery() as services:
                        self.links.start(services, self.id)
                        if self.output.has_tracks:
                            services.start_soon(self.output.pace, name=f"{self.id}/pacer")
                        with self._work_scope:
                            async with trio.open_nursery() as work:
                                self._watch_the_end = lambda: services.start_soon(self._late, work)
                                work.start_soon(self._run_model, name=f"{self.id}/run")
                                # A task that is started before this checkpoint runs its first step before a
                                # task that is started after it. So `run` has reached its first await when
                                # `@connected` begins.
                                await trio.lowlevel.checkpoint()
                                work.start_soon(self.inbox.serve, name=f"{self.id}/dispatch")
                        self._watch_the_end = None
                        await self._say_farewell()
                        services.cancel_scope.cancel(reason="the session has ended")
                    if self.ending is None:
                        raise RuntimeError("a `Cancelled` that was kept has ended a task of the session")
            finally:
                self._watch_the_end = None
                self.end(endings.CANCELLED)
                # `_close_down` shields its parts, each with its own time limit.
                await self._close_down()  # noqa: ASYNC102
        assert self.ending is not None
        return self.ending

    def _broke(self, failure: BaseException) -> None:
        self._log.error("the runtime failed", exc_info=failure)
        self._is_broken = True
        self._watch_the_end = None
        self.end(endings.INTERNAL_ERROR)

    def drain(self) -> None:
        """Say goodbye to the client and end the session. Called when the server shuts down."""
        self._playing_scope.cancel(reason="shutting down")
        self.end(endings.SHUTTING_DOWN)

    @property
    def is_in_its_last_hook(self) -> bool:
        """Whether only `@disconnected` still runs, which is cancelled after `hook_timeout` seconds."""
        return self._is_in_its_last_hook

    def link_ended(self, ending: LinkEnding) -> None:
        """End the session according to the policy for a link that has ended by itself (`endings.of_link`)."""
        self.end(endings.of_link(ending))

    def end(self, ending: Ending) -> None:
        """End the session for this reason. Every end of a session comes here; the first reason counts."""
        if ending.close_code is None:
            self._farewell_scope.cancel(reason=ending.reason)
        if self.ending is None:
            self.ending = ending
            self.connected.end()
            self.links.stop()
            self.inbox.stop()
            # Before the model is cancelled: a waiting read then raises `BufferClosed`, not `Cancelled`.
            self.inputs.close()
            self._work_scope.cancel(reason=ending.reason)
            if self._watch_the_end is not None:
                self._watch_the_end()

    # ---- the run task

    async def _run_model(self) -> None:
        """One of the connection's four tasks: runs the model's `run`, or the steps of its pipeline.

        Ends the session when the model's code returns or fails; a failure is logged, not raised. If
        cancelled, the model's code is cancelled, and the generator of a pipeline has been closed.
        """
        if self._not_copied is not None:
            self._log.error("the model could not be copied for a session", exc_info=self._not_copied)
            self.end(endings.CONNECT_FAILED)
            return
        with contained(self._run_failed):
            await (self.model.run() if self._pipeline is None else self._pipeline.run())
            self.end(endings.FINISHED)

    def _run_failed(self, failure: BaseException) -> None:
        if self.ending is not None and is_client_gone(failure):
            return
        log, hook = self._log, self.model.__declarations__.connected
        is_early = hook is not None and self.ending is None and not self.connected.is_set()
        if is_early and isinstance(failure, AttributeError) and failure.obj is self.model:
            log = log.bind(hint="run() starts before @connected: await self.connected.wait() first")
        log.error("run() failed" if self._pipeline is None else "inference() failed", exc_info=failure)
        self.end(endings.RUN_FAILED)

    # ---- the end

    async def _say_farewell(self) -> None:
        if not self._farewell_begun:
            self._farewell_begun = True
            with self._farewell_scope:
                await self._farewell()

    async def _farewell(self) -> None:
        """Show the client the last frames, tell it why the session ends, and close, while the link runs."""
        ending = self.ending
        if ending is None or ending.close_code is None:
            return
        if ending.play_out:
            with self._playing_scope:
                await self.output.played()
                await self.links.flushed()
        self.output.flush()
        await self.links.farewell(ending)

    async def _late(self, work: trio.Nursery) -> None:
        """Log where the model's code still waits long after its cancellation, and release the client."""
        # The close of a generator may take `hook_timeout` too, and is cancelled then.
        await trio.sleep(self._limits.hook_timeout + LATE)
        hint = "a thread cannot be cancelled; nor can what shields itself, or swallows Cancelled"
        waits_for = listed(tasks_of_authors([work]), "a call in a thread")
        self._log.warning("the model goes on after its session", waits_for=waits_for, hint=hint)
        await self._say_farewell()

    async def _close_down(self) -> None:
        """Close the links and run `@disconnected`. Called at every end of a session, also if cancelled."""
        assert self.ending is not None
        self.inbox.close()
        try:
            # `Link.close_down` waits for its peer for at most `close_timeout` seconds.
            with contained(self._broke), trio.CancelScope(shield=True):
                await self.links.close_down(self.ending, politely=self._is_broken)
            await self._run_disconnected()
        finally:
            self._log.info("session ended", reason=self.ending.reason)
            self.context.observer.session_ended(self, self.ending.reason)

    async def _run_disconnected(self) -> None:
        if self.model.__declarations__.disconnected is None or not self._handlers.entered:
            return
        self._is_in_its_last_hook = True
        with trio.move_on_after(self._limits.hook_timeout, shield=True) as scope:
            await self._handlers.disconnect()
        if scope.cancelled_caught:
            self._log.error("@disconnected was cut off", after_seconds=self._limits.hook_timeout)
        elif trio.current_time() > scope.deadline:
            self._log.error("@disconnected took too long", limit_seconds=self._limits.hook_timeout)

    # ---- the side of the model (model/model.py)

    async def send(self, message: ModelMessage) -> None:
        """See `ReactorModel.send`."""
        await self.links.send(model_text(message))

    def emit(self, output: Output, *, drop: bool, compute_time: float | None) -> Coroutine[Any, Any, bool]:
        """See `ReactorModel.emit`."""
        if self.ending is not None:
            return _not_taken()
        return self.output.emit(output, drop=drop, compute_time=compute_time)

    # ---- the side of the server

    def statistics(self) -> SessionStatistics:
        """The session's numbers now."""
        links = self.links.statistics()
        return SessionStatistics(
            state=self._state(),
            commands_waiting=self.inbox.buffered,
            commands_aside=self.inbox.aside,
            command_bytes_waiting=self.inbox.bytes,
            messages_waiting=sum(link.messages for link in links),
            bytes_waiting=sum(link.bytes for link in links),
            frames_waiting=self.output.statistics().waiting,
            upload_bytes_in_memory=sum(link.upload_bytes_in_memory for link in links),
            upload_bytes_on_disk=sum(link.upload_bytes_on_disk for link in links),
            counts=self.context.counts,
        )

    def _state(self) -> SessionState:
        if self.ending is not None:
            return "ending"
        return "connected" if self.connected.is_set() else "starting"


async def _not_taken() -> bool:
    await trio.lowlevel.checkpoint()
    return False
