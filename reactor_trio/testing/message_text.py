"""The text of one message of the wire, as a transcript shows it. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from reactor_trio.errors import ProtocolError
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, decode_binary

HASH_DIGITS = 8
"""Hexadecimal digits of SHA-256: enough to see that something differs."""


def type_of(message: str | bytes) -> str:
    """Return the message's type on the wire; `media` or `chunk` for a binary one, else `unreadable`."""
    if isinstance(message, str):
        text = _text(message)
        return "unreadable" if text is None else str(text["type"])
    media = _binary(message)
    if media is None:
        return "unreadable"
    return "media" if isinstance(media, MediaFrame) else "chunk"


def body_of(message: str | bytes, *, hashes: bool = False) -> str:
    """Return the message as text without a line feed; see `Transcript.render`."""
    if isinstance(message, str):
        text = _text(message)
        return f"unreadable {message!r}" if text is None else _body_of_text(text)
    media = _binary(message)
    match media:
        case MediaFrame():
            return _body_of_media(media, hashes=hashes)
        case UploadChunk(upload_id, offset, payload):
            # The test made these bytes, so that their number is the same in each run.
            size = f"{len(payload)} bytes" + (f" {_hash(payload)}" if hashes else "")
            return f"chunk {upload_id} offset={offset} {size}"
        case _:
            return f"unreadable {len(message)} bytes {_hash(message)}"


def _text(message: str) -> dict[str, Any] | None:
    """Decode a text message of either direction; None if it is not a message."""
    try:
        text = orjson.loads(message)
    except ValueError:
        return None
    return text if isinstance(text, dict) and isinstance(text.get("type"), str) else None


def _binary(message: bytes) -> MediaFrame | UploadChunk | None:
    try:
        return decode_binary(message)
    except ProtocolError:
        return None


def _body_of_text(text: dict[str, Any]) -> str:
    words = [text["type"]]
    words += [f"#{text['id']}"] if "id" in text else []
    words += [f"re #{text['reply_to']}"] if "reply_to" in text else []
    data = text.get("data", {})
    if text["type"] == names.WELCOME and isinstance(data, dict):
        data = _brief(data)
    return " ".join([*words, orjson.dumps(data).decode()])


def _brief(welcome: dict[str, Any]) -> dict[str, Any]:
    """Return the welcome's data without schemas, descriptions and limits."""
    return {
        "session_id": welcome.get("session_id"),
        "model": welcome.get("model", {}).get("name"),
        **{kind: [each.get("name") for each in welcome.get(kind, ())] for kind in _NAMED},
    }


_NAMED = ("events", "messages", "tracks")


def _body_of_media(frame: MediaFrame, *, hashes: bool) -> str:
    size = f"{frame.width}x{frame.height}" if frame.width else f"{frame.rate} Hz, {frame.channels} channels"
    words = ["media", frame.track, f"seq={frame.seq}", f"pts={round(frame.pts, 6)}", frame.codec, size]
    if hashes:
        words.append(f"{len(frame.payload)} bytes {_hash(frame.payload)}")
    return " ".join(words)


def _hash(payload: bytes | memoryview) -> str:
    return f"sha256:{hashlib.sha256(payload).hexdigest()[:HASH_DIGITS]}"
