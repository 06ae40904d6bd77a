"""Text messages: JSON objects with `type`, `data` and `id` or `reply_to` (docs/design.md#text-messages).

Decoding raises nothing but `ProtocolError`, whatever the text is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from reactor_trio.errors import ProtocolError
from reactor_trio.protocol.names import BAD_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Id = str | int

MAX_SAFE_INTEGER = 2**53
"""The bound of an integer `id`, plus or minus: up to it, JavaScript represents every integer exactly."""

MAX_DEPTH = 100
"""How many levels of arrays and objects a client's message may have; the message itself is the first."""

_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
MAX_ID_LENGTH = 1024
"""Characters of an `id`. The server keeps the id of a command or an upload until it sends the answer."""
_ID_RULE = f"`id` must be a string of at most {MAX_ID_LENGTH} characters, or an integer within ±2^53"
_REPLY_RULE = f"`reply_to` must be a string of at most {MAX_ID_LENGTH} characters, or an integer within ±2^53"
_JSON_NAMES = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}


def read_client_text(
    text: str, loads: Callable[[str], Any] = orjson.loads
) -> tuple[str, dict[str, Any], Id | None]:
    """Read a client's message into its type, data and `id`; the id is None if the client wants no answer.

    Unknown keys are ignored. The values are nested at most `MAX_DEPTH` levels deep, so recursive code (of
    this package or of an author) cannot exhaust Python's stack on them.

    `loads` parses JSON: pass `slices.loads` for a long text. Raises `ProtocolError` (`bad_message`), with
    `reply_to` wherever a valid `id` could be read.
    """
    return _decode(text, "id", _ID_RULE, MAX_DEPTH, loads)


def read_server_text(text: str) -> tuple[str, dict[str, Any], Id | None]:
    """Read a server's message into its type, data and `reply_to`. Unknown keys are ignored.

    Raises `ProtocolError` (`bad_message`).
    """
    return _decode(text, "reply_to", _REPLY_RULE)


def encode_client_text(type: str, data: Mapping[str, Any], id: Id | None = None) -> str:  # noqa: A002  the wire's word
    """Write a client's message. Raises `TypeError` for data that JSON cannot carry."""
    message: dict[str, Any] = {"type": type, "data": dict(data)}
    if id is not None:
        message["id"] = id
    return orjson.dumps(message).decode()


def encode_server_text(type: str, data: Mapping[str, Any], reply_to: Id | None = None) -> str:  # noqa: A002
    """Write a server's message.

    Half a surrogate pair in a text becomes U+FFFD. Raises `TypeError` for data that JSON cannot carry.
    """
    message: dict[str, Any] = {"type": type, "data": dict(data)}
    if reply_to is not None:
        message["reply_to"] = reply_to
    try:
        return orjson.dumps(message).decode()
    except TypeError:  # most likely a text with half a surrogate pair
        return orjson.dumps(_encodable(message)).decode()


def encodable(text: str) -> str:
    """The text with each lone surrogate, which UTF-8 cannot carry, replaced by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(inner) for key, inner in value.items()}
    return [_encodable(inner) for inner in value] if isinstance(value, list | tuple) else value


def _decode(
    text: str,
    id_key: str,
    id_rule: str,
    max_depth: int | None = None,
    loads: Callable[[str], Any] = orjson.loads,
) -> tuple[str, dict[str, Any], Id | None]:
    # The hot path of every command: one parse, four type checks, one count of a character.
    try:
        message = loads(text)
    except ValueError as error:
        # orjson takes 1024 levels, more than `MAX_DEPTH`. Its error says "depth limit", that of older
        # versions "recursion depth exceeded".
        fault = _TOO_DEEP if "depth" in str(error) else f"not JSON: {error}"
        raise ProtocolError(BAD_MESSAGE, fault) from None
    if type(message) is not dict:
        raise ProtocolError(BAD_MESSAGE, f"a message must be a JSON object, not {_json_name(message)}")
    id_ = message.get(id_key)
    if id_ is None:
        # `null` is a mistake of the client, not the same as no `id`: it may expect an answer.
        if id_key in message:
            raise ProtocolError(BAD_MESSAGE, f"{id_rule}, not null")
    elif not is_id(id_):
        found = "a longer one" if type(id_) is str else _json_name(id_)
        raise ProtocolError(BAD_MESSAGE, f"{id_rule}, not {found}")
    type_ = message.get("type")
    if type(type_) is not str or not type_:
        raise ProtocolError(BAD_MESSAGE, _type_fault(message), reply_to=id_)
    data = message.get("data", _ABSENT)
    if data is _ABSENT:
        data = {}
    elif type(data) is not dict:
        raise ProtocolError(BAD_MESSAGE, f"`data` must be an object, not {_json_name(data)}", reply_to=id_)
    # No bracket is shorter than a character, and each has its partner.
    if max_depth is not None and len(text) > 2 * max_depth and _is_deeper(message, max_depth):
        raise ProtocolError(BAD_MESSAGE, _TOO_DEEP, reply_to=id_)
    # Every key has its colon, so when there are no more colons than keys, no key was given twice.
    if text.count(":") != len(message) + len(data) and _has_duplicate_keys(text, message):
        raise ProtocolError(BAD_MESSAGE, "a key stands twice in one object", reply_to=id_)
    return type_, data, id_


_ABSENT: Any = object()


def is_id(value: object) -> bool:
    """Whether a value may be an `id`. A boolean is no integer (docs/design.md#events: strict)."""
    kind = type(value)
    if kind is str:
        return len(value) <= MAX_ID_LENGTH  # type: ignore[arg-type]
    return kind is int and -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER  # type: ignore[operator]


def _has_duplicate_keys(text: str, message: dict[str, Any]) -> bool:
    # orjson keeps the last of two equal keys and says nothing, so the keys that were written are counted.
    keys = _count_keys(message)
    return text.count(":") != keys and _count_colons_outside_strings(text) != keys


def _is_deeper(message: dict[str, Any], depth: int) -> bool:
    level: Sequence[object] = (message,)
    for _ in range(depth):
        level = _inner(level)
        if not level:
            return False
    return True


def _count_keys(message: dict[str, Any]) -> int:
    keys = 0
    level: Sequence[object] = (message,)
    while level:
        keys += sum([len(each) for each in level if type(each) is dict])
        level = _inner(level)
    return keys


def _inner(level: Sequence[Any]) -> list[object]:
    """The arrays and objects right inside of those of `level`: no recursion, for there may be 1024 levels."""
    return [
        inner
        for each in level
        for inner in (each.values() if type(each) is dict else each)
        if type(inner) is dict or type(inner) is list
    ]


def _count_colons_outside_strings(text: str) -> int:
    # `text` is known to be JSON, so a backslash can stand only in a string. Once escaped backslashes and
    # escaped quotes are removed, every second part between quotes is a string. A regular expression took
    # twice the time for a message of 1 MiB full of short strings.
    plain = text.replace("\\\\", "").replace('\\"', "")
    return "".join(plain.split('"')[::2]).count(":")


def _type_fault(message: dict[str, Any]) -> str:
    if "type" not in message:
        return "`type` is missing"
    found = message["type"]
    return "`type` must not be empty" if found == "" else f"`type` must be a string, not {_json_name(found)}"


def _json_name(value: object) -> str:
    if type(value) is int and abs(value) > MAX_SAFE_INTEGER:
        return "an integer beyond it"
    return "null" if value is None else _JSON_NAMES.get(type(value), "an object")
