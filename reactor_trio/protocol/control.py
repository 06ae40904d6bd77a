"""The runtime's own messages as texts: what `client_messages` and `server_messages` have as nouns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reactor_trio.protocol import server_messages
from reactor_trio.protocol.client_messages import (
    ConfigureTrack,
    Control,
    FrameShown,
    Ping,
    RequestKeyFrame,
    UploadAbort,
    UploadStart,
    read_control,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reactor_trio.errors import FieldError, ProtocolError
    from reactor_trio.protocol.text import ClientText, Id

__all__ = [
    "ClientControl",
    "ConfigureTrack",
    "FrameShown",
    "Ping",
    "RequestKeyFrame",
    "UploadAbort",
    "UploadStart",
    "ack",
    "error",
    "error_of",
    "goodbye",
    "parse_control",
    "pong",
    "queued",
    "superseded",
    "upload_complete",
    "upload_ready",
    "welcome",
]

ClientControl = Control


def queued(position: int) -> str:
    """See `server_messages.Queued`."""
    return server_messages.Queued(position).encode()


def welcome(data: Mapping[str, Any]) -> str:
    """See `server_messages.Welcome`."""
    return server_messages.Welcome(data).encode()


def ack(reply_to: Id) -> str:
    """See `server_messages.Ack`."""
    return server_messages.Ack(reply_to).encode()


def superseded(reply_to: Id) -> str:
    """See `server_messages.Superseded`."""
    return server_messages.Superseded(reply_to).encode()


def error(
    code: str,
    message: str,
    *,
    event: str | None = None,
    upload_id: str | None = None,
    errors: Sequence[FieldError] = (),
    retry_after: float | None = None,
    reply_to: Id | None = None,
) -> str:
    """See `server_messages.Error`."""
    return server_messages.Error(
        code,
        message,
        event=event,
        upload_id=upload_id,
        errors=tuple(errors),
        retry_after=retry_after,
        reply_to=reply_to,
    ).encode()


def error_of(exc: ProtocolError) -> str:
    """See `server_messages.Error.of`."""
    return server_messages.Error.of(exc).encode()


def pong(t: float, server_time: float, reply_to: Id | None = None) -> str:
    """See `server_messages.Pong`."""
    return server_messages.Pong(t, server_time, reply_to).encode()


def upload_ready(upload_id: str) -> str:
    """See `server_messages.UploadReady`."""
    return server_messages.UploadReady(upload_id).encode()


def upload_complete(upload_id: str, name: str, mime_type: str, size: int, reply_to: Id | None = None) -> str:
    """See `server_messages.UploadComplete`."""
    return server_messages.UploadComplete(upload_id, name, mime_type, size, reply_to).encode()


def goodbye(reason: str) -> str:
    """See `server_messages.Goodbye`."""
    return server_messages.Goodbye(reason).encode()


def parse_control(message: ClientText) -> Control:
    """See `client_messages.read_control`."""
    return read_control(message.type, message.data, message.id)
