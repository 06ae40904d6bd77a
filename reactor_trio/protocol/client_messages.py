"""Messages from the client, as frozen nouns: `decode` reads the bytes of one, its `encode` writes them.

    text     Invoke           a command for the model
             Ping, UploadStart, UploadAbort, ConfigureTrack, RequestKeyFrame, FrameShown
    binary   UploadChunk, MediaFrame (protocol/binary.py)

The `id` of a text asks for one answer; it is None where the client wants none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

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

    # One is made for every command, in half the time that the `__init__` of a frozen attrs class takes.
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
    """A text for the runtime, whose data are the fields of its noun, but for `id`."""

    type: ClassVar[str]

    def encode(self) -> str:
        """The message's text. Raises `TypeError` for a value that JSON cannot carry."""
        data = attrs.asdict(self, recurse=False)
        id_ = data.pop("id")
        return encode_client_text(self.type, data, id_)


@attrs.frozen
class Ping(_Control):
    """`reactor.ping`: `t` is any number, and comes back as it is."""

    type = names.PING
    t: float
    id: Id | None = None


@attrs.frozen
class UploadStart(_Control):
    """`reactor.upload_start`: a file of `size` bytes is about to come under an id of the client's choice.

    `name` is a label, never a path: it may hold any characters, slashes, dots and control characters
    too, so it must not be given to the file system as it is.
    """

    type = names.UPLOAD_START
    upload_id: str
    name: str
    mime_type: str
    size: int
    id: Id | None = None


@attrs.frozen
class UploadAbort(_Control):
    """`reactor.upload_abort`: the client gives up an upload."""

    type = names.UPLOAD_ABORT
    upload_id: str
    id: Id | None = None


@attrs.frozen
class ConfigureTrack(_Control):
    """`reactor.configure_track`: how the client takes one output track.

    `changes` holds the settings that the client named and nothing else; the others stay as they are. `None`
    takes a setting back to its default: `codec` (the server's default), `max_fps` (frames a second, > 0; no
    limit), `max_width` (pixels, >= 16; no limit), `paused` (False).
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
    """`reactor.request_key_frame`: the client cannot decode on, and needs a whole picture."""

    type = names.REQUEST_KEY_FRAME
    track: str
    id: Id | None = None


@attrs.frozen
class FrameShown(_Control):
    """`reactor.frame_shown`: the client has put this frame on the screen."""

    type = names.FRAME_SHOWN
    track: str
    seq: int
    id: Id | None = None


Control = Ping | UploadStart | UploadAbort | ConfigureTrack | RequestKeyFrame | FrameShown
"""A text for the runtime, not for the model."""
FromClient = Invoke | Control | UploadChunk | MediaFrame
"""A message from the client."""


def decode(message: str | bytes, loads: Callable[[str], Any] = orjson.loads) -> FromClient:
    """Read one message of a client: a text or a binary message.

    `loads` parses the JSON of a text; for a long text there is `slices.loads`. The payload of a chunk or
    frame is a view of the message, not a copy.

    Raises nothing but `ProtocolError`, with `reply_to` wherever a valid `id` could be read: `bad_message` for
    bytes that are no message; `InvalidPayload` for a message to the runtime with wrong fields, naming all of
    them, with `event` and, where it is valid, `upload_id`; `unknown_event` for a `reactor.*` type that no
    client may send.
    """
    return decode_text(message, loads) if isinstance(message, str) else decode_binary(message)


def decode_text(text: str, loads: Callable[[str], Any] = orjson.loads) -> Invoke | Control:
    """Read one text of a client; see `decode`."""
    type_, data, id_ = read_client_text(text, loads)
    if type_.startswith(names.RUNTIME_PREFIX):
        return read_control(type_, data, id_)
    return Invoke(type_, data, id_)


def read_control(type_: str, data: dict[str, Any], id_: Id | None) -> Control:
    """The noun of a `reactor.*` text, from its type, data and id. Raises `ProtocolError`; see `decode`."""
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
"""Of each type whose data are the fields of its noun: the noun, and what the fields must be."""
