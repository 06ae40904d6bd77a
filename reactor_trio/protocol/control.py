"""The runtime's own messages, `reactor.*`: builders for the server's, parsed nouns for the client's.

The table is in docs/design.md#text-messages. Everything here is pure: each builder returns the text of one
message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.errors import (
    LONGEST_NAME,
    MAX_FIELD_ERRORS,
    FieldError,
    InvalidPayload,
    ProtocolError,
    shorten,
)
from reactor_trio.protocol import names
from reactor_trio.protocol.text import MAX_SAFE_INTEGER, encode_server_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reactor_trio.protocol.text import ClientText, Id

MAX_NAME_LENGTH = 255
"""Characters of an upload's name, and of its MIME type."""
MAX_FPS = 1000
"""Frames a second that a client may name as its limit."""
MIN_WIDTH, MAX_WIDTH = 16, 16384
"""Pixels that a client may name as its limit."""


# ---- from the server


def queued(position: int) -> str:
    """The client waits for a session; 1 is next. Only before the welcome, at each change."""
    return encode_server_text(names.QUEUED, {"position": position})


def welcome(data: Mapping[str, Any]) -> str:
    """The first message of every session: `data` is as docs/design.md#text-messages lists it."""
    return encode_server_text(names.WELCOME, data)


def ack(reply_to: Id) -> str:
    """The answer to a command whose handler returned nothing."""
    return encode_server_text(names.ACK, b"{}", reply_to)


def superseded(reply_to: Id) -> str:
    """The answer to a command that a later one of the same deduplicated event replaced."""
    return encode_server_text(names.SUPERSEDED, b"{}", reply_to)


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
    """A `reactor.error`; the fields that are not given are left out (docs/design.md#errors)."""
    data: dict[str, Any] = {"code": code, "message": message}
    if event is not None:
        data["event"] = event
    if upload_id is not None:
        data["upload_id"] = upload_id
    if errors:
        data["errors"] = [{"path": fault.path, "message": fault.message} for fault in errors]
    if retry_after is not None:
        data["retry_after"] = retry_after
    return encode_server_text(names.ERROR, data, reply_to)


def error_of(exc: ProtocolError) -> str:
    """The `reactor.error` that tells the client of this error, with all that the error carries."""
    faults = exc.errors if isinstance(exc, InvalidPayload) else ()
    return error(
        exc.code,
        exc.message,
        event=exc.event,
        upload_id=exc.upload_id,
        errors=faults,
        retry_after=exc.retry_after,
        reply_to=exc.reply_to,
    )


def pong(t: float, server_time: float, reply_to: Id | None = None) -> str:
    """The answer to a ping: `t` as it was received, `server_time` in seconds of the runtime's clock."""
    return encode_server_text(names.PONG, {"t": t, "server_time": server_time}, reply_to)


def upload_ready(upload_id: str) -> str:
    """The upload was accepted; its chunks may come (docs/design.md#uploads)."""
    return encode_server_text(names.UPLOAD_READY, {"upload_id": upload_id})


def upload_complete(upload_id: str, name: str, mime_type: str, size: int, reply_to: Id | None = None) -> str:
    """Every byte has arrived; `reply_to` is the `id` of the `upload_start` (docs/design.md#uploads)."""
    data = {"upload_id": upload_id, "name": name, "mime_type": mime_type, "size": size}
    return encode_server_text(names.UPLOAD_COMPLETE, data, reply_to)


def goodbye(reason: str) -> str:
    """The last message before the server closes of its own will."""
    return encode_server_text(names.GOODBYE, {"reason": reason})


# ---- from the client


@attrs.frozen
class Ping:
    """`reactor.ping`: `t` is any number, and comes back as it is."""

    t: float


@attrs.frozen
class UploadStart:
    """`reactor.upload_start`: a file of `size` bytes is about to come under an id of the client's choice.

    `name` is a label, never a path: it may hold any characters, slashes, dots and control characters
    too, so it must not be given to the file system as it is.
    """

    upload_id: str
    name: str
    mime_type: str
    size: int


@attrs.frozen
class UploadAbort:
    """`reactor.upload_abort`: the client gives up an upload."""

    upload_id: str


@attrs.frozen
class ConfigureTrack:
    """`reactor.configure_track`: how the client takes one output track.

    `changes` holds what the client said and nothing else; what it leaves out stays as it is. `None` takes a
    setting back to its default: `codec` (the server's default), `max_fps` (frames a second, > 0; no limit),
    `max_width` (pixels, >= 16; no limit), `paused` (False).
    """

    track: str
    changes: Mapping[str, Any]


@attrs.frozen
class RequestKeyFrame:
    """`reactor.request_key_frame`: the client cannot decode on, and needs a whole picture."""

    track: str


@attrs.frozen
class FrameShown:
    """`reactor.frame_shown`: the client has put this frame on the screen."""

    track: str
    seq: int


ClientControl = Ping | UploadStart | UploadAbort | ConfigureTrack | RequestKeyFrame | FrameShown


def parse_control(message: ClientText) -> ClientControl:
    """Read a client's `reactor.*` message.

    Raises `InvalidPayload` with every fault at its path, `reply_to`, and `upload_id` if that much could
    be read; `ProtocolError` (`unknown_event`) for a type that is not a client's to send.
    """
    if message.type == names.PING:
        return Ping(**_checked(message, _PING))
    if message.type == names.UPLOAD_START:
        return UploadStart(**_checked(message, _UPLOAD_START))
    if message.type == names.UPLOAD_ABORT:
        return UploadAbort(**_checked(message, _UPLOAD_ABORT))
    if message.type == names.CONFIGURE_TRACK:
        data = dict(_checked(message, _CONFIGURE_TRACK, optional=_TRACK_SETTINGS))
        return ConfigureTrack(data.pop("track"), data)
    if message.type == names.REQUEST_KEY_FRAME:
        return RequestKeyFrame(**_checked(message, _REQUEST_KEY_FRAME))
    if message.type == names.FRAME_SHOWN:
        return FrameShown(**_checked(message, _FRAME_SHOWN))
    raise ProtocolError(
        names.UNKNOWN_EVENT,
        f"the runtime takes no message of type {shorten(message.type, LONGEST_NAME)!r}",
        event=message.type,
        reply_to=message.id,
    )


def _number_fault(value: object) -> str | None:
    return None if type(value) in (int, float) else "must be a number"


def _size_fault(value: object) -> str | None:
    # Beyond 2^53 a JSON number is no exact count of bytes any more (docs/design.md#events).
    if type(value) is not int:
        return "must be an integer"
    return None if 0 <= value <= MAX_SAFE_INTEGER else "must be between 0 and 2^53"


def _label_fault(value: object) -> str | None:
    if type(value) is not str:
        return "must be a string"
    return None if len(value) <= MAX_NAME_LENGTH else f"must have at most {MAX_NAME_LENGTH} characters"


def upload_id_fault(value: object) -> str | None:
    """What keeps a value from being an upload's id, or None (docs/design.md#uploads)."""
    if type(value) is not str:
        return "must be a string"
    if 1 <= len(value) <= names.MAX_UPLOAD_ID_LENGTH:
        return None
    return f"must have 1 to {names.MAX_UPLOAD_ID_LENGTH} characters"


def _track_fault(value: object) -> str | None:
    return None if type(value) is str and value else "must be the name of a track"


def _codec_fault(value: object) -> str | None:
    return None if value is None or type(value) is str else "must be a string or null"


def _max_fps_fault(value: object) -> str | None:
    if value is None:
        return None
    if type(value) not in (int, float):
        return "must be a number or null"
    return None if 0 < value <= MAX_FPS else f"must be greater than 0 and at most {MAX_FPS}"  # type: ignore[operator]


def _max_width_fault(value: object) -> str | None:
    if value is None:
        return None
    if type(value) is not int:
        return "must be an integer or null"
    return None if MIN_WIDTH <= value <= MAX_WIDTH else f"must be between {MIN_WIDTH} and {MAX_WIDTH}"


def _paused_fault(value: object) -> str | None:
    return None if value is None or type(value) is bool else "must be true, false or null"


Rules = dict[str, "Callable[[object], str | None]"]

_PING: Rules = {"t": _number_fault}
_UPLOAD_ABORT: Rules = {"upload_id": upload_id_fault}
_CONFIGURE_TRACK: Rules = {"track": _track_fault}
_TRACK_SETTINGS: Rules = {
    "codec": _codec_fault,
    "max_fps": _max_fps_fault,
    "max_width": _max_width_fault,
    "paused": _paused_fault,
}
_REQUEST_KEY_FRAME: Rules = {"track": _track_fault}
_FRAME_SHOWN: Rules = {"track": _track_fault, "seq": _size_fault}
_UPLOAD_START: Rules = {
    "upload_id": upload_id_fault,
    "name": _label_fault,
    "mime_type": _label_fault,
    "size": _size_fault,
}


def _checked(message: ClientText, rules: Rules, *, optional: Rules | None = None) -> dict[str, Any]:
    """The message's data, once every field has been found right, none missing and none unknown."""
    data = message.data
    given = {name: rule for name, rule in (optional or {}).items() if name in data}
    rules = {**rules, **given}
    faults = [FieldError(name, fault) for name, rule in rules.items() if (fault := _fault(data, name, rule))]
    unknown = [name for name in data if name not in rules]
    # The first of them: what is counted need not be spelled out.
    faults += [FieldError(name, "unknown field") for name in unknown[:MAX_FIELD_ERRORS]]
    more = max(0, len(unknown) - MAX_FIELD_ERRORS)
    if faults:
        upload_id = data.get("upload_id")
        readable = "upload_id" in rules and upload_id_fault(upload_id) is None
        raise InvalidPayload(
            faults,
            more=more,
            event=message.type,
            upload_id=upload_id if readable else None,
            reply_to=message.id,
        )
    return data


def _fault(data: dict[str, Any], name: str, rule: Callable[[object], str | None]) -> str | None:
    return rule(data[name]) if name in data else "missing"
