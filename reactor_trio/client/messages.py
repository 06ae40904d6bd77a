"""Values that a client's methods return: the welcome, the handle of an upload, the meaning of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.client.errors import Superseded
from reactor_trio.errors import CommandError, HandshakeFailed, check_refusal
from reactor_trio.protocol import names, server_messages
from reactor_trio.protocol.server_messages import ServerMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.protocol.server_messages import Answer


@attrs.frozen
class ModelInfo:
    """The model that this server runs."""

    name: str
    description: str = ""


@attrs.frozen
class EventInfo:
    """A command that the model takes; `schema` is the JSON Schema of its payload."""

    name: str
    description: str = ""
    dedupe: bool = False
    schema: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


@attrs.frozen
class MessageInfo:
    """A message that the model may send; `schema` is the JSON Schema of its data."""

    name: str
    description: str = ""
    schema: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


@attrs.frozen
class TrackInfo:
    """A media track. `kind` is "video" or "audio"; `direction` "out" (the model sends) or "in"."""

    name: str
    kind: str
    direction: str
    codecs: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    """The codecs in which it can be sent, the default first; empty if the server does not say."""
    rate: int | None = None
    """Samples a second (audio)."""


@attrs.frozen
class ServerLimits:
    """The server's limits: sizes in bytes, and how many commands may wait."""

    max_message_bytes: int
    max_upload_bytes: int
    upload_chunk_bytes: int
    max_queued_events: int


@attrs.frozen
class Welcome:
    """The server's first message: what the model is and what it can be asked.

    See docs/design.md#text-messages.
    """

    protocol: int
    session_id: str
    model: ModelInfo
    events: Mapping[str, EventInfo]
    messages: Mapping[str, MessageInfo]
    tracks: Mapping[str, TrackInfo]
    limits: ServerLimits

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Welcome:
        """Read the data of a `reactor.welcome`.

        Raises `HandshakeFailed` for another protocol version or data that cannot be read.
        """
        if data.get("protocol") != names.PROTOCOL_VERSION:
            raise HandshakeFailed(
                f"the server speaks protocol {data.get('protocol')!r}, this client {names.PROTOCOL_VERSION}"
            )
        try:
            return cls(
                protocol=data["protocol"],
                session_id=data["session_id"],
                model=_pick(ModelInfo, data["model"]),
                events={each["name"]: _pick(EventInfo, each) for each in data["events"]},
                messages={each["name"]: _pick(MessageInfo, each) for each in data["messages"]},
                tracks={each["name"]: _pick(TrackInfo, each) for each in data["tracks"]},
                limits=_pick(ServerLimits, data["limits"]),
            )
        except (KeyError, TypeError) as error:
            raise HandshakeFailed(f"the server's welcome cannot be read: {error!r}") from None


def _pick(cls: Any, data: Mapping[str, Any]) -> Any:
    # Unknown fields are left out, so that this client works with a later version of the server.
    return cls(**{field.name: data[field.name] for field in attrs.fields(cls) if field.name in data})


@attrs.frozen
class UploadHandle:
    """A finished upload. It may stand at any place of a payload, and be used any number of times."""

    upload_id: str
    name: str
    mime_type: str
    size: int


def read_answer(event: str, answer: Answer) -> ServerMessage | None:
    """Return the reply that an answer holds, or None if the answer only says that all went well.

    Raises `Superseded`, or `CommandError` with all fields of the server's error.
    """
    match answer:
        case ServerMessage():
            return answer
        case server_messages.Superseded():
            raise Superseded(event)
        case server_messages.Error():
            raise _command_error(answer)
    return None


def _command_error(error: server_messages.Error) -> CommandError:
    code, message = error.code, error.message
    try:
        check_refusal(code, message)
    except ValueError:
        # An error of another server must reach the caller too, even if its code is none for `CommandError`.
        code, message = "unknown", f"{code}: {message}"
    return CommandError(
        code,
        message,
        event=error.event,
        upload_id=error.upload_id,
        errors=error.errors,
        retry_after=error.retry_after,
    )
