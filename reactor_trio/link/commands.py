"""From a client's text to a validated command: which event it is for, and its payload, structured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactor_trio.contract.events import PendingUploads
from reactor_trio.contract.faults import listed
from reactor_trio.errors import LONGEST_NAME, InvalidPayload, ProtocolError, shorten
from reactor_trio.link.uploads import NO_FILES
from reactor_trio.protocol import names
from reactor_trio.session.failures import split
from reactor_trio.session.work import Command

if TYPE_CHECKING:
    from reactor_trio.contract.events import EventSpec
    from reactor_trio.link.reading import Reading
    from reactor_trio.link.uploads import Lent, Uploads
    from reactor_trio.protocol.client_messages import Invoke
    from reactor_trio.protocol.text import Id
    from reactor_trio.session.context import SessionContext
    from reactor_trio.session.links import Reply


class Commands:
    """Makes the commands of one client, whose `reply` each of them carries."""

    def __init__(self, context: SessionContext, uploads: Uploads, reply: Reply) -> None:
        self.events = context.contract.declarations.events
        """The model's, by name."""
        self.uploads = uploads
        """The client's."""
        self.reply = reply
        """Where its answers go."""
        self._log = context.log

    def spec_of(self, message: Invoke) -> EventSpec:
        """The event that a message is for. Raises `ProtocolError`, `unknown_event`."""
        spec = self.events.get(message.event)
        if spec is None:
            raise self.unknown(message)
        return spec

    def unknown(self, message: Invoke) -> ProtocolError:
        """The refusal of a message for an event that the model does not have."""
        has = f"it has: {listed(list(self.events))}" if self.events else "it has none"
        return ProtocolError(
            names.UNKNOWN_EVENT,
            f"this model has no event {shorten(message.event, LONGEST_NAME)!r}; {has}",
            event=message.event,
            reply_to=message.id,
        )

    def structure(self, spec: EventSpec, message: Invoke, arrived: float, weight: int) -> Command:
        """The command, here on the loop. Raises `PendingUploads` if only uploads are missing.

        Raises `ProtocolError`, of which `InvalidPayload` is one, for a payload that does not fit, and for a
        validator of the author's that failed, which is logged.
        """
        lent = self.uploads.lend() if spec.has_uploads else None
        try:
            payload = spec.structure(message.data, NO_FILES if lent is None else lent)
        except InvalidPayload as error:
            error.reply_to = message.id
            raise
        except PendingUploads:
            raise
        except BaseException as raised:  # of a validator of the author's, which may be more than a fault
            raise self._not_checked(spec, message.id, raised) from None  # noqa: ASYNC104  it awaits nothing
        unread = None if lent is None else lent.unread
        return Command(spec, payload, message.id, arrived, self.reply, unread, weight)

    def of_reading(
        self, reading: Reading, spec: EventSpec, arrived: float, lent: Lent, weight: int
    ) -> Command:
        """The command that a thread has read and structured. Raises `ProtocolError` as `structure`."""
        id_ = reading.message.id
        if reading.failure is not None:
            raise self._not_checked(spec, id_, reading.failure)
        if reading.error is not None:
            raise reading.error
        return Command(spec, reading.payload, id_, arrived, self.reply, lent.unread, weight)

    def _not_checked(self, spec: EventSpec, id_: Id | None, raised: BaseException) -> ProtocolError:
        """The client's answer to a failure of an author's validator. Raises what is not ours to stop."""
        failure, rest = split(raised)
        if rest is not None:
            raise rest from None
        self._log.error("checking a command failed", command=spec.name, exc_info=failure)
        text = "the command could not be checked"
        return ProtocolError(names.INTERNAL_ERROR, text, event=spec.name, reply_to=id_)
