"""What a client receives, as frozen values: the welcome, messages, frames, and what an upload gives."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from reactor_trio.client.errors import HandshakeFailed, Superseded
from reactor_trio.errors import CommandError, FieldError
from reactor_trio.media.jpeg import decode_jpeg
from reactor_trio.protocol import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.protocol.binary import MediaFrame
    from reactor_trio.protocol.text import Id, ServerText

_CODE = re.compile(r"[a-z][a-z0-9_]*")


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


@attrs.frozen
class ServerLimits:
    """What the server takes: sizes in bytes, and how many commands may wait."""

    max_message_bytes: int
    max_upload_bytes: int
    upload_chunk_bytes: int
    max_queued_events: int


@attrs.frozen
class Welcome:
    """The server's first message: what the model is and what it can be asked (DESIGN, section 3.1)."""

    protocol: int
    session_id: str
    model: ModelInfo
    events: Mapping[str, EventInfo]
    messages: Mapping[str, MessageInfo]
    tracks: Mapping[str, TrackInfo]
    limits: ServerLimits

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Welcome:
        """From the wire. Raises `HandshakeFailed` for another protocol version or unreadable data."""
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
    # Fields that a later server adds are left out, so that this client goes on working with it.
    return cls(**{field.name: data[field.name] for field in attrs.fields(cls) if field.name in data})


@attrs.frozen
class ServerMessage:
    """A message from the server; `reply_to` is set in answers to a command."""

    type: str
    data: Mapping[str, Any]
    reply_to: Id | None = None


@attrs.frozen
class UploadHandle:
    """A finished upload. It may stand anywhere in a payload, and as often as one likes."""

    upload_id: str
    name: str
    mime_type: str
    size: int


@attrs.frozen
class Frame:
    """One encoded frame of a track.

    `seq` counts what the model emitted, so a gap is a dropped frame; `pts` is in seconds since the
    session's start; `received_at` in seconds of the client's clock; `width` and `height` in pixels (video),
    `rate` in samples a second (audio). `payload` is a view of the received message.
    """

    track: str
    seq: int
    pts: float
    codec: str
    width: int | None
    height: int | None
    rate: int | None
    channels: int | None
    payload: memoryview = attrs.field(repr=False)
    received_at: float
    extra: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def read(cls, media: MediaFrame, received_at: float) -> Frame:
        """From the wire."""
        return cls(
            media.track,
            media.seq,
            media.pts,
            media.codec,
            media.width,
            media.height,
            media.rate,
            media.channels,
            memoryview(media.payload),
            received_at,
            media.extra,
        )

    @property
    def data(self) -> bytes:
        """The encoded bytes: for `jpeg` the file as it would lie on disk."""
        return bytes(self.payload)

    def array(self) -> np.ndarray[Any, Any]:
        """Decode: video to `(height, width, 3)` uint8 RGB, audio to `(channels, samples)` int16.

        It takes some milliseconds for a large JPEG; on a busy loop call it in a worker thread.
        Raises `ValueError` for a codec that this client does not know and for a damaged payload.
        """
        if self.codec == "jpeg":
            return decode_jpeg(self.data)
        if self.codec == "raw":
            pixels = np.frombuffer(self.payload, np.uint8)
            return pixels.reshape(self.height or 0, self.width or 0, 3).copy()
        if self.codec == "pcm_s16le":
            samples = np.frombuffer(self.payload, "<i2")
            return samples.reshape(-1, self.channels or 1).T.astype(np.int16)
        raise ValueError(f"track {self.track!r}: unknown codec {self.codec!r}")


def read_answer(event: str, answer: ServerText) -> ServerMessage | None:
    """What an answer means to the caller: a typed reply, or None for `reactor.ack`.

    Raises `Superseded`, or `CommandError` with all that the server said.
    """
    if answer.type == names.ACK:
        return None
    if answer.type == names.SUPERSEDED:
        raise Superseded(event)
    if answer.type == names.ERROR:
        raise _command_error(answer.data)
    return ServerMessage(answer.type, answer.data, answer.reply_to)


def _command_error(data: Mapping[str, Any]) -> CommandError:
    code, message = str(data.get("code")), str(data.get("message", ""))
    if not _CODE.fullmatch(code):
        # Another server's error must reach the caller too, whatever it calls its code.
        code, message = "unknown", f"{code}: {message}"
    return CommandError(
        code,
        message,
        event=data.get("event"),
        upload_id=data.get("upload_id"),
        errors=[
            FieldError(str(each.get("path", "")), str(each.get("message", "")))
            for each in data.get("errors", ())
        ],
        retry_after=data.get("retry_after"),
    )
