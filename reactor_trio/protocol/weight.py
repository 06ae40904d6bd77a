"""How many bytes of memory a JSON text may take once it is decoded: up to twenty times its length."""

from __future__ import annotations

from typing import Final

SMALL: Final = 4096
"""Characters of a text up to which its length is its weight: its values cannot take much memory."""
_EACH: Final = (("{", 88), ("[", 64), (",", 64), (":", 112))
"""Bytes for each of these characters: an object, an array, an element, a key with its place in the object.
Measured with CPython 3.11: the sum is one to three times the memory taken, eight times for small integers."""
_EACH_BYTE: Final = tuple([(character.encode(), size) for character, size in _EACH])


def weight_of(text: str) -> int:
    """Bytes that a text and its decoded values may take together; of a small text, its length.

    The four characters are counted inside of strings too: so it takes less than a millisecond for a megabyte.
    """
    size = len(text)
    if size <= SMALL:
        return size
    # In CPython one character beyond Latin-1 makes every character of its string 2 or 4 bytes long.
    width = 1 if text.isascii() and "\\u" not in text else 4
    return size * width + sum([text.count(character) * each for character, each in _EACH])


def weight_of_bytes(data: bytes) -> int:
    """The weight of JSON in UTF-8, as `weight_of`, but counted also if it is small."""
    width = 1 if data.isascii() and b"\\u" not in data else 4
    return len(data) * width + sum([data.count(character) * each for character, each in _EACH_BYTE])
