"""`key=value` words of the command line -> the fields of a payload, guided by the event's schema. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Schema = dict[str, Any]


class WordError(ValueError):
    """A word of the command line that is no valid field; the text names the word and the reason."""


@attrs.frozen
class File:
    """`key=@path`: a file that is uploaded first."""

    path: Path


@attrs.frozen
class Word:
    """One `key=value`: `("camera", "zoom")` and `"2"`."""

    key: tuple[str, ...]
    value: str | File


def read_words(words: Sequence[str]) -> list[Word]:
    """Parse the words. Does not check whether a path is a file.

    Raises `WordError` for a word without `=`, an empty key, and a key given twice or inside another.
    """
    fields = [_read_word(word) for word in words]
    for index, field in enumerate(fields):
        for other in fields[:index]:
            shorter = min(len(field.key), len(other.key))
            if field.key[:shorter] == other.key[:shorter]:
                raise WordError(f"{'.'.join(field.key)}: collides with {'.'.join(other.key)}")
    return fields


def _read_word(word: str) -> Word:
    name, equals, text = word.partition("=")
    key = tuple(name.split("."))
    if not equals or not all(key):
        raise WordError(f"{word!r} is not of the form key=value")
    if text.startswith("@@"):
        return Word(key, text[1:])
    if text.startswith("@"):
        return Word(key, File(Path(text[1:])))
    return Word(key, text)


def nest(values: Sequence[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """Objects from dotted keys: `(("camera", "zoom"), 2)` -> `{"camera": {"zoom": 2}}`."""
    payload: dict[str, Any] = {}
    for key, value in values:
        inner = payload
        for name in key[:-1]:
            inner = inner.setdefault(name, {})
        inner[key[-1]] = value
    return payload


def parse(text: str, key: tuple[str, ...], schema: Mapping[str, Any]) -> Any:
    """The JSON value of a word for the field at `key`.

    Where the schema wants a string, the text is the string: `5` stays "5". Elsewhere it is read as JSON,
    else as YAML. A value that does not fit is sent all the same: the server says what is wrong with it.
    """
    allowed = _at(key, schema)
    if any(text in _values(each) for each in allowed):
        return text
    types = {name for each in allowed for name in _types(each)}
    if types and types <= {"string", "null"}:
        return None if text == "null" and "null" in types else text
    return _scalar(text)


def _at(key: tuple[str, ...], root: Mapping[str, Any]) -> list[Schema]:
    """The alternative schemas of the field at `key`; an empty schema allows anything."""
    found = list(_alternatives(dict(root), root))
    for name in key:
        found = [each for schema in found for each in _alternatives(_property(schema, name), root)]
    return found


def _property(schema: Schema, name: str) -> Schema:
    inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
    return inner if isinstance(inner, dict) else {}


def _alternatives(schema: Schema, root: Mapping[str, Any], depth: int = 0) -> Iterator[Schema]:
    # The depth is bounded, since a reference may lead back to itself.
    reference = schema.get("$ref", "") if depth < 32 else ""
    if reference.startswith("#/$defs/"):
        target = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
        yield from _alternatives(target, root, depth + 1)
    elif "anyOf" in schema and depth < 32:
        for each in schema["anyOf"]:
            yield from _alternatives(each, root, depth + 1)
    else:
        yield schema


def _values(schema: Schema) -> list[Any]:
    return [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]


def _types(schema: Schema) -> list[str]:
    """Names of the JSON types; `any` where the schema says nothing."""
    types = schema.get("type", "any")
    return [types] if isinstance(types, str) else list(types)


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = yaml.safe_load(text) if text.strip() else text
        except (yaml.YAMLError, ValueError):  # a date such as 2024-99-99 is a ValueError
            return text
    try:
        # Dates, sets and bytes of YAML, and NaN, are not JSON: then the text itself is the value.
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return text
    return value
