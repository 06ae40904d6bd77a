"""One connection, one nursery.

    receive   waits for the transport; decodes, validates, queues; never waits for a handler, but runs a
              plain `def` one itself where nothing is ahead of it
    dispatch  waits for the inbox; runs hooks and handlers one at a time
    run       the model's own task; of a pipeline, the one that drives its generator
    send      waits for the outbox; writes in batches what was not written at once, and pings

Beside the four there are only their helpers in time: the pacer, one encoder for each video track, one
decoder for each input track, the one that writes uploads to the disk, the one that finds those that stall,
and commands that wait for an upload.
Services outlive what they serve: receive and send end last, after run and dispatch have ended and the client
has been told why. Then comes `@disconnected`.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import trio
from structlog.contextvars import bound_contextvars

from reactor_trio.compute.unfinished import listed, tasks_of_authors
from reactor_trio.contract.inputs import bound_inputs
from reactor_trio.declare.connected import Connected
from reactor_trio.errors import TransportClosed
from reactor_trio.link.intake import Intake
from reactor_trio.link.outbox import Outbox
from reactor_trio.link.track_control import TrackControl
from reactor_trio.link.uploads import Uploads
from reactor_trio.logs.logger import get_logger
from reactor_trio.model.pipeline import ReactorPipeline
from reactor_trio.protocol import control, names
from reactor_trio.session import endings
from reactor_trio.session.coalescing import open_coalescing_channel
from reactor_trio.session.copies import copy_for
from reactor_trio.session.dispatch import Dispatcher, encode_message
from reactor_trio.session.failures import contained, is_client_gone
from reactor_trio.session.inputs import SessionInputs
from reactor_trio.session.latency import LatencyTracker
from reactor_trio.session.observer import Counts, SessionState, SessionStatistics
from reactor_trio.session.pacing import OutputStream
from reactor_trio.session.pipeline import Pipeline
from reactor_trio.session.turns import Turns
from reactor_trio.wire.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from reactor_trio.declare.client_info import ClientInfo
    from reactor_trio.declare.tracks import Output
    from reactor_trio.model.messages import ModelMessage
    from reactor_trio.session.coalescing import CoalescingReceiveChannel, CoalescingSendChannel
    from reactor_trio.session.endings import Ending
    from reactor_trio.session.host import ModelHost
    from reactor_trio.session.work import Work
    from reactor_trio.wire.transport import Outgoing, Transport


LATE = 1.0
"""Seconds beyond `hook_timeout` after which a model that goes on is spoken of."""


class Session:
    """One client's session with its own copy of the model, from welcome to `@disconnected`."""

    def __init__(
        self, host: ModelHost, transport: Transport, client: ClientInfo, early: Sequence[str | bytes] = ()
    ) -> None:
        limits = host.limits
        self.id = client.id
        self.ending: Ending | None = None
        """Why the session ended; None while it goes on. The first reason counts."""
        self.connected = Connected()
        self.client = client
        self._host = host
        self._limits = limits
        self._transport = transport
        self._early = early
        self._log = get_logger(__name__, session_id=client.id)
        self._observer = host.observer
        self._counts = Counts()
        self._latency = LatencyTracker(self._observer)
        self._outbox = Outbox(
            max_messages=limits.max_queued_messages,
            max_bytes=limits.max_queued_bytes,
            counts=self._counts,
            transport=transport,
        )
        copied = copy_for(self, host.prototype)
        self.model = copied.model
        self._not_copied = copied.failure
        # A key that is held has one more value than it had room for.
        keys = sum(event.dedupe for event in self.model.__declarations__.events.values())
        inbox: tuple[CoalescingSendChannel[Work], CoalescingReceiveChannel[Work]] = open_coalescing_channel(
            limits.max_queued_events + limits.max_uploads + keys, max_defer=limits.max_defer
        )
        self._inbox, inbox_receive = inbox
        self._uploads = Uploads(limits, host.executor, host.upload_budget)
        self.output = OutputStream(
            [track for track in host.contract.tracks if track.direction == "out"],
            self._outbox,
            host.executor,
            fps=copied.fps,
            buffer_size=copied.buffer_size,
            counts=self._counts,
            latency=self._latency,
            media=host.media,
            session_id=self.id,
        )
        self.inputs = SessionInputs(
            bound_inputs(type(self.model)),
            host.contract.tracks,
            host.executor,
            max_bytes=limits.max_input_bytes,
            counts=self._counts,
        )
        turns = Turns(self._inbox) if isinstance(self.model, ReactorPipeline) else None
        self._dispatcher = Dispatcher(
            self.model,
            self.client,
            self.connected,
            inbox_receive,
            self._outbox,
            host.executor,
            self._log,
            self._end,
            self._observer,
            self._latency,
            turns,
            self._uploads.loaded,
        )
        self._pipeline: Pipeline | None = None
        if turns is not None:
            assert isinstance(self.model, ReactorPipeline)
            self._pipeline = Pipeline(
                self.model, host.contract.outputs, turns, host.executor, limits.hook_timeout, self._log
            )
        # Cancelled by `_end`: the model's work is over.
        self._work_scope = trio.CancelScope()
        self._closing = False
        # Whether a task of the runtime's own has failed, so that no farewell could be said.
        self._is_broken = False
        self._farewell_begun = False
        # Set by `_serve` while it can start a task for this; `_end` calls it.
        self._watch_the_end: Callable[[], object] | None = None
        self._is_in_its_last_hook = False
        # Cancelled when the transport is lost or the client is slow: there is no one left to say goodbye to.
        self._farewell_scope = trio.CancelScope()
        # Cancelled by `drain`: the client sees no more of the frames that wait.
        self._playing_scope = trio.CancelScope()

    # ---- life

    async def run(self) -> Ending:
        """Serve the client until the session ends; returns why.

        A failure of the model, or of the runtime, ends this session alone: it is logged, never raised. If
        cancelled, the connection is closed by force, `@disconnected` runs, and `Cancelled` goes on.
        """
        self._log.info("session started", address=self.client.address)
        # All tasks and threads of the session inherit it: the author's own log lines carry it too.
        with bound_contextvars(session_id=self.id):
            try:
                with contained(self._broke):
                    self._observer.session_started(self)
                    await self._serve()
                    if self.ending is None:
                        raise RuntimeError("a `Cancelled` that was kept has ended a task of the session")
            finally:
                self._watch_the_end = None
                self._end(endings.CANCELLED)
                # Shielded in there, each part with its own time limit.
                await self._close_down()  # noqa: ASYNC102
        assert self.ending is not None
        return self.ending

    async def _serve(self) -> None:
        self._outbox.put_nowait(control.welcome(self._welcome()))
        async with trio.open_nursery() as services:
            with self._work_scope:
                async with trio.open_nursery() as work:
                    self._watch_the_end = lambda: services.start_soon(self._late, work)
                    # It outlives `work`, but starts nothing there once the session is ending.
                    services.start_soon(
                        self._receive,
                        work,  # noqa: ASYNC111
                        services,
                        name=f"{self.id}/receive",
                    )
                    services.start_soon(self._send, name=f"{self.id}/send")
                    if self.output.video or self.output.audio:
                        services.start_soon(self.output.pace, name=f"{self.id}/pacer")
                    for name, track in self.output.video.items():
                        services.start_soon(track.encode, name=f"{self.id}/encode {name}")
                    work.start_soon(self._run_model, name=f"{self.id}/run")
                    # A task started before this checkpoint has its first step before one started after
                    # it: what `run` does before its first await is done before `@connected`.
                    await trio.lowlevel.checkpoint()
                    work.start_soon(self._dispatcher.run, name=f"{self.id}/dispatch")
            self._watch_the_end = None
            await self._say_farewell()
            services.cancel_scope.cancel(reason="the session has ended")

    def _broke(self, failure: BaseException) -> None:
        self._log.error("the runtime failed", exc_info=failure)
        self._is_broken = True
        self._watch_the_end = None
        self._end(endings.INTERNAL_ERROR)

    def drain(self) -> None:
        """Ask the session to say goodbye and end, because the server shuts down."""
        self._playing_scope.cancel(reason="shutting down")
        self._end(endings.SHUTTING_DOWN)

    @property
    def is_in_its_last_hook(self) -> bool:
        """Whether nothing is left of it but `@disconnected`, which is cut off when its time is up."""
        return self._is_in_its_last_hook

    def _end(self, ending: Ending) -> None:
        """Every way out comes through here; the first one counts."""
        if ending.close_code is None:
            self._farewell_scope.cancel(reason=ending.reason)
        if self.ending is None:
            self.ending = ending
            self.connected.end()
            self._uploads.stop()
            # Before the model is cancelled: a read that waits tells it why.
            self.inputs.close()
            self._work_scope.cancel(reason=ending.reason)
            if self._watch_the_end is not None:
                self._watch_the_end()

    # ---- the tasks

    async def _receive(self, nursery: trio.Nursery, services: trio.Nursery) -> None:
        with self._inbox:
            intake = Intake(
                self.model.__declarations__,
                self._limits,
                self._inbox,
                self._dispatcher,
                self._outbox,
                self._transport,
                self._uploads,
                nursery,
                self._end,
                self._observer,
                self._counts,
                self._log,
                TrackControl(self._host.contract.tracks, self.output, self._latency),
                self.inputs,
                self._host.executor,
                lambda: self.ending is not None,
            )
            for track, decoder in self.inputs.decoders.items():
                services.start_soon(
                    decoder.run, intake.accepted, intake.refused, name=f"{self.id}/decode {track}"
                )
            if self._limits.idle_timeout:
                services.start_soon(self._watch_idling, intake, name=f"{self.id}/idle")
            try:
                await intake.take(self._early)
                while True:
                    # Afterwards it reads on, for the peer's pings and its close.
                    messages = await self._transport.receive()
                    # Cancelled in the very step in which they came: no task may be started for them.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    await intake.take(self._while_it_lasts(messages))
            except TransportClosed as closed:
                self._lost(closed)

    async def _watch_idling(self, intake: Intake) -> None:
        """End the session of a client that does nothing."""
        gives_up = -math.inf
        while (later := intake.last_active + self._limits.idle_timeout) > gives_up:
            gives_up = later
            await trio.sleep_until(gives_up)
        self._end(endings.IDLE)

    def _while_it_lasts(self, messages: Iterable[str | bytes]) -> Iterator[str | bytes]:
        return itertools.takewhile(lambda _: self.ending is None, messages)

    async def _run_model(self) -> None:
        if self._not_copied is not None:
            self._log.error("the model could not be copied for a session", exc_info=self._not_copied)
            self._end(endings.CONNECT_FAILED)
            return
        with contained(self._run_failed):
            await (self.model.run() if self._pipeline is None else self._pipeline.run())
            self._end(endings.FINISHED)

    def _run_failed(self, failure: BaseException) -> None:
        if self.ending is not None and is_client_gone(failure):
            return
        log, hook = self._log, self.model.__declarations__.connected
        is_early = hook is not None and self.ending is None and not self.connected.is_set()
        if is_early and isinstance(failure, AttributeError) and failure.obj is self.model:
            log = log.bind(hint="run() starts before @connected: await self.connected.wait() first")
        log.error("run() failed" if self._pipeline is None else "inference() failed", exc_info=failure)
        self._end(endings.RUN_FAILED)

    async def _send(self) -> None:
        heartbeat = Heartbeat(self._limits.heartbeat)
        try:
            while True:
                batch: list[Outgoing] | None = None
                with trio.move_on_at(heartbeat.next_at):
                    batch = await self._outbox.take()
                if batch is not None:
                    began = trio.current_time()
                    await self._transport.send(batch)
                    heartbeat.wrote(began)
                elif not await heartbeat.beat(self._transport):
                    self._end(endings.HEARTBEAT_LOST)
                    break
        except TransportClosed as closed:
            self._lost(closed)
        finally:
            # If it was cancelled, the stream may be torn: nobody may write at once, past this task, either.
            self._outbox.close()

    def _lost(self, closed: TransportClosed) -> None:
        if not self._closing:  # else it is we who closed, and wait for the peer's answer
            self._end(endings.of_transport(closed))

    # ---- the end

    async def _say_farewell(self) -> None:
        if not self._farewell_begun:
            self._farewell_begun = True
            with self._farewell_scope:
                await self._farewell()

    async def _farewell(self) -> None:
        """Tell the client why, and close; receive and send still run."""
        ending = self.ending
        if ending is None or ending.close_code is None:
            return
        if ending.play_out:
            with self._playing_scope:
                await self.output.played()
                await self._outbox.flushed()
        with trio.move_on_after(self._limits.send_timeout):
            self.output.flush()
            if ending.error is not None:
                error = control.error(names.MODEL_ERROR, ending.error)
                await self._outbox.put(error, last=not ending.goodbye)
            if ending.goodbye:
                await self._outbox.put(control.goodbye(ending.reason), last=True)
            await self._outbox.flushed()
        await self._close(ending.close_code, ending.reason)

    async def _late(self, work: trio.Nursery) -> None:
        """The model does not end though it was cancelled: say where it is, and do not keep the client."""
        # A generator that is being closed has as long, and is cut off then.
        await trio.sleep(self._limits.hook_timeout + LATE)
        hint = "a thread cannot be cancelled; nor can what shields itself, or swallows Cancelled"
        waits_for = listed(tasks_of_authors([work]), "a call in a thread")
        self._log.warning("the model goes on after its session", waits_for=waits_for, hint=hint)
        await self._say_farewell()

    async def _close(self, code: int, reason: str) -> None:
        self._closing = True
        with trio.move_on_after(self._limits.close_timeout):
            await self._transport.aclose(code, reason)

    async def _close_down(self) -> None:
        """What must happen however the session ended, and with whatever the tasks were cancelled."""
        assert self.ending is not None
        self._outbox.close()
        self._inbox.close()
        self._dispatcher.close()
        try:
            # Nothing in here waits for a peer for longer than `close_timeout`.
            with contained(self._broke), trio.CancelScope(shield=True):
                if self._is_broken and not self._closing and self.ending.close_code is not None:
                    await self._close(self.ending.close_code, self.ending.reason)
                await self._transport.abort()
            with contained(self._broke), trio.CancelScope(shield=True):
                await self._uploads.close()
            await self._run_disconnected()
        finally:
            self._log.info("session ended", reason=self.ending.reason)
            self._observer.session_ended(self, self.ending.reason)

    async def _run_disconnected(self) -> None:
        hook = self.model.__declarations__.disconnected
        if hook is None or not self._dispatcher.entered:
            return
        self._is_in_its_last_hook = True
        with trio.move_on_after(self._limits.hook_timeout, shield=True) as scope:
            with contained(lambda failure: self._log.error("@disconnected failed", exc_info=failure)):
                await self._dispatcher.hook(hook)
        if scope.cancelled_caught:
            self._log.error("@disconnected was cut off", after_seconds=self._limits.hook_timeout)
        elif trio.current_time() > scope.deadline:
            self._log.error("@disconnected took too long", limit_seconds=self._limits.hook_timeout)

    # ---- what the model sees (model/model.py)

    async def send(self, message: ModelMessage) -> None:
        """See `ReactorModel.send`."""
        await self._outbox.put(encode_message(message))

    def emit(self, output: Output, *, drop: bool, compute_time: float | None) -> Coroutine[Any, Any, bool]:
        """See `ReactorModel.emit`."""
        if self.ending is not None:
            return _not_taken()
        return self.output.emit(output, drop=drop, compute_time=compute_time)

    # ---- what the server sees

    def statistics(self) -> SessionStatistics:
        """The numbers now."""
        outbox = self._outbox.statistics()
        return SessionStatistics(
            state=self._state(),
            commands_waiting=self._inbox.buffered,
            messages_waiting=outbox.messages,
            bytes_waiting=outbox.bytes,
            frames_waiting=self.output.statistics().waiting,
            upload_bytes_in_memory=self._uploads.bytes_in_memory,
            upload_bytes_on_disk=self._uploads.bytes_on_disk,
            counts=self._counts,
        )

    def _state(self) -> SessionState:
        if self.ending is not None:
            return "ending"
        return "connected" if self.connected.is_set() else "starting"

    def _welcome(self) -> dict[str, object]:
        limits = self._limits
        return {
            "protocol": names.PROTOCOL_VERSION,
            "session_id": self.id,
            **self._host.contract.welcome(self._host.media.video_codecs),
            "limits": {
                "max_message_bytes": limits.max_message_bytes,
                "max_upload_bytes": limits.max_upload_bytes,
                "upload_chunk_bytes": limits.upload_chunk_bytes,
                "max_queued_events": limits.max_queued_events,
            },
        }


async def _not_taken() -> bool:
    await trio.lowlevel.checkpoint()
    return False
