"""Messages from the client, as frozen nouns: `decode` reads a message, `encode` of a noun writes it.

    text     Invoke           a command for the model
             Ping, UploadStart, UploadAbort, ConfigureTrack, RequestKeyFrame, FrameShown
    binary   UploadChunk, MediaFrame (protocol/binary.py)

With an `id`, a text asks for exactly one answer; None if the client wants no answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, overload

import attrs
import orjson

from reactor_trio.errors import LONGEST_NAME, ProtocolError, shorten
from reactor_trio.protocol import fields, names
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, decode_binary
from reactor_trio.protocol.text import encode_client_text, read_client_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.protocol.text import Id


@attrs.frozen(init=False)
class Invoke:
    """A command: the client calls an event of the model with this payload."""

    event: str
    data: dict[str, Any]
    id: Id | None = None

    # An `Invoke` is made for every command. It takes a third less time than the one of attrs.
    def __init__(self, event: str, data: dict[str, Any], id: Id | None = None) -> None:  # noqa: A002  the wire's word
        _set_event(self, event)
        _set_data(self, data)
        _set_id(self, id)

    def encode(self) -> str:
        """The message's text. Raises `TypeError` for data that JSON cannot carry."""
        return encode_client_text(self.event, self.data, self.id)


_set_event, _set_data, _set_id = (Invoke.__dict__[name].__set__ for name in ("event", "data", "id"))


@attrs.frozen
class _Control:
    """A text for the runtime. Its data are the noun's fields, except `id`."""

    type: ClassVar[str]

    def encode(self) -> str:
        """The message's text. Raises `TypeError` for a value that JSON cannot carry."""
        data = attrs.asdict(self, recurse=False)
        id_ = data.pop("id")
        return encode_client_text(self.type, data, id_)


@attrs.frozen
class Ping(_Control):
    """`reactor.ping`: asks for a `reactor.pong` with the same `t`, which may be any number."""

    type = names.PING
    t: float
    id: Id | None = None


@attrs.frozen
class UploadStart(_Control):
    """`reactor.upload_start`: announces a file of `size` bytes, under an `upload_id` of the client's choice.

    `name` is a label, never a path: it may hold any characters, also slashes, dots and control characters,
    so it must not be passed to the file system.
    """

    type = names.UPLOAD_START
    upload_id: str
    name: str
    mime_type: str
    size: int
    id: Id | None = None


@attrs.frozen
class UploadAbort(_Control):
    """`reactor.upload_abort`: ends an upload that is under way."""

    type = names.UPLOAD_ABORT
    upload_id: str
    id: Id | None = None


@attrs.frozen
class ConfigureTrack(_Control):
    """`reactor.configure_track`: changes settings of one output track, for this client.

    `changes` holds the settings that the client named; all others stay as they are. A value of None takes a
    setting back to its default. The settings: `codec` (the default is the server's), `max_fps` (frames a
    second, > 0; no limit), `max_width` (pixels, >= 16; no limit), `paused` (False).
    """

    type = names.CONFIGURE_TRACK
    track: str
    changes: Mapping[str, Any]
    id: Id | None = None

    def encode(self) -> str:
        """The message's text. Raises `TypeError` for a setting that JSON cannot carry."""
        return encode_client_text(self.type, {"track": self.track, **self.changes}, self.id)


@attrs.frozen
class RequestKeyFrame(_Control):
    """`reactor.request_key_frame`: asks for a frame that can be decoded without those before it."""

    type = names.REQUEST_KEY_FRAME
    track: str
    id: Id | None = None


@attrs.frozen
class FrameShown(_Control):
    """`reactor.frame_shown`: says that the client has put this frame on the screen."""

    type = names.FRAME_SHOWN
    track: str
    seq: int
    id: Id | None = None


Control = Ping | UploadStart | UploadAbort | ConfigureTrack | RequestKeyFrame | FrameShown
"""A text for the runtime, of a type `reactor.*`."""
FromClient = Invoke | Control | UploadChunk | MediaFrame
"""A message from the client."""


@overload
def decode(message: str, loads: Callable[[str], Any] = ...) -> Invoke | Control: ...
@overload
def decode(message: bytes, loads: Callable[[str], Any] = ...) -> UploadChunk | MediaFrame: ...
@overload
def decode(message: str | bytes, loads: Callable[[str], Any] = ...) -> FromClient: ...
def decode(message: str | bytes, loads: Callable[[str], Any] = orjson.loads) -> FromClient:
    """Read one message of a client: a text or a binary message.

    `loads` parses the JSON of a text: pass `slices.loads` for a long one. The payload of a chunk or frame is
    a view of the message, not a copy.

    Raises no error but `ProtocolError`, with `reply_to` wherever a valid `id` could be read: `bad_message`
    for bytes that are no message; `InvalidPayload`, with the path of every fault, for wrong fields of a
    message to the runtime; `unknown_event` for a `reactor.*` type that no client may send.
    """
    if not isinstance(message, str):
        return decode_binary(message)
    type_, data, id_ = read_client_text(message, loads)
    if type_.startswith(names.RUNTIME_PREFIX):
        return read_control(type_, data, id_)
    return Invoke(type_, data, id_)


def read_control(type_: str, data: dict[str, Any], id_: Id | None) -> Control:
    """Make the noun of a `reactor.*` text from its type, data and id. Raises as `decode` does."""
    if type_ == ConfigureTrack.type:
        fields.check(type_, data, id_, _TRACK, _TRACK_SETTINGS)
        changes = {name: value for name, value in data.items() if name != "track"}
        return ConfigureTrack(data["track"], changes, id_)
    if type_ not in _NOUNS:
        raise ProtocolError(
            names.UNKNOWN_EVENT,
            f"the runtime takes no message of type {shorten(type_, LONGEST_NAME)!r}",
            event=type_,
            reply_to=id_,
        )
    noun, rules = _NOUNS[type_]
    fields.check(type_, data, id_, rules)
    return noun(**data, id=id_)


_TRACK: fields.Rules = {"track": fields.track_fault}
_TRACK_SETTINGS: fields.Rules = {
    "codec": fields.codec_fault,
    "max_fps": fields.max_fps_fault,
    "max_width": fields.max_width_fault,
    "paused": fields.paused_fault,
}
_UPLOAD_START: fields.Rules = {
    "upload_id": fields.upload_id_fault,
    "name": fields.label_fault,
    "mime_type": fields.label_fault,
    "size": fields.size_fault,
}
_NOUNS: dict[str, tuple[Callable[..., Control], fields.Rules]] = {
    Ping.type: (Ping, {"t": fields.number_fault}),
    UploadStart.type: (UploadStart, _UPLOAD_START),
    UploadAbort.type: (UploadAbort, {"upload_id": fields.upload_id_fault}),
    RequestKeyFrame.type: (RequestKeyFrame, _TRACK),
    FrameShown.type: (FrameShown, {**_TRACK, "seq": fields.size_fault}),
}
"""By type, for texts whose data are the fields of their noun: the noun, and the rules of its fields."""
