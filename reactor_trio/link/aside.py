"""Commands that wait for an upload, each in a task of the link's nursery (`docs/wire.md`, "Uploads").

Such a command is valid except that bytes of an upload are still on their way. The command waits outside of
the inbox's queue, so that later commands are not delayed, and is queued when the bytes have arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from reactor_trio.compute.lanes import PAYLOADS
from reactor_trio.errors import ProtocolError
from reactor_trio.link.reading import Reading, structure, structure_again
from reactor_trio.protocol import names
from reactor_trio.session.work import Aside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reactor_trio.contract.events import EventSpec
    from reactor_trio.link.answers import Answers
    from reactor_trio.link.commands import Commands
    from reactor_trio.link.uploads import Lent
    from reactor_trio.protocol.client_messages import Invoke
    from reactor_trio.session.context import SessionContext
    from reactor_trio.session.inbox import Inbox


@attrs.define(eq=False)
class Waiting:
    """A command whose uploads have not arrived yet, for `AsideCommands.put`."""

    spec: EventSpec
    message: Invoke
    arrived: float
    """When the command was read from the transport, in seconds of Trio's clock."""
    upload_ids: tuple[str, ...]
    """The uploads that the command waits for."""
    weight: int
    """Bytes that the message may take; see `Command.weight`."""
    is_long: bool = False
    """Whether the message is long, so that its payload is structured in a thread."""


class AsideCommands:
    """The commands of one link that wait for uploads. The receive task puts them here."""

    def __init__(
        self,
        context: SessionContext,
        inbox: Inbox,
        commands: Commands,
        answers: Answers,
        refuse: Callable[[ProtocolError], Awaitable[object]],
    ) -> None:
        """`refuse` is awaited with the error, for the client, of a command that cannot be taken after all."""
        self._timeout = context.limits.upload_timeout
        self._executor = context.executor
        self._inbox = inbox
        self._uploads = commands.uploads
        self._commands = commands
        self._answers = answers
        self._refuse = refuse

    def put(self, nursery: trio.Nursery, waiting: Waiting) -> None:
        """Start a task in the nursery in which a command waits, for at most `upload_timeout` seconds.

        Raises `ProtocolError` (`overloaded`) if too many commands wait already.
        """
        scope = trio.CancelScope(deadline=trio.current_time() + self._timeout)

        def withdraw() -> None:
            scope.cancel(reason="superseded by a later command")

        aside = Aside(waiting.spec, waiting.message.id, self._commands.reply, waiting.weight, withdraw)
        self._inbox.put_aside(aside)
        nursery.start_soon(
            self._wait, waiting, aside, scope, name=f"{waiting.spec.name} waits for its upload"
        )

    async def _wait(self, waiting: Waiting, aside: Aside, scope: trio.CancelScope) -> None:
        lent = self._uploads.lend()
        reading: Reading | None = None
        with scope:
            while reading is None or reading.pending:
                await self._uploads.settled(waiting.upload_ids)
                reading = await self._structured_again(waiting, lent)
                # `upload_ids` names only the first of very many uploads, so that others may be pending still.
                waiting.upload_ids = reading.pending or waiting.upload_ids
        if not self._inbox.take_back(aside):
            return  # a later command has superseded this one, and the client was told
        try:
            if reading is None or scope.cancelled_caught:
                raise self._came_too_late(waiting)
            command = self._commands.of_reading(reading, waiting.spec, waiting.arrived, lent, waiting.weight)
        except ProtocolError as error:
            await self._refuse(error)
        else:
            self._inbox.queue(command)
            await self._answers.settle()

    async def _structured_again(self, waiting: Waiting, lent: Lent) -> Reading:
        if not waiting.is_long:
            return structure(waiting.message, waiting.spec, lent)
        reading = await self._executor.run(PAYLOADS, structure_again, waiting.message, waiting.spec, lent)
        await trio.lowlevel.checkpoint_if_cancelled()
        return reading

    def _came_too_late(self, waiting: Waiting) -> ProtocolError:
        return ProtocolError(
            names.UNRESOLVED_UPLOAD,
            f"the upload did not arrive within {self._timeout:g} s",
            event=waiting.spec.name,
            upload_id=waiting.upload_ids[0],
            reply_to=waiting.message.id,
        )
