"""The work that decoding a JPEG will take, found before it is decoded by a walk over its markers.

A progressive JPEG consists of scans. Each visits the whole picture, and an empty scan takes 30 bytes.
libjpeg-turbo decodes them all: a file of 14 KB kept a core busy for eight seconds. So the scans are counted
first.

The walk finds the same markers as libjpeg-turbo's `jdmarker.c`, garbage between segments included. A file
that libjpeg-turbo would read in another way is refused, and so are kinds of JPEG that no browser and no
camera makes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_PASSES = 24
"""How often the coefficients of a picture may be visited, on average. Files of cameras and browsers take 5 or
6 visits in 10 scans; a file of 64 scans that each visit the whole picture takes 64."""
MAX_SEGMENTS = 4096
"""Segments that a file may have; 64 MB of metadata are 1000."""
MAX_COEFFICIENTS = 128_000_000
"""Coefficients of a picture in several scans: 256 MB, or 42 million pixels without subsampled colours."""
SEARCH_BYTES = 128 * 1024
"""Bytes that one search looks at: it holds the GIL, for a millisecond at worst."""

# A marker in front of a segment or behind the data of a scan: neither a stuffed 0xFF nor a restart marker.
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_BASELINE, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_FRAMES: Final = frozenset([*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)])
# Segments that are skipped: tables (DHT, DQT, DRI), DNL, APP0 to APP15, and comments.
_SKIPPED: Final = frozenset([0xC4, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE])


@attrs.frozen
class JpegWork:
    """The work of decoding. A coefficient is one value of a block of 8 x 8; each scan visits it again."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    scans: int
    """Scans, at least: in a picture that is decoded row by row only the first one is looked for."""
    coefficients: int
    """Coefficients of all components, with the padding of their blocks."""
    visited: int
    """Coefficients, each counted once for every scan of its component."""
    keeps_all: bool
    """Whether decoding keeps all coefficients in memory, 2 bytes each, as several scans require."""
    is_cut: bool
    """Whether the data are too short for the first scan: a decoder would invent most of the picture."""


@attrs.frozen
class _Frame:
    is_progressive: bool
    height: int
    width: int
    blocks: Mapping[int, int]
    """The blocks of each component, by its id."""


def jpeg_work(data: bytes) -> JpegWork:
    """Find the work of decoding. Takes microseconds; milliseconds for a progressive picture of megabytes.

    Raises `ValueError` for data that are no JPEG, and for kinds that are not decoded, such as arithmetic
    coding.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG: it does not begin as one")
    frame: _Frame | None = None
    scans = visited = 0
    whole = is_cut = False
    for code, body, end in _segments(data):
        if code in _FRAMES:
            if frame is not None:
                raise ValueError("not a JPEG: two frame headers")
            frame = _frame(code, body)
        elif code == _SOS:
            if frame is None:
                raise ValueError("not a JPEG: a scan before its frame header")
            blocks = _scan_blocks(frame, body)
            scans, visited = scans + 1, visited + 64 * blocks
            if scans == 1 and body[0] == len(frame.blocks):
                whole = not frame.is_progressive
                # A block takes at least a bit for its mean and, in a baseline scan, a bit for its end.
                is_cut = (len(data) - end) * 8 < blocks * (2 if whole else 1)
                if whole:  # no other scan is read
                    break
    if frame is None or not scans:
        raise ValueError("not a JPEG: no picture in it")
    total = 64 * sum(frame.blocks.values())
    return JpegWork(frame.height, frame.width, scans, total, visited, not whole, is_cut)


def check_work(work: JpegWork, max_pixels: int) -> None:
    """Raise `ValueError` if the work is too much for a picture of `max_pixels`, or the data are cut off.

    A picture in several scans has three more bounds: how often the scans pass over the picture; the visits,
    16 for each of `max_pixels` (1.5 million visits take a millisecond); and the memory for all coefficients.
    """
    if work.height * work.width > max_pixels:
        size = f"{work.width} x {work.height} pixels"
        raise ValueError(f"a JPEG of {size}; {max_pixels} pixels are allowed")
    if work.is_cut:
        raise ValueError("a broken JPEG: its data are cut off")
    if not work.keeps_all:
        return
    pixels = max(max_pixels, 1 << 16)  # the blocks of a tiny picture hold more than its pixels
    text = f"a JPEG of {work.width} x {work.height} pixels in {work.scans} scans"
    if work.visited > MAX_PASSES * work.coefficients:
        passes = work.visited / work.coefficients
        raise ValueError(f"{text}, which visit it {passes:.1f} times; {MAX_PASSES} are allowed")
    if work.visited > 16 * pixels or work.coefficients > min(4 * pixels, MAX_COEFFICIENTS):
        raise ValueError(f"{text} is too much to decode; a baseline JPEG of that size is not")


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Each segment until the end of the picture: its marker, its body, and the position of its end."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        found = _next_marker(data, position)
        if found is None:
            return
        code, start = data[found + 1], found + 4
        if code == _EOI:
            return
        if code != _SOS and code not in _FRAMES and code not in _SKIPPED:
            raise ValueError(f"not a JPEG: marker 0x{code:02X} has no place in it")
        length = int.from_bytes(data[found + 2 : start])
        position = found + 2 + length
        if length < 2 or position > len(data):
            raise ValueError(f"not a JPEG: the segment of marker 0x{code:02X} is cut off")
        yield code, b"" if code in _SKIPPED else data[start:position], position
    raise ValueError(f"a JPEG of more than {MAX_SEGMENTS} segments")


def _next_marker(data: bytes, position: int) -> int | None:
    while position < len(data):
        found = _MARKER.search(data, position, position + SEARCH_BYTES)
        if found is not None:
            return found.start()
        position += SEARCH_BYTES - 1  # a marker is two bytes
    return None


def _frame(code: int, body: bytes) -> _Frame:
    if code != _PROGRESSIVE and code not in _BASELINE:
        raise ValueError(f"a JPEG of a kind that is not decoded: arithmetic or lossless (0x{code:02X})")
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise ValueError("not a JPEG: its frame header has another length")
    height, width, count = int.from_bytes(body[1:3]), int.from_bytes(body[3:5]), body[5]
    if body[0] != 8:
        raise ValueError(f"a JPEG of {body[0]} bits a sample; 8 are decoded")
    if not height or not width:
        raise ValueError("not a JPEG: its height or width is 0")
    if count not in (1, 3, 4):
        raise ValueError(f"a JPEG of {count} components; 1 (grey), 3 (colours) or 4 (CMYK) are decoded")
    factors = {body[at]: divmod(body[at + 1], 16) for at in range(6, len(body), 3)}
    if len(factors) != count or any(not 1 <= f <= 4 for pair in factors.values() for f in pair):
        raise ValueError("not a JPEG: its components' ids or sampling factors")
    across, down = (max(pair[axis] for pair in factors.values()) for axis in (0, 1))
    if count == 1:
        factors = dict.fromkeys(factors, (1, 1))  # the decoder ignores the factors of a lone component
        across = down = 1
    # Padded to whole units of all components, as in the memory of the decoder.
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    blocks = {component: units * h * v for component, (h, v) in factors.items()}
    return _Frame(code == _PROGRESSIVE, height, width, blocks)


def _scan_blocks(frame: _Frame, body: bytes) -> int:
    count = body[0] if body else 0
    ids = set(body[1 : 1 + 2 * count : 2])
    if (
        not 1 <= count <= 4
        or len(body) != 2 * count + 4
        or len(ids) != count
        or not ids <= frame.blocks.keys()
    ):
        raise ValueError("not a JPEG: the header of a scan")
    return sum(frame.blocks[component] for component in ids)
