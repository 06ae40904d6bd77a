"""What waits in the inbox for the dispatcher."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from reactor_trio.contract.events import EventSpec
    from reactor_trio.declare.uploaded_file import UploadedFile
    from reactor_trio.protocol.text import Id


NOTHING_UNREAD: Mapping[str, UploadedFile] = MappingProxyType({})


@attrs.frozen
class Command:
    """A validated command: its handler's turn will come."""

    spec: EventSpec
    payload: Any
    id: Id | None
    arrived: float
    """When it was read from the transport, in seconds of Trio's clock."""
    unread: Mapping[str, UploadedFile] = NOTHING_UNREAD
    """Files of the payload, by upload id, that are to be read from the disk before the handler begins."""
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
    unread: Mapping[str, UploadedFile] = NOTHING_UNREAD
    """As of a command."""


@attrs.frozen
class Begun:
    """A command whose plain `def` handler returned an awaitable: what is left is to await it."""

    command: Command
    result: Awaitable[Any]
    began: float
    """When its handler was called."""


@attrs.define(eq=False)
class Backlog:
    """What the commands weigh that wait in the inbox or aside. Receive adds to it, dispatch takes."""

    bytes: int = 0


Work = Command | FileArrived | Begun
