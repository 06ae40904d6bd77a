"""What waits in the inbox for the dispatcher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from reactor_trio.contract.events import EventSpec
    from reactor_trio.declare.uploaded_file import UploadedFile
    from reactor_trio.protocol.text import Id
    from reactor_trio.session.links import Reply


class Unread(Protocol):
    """Files on the disk that must be read before a handler begins."""

    def loaded(self) -> AbstractAsyncContextManager[None]:
        """Read the files, and count them as in memory while the block lasts.

        Raises `ProtocolError` if there is no memory for them, or one cannot be read.
        """
        ...


@attrs.frozen
class Command:
    """A validated command: its handler's turn will come."""

    spec: EventSpec
    payload: Any
    id: Id | None
    arrived: float
    """When it was read from the transport, in seconds of Trio's clock."""
    reply: Reply
    """Its client, which is told of its outcome."""
    unread: Unread | None = None
    """Files of the payload that are to be read from the disk before the handler begins."""
    weight: int = 0
    """Bytes that its payload may take while it waits."""

    @property
    def key(self) -> str | None:
        """The key under which a later one supersedes this one; None: never."""
        return self.spec.name if self.spec.dedupe else None


@attrs.frozen
class FileArrived:
    """A complete upload, for `@file_uploaded`."""

    file: UploadedFile
    unread: Unread | None = None
    """As of a command."""


@attrs.frozen
class Begun:
    """A command whose plain `def` handler returned an awaitable: what is left is to await it."""

    command: Command
    result: Awaitable[Any]
    began: float
    """When its handler was called."""


Work = Command | FileArrived | Begun


@attrs.define(eq=False)
class Aside:
    """A valid command that waits for its uploads, in a task of its link's."""

    spec: EventSpec
    id: Id | None
    reply: Reply
    weight: int
    """Bytes that the message may take; see `Command.weight`."""
    withdraw: Callable[[], object]
    """Ends the waiting: a later command of the same event has superseded this one."""
