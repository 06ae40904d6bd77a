"""The values that `emit` accepts as video, and the frames that it makes of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reactor_trio.media.video import IMMEDIATE_BYTES, MAX_SIDE, inspect_video, rgb_frames

H, W = 4, 5


def convert(value: object) -> list[np.ndarray]:
    layout = inspect_video(value, track="main_video")
    frames = list(rgb_frames(value, layout))
    assert len(frames) == layout.count
    for frame in frames:
        assert frame.shape == (layout.height, layout.width, 3)
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
        assert frame.flags.writeable
    return frames


def ramp(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


# --- copies


def test_only_what_can_be_written_to_by_nobody_is_taken_as_it_is() -> None:
    def is_taken(value: np.ndarray) -> bool:
        frames = rgb_frames(value, inspect_video(value, track="main_video"))
        np.testing.assert_array_equal(np.stack(frames), value.reshape(-1, *value.shape[-3:]))
        return all(np.shares_memory(frame, value) for frame in frames)

    frame, batch = ramp(H, W, 3).copy(), ramp(2, H, W, 3).copy()
    view = frame[:]
    view.setflags(write=False)
    of_torch = torch.from_numpy(frame).numpy()
    of_torch.setflags(write=False)
    for value in (frame, batch, view, of_torch):
        assert not is_taken(value), "someone else may write to it"
    for value in (frame, batch):
        value.setflags(write=False)
        assert is_taken(value)
    assert is_taken(np.frombuffer(frame.tobytes(), np.uint8).reshape(H, W, 3))
    assert is_taken(batch[1])
    assert not is_taken(np.frombuffer(bytearray(frame.tobytes()), np.uint8).reshape(H, W, 3))
    assert not is_taken(frame[:, ::-1]), "it is not contiguous"


# --- shapes


def test_an_array_is_one_frame() -> None:
    pixels = ramp(H, W, 3)
    (frame,) = convert(pixels)
    np.testing.assert_array_equal(frame, pixels)


def test_an_array_of_four_dimensions_is_a_batch() -> None:
    pixels = ramp(2, H, W, 3)
    np.testing.assert_array_equal(np.stack(convert(pixels)), pixels)


@pytest.mark.parametrize("scale", [None, 1 / 255])
def test_channels_first_is_read_from_tensors(scale: float | None) -> None:
    pixels = ramp(2, H, W, 3)
    last = torch.from_numpy(pixels if scale is None else pixels * scale)
    first = last.permute(0, 3, 1, 2)
    for tensor in (first, first.contiguous()):
        np.testing.assert_array_equal(np.stack(convert(tensor)), pixels)
        np.testing.assert_array_equal(convert(tensor[1])[0], pixels[1])


def test_a_tensor_that_could_be_either_is_channels_last() -> None:
    pixels = ramp(3, W, 3)
    np.testing.assert_array_equal(convert(torch.from_numpy(pixels))[0], pixels)
    pixels = ramp(2, 3, W, 3)
    np.testing.assert_array_equal(np.stack(convert(torch.from_numpy(pixels))), pixels)


def test_an_array_with_channels_first_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 5\)"):
        inspect_video(ramp(3, H, W), track="main_video")


@pytest.mark.parametrize(
    "shape",
    [(), (3,), (H, 3), (H, W), (H, W, 1), (H, W, 4), (1, 1, H, W, 3), (0, W, 3), (H, 0, 3), (0, H, W, 3)],
)
@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_other_shapes_are_refused(make, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"track 'main_video'.*shape \(.*float.*expected"):
        inspect_video(make(shape), track="main_video")


def test_a_side_has_a_limit() -> None:
    wide = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (1, MAX_SIDE + 1, 3))
    with pytest.raises(ValueError, match="16384"):
        inspect_video(wide, track="main_video")
    assert inspect_video(wide[:, 1:], track="main_video").width == MAX_SIDE
    with pytest.raises(ValueError, match="16384"):
        inspect_video(torch.from_numpy(np.array(wide)).permute(2, 1, 0), track="main_video")


# --- types


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16, bool, complex, object, "U1"])
def test_other_dtypes_of_arrays_are_refused(dtype: object) -> None:
    with pytest.raises(ValueError, match=rf"track 'left'.*\(4, 5, 3\).*{np.dtype(dtype)}.*uint8"):
        inspect_video(np.zeros((H, W, 3), dtype), track="left")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_other_dtypes_of_tensors_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"track 'left'.*\(4, 5, 3\).*{dtype}.*uint8"):
        inspect_video(torch.zeros(H, W, 3, dtype=dtype), track="left")


@pytest.mark.parametrize("value", [None, b"abc", [[[0, 0, 0]]], 3, "frame"])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=rf"'main_video' was given a {type(value).__name__}; expected"):
        inspect_video(value, track="main_video")


@pytest.mark.parametrize(
    "tensor", [torch.zeros(H, W, 3).to_sparse(), torch.zeros(H, W, 3, device="meta")], ids=["sparse", "meta"]
)
def test_tensors_without_memory_of_their_own_are_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(4, 5, 3\)"):
        inspect_video(tensor, track="main_video")


def test_a_model_without_torch_does_not_import_it() -> None:
    code = """
import sys, numpy as np
from reactor_trio.media.video import inspect_video, rgb_frames
import reactor_trio.media.jpeg
rgb_frames(frame := np.zeros((2, 2, 3), np.uint8), inspect_video(frame, track="main_video"))
assert not {"torch", "simplejpeg"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- values

LEVELS = [0.0, 1.0, 0.5, 1 / 255, 254.4 / 255, -0.1, -np.inf, 1.1, 1e30, np.inf, np.nan]
EXPECTED = [0, 255, 128, 1, 254, 0, 0, 255, 255, 255, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble, ">f4"])
def test_floats_of_arrays_are_scaled_rounded_and_clipped(dtype: type) -> None:
    pixels = np.repeat(np.array(LEVELS, dtype)[None, :, None], 3, axis=2)
    np.testing.assert_array_equal(convert(pixels)[0][0, :, 0], EXPECTED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats_of_tensors_are_scaled_rounded_and_clipped(dtype: torch.dtype) -> None:
    pixels = torch.tensor(LEVELS, dtype=dtype)[None, :, None].expand(1, -1, 3)
    np.testing.assert_array_equal(convert(pixels)[0][0, :, 0], EXPECTED)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_good_to_a_level(dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=torch.float32) / 255
    pixels = levels.to(dtype)[None, :, None].expand(1, -1, 3)
    error = convert(pixels)[0][0, :, 0].astype(int) - np.arange(256)
    assert abs(error).max() <= (0 if dtype == torch.float16 else 1)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_floats_on_the_scale_of_bytes_are_refused(make: Callable[[np.ndarray], object]) -> None:
    bytes_ = np.random.default_rng(1).integers(0, 256, (40, 60, 3)).astype(np.float32)
    for pixels in (bytes_, bytes_.transpose(1, 0, 2)):
        with pytest.raises(ValueError, match=r"track 'main_video' .*floats around 1\d\d.*divide it by 255"):
            convert(make(pixels))
    # A model that overshoots, also by far and in many places, is clipped.
    overshoot = bytes_ / 255 * 3
    overshoot[:10] = np.inf
    assert convert(make(overshoot))[0].max() == 255


def test_float16_arrays_are_converted_like_float16_tensors() -> None:
    pixels = np.linspace(-0.2, 1.2, H * W * 3).astype(np.float16).reshape(H, W, 3)
    np.testing.assert_array_equal(convert(pixels)[0], convert(torch.from_numpy(pixels))[0])


@given(hnp.arrays(np.float32, (3, 4, 3), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_arrays_and_tensors_agree(pixels: np.ndarray) -> None:
    expected = np.rint(np.clip(np.nan_to_num(pixels, nan=0.0), 0, 1) * np.float32(255))
    np.testing.assert_array_equal(convert(pixels)[0], expected)
    np.testing.assert_array_equal(convert(torch.from_numpy(pixels))[0], expected)


# --- memory


@st.composite
def views(draw: st.DrawFn) -> np.ndarray:
    """A view of a batch, with steps, flips and a transposition of its sides."""
    dtype = draw(st.sampled_from([np.uint8, np.float16, np.float32, np.float64]))
    base = ramp(3, 8, 8, 3)
    if dtype is not np.uint8:
        base = (base / 255).astype(dtype)
    steps = st.sampled_from([slice(None), slice(None, None, -1), slice(1, None, 2), slice(2, 3)])
    view = base[draw(steps), draw(steps), draw(steps), :: draw(st.sampled_from([1, -1]))]
    if draw(st.booleans()):
        view = view.transpose(0, 2, 1, 3)
    return view if draw(st.booleans()) else view[0]


@given(views())
def test_views_are_converted_like_copies_and_never_shared(view: np.ndarray) -> None:
    frames = convert(view)
    for frame, expected in zip(frames, convert(np.array(view, order="C")), strict=True):
        np.testing.assert_array_equal(frame, expected)
        assert not np.shares_memory(frame, view)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(H, W, 3), (3, H, W), (2, H, W, 3), (2, 3, H, W)])
def test_a_model_may_reuse_its_buffer(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    buffer = torch.ones(shape, dtype=dtype)
    frames = convert(buffer)
    before = [frame.copy() for frame in frames]
    buffer.zero_()
    np.testing.assert_array_equal(frames, before)


def test_tensors_that_require_grad_are_taken() -> None:
    pixels = torch.nn.Parameter(torch.full((3, H, W), 0.5))
    assert convert(pixels)[0].max() == 128
    assert pixels.requires_grad


def test_tensors_made_in_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        pixels = torch.full((3, H, W), 0.5)
    assert convert(pixels)[0].max() == 128


def test_a_subclass_is_taken_as_what_it_derives_from() -> None:
    class Image(np.ndarray):
        pass

    frame = convert(ramp(H, W, 3).view(Image))[0]
    assert type(frame) is np.ndarray


# --- conversion on the loop or in a thread


@pytest.mark.parametrize("value", [ramp(H, W, 3), ramp(2, H, W, 3), torch.zeros(H, W, 3, dtype=torch.uint8)])
def test_bytes_that_are_only_copied_are_converted_at_once(value: object) -> None:
    assert inspect_video(value, track="main_video").immediate


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((H, W, 3)),
        torch.zeros(H, W, 3),
        ramp(H, W, 3)[..., ::-1],
        torch.zeros(3, H, W, dtype=torch.uint8),
        np.zeros((IMMEDIATE_BYTES // (1024 * 1024 * 3) + 1, 1024, 1024, 3), np.uint8),
    ],
    ids=["array of floats", "tensor of floats", "BGR", "channels first", "much"],
)
def test_what_takes_longer_belongs_in_a_thread(value: object) -> None:
    assert not inspect_video(value, track="main_video").immediate
