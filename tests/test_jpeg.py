"""Encoding and decoding JPEG."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.media.jpeg import decode_jpeg, encode_jpeg, jpeg_size


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
    start = data.index(b"\xff\xc0") + 5  # skips marker, length and precision; height and width follow
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
