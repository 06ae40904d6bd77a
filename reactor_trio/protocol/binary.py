"""Binary messages: `kind` u8, `header_length` u16 big-endian, header (JSON), payload.

The layout is in docs/design.md#binary-messages. Decoding raises nothing but `ProtocolError`, whatever the
bytes are, and copies no payload.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from reactor_trio.errors import ProtocolError
from reactor_trio.protocol.fields import upload_id_fault
from reactor_trio.protocol.names import BAD_MESSAGE
from reactor_trio.protocol.text import MAX_SAFE_INTEGER
from reactor_trio.protocol.weight import weight_of_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA = 1
UPLOAD_CHUNK = 2
MAX_HEADER_BYTES = 0xFFFF
MAX_CHUNK_HEADER_BYTES = 1024
"""Bytes of the header of a chunk: an upload id of 64 characters takes at most 768, if all are escaped."""

_PREFIX = struct.Struct(">BH")
_SIZES = ("width", "height", "rate", "channels")
_KNOWN = frozenset({"track", "seq", "pts", "codec", *_SIZES})


@attrs.frozen
class MediaFrame:
    """One encoded frame of a track.

    `seq` counts what the model emitted, from 0 and per track; `pts` is in seconds since the session's
    start; `width` and `height` are in pixels, `rate` in samples a second. `extra` holds the other fields of
    the header. The payload of a decoded frame is a view of the received message, not a copy.
    """

    track: str
    seq: int
    pts: float
    codec: str
    payload: bytes | memoryview = attrs.field(repr=False)
    width: int | None = None
    height: int | None = None
    rate: int | None = None
    channels: int | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict)
    weight: int = attrs.field(default=0, eq=False, repr=False)
    """Bytes of memory that `extra` of a decoded frame may take; 0 in a frame that was not decoded."""


@attrs.frozen
class UploadChunk:
    """A part of an upload, `offset` in bytes. A decoded payload is a view of the message, not a copy."""

    upload_id: str
    offset: int
    payload: bytes | memoryview = attrs.field(repr=False)


def encode_media(frame: MediaFrame) -> bytes:
    """Write a frame, copying its payload once. The known fields win over `extra`.

    Raises `ValueError` if the header is longer than 65535 bytes.
    """
    sizes = {name: getattr(frame, name) for name in _SIZES}
    header = {
        "track": frame.track,
        "seq": frame.seq,
        "pts": frame.pts,
        "codec": frame.codec,
        **{name: value for name, value in sizes.items() if value is not None},
    }
    return b"".join((_media_head(header, frame.extra), frame.payload))


def encode_video(
    track: str,
    seq: int,
    pts: float,
    codec: str,
    payload: bytes | memoryview,
    width: int,
    height: int,
    extra: Mapping[str, Any],
) -> tuple[bytes, bytes | memoryview]:
    """Write a frame of video as `encode_media` does, but in two parts: header and payload.

    A server writes every frame of its models so: no `MediaFrame` is made, and no payload is copied.
    """
    header = {"track": track, "seq": seq, "pts": pts, "codec": codec, "width": width, "height": height}
    return _media_head(header, extra), payload


def encode_upload_chunk(chunk: UploadChunk) -> bytes:
    """Write a chunk, copying its payload once. Raises `ValueError` if the header is over 65535 bytes."""
    header = {"upload_id": chunk.upload_id, "offset": chunk.offset}
    return b"".join((_head(UPLOAD_CHUNK, header), chunk.payload))


def decode_binary(data: bytes) -> MediaFrame | UploadChunk:
    """Read a binary message of either direction.

    Unknown header fields of a chunk are ignored, those of a frame are kept in `extra`. The header of a chunk
    has at most 1 KiB.

    Raises `ProtocolError` (`bad_message`) for bytes that are not exactly one message.
    """
    if len(data) < _PREFIX.size:
        raise _bad(f"a binary message has at least {_PREFIX.size} bytes, not {len(data)}")
    kind, header_length = _PREFIX.unpack_from(data)
    start = _PREFIX.size + header_length
    if start > len(data):
        raise _bad(f"the header of {header_length} bytes is longer than the message")
    view = memoryview(data)
    if kind == UPLOAD_CHUNK:
        if header_length > MAX_CHUNK_HEADER_BYTES:
            raise _bad(
                f"the header of a chunk has at most {MAX_CHUNK_HEADER_BYTES} bytes, not {header_length}"
            )
        return _upload_chunk(_header(view[_PREFIX.size : start]), view[start:])
    if kind == MEDIA:
        header = view[_PREFIX.size : start]
        return _media_frame(header, view[start:])
    raise _bad(f"unknown kind {kind} of binary message")


def _media_head(header: dict[str, Any], extra: Mapping[str, Any]) -> bytes:
    if extra:
        # `extra` stands behind the known fields, so that a transcript shows those first.
        header = {**header, **extra, **header}
    return _head(MEDIA, header)


def _head(kind: int, header: dict[str, Any]) -> bytes:
    encoded = orjson.dumps(header)
    if len(encoded) > MAX_HEADER_BYTES:
        raise ValueError(f"a header has at most {MAX_HEADER_BYTES} bytes, not {len(encoded)}")
    return _PREFIX.pack(kind, len(encoded)) + encoded


def _bad(message: str) -> ProtocolError:
    return ProtocolError(BAD_MESSAGE, message)


def _header(view: memoryview) -> dict[str, Any]:
    # orjson refuses NaN and infinities itself, also those written as 1e999.
    try:
        header = orjson.loads(view)
    except ValueError as error:
        raise _bad(f"the header is not JSON: {error}") from None
    if type(header) is not dict:
        raise _bad("the header must be a JSON object")
    return header


def _media_frame(encoded: memoryview, payload: memoryview) -> MediaFrame:
    header = _header(encoded)
    pts = header.get("pts")
    if type(pts) is not float and type(pts) is not int:
        raise _bad("`pts` must be a number of seconds")
    extra = {name: value for name, value in header.items() if name not in _KNOWN}
    return MediaFrame(
        track=_text(header, "track"),
        seq=_count(header, "seq"),
        pts=float(pts),
        codec=_text(header, "codec"),
        payload=payload,
        extra=extra,
        weight=weight_of_bytes(bytes(encoded)) if extra else 0,
        **{name: _count(header, name, least=1) for name in _SIZES if name in header},
    )


def _upload_chunk(header: dict[str, Any], payload: memoryview) -> UploadChunk:
    upload_id = header.get("upload_id")
    fault = upload_id_fault(upload_id)
    if fault is not None:
        raise _bad(f"`upload_id` {fault}")
    return UploadChunk(upload_id, _count(header, "offset"), payload)  # type: ignore[arg-type]


def _text(header: dict[str, Any], name: str) -> str:
    value = header.get(name)
    if type(value) is not str or not value:
        raise _bad(f"`{name}` must be a string that is not empty")
    return value


def _count(header: dict[str, Any], name: str, *, least: int = 0) -> int:
    value = header.get(name)
    if type(value) is not int or not least <= value <= MAX_SAFE_INTEGER:
        raise _bad(f"`{name}` must be an integer from {least} to 2^53")
    return value
