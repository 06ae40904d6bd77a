"""What a JSON text may take in memory once it is decoded: up to twenty times its length."""

from __future__ import annotations

from typing import Final

SMALL: Final = 4096
"""Texts up to so many characters are weighed by their length: nobody makes much of them."""
_EACH: Final = (("{", 88), ("[", 64), (",", 64), (":", 112))
"""Bytes for each of these characters: an object, an array, an element, a key with its place in the object.
Measured with CPython 3.11: one to three times of what is taken, and eight times for small integers."""
_EACH_BYTE: Final = tuple([(character.encode(), size) for character, size in _EACH])


def weight_of(text: str) -> int:
    """Bytes that the values of a text may take, the text's own among them; its length if it is small.

    The four characters are counted in strings too, so that it takes less than a millisecond for a megabyte.
    """
    size = len(text)
    if size <= SMALL:
        return size
    # One character outside of Latin-1 makes all of its string four times as long.
    width = 1 if text.isascii() and "\\u" not in text else 4
    return size * width + sum([text.count(character) * each for character, each in _EACH])


def weight_of_bytes(data: bytes) -> int:
    """The same of UTF-8 bytes, however few they are."""
    width = 1 if data.isascii() and b"\\u" not in data else 4
    return len(data) * width + sum([data.count(character) * each for character, each in _EACH_BYTE])
