"""Makes validated commands from a client's messages: finds the event, and structures the payload."""

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
    """Makes the commands of one client for the receive task. Each command carries the client's `reply`."""

    def __init__(self, context: SessionContext, uploads: Uploads, reply: Reply) -> None:
        self.events = context.contract.declarations.events
        """The events of the model, by name."""
        self.uploads = uploads
        """The uploads of the client."""
        self.reply = reply
        """The link, which sends the answers to the commands."""
        self._log = context.log

    def spec_of(self, message: Invoke) -> EventSpec:
        """The event that a message names. Raises `ProtocolError` (`unknown_event`) if there is none."""
        spec = self.events.get(message.event)
        if spec is None:
            raise self.unknown(message)
        return spec

    def unknown(self, message: Invoke) -> ProtocolError:
        """The error for a message that names an event which the model does not have."""
        has = f"it has: {listed(list(self.events))}" if self.events else "it has none"
        return ProtocolError(
            names.UNKNOWN_EVENT,
            f"this model has no event {shorten(message.event, LONGEST_NAME)!r}; {has}",
            event=message.event,
            reply_to=message.id,
        )

    def structure(self, spec: EventSpec, message: Invoke, arrived: float, weight: int) -> Command:
        """Structure the payload of a message on the loop, and return the command.

        `arrived` and `weight` are those of `Command`. Raises `InvalidPayload` (a `ProtocolError`) for a
        payload that does not fit, `PendingUploads` if only uploads are missing, and `ProtocolError`
        (`internal_error`) if a validator of the author failed, which is logged.
        """
        lent = self.uploads.lend() if spec.has_uploads else None
        try:
            payload = spec.structure(message.data, NO_FILES if lent is None else lent)
        except InvalidPayload as error:
            error.reply_to = message.id
            raise
        except PendingUploads:
            raise
        except BaseException as raised:  # from a validator of the author, and of any class
            raise self._not_checked(spec, message.id, raised) from None  # noqa: ASYNC104  it awaits nothing
        unread = None if lent is None else lent.unread
        return Command(spec, payload, message.id, arrived, self.reply, unread, weight)

    def of_reading(
        self, reading: Reading, spec: EventSpec, arrived: float, lent: Lent, weight: int
    ) -> Command:
        """The command of a reading that has been structured. Raises `ProtocolError` as `structure` does."""
        id_ = reading.message.id
        if reading.failure is not None:
            raise self._not_checked(spec, id_, reading.failure)
        if reading.error is not None:
            raise reading.error
        return Command(spec, reading.payload, id_, arrived, self.reply, lent.unread, weight)

    def _not_checked(self, spec: EventSpec, id_: Id | None, raised: BaseException) -> ProtocolError:
        """The error for the client after a validator of the author failed; the failure is logged.

        Raises the part of `raised` that must not be stopped here, such as `KeyboardInterrupt`.
        """
        failure, rest = split(raised)
        if rest is not None:
            raise rest from None
        self._log.error("checking a command failed", command=spec.name, exc_info=failure)
        text = "the command could not be checked"
        return ProtocolError(names.INTERNAL_ERROR, text, event=spec.name, reply_to=id_)
