"""`json.loads` for a long text, slice by slice, so that no call keeps Python's lock for long.

orjson parses a megabyte in one call, which takes 15 to 30 ms. Meanwhile no other thread runs, and so not
Trio's loop. Here NumPy finds the commas outside of strings and the depth of each, and orjson parses the
pieces between some of those commas.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICE_BYTES: Final = 32 * 1024
"""Bytes that orjson parses in one call, in a millisecond at most."""
MAX_DEPTH: Final = 1024
"""Levels of nesting that orjson itself takes."""

_BACKSLASH, _QUOTE, _COMMA, _COLON = b'\\",:'
_OPENING, _CLOSING = b"[{", b"]}"
_BLANK = b" \t\n\r"


def loads(text: str, slice_bytes: int = SLICE_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Parse a text with the result of `orjson.loads`, and with its errors.

    Raises `ValueError` (a "depth limit") if brackets are nested deeper than `max_depth`, before any is
    parsed.
    """
    try:
        data = text.encode()
        outline = _Outline(data)
        if outline.depth > max_depth < MAX_DEPTH:
            raise DepthLimitExceeded
        if outline.depth <= MAX_DEPTH:
            return _Parser(data, outline, slice_bytes).value(0, len(data), 1)
    except DepthLimitExceeded:
        raise
    except ValueError:
        pass  # its position is that in a slice: `orjson.loads` raises it with the position in the text
    return orjson.loads(text)


class DepthLimitExceeded(ValueError):
    """The text has brackets that are nested too deep."""

    def __str__(self) -> str:
        return "depth limit exceeded"


class _Outline:
    """The places of commas and colons in a JSON text, outside of its strings, and how deep each stands."""

    def __init__(self, data: bytes) -> None:
        codes = np.frombuffer(data, np.uint8)
        outside = ~_in_strings(codes)
        steps = np.zeros(len(codes), np.int8)
        for bracket in _OPENING:
            steps += outside & (codes == bracket)
        for bracket in _CLOSING:
            steps -= outside & (codes == bracket)
        depths = np.cumsum(steps, dtype=np.int32)
        self.depth = int(depths.max(initial=0))
        """How deep brackets are nested at most."""
        self._commas = np.flatnonzero(outside & (codes == _COMMA))
        self._colons = np.flatnonzero(outside & (codes == _COLON))
        self._comma_depths = depths[self._commas]
        self._colon_depths = depths[self._colons]
        self._by_depth: dict[int, NDArray[np.intp]] = {}

    def commas(self, depth: int, start: int, end: int) -> NDArray[np.intp]:
        """The commas of this depth between two places."""
        known = self._by_depth.get(depth)
        if known is None:
            known = self._by_depth[depth] = self._commas[self._comma_depths == depth]
        return known[np.searchsorted(known, start) : np.searchsorted(known, end)]

    def colon(self, depth: int, start: int, end: int) -> int:
        """The first colon of this depth between two places. Raises `ValueError` if there is none."""
        first, last = np.searchsorted(self._colons, (start, end))
        found = np.flatnonzero(self._colon_depths[first:last] == depth)
        if not len(found):
            raise ValueError("no colon")
        return int(self._colons[first + found[0]])


def _in_strings(codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """For each byte, whether it is inside a string, the opening quote included."""
    quotes = codes == _QUOTE
    backslashes = codes == _BACKSLASH
    if backslashes.any():
        # A quote is escaped if the backslashes right before it are odd in number.
        at = np.arange(len(codes), dtype=np.int32)
        last_other = np.maximum.accumulate(np.where(backslashes, np.int32(-1), at))
        places = np.flatnonzero(quotes)
        before = np.maximum(places - 1, 0)
        run = np.where(places > 0, before - last_other[before], 0)
        quotes[places[run % 2 == 1]] = False
    return (np.cumsum(quotes, dtype=np.uint8) & 1).astype(np.bool_)


class _Parser:
    """Parses one text. Every method raises `ValueError` for bytes that are no JSON."""

    def __init__(self, data: bytes, outline: _Outline, slice_bytes: int) -> None:
        self._data = data
        self._outline = outline
        self._slice = slice_bytes

    def value(self, start: int, end: int, depth: int) -> Any:
        """The value between two places. `depth` is that of the commas right inside of the value."""
        data = self._data
        if end - start <= self._slice:
            return orjson.loads(data[start:end])
        while start < end and data[start] in _BLANK:
            start += 1
        while start < end and data[end - 1] in _BLANK:
            end -= 1
        if start == end or data[start] not in _OPENING:
            return orjson.loads(data[start:end])  # a long string
        is_array = data[start] == _OPENING[0]
        if data[end - 1] != _CLOSING[0 if is_array else 1]:
            raise ValueError("not closed")
        return (self._array if is_array else self._object)(start + 1, end - 1, depth)

    def _groups(self, start: int, end: int, depth: int) -> list[tuple[int, int, bool]]:
        """The pieces between two places: start, end, and whether it is a single item longer than a slice."""
        commas = self._outline.commas(depth, start, end)
        groups: list[tuple[int, int, bool]] = []
        while end - start > self._slice:
            # The last comma within a slice, or where there is none, the first behind it.
            index = int(np.searchsorted(commas, start + self._slice, side="right")) - 1
            is_long = index < 0 or commas[index] < start
            index += is_long
            if index == len(commas):
                return [*groups, (start, end, True)]
            groups.append((start, int(commas[index]), is_long))
            start = int(commas[index]) + 1
        return [*groups, (start, end, False)]

    def _array(self, start: int, end: int, depth: int) -> list[Any]:
        items: list[Any] = []
        for first, last, is_long in self._groups(start, end, depth):
            if is_long:
                items.append(self.value(first, last, depth + 1))
            else:
                items += self._piece(b"[%b]", first, last)
        return items

    def _object(self, start: int, end: int, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for first, last, is_long in self._groups(start, end, depth):
            if is_long:
                colon = self._outline.colon(depth, first, last)
                [key] = orjson.loads(b"{%b:0}" % self._data[first:colon])
                items[key] = self.value(colon + 1, last, depth + 1)
            else:
                items.update(self._piece(b"{%b}", first, last))
        return items

    def _piece(self, form: bytes, start: int, end: int) -> Any:
        items = orjson.loads(form % self._data[start:end])
        if not items:
            raise ValueError("nothing between two commas")
        time.sleep(0)  # releases Python's lock, so that another thread can run
        return items
