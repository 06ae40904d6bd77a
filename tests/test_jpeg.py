"""JPEG in and out."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.media.jpeg import (
    FULL_SCANS,
    MAX_SCANS,
    MAX_SEGMENTS,
    count_scans,
    decode_jpeg,
    encode_jpeg,
    jpeg_size,
)

PROGRESSIVE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxO"
    "UlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09P"
    "T09PT09PT0//wgARCAAYACADASIAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAAAwAEBf/EABcBAQEBAQAAAAAAAAAAAAAAAAIF"
    "BAb/2gAMAwEAAhADEAAAAeC+lycz6XdEXrPzrvTof//EABYQAAMAAAAAAAAAAAAAAAAAAAABAv/aAAgBAQABBQJQKBQKBQKBQKBQ"
    "KBQKD//EABcRAQEBAQAAAAAAAAAAAAAAAAMAAQL/2gAIAQMBAT8BJomi62Lrb//EABURAQEAAAAAAAAAAAAAAAAAAAEA/9oACAEC"
    "AQE/ARhiL//EABQQAQAAAAAAAAAAAAAAAAAAADD/2gAIAQEABj8CT//EABQQAQAAAAAAAAAAAAAAAAAAADD/2gAIAQEAAT8hSqqq"
    "r//aAAwDAQACAAMAAAAQyy+//8QAFBEBAAAAAAAAAAAAAAAAAAAAIP/aAAgBAwEBPxAAl//EABYRAQEBAAAAAAAAAAAAAAAAAAEA"
    "EP/aAAgBAgEBPxDFTJv/xAAVEAEBAAAAAAAAAAAAAAAAAAAAYf/aAAgBAQABPxCCCCCCCCCCCCD/2Q=="
)
"""A progressive picture of 32 x 24 pixels, in 10 scans, as cameras and browsers write them."""
EMPTY_SCAN = b"\xff\xda" + bytes((0, 8, 1, 1, 0, 1, 63, 0))
"""A scan over the first component that brings nothing: 10 bytes."""


def gradient(height: int, width: int) -> np.ndarray:
    down, right = np.mgrid[0:height, 0:width]
    channels = [right * 255 // width, down * 255 // height, (right + down) * 255 // (width + height)]
    return np.stack(channels, axis=-1).astype(np.uint8)


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_picture_keeps_its_size(height: int, width: int) -> None:
    data = encode_jpeg(gradient(height, width))
    assert jpeg_size(data) == (height, width)
    assert decode_jpeg(data).shape == (height, width, 3)


def test_a_smooth_picture_survives() -> None:
    pixels = gradient(64, 96)
    error = np.abs(decode_jpeg(encode_jpeg(pixels)).astype(int) - pixels)
    assert error.mean() < 3


def test_red_is_red() -> None:
    pixels = np.full((16, 16, 3), (250, 20, 10), np.uint8)
    np.testing.assert_allclose(decode_jpeg(encode_jpeg(pixels))[8, 8], (250, 20, 10), atol=3)


def test_quality_costs_bytes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    sizes = [len(encode_jpeg(pixels, quality)) for quality in (1, 50, 85, 100)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_quality_has_bounds(quality: int) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        encode_jpeg(gradient(8, 8), quality)


@pytest.mark.parametrize(
    "frame",
    [gradient(8, 8)[:, :, :2], gradient(8, 8)[0], gradient(8, 8) / 255, np.zeros((1, 65536, 3), np.uint8)],
    ids=["two channels", "one row", "floats", "too wide"],
)
def test_what_is_no_frame_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no JPEG of shape"):
        encode_jpeg(frame)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0", b"GIF89a" + bytes(100)])
def test_what_is_no_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a JPEG"):
        decode_jpeg(data)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_raise_nothing_but_value_errors(data: bytes) -> None:
    with pytest.raises(ValueError, match="JPEG"):
        decode_jpeg(b"\xff\xd8\xff" + data)


def test_half_a_picture_is_refused() -> None:
    data = encode_jpeg(gradient(64, 64))
    with pytest.raises(ValueError, match="broken JPEG"):
        decode_jpeg(data[: len(data) * 2 // 3])


def test_a_picture_that_announces_too_much_is_refused_by_its_header() -> None:
    data = bytearray(encode_jpeg(gradient(8, 8)))
    start = data.index(b"\xff\xc0") + 5  # the frame header: marker, length, precision, height, width
    data[start : start + 4] = (65000).to_bytes(2) + (65000).to_bytes(2)
    assert jpeg_size(bytes(data)) == (65000, 65000)
    with pytest.raises(ValueError, match="65000 x 65000"):
        decode_jpeg(bytes(data))


def test_the_limit_is_in_pixels() -> None:
    data = encode_jpeg(gradient(10, 20))
    assert decode_jpeg(data, max_pixels=200).shape == (10, 20, 3)
    with pytest.raises(ValueError, match="20 x 10"):
        decode_jpeg(data, max_pixels=199)


def test_a_small_version_keeps_its_shape_and_a_least_side() -> None:
    data = encode_jpeg(gradient(400, 800))
    height, width, _ = decode_jpeg(data, min_side=60).shape
    assert 60 <= height < 120
    assert width == 2 * height
    assert decode_jpeg(data, min_side=1000).shape == (400, 800, 3)


# ---- scans: what a decoder would have to do


def segment(marker: int, body: bytes = b"") -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2) + body


def announcing(height: int, width: int, data: bytes = PROGRESSIVE) -> bytes:
    """The same picture, but for the size that its frame header announces."""
    start = next(data.index(bytes((0xFF, kind))) for kind in (0xC2, 0xC0) if bytes((0xFF, kind)) in data) + 5
    return data[:start] + height.to_bytes(2) + width.to_bytes(2) + data[start + 4 :]


def with_scans(count: int, data: bytes = PROGRESSIVE) -> bytes:
    """The same picture with so many more scans, all of them empty."""
    return data[:-2] + EMPTY_SCAN * count + data[-2:]


def test_a_progressive_picture_is_decoded() -> None:
    assert count_scans(PROGRESSIVE) == 10
    down, right = np.mgrid[0:24, 0:32]
    pixels = np.stack([right * 8, down * 10, (right + down) * 4], axis=-1)
    assert np.abs(decode_jpeg(PROGRESSIVE).astype(int) - pixels).mean() < 6
    assert count_scans(encode_jpeg(gradient(100, 100))) == 1


def test_a_picture_of_many_scans_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ValueError, match="broken"):  # it is tried: the decoder finds that they are empty
        decode_jpeg(with_scans(MAX_SCANS - 10))
    with pytest.raises(
        ValueError, match=f"a JPEG of {MAX_SCANS + 1} scans over 32 x 24 pixels: too much work"
    ):
        decode_jpeg(with_scans(MAX_SCANS - 9))


def test_the_larger_a_picture_the_fewer_scans_it_may_have() -> None:
    pixels = 4000 * 4000
    with pytest.raises(ValueError, match="broken"):  # its scans are too short for that size
        decode_jpeg(announcing(4000, 4000), max_pixels=pixels)
    most = with_scans(FULL_SCANS - 10)
    with pytest.raises(ValueError, match="broken"):
        decode_jpeg(announcing(4000, 4000, most), max_pixels=pixels)
    with pytest.raises(ValueError, match="too much work"):
        decode_jpeg(announcing(4000, 4000, with_scans(FULL_SCANS - 9)), max_pixels=pixels)
    with pytest.raises(ValueError, match="too much work"):
        decode_jpeg(announcing(4000, 4000, with_scans(FULL_SCANS - 9)), max_pixels=pixels, min_side=100)


@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param(lambda scans: scans, id="plainly"),
        pytest.param(
            lambda scans: scans.replace(b"\xff\xda", b"\xff\xff\xff\xda"), id="behind bytes that fill"
        ),
        pytest.param(lambda scans: b"\xff\xd8" + scans, id="behind another beginning"),
        pytest.param(lambda scans: b"garbage\xff\x00" + scans, id="behind garbage"),
        pytest.param(lambda scans: b"\xff\xd0" + scans + b"\xff\xd1", id="among restarts"),
        pytest.param(lambda scans: segment(0xDD, b"\0\1") + scans, id="behind a restart interval"),
    ],
)
def test_scans_are_found_however_they_are_hidden(hidden: Callable[[bytes], bytes]) -> None:
    assert count_scans(PROGRESSIVE[:-2] + hidden(EMPTY_SCAN * 7) + PROGRESSIVE[-2:]) == 17


def test_what_stands_inside_a_segment_or_behind_the_end_is_no_scan() -> None:
    thumbnail = with_scans(500)
    inside = PROGRESSIVE[:2] + segment(0xE1, b"Exif\0\0" + thumbnail) + PROGRESSIVE[2:]
    assert count_scans(inside) == 10
    np.testing.assert_array_equal(decode_jpeg(inside), decode_jpeg(PROGRESSIVE))
    assert count_scans(PROGRESSIVE + thumbnail) == 10


def test_segments_without_end_are_refused() -> None:
    comments = segment(0xFE) * (MAX_SEGMENTS + 1)
    with pytest.raises(ValueError, match=f"more than {MAX_SEGMENTS} segments"):
        decode_jpeg(PROGRESSIVE[:2] + comments + PROGRESSIVE[2:])


@given(st.data(), st.sampled_from([PROGRESSIVE, encode_jpeg(gradient(24, 32))]))
def test_a_picture_that_is_changed_anywhere_raises_nothing_but_value_errors(
    data: st.DataObject, jpeg: bytes
) -> None:
    changed = bytearray(jpeg)
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(0, len(jpeg) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        pixels = decode_jpeg(bytes(changed), max_pixels=100_000)
        assert count_scans(bytes(changed)) * pixels.shape[0] * pixels.shape[1] <= FULL_SCANS * 100_000
