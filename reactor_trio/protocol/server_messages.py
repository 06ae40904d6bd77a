"""Messages from the server, as frozen nouns: `encode` of a noun writes its text, `decode_server` reads it.

`weight` of a noun is the approximate size of its text in bytes. It is found without encoding the noun, so
that a queue of nouns can be bounded in bytes, and the task that writes to the transport can do the encoding.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import orjson

from reactor_trio.errors import FieldError, InvalidPayload
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, decode_binary
from reactor_trio.protocol.text import encode_server_text, read_server_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.errors import ProtocolError
    from reactor_trio.protocol.text import Id

_FRAME = 64
"""Bytes of a text beside its variable parts: braces, keys, the type, an integer `reply_to`."""


@attrs.frozen
class _Told:
    """A text of the runtime, of a type `reactor.*`. Its data are the noun's fields, except `reply_to`."""

    type: ClassVar[str]

    @property
    def weight(self) -> int:
        """About the bytes of its text."""
        return 2 * _FRAME

    def encode(self) -> str:
        """The message's text."""
        data = attrs.asdict(self, recurse=False)
        reply_to = data.pop("reply_to", None)
        return encode_server_text(self.type, data, reply_to)


@attrs.frozen
class Welcome(_Told):
    """`reactor.welcome`, the first message of every session: `data` describes the model and the limits."""

    type = names.WELCOME
    data: Mapping[str, Any]

    @property
    def weight(self) -> int:
        """The bytes of its text. This encodes the noun; `encode` then returns the same text."""
        return len(self._text)

    def encode(self) -> str:
        """The message's text. Raises `TypeError` for data that JSON cannot carry."""
        return self._text

    @cached_property
    def _text(self) -> str:
        return encode_server_text(self.type, self.data)


@attrs.frozen
class Queued(_Told):
    """`reactor.queued`: the client waits for a session; position 1 is next. Only before the welcome."""

    type = names.QUEUED
    position: int


@attrs.frozen(init=False)
class Ack(_Told):
    """`reactor.ack`: the answer to a command whose handler returned nothing."""

    type = names.ACK
    reply_to: Id

    # An `Ack` answers nearly every command. It takes a third less time than the one of attrs,
    # and the f-string in `encode` less than half the time of orjson.
    def __init__(self, reply_to: Id) -> None:
        _set_answered(self, reply_to)

    @property
    def weight(self) -> int:
        """About the bytes of its text."""
        return _FRAME if type(self.reply_to) is int else _FRAME + _id_weight(self.reply_to)

    def encode(self) -> str:
        """The message's text."""
        if type(self.reply_to) is int:
            return f'{{"type":"reactor.ack","data":{{}},"reply_to":{self.reply_to}}}'
        return _text(self.type, "{}", self.reply_to)


_set_answered = Ack.__dict__["reply_to"].__set__


@attrs.frozen
class Superseded(_Told):
    """`reactor.superseded`: the answer to a command that a later command of the same event replaced."""

    type = names.SUPERSEDED
    reply_to: Id

    @property
    def weight(self) -> int:
        """About the bytes of its text."""
        return _FRAME + _id_weight(self.reply_to)

    def encode(self) -> str:
        """The message's text."""
        return _text(self.type, "{}", self.reply_to)


@attrs.frozen
class Error(_Told):
    """`reactor.error`: the server refuses a message of the client, or has failed.

    `retry_after` is in seconds. Fields that are None, and empty `errors`, are left out of the text.
    """

    type = names.ERROR
    code: str
    message: str
    event: str | None = attrs.field(default=None, kw_only=True)
    upload_id: str | None = attrs.field(default=None, kw_only=True)
    errors: tuple[FieldError, ...] = attrs.field(default=(), kw_only=True)
    retry_after: float | None = attrs.field(default=None, kw_only=True)
    reply_to: Id | None = attrs.field(default=None, kw_only=True)

    @classmethod
    def of(cls, exc: ProtocolError) -> Error:
        """The message that carries this error to the client, with all its fields."""
        return cls(
            exc.code,
            exc.message,
            event=exc.event,
            upload_id=exc.upload_id,
            errors=tuple(exc.errors) if isinstance(exc, InvalidPayload) else (),
            retry_after=exc.retry_after,
            reply_to=exc.reply_to,
        )

    @property
    def data(self) -> dict[str, Any]:
        """The data of its text."""
        data: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.event is not None:
            data["event"] = self.event
        if self.upload_id is not None:
            data["upload_id"] = self.upload_id
        if self.errors:
            data["errors"] = [{"path": fault.path, "message": fault.message} for fault in self.errors]
        if self.retry_after is not None:
            data["retry_after"] = self.retry_after
        return data

    @property
    def weight(self) -> int:
        """About the bytes of its text."""
        weight = 2 * _FRAME + len(self.code) + len(self.message) + _id_weight(self.reply_to)
        weight += len(self.event or "") + len(self.upload_id or "")
        return weight + sum([32 + len(fault.path) + len(fault.message) for fault in self.errors])

    def encode(self) -> str:
        """The message's text."""
        return encode_server_text(self.type, self.data, self.reply_to)


@attrs.frozen
class Pong(_Told):
    """`reactor.pong`: the answer to a ping, with the ping's `t`.

    `server_time` is in seconds of the runtime's clock.
    """

    type = names.PONG
    t: float
    server_time: float
    reply_to: Id | None = None

    @property
    def weight(self) -> int:
        """About the bytes of its text."""
        return 2 * _FRAME + _id_weight(self.reply_to)


@attrs.frozen
class UploadReady(_Told):
    """`reactor.upload_ready`: the server accepts the upload and waits for its chunks."""

    type = names.UPLOAD_READY
    upload_id: str


@attrs.frozen
class UploadComplete(_Told):
    """`reactor.upload_complete`: every byte has arrived; `reply_to` is the `id` of the `upload_start`."""

    type = names.UPLOAD_COMPLETE
    upload_id: str
    name: str
    mime_type: str
    size: int
    reply_to: Id | None = None

    @property
    def weight(self) -> int:
        """About the bytes of its text."""
        texts = len(self.upload_id) + len(self.name) + len(self.mime_type)
        return 2 * _FRAME + texts + _id_weight(self.reply_to)


@attrs.frozen
class Goodbye(_Told):
    """`reactor.goodbye`: the last message before the server closes of its own will."""

    type = names.GOODBYE
    reason: str


@attrs.frozen(init=False)
class ModelText:
    """A message of the model; `body` is its data, as JSON in UTF-8. A client reads it as a `ServerMessage`.

    `reply_to` is the `id` of the command that the message answers, None if it answers none.
    """

    type: str
    body: bytes = attrs.field(repr=False)
    reply_to: Id | None = None

    # A model may send one with every frame: see `Ack`.
    def __init__(self, type: str, body: bytes, reply_to: Id | None = None) -> None:  # noqa: A002  the wire's word
        _set_type(self, type)
        _set_body(self, body)
        _set_reply_to(self, reply_to)

    @property
    def weight(self) -> int:
        """About the bytes of its text."""
        return _FRAME + len(self.type) + len(self.body) + _id_weight(self.reply_to)

    def encode(self) -> str:
        """The message's text."""
        return _text(self.type, self.body.decode(), self.reply_to)


_set_type, _set_body, _set_reply_to = (
    ModelText.__dict__[name].__set__ for name in ("type", "body", "reply_to")
)


def _text(type_: str, body: str, reply_to: Id | None) -> str:
    """The text of a message whose data are JSON already, in half the time that orjson would take."""
    if reply_to is None:
        return f"{_head(type_)}{body}}}"
    answered = reply_to if type(reply_to) is int else orjson.dumps(reply_to).decode()
    return f'{_head(type_)}{body},"reply_to":{answered}}}'


@lru_cache(maxsize=256)
def _head(type_: str) -> str:
    """The beginning of a text, up to its data. The cache suffices: a model has few types of messages."""
    return f'{{"type":{orjson.dumps(type_).decode()},"data":'


@attrs.frozen
class ServerMessage:
    """A message from the server; `reply_to` is set in answers to a command."""

    type: str
    data: Mapping[str, Any]
    reply_to: Id | None = None


ToClient = (
    Welcome | Queued | Ack | Superseded | Error | Pong | UploadReady | UploadComplete | Goodbye | ModelText
)
"""A text that a server sends."""
FromServer = (
    Welcome
    | Queued
    | Ack
    | Superseded
    | Error
    | Pong
    | UploadReady
    | UploadComplete
    | Goodbye
    | ServerMessage
    | MediaFrame
    | UploadChunk
)
"""A message that a client has received."""
Answer = Ack | Superseded | Error | Pong | UploadComplete | ServerMessage
"""A message with a `reply_to`: it may answer a message of the client that had this `id`."""


def decode_server(message: str | bytes) -> FromServer:
    """Read one message of a server.

    A `ServerMessage` is a message of the model, or a `reactor.*` text that fits no noun of this module: a
    later version of the server may send such ones. Unknown fields of a noun are ignored, except in
    `Welcome.data`. The payload of a frame is a view of the message, not a copy.

    Raises no error but `ProtocolError` (`bad_message`).
    """
    if not isinstance(message, str):
        return decode_binary(message)
    type_, data, reply_to = read_server_text(message)
    noun = _noun(type_, data, reply_to) if type_.startswith(names.RUNTIME_PREFIX) else None
    return ServerMessage(type_, data, reply_to) if noun is None else noun


def _noun(type_: str, data: dict[str, Any], reply_to: Id | None) -> FromServer | None:
    """The noun of a `reactor.*` text, or None if the text does not fit one."""
    if type_ == Error.type:
        return _error(data, reply_to)
    if type_ == Welcome.type:
        return Welcome(data) if reply_to is None else None
    if type_ not in _NOUNS:
        return None
    noun, kinds, answers = _NOUNS[type_]
    if answers != "maybe" and answers != ("never" if reply_to is None else "always"):
        return None
    if any(type(data.get(name)) not in allowed for name, allowed in kinds.items()):
        return None
    values = {name: data[name] for name in kinds}
    return noun(**values) if answers == "never" else noun(**values, reply_to=reply_to)


def _error(data: dict[str, Any], reply_to: Id | None) -> Error:
    # An error is read whatever its fields are: the client must learn that its command was refused.
    event, upload_id, retry_after = data.get("event"), data.get("upload_id"), data.get("retry_after")
    faults = data.get("errors")
    return Error(
        str(data.get("code")),
        str(data.get("message", "")),
        event=event if type(event) is str else None,
        upload_id=upload_id if type(upload_id) is str else None,
        errors=tuple(
            FieldError(str(fault.get("path", "")), str(fault.get("message", "")))
            for fault in (faults if type(faults) is list else ())
            if type(fault) is dict
        ),
        retry_after=retry_after if type(retry_after) in _NUMBER else None,
        reply_to=reply_to,
    )


def _id_weight(id_: Id | None) -> int:
    return len(id_) if isinstance(id_, str) else 0


_Kinds = dict[str, tuple[type, ...]]
_TEXT, _COUNT, _NUMBER = (str,), (int,), (int, float)
_UPLOAD: _Kinds = {"upload_id": _TEXT, "name": _TEXT, "mime_type": _TEXT, "size": _COUNT}
_NOUNS: dict[
    str,
    tuple[Callable[..., FromServer], _Kinds, Literal["always", "maybe", "never"]],
] = {
    Queued.type: (Queued, {"position": _COUNT}, "never"),
    Ack.type: (Ack, {}, "always"),
    Superseded.type: (Superseded, {}, "always"),
    Pong.type: (Pong, {"t": _NUMBER, "server_time": _NUMBER}, "maybe"),
    UploadReady.type: (UploadReady, {"upload_id": _TEXT}, "never"),
    UploadComplete.type: (UploadComplete, _UPLOAD, "maybe"),
    Goodbye.type: (Goodbye, {"reason": _TEXT}, "never"),
}
"""By type: the noun, the JSON types that each of its fields may have, and whether it has a `reply_to`."""
