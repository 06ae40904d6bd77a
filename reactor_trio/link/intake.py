"""What the receive task does with each message: decode, validate, assemble, queue, and answer at once.

Nothing here waits for a handler. A plain `def` handler that nothing is ahead of is run right here. A command
that cannot be taken is answered and forgotten; one that refers to an upload under way is put aside, in a task
of its own, until the bytes are there.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

import attrs
import trio

from reactor_trio.compute.lanes import PAYLOADS
from reactor_trio.contract.events import PendingUploads
from reactor_trio.contract.faults import listed
from reactor_trio.declare.uploaded_file import UploadedFile
from reactor_trio.errors import LONGEST_NAME, InvalidPayload, ProtocolError, shorten
from reactor_trio.link.rates import Rates
from reactor_trio.link.reading import Reading, inline_characters, read, structure, structure_again
from reactor_trio.link.uploads import NO_FILES
from reactor_trio.protocol import control, names
from reactor_trio.protocol.binary import MediaFrame, decode_binary
from reactor_trio.protocol.text import decode_client_text
from reactor_trio.protocol.weight import weight_of
from reactor_trio.session.dispatch import STEP
from reactor_trio.session.endings import SLOW_CLIENT, TOO_MANY_ERRORS, Ending
from reactor_trio.session.failures import split
from reactor_trio.session.observer import UNKNOWN
from reactor_trio.session.work import NOTHING_UNREAD, Begun, Command, FileArrived, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from reactor_trio.compute.executor import Executor
    from reactor_trio.contract.events import Declarations, EventSpec
    from reactor_trio.link.outbox import Outbox
    from reactor_trio.link.track_control import TrackControl
    from reactor_trio.link.uploads import Lent, Uploads
    from reactor_trio.logs.logger import Logger
    from reactor_trio.protocol.text import ClientText, Id
    from reactor_trio.protocol.upload_ledger import Upload
    from reactor_trio.session.coalescing import CoalescingSendChannel
    from reactor_trio.session.dispatch import Dispatcher
    from reactor_trio.session.inputs import SessionInputs
    from reactor_trio.session.limits import Limits
    from reactor_trio.session.observer import Counts, NotHandled, Observer
    from reactor_trio.wire.transport import Transport

_OUTCOMES: Mapping[str, NotHandled] = {names.UNKNOWN_EVENT: "unknown", names.OVERLOADED: "overloaded"}
"""Of the other codes with which a command is refused, each says that its payload or upload is wrong."""


@attrs.define(eq=False)
class _Aside:
    """A valid command that waits for its uploads."""

    spec: EventSpec
    message: ClientText
    arrived: float
    upload_ids: tuple[str, ...]
    scope: trio.CancelScope
    """Cancelled when a later command of the same event supersedes this one; its deadline is the time-out."""
    is_long: bool
    """Whether it is structured in a thread."""
    weight: int
    """Bytes that the message may take; see `Command.weight`."""


class Intake:
    """The receive task's side of a session. `nursery` is where commands wait for their uploads."""

    def __init__(
        self,
        declarations: Declarations,
        limits: Limits,
        inbox: CoalescingSendChannel[Work],
        dispatcher: Dispatcher,
        outbox: Outbox,
        transport: Transport,
        uploads: Uploads,
        nursery: trio.Nursery,
        end: Callable[[Ending], None],
        observer: Observer,
        counts: Counts,
        log: Logger,
        tracks: TrackControl,
        inputs: SessionInputs,
        executor: Executor,
        is_over: Callable[[], bool],
    ) -> None:
        self._events = declarations.events
        self._inline_characters = inline_characters(declarations.events)
        self._executor = executor
        self._is_over = is_over
        self._wants_files = declarations.file_uploaded is not None
        self._limits = limits
        self._rates = Rates(limits)
        self._inbox = inbox
        self._dispatcher = dispatcher
        self._turns = dispatcher.turns
        self._backlog = dispatcher.backlog
        self._outbox = outbox
        self._transport = transport
        self._uploads = uploads
        uploads.begin(nursery, self._upload_settled)
        self._nursery = nursery
        self._end = end
        self._observer = observer
        self._counts = counts
        self._log = log
        self._tracks = tracks
        self._inputs = inputs
        self._now = trio.lowlevel.current_clock().current_time
        # When the messages in hand were read from the transport.
        self._arrived = 0.0
        self.last_active = self._now()
        """When the client last did something: pings and reports of frames are no more than its program's."""
        self._aside: list[_Aside] = []
        self._bad_messages = 0
        # When this session has had the loop for long enough: others are there too.
        self._step_ends = 0.0
        # Answers of this step: handed over together, and before anything is awaited.
        self._answers: deque[str] = deque()

    async def take(self, messages: Iterable[str | bytes]) -> None:
        """Take messages from the client; not always a checkpoint.

        However many they are, other tasks run after `STEP` seconds. Never raises for what a client sent.
        Ends the session if the client accepts no answers for `send_timeout` seconds. If cancelled, messages
        may be lost, and the session is over.
        """
        self._arrived = self._now()
        self._step_ends = self._arrived + STEP
        taken = 0
        for message in messages:
            taken += 1
            is_sound = True
            try:
                if isinstance(message, str):
                    if len(message) <= self._inline_characters:
                        self._text(decode_client_text(message), message)
                    elif not await self._long_text(message):
                        return
                else:
                    await self._settle()
                    await self._rates.received(len(message))
                    is_sound = await self._binary(message)
            except ProtocolError as error:
                self._refuse(error)
            else:
                # A frame that is yet to be decoded may turn out to be broken.
                self._bad_messages = 0 if is_sound else self._bad_messages
            if self._now() >= self._step_ends:
                await self._give_way(taken)
                taken = 0
        await self._settle()
        self._rates.messages(taken)
        await self._rates.pause()

    async def _give_way(self, taken: int) -> None:
        """Let all others have the loop: one read may bring thousands of messages."""
        await self._settle()
        self._rates.messages(taken)
        await self._rates.pause_if_deep()
        await trio.lowlevel.checkpoint()
        self._step_ends = self._now() + STEP

    def accepted(self) -> None:
        """A message could be read: those that cannot be are counted anew."""
        self._bad_messages = 0

    async def refused(self, error: ProtocolError) -> None:
        """The same for one that has turned out to be broken after it was taken: the client is told."""
        self._refuse(error)
        await self._settle()

    def _refuse(self, error: ProtocolError) -> None:
        self._answer(control.error_of(error))
        # Neither what the client sent nor what is wrong with it: a value may stand in either.
        self._log.debug("message refused", code=error.code, command=self._known(error.event))
        self._count_refusal(error)
        if error.code != names.BAD_MESSAGE:
            self._bad_messages = 0
            return
        self._bad_messages += 1
        if self._bad_messages >= self._limits.max_bad_messages:
            self._end(TOO_MANY_ERRORS)

    def _known(self, event: str | None) -> str | None:
        return event if event in self._events else None

    def _count_refusal(self, error: ProtocolError) -> None:
        if error.code == names.BAD_MESSAGE:
            self._counts.bad_messages += 1
        elif error.event is not None:
            outcome = _OUTCOMES.get(error.code, "invalid")
            # Also of a name that is no event a command may be too many, or a message to the runtime wrong.
            self._observer.not_handled(self._known(error.event) or UNKNOWN, outcome)

    def _answer(self, text: str) -> None:
        self._answers.append(text)

    async def _settle(self) -> None:
        """Hand the answers over; wait only if there is no room for them."""
        if not self._answers:
            return
        if self._outbox.is_idle and self._transport.send_nowait(self._answers):
            self._counts.messages_sent += len(self._answers)
            self._answers.clear()
            if self._transport.has_unsent:
                self._outbox.wake()
            return
        try:
            while self._answers:
                self._outbox.put_nowait(self._answers[0])
                self._answers.popleft()
        except trio.WouldBlock:
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        with trio.move_on_after(self._limits.send_timeout) as scope:
            while self._answers:
                await self._outbox.put(self._answers.popleft())
        if scope.cancelled_caught:
            self._end(SLOW_CLIENT)

    # ---- text: commands, and the runtime's own messages

    def _text(self, message: ClientText, text: str) -> None:
        if message.type.startswith(names.RUNTIME_PREFIX):
            self._control(control.parse_control(message), message)
            return
        self.last_active = self._arrived
        self._rates.command(message, self._arrived)
        spec = self._events.get(message.type)
        if spec is None:
            raise self._unknown(message)
        weight = weight_of(text)
        try:
            command = self._structure(spec, message, self._arrived, weight)
        except PendingUploads as pending:
            self._put_aside(spec, message, pending.upload_ids, weight)
        else:
            self._queue(command)

    async def _long_text(self, text: str) -> bool:
        """The same for a text that would keep the loop for too long; returns whether the session goes on.

        A thread reads it, and what comes behind it waits, so that the order stays; the transport is not read
        meanwhile. If cancelled, or if the session ends meanwhile, this waits for the thread.
        """
        await self._settle()
        lent = self._uploads.lend()
        reading = await self._executor.run(PAYLOADS, read, text, self._events, lent)
        # A cancelled call to a thread returns all the same, but no task may be started any more.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_over():
            return False
        self._step_ends = self._now() + STEP
        self._take_reading(reading, lent)
        return True

    def _take_reading(self, reading: Reading, lent: Lent) -> None:
        message, spec = reading.message, reading.spec
        if message.type.startswith(names.RUNTIME_PREFIX):
            if reading.error is not None:
                raise reading.error
            assert reading.asks is not None
            self._control(reading.asks, message)
            return
        self.last_active = self._arrived
        self._rates.command(message, self._arrived)
        if spec is None:
            raise self._unknown(message)
        if reading.pending:
            self._put_aside(spec, message, reading.pending, reading.weight, is_long=True)
        else:
            self._queue(self._command_of(reading, spec, self._arrived, lent, reading.weight))

    def _command_of(
        self, reading: Reading, spec: EventSpec, arrived: float, lent: Lent, weight: int
    ) -> Command:
        """The command that was read. Raises what is wrong with it."""
        id_ = reading.message.id
        if reading.failure is not None:
            raise self._not_checked(spec, id_, reading.failure)
        if reading.error is not None:
            raise reading.error
        return Command(spec, reading.payload, id_, arrived, lent.unread or NOTHING_UNREAD, weight)

    def _unknown(self, message: ClientText) -> ProtocolError:
        return ProtocolError(
            names.UNKNOWN_EVENT,
            f"this model has no event {shorten(message.type, LONGEST_NAME)!r}; {self._known_events()}",
            event=message.type,
            reply_to=message.id,
        )

    def _known_events(self) -> str:
        return f"it has: {listed(list(self._events))}" if self._events else "it has none"

    def _structure(self, spec: EventSpec, message: ClientText, arrived: float, weight: int) -> Command:
        lent = self._uploads.lend() if spec.has_uploads else None
        try:
            payload = spec.structure(message.data, NO_FILES if lent is None else lent)
        except InvalidPayload as error:
            error.reply_to = message.id
            raise
        except PendingUploads:
            raise
        except BaseException as raised:  # of a validator of the author's, which may be more than a fault
            raise self._not_checked(spec, message.id, raised) from None  # noqa: ASYNC104  it awaits nothing
        unread = NOTHING_UNREAD if lent is None else lent.unread
        return Command(spec, payload, message.id, arrived, unread, weight)

    def _not_checked(self, spec: EventSpec, id_: Id | None, raised: BaseException) -> ProtocolError:
        """What the client is told of a failure of an author's validator. Raises what is not ours to stop."""
        failure, rest = split(raised)
        if rest is not None:
            raise rest from None
        self._log.error("checking a command failed", command=spec.name, exc_info=failure)
        text = "the command could not be checked"
        return ProtocolError(names.INTERNAL_ERROR, text, event=spec.name, reply_to=id_)

    def _queue(self, command: Command) -> None:
        key = command.key
        replaces = key is not None and (self._inbox.would_replace(key) or self._is_aside(key))
        self._check_room(command.spec, command.id, replaces=replaces)
        if self._backlog.bytes:
            self._check_weight(command.spec, command.id, command.weight, queued=True)
        if self._aside and command.key is not None:
            self._supersede_aside(command.key)
        now = self._now()
        if not command.unread and self._may_run_at(now, command.spec):
            self._run_now(command, now)
        else:
            self._send(command)

    def _may_run_at(self, now: float, spec: EventSpec) -> bool:
        # The dispatcher waits for work, so nothing is ahead of this command: running its handler in this
        # very step spares two task switches, which cost more than all the rest
        # (docs/performance.md#commands: 100 clients).
        plain = not spec.is_async and not spec.in_thread
        idle = plain and self._inbox.receiver_waits and now < self._step_ends
        return idle and (self._turns is None or not self._turns.stepping)

    def _run_now(self, command: Command, now: float) -> None:
        answer = self._dispatcher.run_for_receive(command, now)
        if self._turns is not None:
            self._turns.handled()
        if isinstance(answer, Begun):
            self._inbox.send_nowait(answer)
        elif answer is not None:
            self._answer(answer)

    def _send(self, command: Command) -> None:
        try:
            replaced = self._inbox.send_nowait(command, command.key)
        except trio.BrokenResourceError:
            return  # the dispatcher has ended, and with it the session
        self._backlog.bytes += command.weight
        if isinstance(replaced, Command):
            self._backlog.bytes -= replaced.weight
            self._superseded(replaced.spec, replaced.id)

    def _superseded(self, spec: EventSpec, id_: Id | None) -> None:
        self._rates.superseded()
        self._observer.not_handled(spec.name, "superseded")
        if id_ is not None:
            self._answer(control.superseded(id_))

    def _check_room(self, spec: EventSpec, id_: str | int | None, *, replaces: bool) -> None:
        # Commands aside count, so that there is room when their time comes. Files do not: the channel is
        # larger by what a session may upload, since `@file_uploaded` must never find it full.
        room = self._limits.max_queued_events - len(self._aside)
        if replaces or self._inbox.buffered < room:
            return
        if sum(not isinstance(work, FileArrived) for work in self._inbox.waiting()) < room:
            return
        text = f"{self._limits.max_queued_events} commands wait already; this one was not taken"
        raise ProtocolError(names.OVERLOADED, text, event=spec.name, reply_to=id_)

    def _check_weight(self, spec: EventSpec, id_: Id | None, weight: int, *, queued: bool) -> None:
        """Refuse a command that is too heavy beside those that wait; `queued`: it may replace one of them."""
        limit, waiting = self._limits.max_queued_event_bytes, self._backlog.bytes
        if waiting + weight <= limit:
            return
        if spec.dedupe:
            waiting -= sum(aside.weight for aside in self._aside if aside.spec.name == spec.name)
            replaced = self._inbox.replaceable(spec.name) if queued else None
            waiting -= replaced.weight if isinstance(replaced, Command) else 0
        if waiting and waiting + weight > limit:
            text = f"the commands that wait take {waiting} of {limit} bytes; this one was not taken"
            raise ProtocolError(names.OVERLOADED, text, event=spec.name, reply_to=id_)

    def _control(self, asks: control.ClientControl, message: ClientText) -> None:
        match asks:
            case control.Ping(t):
                self._answer(control.pong(t, trio.current_time(), message.id))
            case control.UploadStart() as start:
                self.last_active = self._arrived
                upload = self._uploads.start(start, message.id)
                self._answer(control.upload_ready(upload.upload_id))
                if upload.is_complete:  # an empty one
                    self._upload_complete(upload)
            case control.UploadAbort(upload_id):
                self._abort_upload(upload_id, message)
            case control.ConfigureTrack() | control.RequestKeyFrame() | control.FrameShown() as asked:
                self._tracks.take(asked, message)
                self._acknowledge(message)

    def _acknowledge(self, message: ClientText) -> None:
        if message.id is not None:
            self._answer(control.ack(message.id))

    # ---- binary: media, and the chunks of uploads

    async def _binary(self, data: bytes) -> bool:
        """Take a frame or a chunk; returns whether it is known to be sound."""
        message = decode_binary(data)
        self.last_active = self._arrived
        if isinstance(message, MediaFrame):
            return self._inputs.put(message)
        upload = await self._uploads.chunk(message)
        if upload is not None:
            self._counts.upload_bytes += len(message.payload)
            if self._uploads.is_whole(upload):
                self._upload_complete(upload)
        return True

    async def _upload_settled(self, upload: Upload, fault: str | None) -> None:
        """An upload is complete, or has failed, in another task than receive."""
        if fault is None:
            self._upload_complete(upload)
        else:
            self._refuse(
                ProtocolError(names.UPLOAD_REJECTED, fault, upload_id=upload.upload_id, reply_to=upload.id)
            )
        await self._settle()

    def _upload_complete(self, upload: Upload) -> None:
        self._answer(
            control.upload_complete(upload.upload_id, upload.name, upload.mime_type, upload.size, upload.id)
        )
        if self._wants_files:
            lent = self._uploads.lend()
            file = lent.get(upload.upload_id)
            assert isinstance(file, UploadedFile)
            with contextlib.suppress(trio.BrokenResourceError):  # the dispatcher, and the session, has ended
                self._inbox.send_nowait(FileArrived(file, lent.unread))

    def _abort_upload(self, upload_id: str, message: ClientText) -> None:
        upload = self._uploads.abort(upload_id, message.id)
        if upload.id is not None:
            given_up = control.error(
                names.UPLOAD_REJECTED, "the client gave it up", upload_id=upload_id, reply_to=upload.id
            )
            self._answer(given_up)
        self._acknowledge(message)

    # ---- commands that wait for an upload (docs/design.md#uploads)

    def _put_aside(
        self,
        spec: EventSpec,
        message: ClientText,
        upload_ids: tuple[str, ...],
        weight: int,
        *,
        is_long: bool = False,
    ) -> None:
        # One in the inbox is not replaced before the bytes are there, if they ever are.
        self._check_room(spec, message.id, replaces=spec.dedupe and self._is_aside(spec.name))
        self._check_weight(spec, message.id, weight, queued=False)
        if spec.dedupe:
            self._supersede_aside(spec.name)
        scope = trio.CancelScope(deadline=trio.current_time() + self._limits.upload_timeout)
        aside = _Aside(spec, message, self._arrived, upload_ids, scope, is_long, weight)
        self._aside.append(aside)
        self._backlog.bytes += weight
        self._nursery.start_soon(self._wait_aside, aside, name=f"{spec.name} waits for its upload")

    def _is_aside(self, event: str) -> bool:
        return any(aside.spec.name == event for aside in self._aside)

    def _supersede_aside(self, event: str) -> None:
        for aside in [aside for aside in self._aside if aside.spec.name == event]:
            self._remove_aside(aside)
            aside.scope.cancel(reason="superseded by a later command")
            self._superseded(aside.spec, aside.message.id)

    def _remove_aside(self, aside: _Aside) -> None:
        self._aside.remove(aside)
        self._backlog.bytes -= aside.weight

    async def _wait_aside(self, aside: _Aside) -> None:
        lent = self._uploads.lend()
        reading: Reading | None = None
        with aside.scope:
            while reading is None or reading.pending:
                await self._uploads.settled(aside.upload_ids)
                reading = await self._structured_again(aside, lent)
                aside.upload_ids = (
                    reading.pending or aside.upload_ids
                )  # of very many only the first were named
        if aside not in self._aside:
            return  # it is superseded, and answered
        self._remove_aside(aside)
        try:
            if reading is None or aside.scope.cancelled_caught:
                raise self._came_too_late(aside)
            self._send(self._command_of(reading, aside.spec, aside.arrived, lent, aside.weight))
        except ProtocolError as error:
            self._refuse(error)
        await self._settle()

    async def _structured_again(self, aside: _Aside, lent: Lent) -> Reading:
        if not aside.is_long:
            return structure(aside.message, aside.spec, lent)
        reading = await self._executor.run(PAYLOADS, structure_again, aside.message, aside.spec, lent)
        await trio.lowlevel.checkpoint_if_cancelled()
        return reading

    def _came_too_late(self, aside: _Aside) -> ProtocolError:
        return ProtocolError(
            names.UNRESOLVED_UPLOAD,
            f"the upload did not arrive within {self._limits.upload_timeout:g} s",
            event=aside.spec.name,
            upload_id=aside.upload_ids[0],
            reply_to=aside.message.id,
        )
