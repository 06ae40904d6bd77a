"""The work of the receive task: it decodes and validates each message of the client, and hands it on.

The receive task never waits for a handler. A valid command is put into the session's inbox. A refused command
is answered with an error. A command that refers to an unfinished upload waits aside (`link/aside.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from reactor_trio.compute.lanes import PAYLOADS
from reactor_trio.contract.events import PendingUploads
from reactor_trio.declare.uploaded_file import UploadedFile
from reactor_trio.errors import ProtocolError
from reactor_trio.link.aside import AsideCommands, Waiting
from reactor_trio.link.reading import Reading, inline_characters, read
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame
from reactor_trio.protocol.client_messages import (
    ConfigureTrack,
    FrameShown,
    Invoke,
    Ping,
    RequestKeyFrame,
    UploadAbort,
    UploadStart,
    decode,
)
from reactor_trio.protocol.server_messages import Ack, Error, Pong, UploadComplete, UploadReady
from reactor_trio.protocol.weight import weight_of
from reactor_trio.session.endings import TOO_MANY_ERRORS, LinkEnding
from reactor_trio.session.inbox import TIME_SLICE
from reactor_trio.session.observer import UNKNOWN
from reactor_trio.session.work import FileArrived

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from reactor_trio.link.answers import Answers
    from reactor_trio.link.commands import Commands
    from reactor_trio.link.decoding import Decoders
    from reactor_trio.link.rates import Rates
    from reactor_trio.link.tracks import OutputTracks
    from reactor_trio.link.uploads import Lent
    from reactor_trio.protocol.client_messages import Control
    from reactor_trio.protocol.upload_ledger import Upload
    from reactor_trio.session.observer import NotHandled
    from reactor_trio.session.session import Session

_OUTCOMES: Mapping[str, NotHandled] = {names.UNKNOWN_EVENT: "unknown", names.OVERLOADED: "overloaded"}
"""Outcomes of refused commands by error code. Other codes mean `invalid`: a wrong payload or upload."""


@attrs.frozen(kw_only=True, eq=False)
class Parts:
    """The parts of a link that its `Receiver` hands messages to."""

    answers: Answers
    commands: Commands
    tracks: OutputTracks
    decoders: Decoders
    rates: Rates
    end: Callable[[LinkEnding], None]
    """Function that ends the link, and with it the session."""


class Receiver:
    """Takes the messages of one client in order. The receive task of the link calls `take` with each read."""

    def __init__(self, session: Session, parts: Parts, nursery: trio.Nursery) -> None:
        """`nursery` is that of the link: commands that wait for uploads run their tasks in it."""
        context = session.context
        self._session = session
        self._nursery = nursery
        self._limits = context.limits
        self._observer = context.observer
        self._counts = context.counts
        self._log = context.log
        self._executor = context.executor
        self._wants_files = context.contract.declarations.file_uploaded is not None
        self._inbox = session.inbox
        self._answers = parts.answers
        self._uploads = parts.commands.uploads
        self._commands = parts.commands
        self._tracks = parts.tracks
        self._decoders = parts.decoders
        self._rates = parts.rates
        self._end = parts.end
        self._inline_characters = inline_characters(parts.commands.events)
        self._aside = AsideCommands(context, session.inbox, parts.commands, parts.answers, self.refused)
        self._now = trio.lowlevel.current_clock().current_time
        # When the messages of the current `take` were read from the transport.
        self._arrived = 0.0
        self.last_active = self._now()
        """When the client was last active, in seconds of Trio's clock.

        Commands, frames, and the starts and chunks of uploads count. Other messages do not, since a client's
        program sends them by itself: pings, for instance, and reports of shown frames.
        """
        self._bad_messages = 0
        # When `take` must let other tasks run.
        self._yield_at = 0.0

    async def take(self, messages: Iterable[str | bytes]) -> None:
        """Take the messages of one read from the transport. Not always a checkpoint.

        Lets other tasks run every `TIME_SLICE` seconds, however many messages there are. A bad message is
        answered with an error and raises nothing. Ends the session if the client accepts no answers for
        `send_timeout` seconds. If cancelled, messages may be lost, and the session is over.
        """
        self._arrived = self._now()
        self._yield_at = self._arrived + TIME_SLICE
        taken = 0
        for message in messages:
            taken += 1
            is_sound = True
            try:
                if isinstance(message, str):
                    if len(message) <= self._inline_characters:
                        self._text(message)
                    elif not await self._long_text(message):
                        return
                else:
                    await self._answers.settle()
                    await self._rates.received(len(message))
                    is_sound = await self._binary(message)
            except ProtocolError as error:
                self._refuse(error)
            else:
                # A frame that is not decoded yet may turn out to be broken.
                self._bad_messages = 0 if is_sound else self._bad_messages
            if self._now() >= self._yield_at:
                await self._give_way(taken)
                taken = 0
        await self._answers.settle()
        self._rates.messages(taken)
        await self._rates.pause()

    async def _give_way(self, taken: int) -> None:
        """Settle the answers and let other tasks run, since one read may bring thousands of messages."""
        await self._answers.settle()
        self._rates.messages(taken)
        await self._rates.pause_if_deep()
        await trio.lowlevel.checkpoint()
        self._yield_at = self._now() + TIME_SLICE

    def accepted(self) -> None:
        """Note that a frame has been decoded: the count of successive bad messages begins again."""
        self._bad_messages = 0

    async def refused(self, error: ProtocolError) -> None:
        """Answer a message with an error after it had been taken, and count it as refused. From any task."""
        self._refuse(error)
        await self._answers.settle()

    def _refuse(self, error: ProtocolError) -> None:
        self._answers.post(Error.of(error))
        # The text of the error is not logged, nor the message: both may contain values of the client.
        self._log.debug("message refused", code=error.code, command=self._known(error.event))
        self._count_refusal(error)
        if error.code != names.BAD_MESSAGE:
            self._bad_messages = 0
            return
        self._bad_messages += 1
        if self._bad_messages >= self._limits.max_bad_messages:
            self._end(TOO_MANY_ERRORS)

    def _known(self, event: str | None) -> str | None:
        return event if event in self._commands.events else None

    def _count_refusal(self, error: ProtocolError) -> None:
        if error.code == names.BAD_MESSAGE:
            self._counts.bad_messages += 1
        elif error.event is not None:
            outcome = _OUTCOMES.get(error.code, "invalid")
            # The name may be no event of the model: a command beyond the rate is refused before its event is
            # looked up, and messages to the runtime have names of their own.
            self._observer.not_handled(self._known(error.event) or UNKNOWN, outcome)

    # ---- text: commands, and the runtime's own messages

    def _text(self, text: str) -> None:
        message = decode(text)
        if not isinstance(message, Invoke):
            self._control(message)
            return
        self.last_active = self._arrived
        self._rates.command(message, self._arrived)
        spec = self._commands.spec_of(message)
        weight = weight_of(text)
        try:
            command = self._commands.structure(spec, message, self._arrived, weight)
        except PendingUploads as pending:
            waiting = Waiting(spec, message, self._arrived, pending.upload_ids, weight)
            self._aside.put(self._nursery, waiting)
        else:
            self._inbox.put(command, run_before=self._yield_at)

    async def _long_text(self, text: str) -> bool:
        """Take a text that would block the loop for too long; returns False if the session has ended.

        A thread reads the text. Later messages wait, to keep the order, and the transport is not read
        meanwhile. If cancelled, or if the session ends meanwhile, this waits for the thread.
        """
        await self._answers.settle()
        lent = self._uploads.lend()
        reading = await self._executor.run(PAYLOADS, read, text, self._commands.events, lent)
        # A cancelled call to a thread returns its result, but no task may be started after a cancellation.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._session.ending is not None:
            return False
        self._yield_at = self._now() + TIME_SLICE
        self._take_reading(reading, lent)
        return True

    def _take_reading(self, reading: Reading, lent: Lent) -> None:
        message, spec = reading.message, reading.spec
        if not isinstance(message, Invoke):
            self._control(message)
            return
        self.last_active = self._arrived
        self._rates.command(message, self._arrived)
        if spec is None:
            raise self._commands.unknown(message)
        if reading.pending:
            arrived, weight = self._arrived, reading.weight
            waiting = Waiting(spec, message, arrived, reading.pending, weight, is_long=True)
            self._aside.put(self._nursery, waiting)
        else:
            command = self._commands.of_reading(reading, spec, self._arrived, lent, reading.weight)
            self._inbox.put(command, run_before=self._yield_at)

    def _control(self, asks: Control) -> None:
        match asks:
            case Ping(t, id_):
                self._answers.post(Pong(t, trio.current_time(), id_))
            case UploadStart() as start:
                self.last_active = self._arrived
                upload = self._uploads.start(start)
                self._answers.post(UploadReady(upload.upload_id))
                if upload.is_complete:  # it has no bytes
                    self._upload_complete(upload)
            case UploadAbort() as abort:
                self._abort_upload(abort)
            case ConfigureTrack() | RequestKeyFrame() | FrameShown() as asked:
                self._tracks.take(asked)
                self._acknowledge(asked)

    def _acknowledge(self, message: Control) -> None:
        if message.id is not None:
            self._answers.post(Ack(message.id))

    # ---- binary: media, and the chunks of uploads

    async def _binary(self, data: bytes) -> bool:
        """Take a frame or a chunk. Returns False for a frame that is still to be decoded."""
        message = decode(data)
        self.last_active = self._arrived
        if isinstance(message, MediaFrame):
            return self._decoders.put(message)
        upload = await self._uploads.chunk(message)
        if upload is not None:
            self._counts.upload_bytes += len(message.payload)
            if self._uploads.is_whole(upload):
                self._upload_complete(upload)
        return True

    async def upload_settled(self, upload: Upload, fault: str | None) -> None:
        """Tell the client that an upload is complete or, with a `fault`, has failed.

        Called in the tasks of `Uploads`: the writer, and the watch for stalled uploads.
        """
        if fault is None:
            self._upload_complete(upload)
        else:
            self._refuse(
                ProtocolError(names.UPLOAD_REJECTED, fault, upload_id=upload.upload_id, reply_to=upload.id)
            )
        await self._answers.settle()

    def _upload_complete(self, upload: Upload) -> None:
        self._answers.post(
            UploadComplete(upload.upload_id, upload.name, upload.mime_type, upload.size, upload.id)
        )
        if self._wants_files:
            lent = self._uploads.lend()
            file = lent.get(upload.upload_id)
            assert isinstance(file, UploadedFile)
            self._inbox.put_file(FileArrived(file, lent.unread))

    def _abort_upload(self, abort: UploadAbort) -> None:
        upload = self._uploads.abort(abort.upload_id, abort.id)
        if upload.id is not None:
            text, upload_id = "the client gave it up", abort.upload_id
            self._answers.post(Error(names.UPLOAD_REJECTED, text, upload_id=upload_id, reply_to=upload.id))
        self._acknowledge(abort)
