"""The kinds of work that wait in the inbox for the dispatch task, and commands that wait for uploads."""

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
    """Files on the disk that must be read before a handler begins. Implemented by the uploads of a link."""

    def loaded(self) -> AbstractAsyncContextManager[None]:
        """Read the files, and count their bytes as memory in use until the block ends.

        Raises `ProtocolError` if there is no memory for the files, or one of them cannot be read.
        """
        ...


@attrs.frozen
class Command:
    """A validated command that waits for its handler."""

    spec: EventSpec
    payload: Any
    id: Id | None
    arrived: float
    """When the command was read from the transport, in seconds of Trio's clock."""
    reply: Reply
    """The client to which the answer goes."""
    unread: Unread | None = None
    """Files of the payload that must be read from the disk before the handler begins; None: no such files."""
    weight: int = 0
    """Largest memory that the payload may take while the command waits, in bytes."""

    @property
    def key(self) -> str | None:
        """The key by which a later command supersedes this one; None if no command does."""
        return self.spec.name if self.spec.dedupe else None


@attrs.frozen
class FileArrived:
    """A complete upload that waits for `@file_uploaded`."""

    file: UploadedFile
    unread: Unread | None = None
    """The file itself, if it must be read from the disk before the hook begins; None otherwise."""


@attrs.frozen
class Begun:
    """A command whose plain `def` handler returned an awaitable, which must still be awaited."""

    command: Command
    result: Awaitable[Any]
    began: float
    """When the handler was called, in seconds of Trio's clock."""


Work = Command | FileArrived | Begun


@attrs.define(eq=False)
class Aside:
    """A valid command that waits for its uploads, in a task of its link."""

    spec: EventSpec
    id: Id | None
    reply: Reply
    weight: int
    """Largest memory that the message may take, in bytes; see `Command.weight`."""
    withdraw: Callable[[], object]
    """Ends the waiting. Called when a later command of the same event has superseded this command."""
