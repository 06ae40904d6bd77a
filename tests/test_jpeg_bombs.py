"""Small JPEGs that are slow to decode: the work is known before decoding begins, and bounded."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor_trio.media.jpeg import decode_jpeg, encode_jpeg, jpeg_size
from reactor_trio.media.jpeg_scans import MAX_COEFFICIENTS, MAX_PASSES, MAX_SEGMENTS, SEARCH_BYTES, jpeg_work

MAX_PIXELS = 22_000_000


def segment(marker: int, body: bytes = b"") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def frame_header(
    width: int, height: int, *, marker: int = 0xC2, factors: bytes = b"\x11", bits: int = 8
) -> bytes:
    components = b"".join(bytes([number, pair, 0]) for number, pair in enumerate(factors, 1))
    return segment(marker, struct.pack(">BHHB", bits, height, width, len(factors)) + components)


def scan_header(first: int, last: int, high: int = 0, low: int = 0, components: int = 1) -> bytes:
    who = b"".join(bytes([number, 0]) for number in range(1, components + 1))
    return segment(0xDA, bytes([components]) + who + bytes([first, last, high << 4 | low]))


def tables() -> bytes:
    """A quantiser of ones; the DC code `0` means no difference, the AC code `0` a run of 2^14 blocks."""
    codes = bytes([1] + [0] * 15)
    return segment(0xDB, b"\0" + bytes([1] * 64)) + segment(0xC4, b"\0" + codes + b"\0\x10" + codes + b"\xe0")


def empty_scans(width: int, height: int, scans: int, between: bytes = b"") -> bytes:
    """A grey progressive picture: a scan with the means of its blocks, then `scans` empty scans."""
    blocks = -(-width // 8) * -(-height // 8)
    data = b"\xff\xd8" + tables() + frame_header(width, height) + scan_header(0, 0) + bytes(-(-blocks // 8))
    runs = -(-blocks // 16384)

    nothing = bytes(-(-runs * 15 // 8))
    approximations = [(0, 13), *((low + 1, low) for low in range(12, -1, -1))]
    for number in range(scans):
        high, low = approximations[min(number, 13)]
        data += between + scan_header(1, 63, high, low) + nothing
    return data + b"\xff\xd9"


def gradient(height: int, width: int) -> np.ndarray:
    down, right = np.mgrid[0:height, 0:width]
    channels = [right * 255 // width, down * 255 // height, (right + down) * 255 // (width + height)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def with_segments(jpeg: bytes, extra: bytes) -> bytes:
    return jpeg[:2] + extra + jpeg[2:]


# ---- pictures that are refused


@pytest.mark.parametrize("scans", [MAX_PASSES, 400, 4000])
@pytest.mark.parametrize("size", [(8, 8), (640, 480), (4680, 4680)], ids=str)
def test_a_picture_that_is_visited_again_and_again_is_refused(scans: int, size: tuple[int, int]) -> None:
    bomb = empty_scans(*size, scans)
    assert jpeg_work(bomb).scans == scans + 1
    with pytest.raises(ValueError, match=r"visit it \d+\.0 times; 24 are allowed"):
        decode_jpeg(bomb, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    "between",
    [
        b"\xff" * 7,
        b"garbage",
        b"\xff\x00\xff\xd0\xff\xd7",
        segment(0xFE, b"\xff\xda"),
        segment(0xE1, encode_jpeg(gradient(8, 8))),
        segment(0xDD, b"\0\1"),
        segment(0xDC, b"\0\10"),
        bytes(SEARCH_BYTES - 1),
        b"\xff" * (SEARCH_BYTES + 1),
    ],
    ids=lambda between: f"{between[:4].hex()} of {len(between)}",
)
def test_what_stands_between_the_scans_hides_none(between: bytes) -> None:
    work = jpeg_work(empty_scans(64, 64, 9, between))
    assert (work.scans, work.coefficients, work.visited) == (10, 64 * 64, 10 * 64 * 64)


def test_a_large_picture_has_fewer_passes_and_a_bound_of_memory() -> None:
    with pytest.raises(ValueError, match="too much to decode"):
        decode_jpeg(empty_scans(4680, 4680, 20), max_pixels=MAX_PIXELS)
    large = b"\xff\xd8" + tables() + frame_header(8000, 8000, factors=b"\x11\x11\x11")
    large += scan_header(0, 0, components=3) + bytes(3 * 1000 * 1000 // 8) + b"\xff\xd9"
    assert jpeg_work(large).coefficients > MAX_COEFFICIENTS
    with pytest.raises(ValueError, match="too much to decode"):
        decode_jpeg(large)


def test_a_picture_without_data_is_refused_before_it_is_made_up() -> None:
    jpeg = encode_jpeg(gradient(2000, 3000))
    header = jpeg[: jpeg.index(b"\xff\xda") + 14]
    for data in (header, header + b"\xff\xd9", header + bytes(1000), empty_scans(3000, 2000, 3)[:500]):
        with pytest.raises(ValueError, match="cut off"):
            decode_jpeg(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (frame_header(8, 8, marker=0xC9), "arithmetic"),
        (frame_header(8, 8, marker=0xCA), "arithmetic"),
        (frame_header(8, 8, marker=0xC3), "lossless"),
        (frame_header(8, 8, marker=0xC5), "of a kind"),
        (frame_header(8, 8, bits=12), "12 bits"),
        (frame_header(8, 0), "height or width is 0"),
        (frame_header(0, 8), "height or width is 0"),
        (frame_header(8, 8, factors=b"\x11\x11"), "2 components"),
        (frame_header(8, 8, factors=b"\x01"), "sampling factors"),
        (frame_header(8, 8, factors=b"\x51\x11\x11"), "sampling factors"),
        (frame_header(8, 8) * 2, "two frame headers"),
        (scan_header(0, 0), "before its frame header"),
        (frame_header(8, 8) + scan_header(0, 0, components=2), "header of a scan"),
        (frame_header(8, 8) + segment(0xDA), "header of a scan"),
        (frame_header(8, 8) + segment(0xDA, b"\5" * 14), "header of a scan"),
        (segment(0xC2), "frame header has another length"),
        (b"\xff\xd8", "0xD8 has no place"),
        (segment(0x02, bytes(8)), "0x02 has no place"),
        (segment(0xDE, bytes(8)), "0xDE has no place"),
        (b"\xff\xe0\0\1", "is cut off"),
        (b"\xff\xe0\xff", "is cut off"),
        (b"\xff\xd9", "no picture"),
        (segment(0xFE) * (MAX_SEGMENTS + 1), "more than 4096 segments"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_read_in_no_browser_is_refused_with_its_reason(data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        decode_jpeg(b"\xff\xd8" + data + b"\xff\xd9")


# ---- pictures that are decoded


def test_what_cameras_add_makes_no_difference() -> None:
    pixels = gradient(40, 60)
    jpeg = encode_jpeg(pixels)
    thumbnail = segment(0xE1, b"Exif\0\0" + encode_jpeg(gradient(8, 8)))
    profile = b"".join(segment(0xE2, bytes(65_000)) for _ in range(20))
    plain = decode_jpeg(jpeg)
    for data in (with_segments(jpeg, thumbnail + profile), jpeg + jpeg, jpeg + bytes(100)):
        np.testing.assert_array_equal(decode_jpeg(data), plain)


def test_the_first_scan_of_a_baseline_picture_is_all_that_is_looked_at() -> None:
    jpeg = encode_jpeg(gradient(480, 640))
    work = jpeg_work(jpeg[:-1000] + bytes(1000))
    assert (work.scans, work.keeps_all, work.visited) == (1, False, work.coefficients)


PROGRESSIVE = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300140e0f120f0d14121012171514181e32211e1c1c1e3d2c2e24"
    "3249404c4b47404645505a736250556d5645466488656d777b8182814e608d978c7d96737e817cffdb0043011517171e1a1e"
    "3b21213b7c5346537c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c"
    "7c7c7c7c7c7c7c7cffc20011080011002103012200021101031101ffc4001800010101010100000000000000000000000003"
    "040205ffc40017010101010100000000000000000000000003020405ffda000c03010002100310000001f3a9ae925929ae89"
    "a71b7a961432f1ab4134f4297fffc400161001010100000000000000000000000000120020ffda0008010100010502318c63"
    "18c631d7ffc4001811000301010000000000000000000000000002031013ffda0008010301013f015a8b53a8a2e7ffc40018"
    "11000301010000000000000000000000000001021012ffda0008010201013f01542a3a10b3ffc40014100100000000000000"
    "000000000000000030ffda0008010100063f027fffc400161001010100000000000000000000000000010010ffda00080101"
    "00013f21294a665294cc888cffda000c030100020003000000100bf0fe0fff00ffc400141101000000000000000000000000"
    "00000020ffda0008010301013f105fff00ffc40014110100000000000000000000000000000020ffda0008010201013f1040"
    "3fffc40017100101010100000000000000000000000000617120ffda0008010100013f109a69a6ca69a69b3d7fffd9"
)
"""A picture of 33 x 17 pixels, 4:2:0, in the 10 scans that libjpeg makes."""


def test_a_progressive_picture_is_decoded() -> None:
    work = jpeg_work(PROGRESSIVE)
    assert (work.height, work.width, work.scans, work.keeps_all) == (17, 33, 10, True)
    assert work.visited < 6 * work.coefficients
    np.testing.assert_array_equal(decode_jpeg(PROGRESSIVE), simplejpeg.decode_jpeg(PROGRESSIVE, "RGB"))
    assert decode_jpeg(PROGRESSIVE, max_pixels=33 * 17).shape == (17, 33, 3)


# ---- any bytes

BASELINE = encode_jpeg(gradient(24, 40))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from([BASELINE, PROGRESSIVE, empty_scans(40, 24, 6)])))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        new = draw(st.binary(max_size=8) | st.just(bytes(data[start:end]) * 3) | st.just(scan_header(1, 63)))
        data[start:end] = new
    return bytes(data)


@settings(max_examples=300)
@given(mutated())
def test_a_mutated_picture_raises_nothing_but_value_errors_and_keeps_to_the_bound(data: bytes) -> None:
    try:
        pixels = decode_jpeg(data, max_pixels=1_000_000)
    except ValueError:
        return
    work = jpeg_work(data)
    assert pixels.shape == (work.height, work.width, 3)
    assert (work.height, work.width) == jpeg_size(data)
    assert work.visited <= MAX_PASSES * work.coefficients
    assert work.visited <= 16_000_000
