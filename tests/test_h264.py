"""H.264, and frames made smaller: pure functions and the stream of one track, without a session."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import structlog
import trio
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor_trio.cli import cli
from reactor_trio.compute import pool
from reactor_trio.compute.executor import ThreadExecutor
from reactor_trio.compute.lanes import encoder_lane
from reactor_trio.media import h264
from reactor_trio.media.h264 import H264Config, H264Decoder, H264Encoder, H264Packet
from reactor_trio.media.scale import by_numpy, downscale, fitted, padded
from reactor_trio.media.settings import MediaSettings

pytestmark = pytest.mark.real_time

WIDTH, HEIGHT, FPS, BIT_RATE = 64, 48, 30.0, 500_000
CONFIG = H264Config(WIDTH, HEIGHT, FPS, BIT_RATE)
SPS, PPS, IDR, SLICE = 7, 8, 5, 1
BASELINE = 66
DEADLINE = 20.0


def plain(*rgb: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.full((height, width, 3), rgb, np.uint8)


def noise(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def gradient(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)


def units(payload: bytes) -> list[tuple[int, bytes]]:
    """The type and the bytes of each NAL unit of a payload, which has the byte format of Annex B."""
    found = [part.rstrip(b"\0") for part in payload.split(b"\0\0\1")]
    assert found[0] == b"", "a start code comes first"
    return [(part[0] & 31, part) for part in found[1:]]


def types(packet: H264Packet) -> list[int]:
    return [kind for kind, _ in units(packet.payload) if kind in (SPS, PPS, IDR, SLICE)]


# ---- the stream


@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (120, 30, 200)]
)
def test_colours_come_back_as_they_were(colour: tuple[int, int, int]) -> None:
    packet = H264Encoder().encode(plain(*colour), CONFIG)
    pixels = H264Decoder().decode(packet.payload)
    assert (pixels.shape, pixels.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert np.abs(pixels.astype(int) - colour).max() <= 3


def test_the_stream_says_what_its_colours_are() -> None:
    import av

    packet = H264Encoder().encode(plain(255, 0, 0), CONFIG)
    [frame] = av.CodecContext.create("h264", "r").decode(av.Packet(packet.payload))
    bt709, limited = 1, 1
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (bt709, bt709, bt709)
    assert frame.color_range == limited
    luma = np.frombuffer(bytes(frame.planes[0]), np.uint8)[0]
    assert luma == pytest.approx(63, abs=1), "red by BT.709; by BT.601 it would be 81"


def test_a_frame_goes_in_and_one_comes_out_the_first_a_key_frame() -> None:
    encoder, decoder = H264Encoder(), H264Decoder()
    packets = [encoder.encode(gradient(WIDTH, HEIGHT) + np.uint8(n), CONFIG) for n in range(20)]
    assert [packet.key for packet in packets] == [True] + [False] * 19
    assert types(packets[0]) == [SPS, PPS, IDR]
    assert all(types(packet) == [SLICE] for packet in packets[1:])
    for n, packet in enumerate(packets):
        error = np.abs(decoder.decode(packet.payload).astype(int) - (gradient(WIDTH, HEIGHT) + np.uint8(n)))
        assert error.mean() < 12


def test_it_is_constrained_baseline() -> None:
    packet = H264Encoder().encode(plain(1, 2, 3), CONFIG)
    [sps] = [unit for kind, unit in units(packet.payload) if kind == SPS]
    constraint_set1 = 0x40
    assert sps[1] == BASELINE
    assert sps[2] & constraint_set1


def test_a_key_frame_can_be_had_at_any_time_and_stands_alone() -> None:
    encoder = H264Encoder()
    packets = [encoder.encode(plain(n, n, n), CONFIG, key=n == 40) for n in range(80)]
    assert [n for n, packet in enumerate(packets) if packet.key] == [0, 40]
    assert types(packets[40]) == [SPS, PPS, IDR]
    fresh = H264Decoder()
    for n in range(40, 80):
        assert fresh.decode(packets[n].payload).mean() == pytest.approx(n, abs=3)


def test_another_config_begins_anew_and_the_decoder_follows() -> None:
    encoder, decoder = H264Encoder(), H264Decoder()
    sizes = [(64, 48), (64, 48), (32, 24), (32, 24), (64, 48)]
    packets = [encoder.encode(plain(200, 0, 0), H264Config(*size, FPS, BIT_RATE)) for size in sizes]
    assert [packet.key for packet in packets] == [True, False, True, False, True]
    shapes = [decoder.decode(packet.payload).shape for packet in packets]
    assert shapes == [(height, width, 3) for width, height in sizes]


def test_closing_gives_the_memory_back_and_the_next_frame_begins_anew() -> None:
    encoder = H264Encoder()
    assert not encoder.is_open
    encoder.encode(plain(0, 0, 0), CONFIG)
    assert encoder.is_open
    encoder.close()
    encoder.close()
    assert not encoder.is_open
    assert encoder.encode(plain(0, 0, 0), CONFIG).key


@pytest.mark.parametrize("size", [(1, 1), (63, 47), (64, 47), (2, 1), (33, 480)])
def test_an_odd_size_gains_a_copy_of_its_last_row_and_column(size: tuple[int, int]) -> None:
    width, height = size
    even = fitted(width, height, None, even=True)
    packet = H264Encoder().encode(
        plain(30, 60, 90, width=width, height=height), H264Config(*even, FPS, 500_000)
    )
    pixels = H264Decoder().decode(packet.payload)
    assert pixels.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(pixels.astype(int) - (30, 60, 90)).max() <= 4


def test_it_scales_down_on_the_way() -> None:
    picture = gradient(256, 192)
    packet = H264Encoder().encode(picture, CONFIG)
    error = (
        H264Decoder().decode(packet.payload).astype(int)[..., :2] - downscale(picture, WIDTH, HEIGHT)[..., :2]
    )
    assert np.abs(error).mean() < 6


@pytest.mark.parametrize("fps", [5.0, 30.0, 59.94])
def test_noise_stays_within_its_bit_rate(fps: float) -> None:
    pictures = itertools.cycle([noise(seed, 320, 180) for seed in range(5)])
    config = H264Config(320, 180, fps, 600_000)
    encoder, frames = H264Encoder(), round(fps)
    seconds = [
        8 * sum(len(encoder.encode(next(pictures), config).payload) for _ in range(frames)) for _ in range(10)
    ]
    assert seconds[0] < 600_000 * 1.6, "a burst may borrow half a second"
    assert max(seconds[1:]) < 600_000 * 1.1
    assert sum(seconds) > 600_000 * 5, "and it makes use of it"


def test_a_still_picture_costs_next_to_nothing() -> None:
    encoder = H264Encoder()
    sizes = [
        len(encoder.encode(gradient(320, 180), H264Config(320, 180, 30, 4_000_000)).payload)
        for _ in range(60)
    ]
    assert 8 * sum(sizes[30:]) < 20_000


@pytest.mark.parametrize(
    ("field", "value"), [("width", 63), ("width", 0), ("height", 47), ("fps", 0), ("bit_rate", 0)]
)
def test_what_420_video_cannot_be_is_refused(field: str, value: int) -> None:
    good = {"width": 64, "height": 48, "fps": 30, "bit_rate": 1000}
    with pytest.raises(ValueError, match=field):
        H264Config(**(good | {field: value}))


def test_what_is_no_picture_is_a_value_error_and_harms_nothing() -> None:
    encoder = H264Encoder()
    encoder.encode(plain(0, 0, 0), CONFIG)
    with pytest.raises(ValueError, match=r"\(48, 64\)"):
        encoder.encode(np.zeros((48, 64), np.uint8), CONFIG)
    assert encoder.encode(plain(0, 0, 0), CONFIG).key


def test_a_stream_cannot_be_entered_in_the_middle() -> None:
    encoder = H264Encoder()
    encoder.encode(plain(9, 9, 9), CONFIG)
    later = encoder.encode(plain(9, 9, 9), CONFIG)
    decoder = H264Decoder()
    with pytest.raises(ValueError, match="broken"):
        decoder.decode(later.payload)
    key = encoder.encode(plain(9, 9, 9), CONFIG, key=True)
    assert decoder.decode(key.payload).mean() == pytest.approx(9, abs=2), "an error is not for ever"


@given(st.binary(max_size=200), st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_broken_bytes_are_a_value_error_or_a_picture(garbage: bytes, at: int) -> None:
    whole = H264Encoder().encode(gradient(32, 32), H264Config(32, 32, 30, 100_000)).payload
    for payload in (garbage, whole[:at] + garbage + whole[at:], whole[:at]):
        try:
            pixels = H264Decoder(max_pixels=100_000).decode(payload)
        except ValueError:
            continue
        assert pixels.ndim == 3


def test_a_picture_that_is_too_large_is_not_decoded() -> None:
    payload = H264Encoder().encode(plain(0, 0, 0), CONFIG).payload
    assert H264Decoder(max_pixels=WIDTH * HEIGHT).decode(payload).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ValueError, match="broken"):
        H264Decoder(max_pixels=1000).decode(payload)


# ---- without PyAV


@pytest.fixture
def no_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.mark.usefixtures("no_pyav")
def test_without_pyav_it_says_what_to_install() -> None:
    assert not h264.is_available()
    for use in (H264Decoder, lambda: H264Encoder().encode(plain(0, 0, 0), CONFIG)):
        with pytest.raises(ImportError, match=r"pip install .*reactor-trio\[video\]"):
            use()


@pytest.mark.usefixtures("no_pyav")
def test_without_pyav_there_is_no_h264_to_choose() -> None:
    assert MediaSettings().video_codecs == ("jpeg", "raw")
    assert MediaSettings(video_codec="raw").video_codecs == ("raw", "jpeg")
    try:
        served = CliRunner().invoke(cli, ["serve", "--video-codec", "h264"])
    finally:
        structlog.reset_defaults()  # the command has configured the logging of this process
    assert served.exit_code == 2
    assert 'H.264 needs PyAV: pip install "reactor-trio[video]"' in served.output


@pytest.mark.usefixtures("no_pyav")
def test_without_pyav_a_frame_is_scaled_all_the_same() -> None:
    assert downscale(plain(7, 8, 9), 20, 15).shape == (15, 20, 3)


# ---- settings


def test_the_default_codec_comes_first() -> None:
    assert MediaSettings().video_codecs == ("jpeg", "h264", "raw")
    assert MediaSettings(video_codec="h264").video_codecs == ("h264", "jpeg", "raw")


def test_the_bit_rate_grows_with_the_picture_between_its_bounds() -> None:
    media = MediaSettings()
    assert media.bit_rate(1280, 720, 30) == 2_764_800
    assert media.bit_rate(1280, 720, 15) == 1_382_400
    assert media.bit_rate(64, 48, 30) == media.min_video_bit_rate == 300_000
    assert media.bit_rate(3840, 2160, 60) == media.max_video_bit_rate == 8_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"video_codec": "vp8"},
        {"jpeg_quality": 0},
        {"jpeg_quality": 101},
        {"min_video_bit_rate": 0},
        {"min_video_bit_rate": 9_000_000},
        {"max_video_bit_rate": 1},
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(wrong: dict[str, object]) -> None:
    [name] = wrong
    with pytest.raises(ValueError, match=name if name != "max_video_bit_rate" else "min_video_bit_rate"):
        MediaSettings(**wrong)  # type: ignore[arg-type]
    option = f"--{name.replace('_', '-')}"
    served = CliRunner().invoke(cli, ["serve", option, str(wrong[name])])
    assert served.exit_code == 2


# ---- smaller frames

sides = st.integers(1, 40)


@given(sides, sides, st.none() | st.integers(16, 50), st.booleans())
def test_a_frame_is_fitted_into_the_width_with_its_aspect(
    width: int, height: int, max_width: int | None, even: bool
) -> None:
    wide, high = fitted(width, height, max_width, even=even)
    assert wide >= 1
    assert high >= 1
    if even:
        assert (wide % 2, high % 2) == (0, 0)
    if max_width is None or width <= max_width:
        assert (wide, high) == ((width + width % 2, height + height % 2) if even else (width, height))
    else:
        assert max_width - even <= wide <= max_width
        assert abs(high - height * wide / width) <= (1 if even else 0.5) or high == (2 if even else 1)


def test_sizes_as_one_meets_them() -> None:
    assert fitted(1280, 720, 640) == (640, 360)
    assert fitted(1280, 720, 853, even=True) == (852, 480)
    assert fitted(1280, 720, 1280) == (1280, 720)
    assert fitted(641, 361, None, even=True) == (642, 362)
    assert fitted(16384, 1, 16) == (16, 1)


@pytest.mark.parametrize("scale", [downscale, by_numpy])
@pytest.mark.parametrize("size", [(32, 24), (16, 12), (50, 30), (63, 47), (1, 1), (64, 1)])
def test_scaled_down_each_pixel_is_the_mean_of_what_it_covers(scale, size: tuple[int, int]) -> None:
    picture = gradient(WIDTH, HEIGHT)
    picture[..., 2] = 77
    scaled = scale(picture, *size)
    assert (scaled.shape, scaled.dtype, scaled.flags.c_contiguous) == ((size[1], size[0], 3), np.uint8, True)
    assert np.abs(scaled.astype(float) - box_mean(picture, *size)).max() <= 2.5
    assert np.abs(scaled[..., 2].astype(int) - 77).max() <= 1


def box_mean(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The mean by its definition: each pixel is cut into `width` x `height` parts; the parts are averaged."""
    fine = picture.repeat(height, 0).repeat(width, 1).astype(float)
    return fine.reshape(height, picture.shape[0], width, picture.shape[1], 3).mean(axis=(1, 3))


def test_the_mean_is_exact_with_numpy() -> None:
    picture = noise(1, 12, 9)
    for width, height in itertools.product(range(1, 13), range(1, 10)):
        assert np.abs(by_numpy(picture, width, height) - box_mean(picture, width, height)).max() <= 0.51


def test_thin_lines_stay_visible_when_a_frame_is_made_smaller() -> None:
    picture = plain(0, 0, 0, width=640, height=480)
    picture[:, 101] = 255
    assert downscale(picture, 160, 120).mean(axis=(0, 2)).max() >= 50, "a quarter of a white line is grey"


def test_a_frame_of_this_size_is_not_copied_and_none_is_made_larger() -> None:
    picture = plain(1, 2, 3)
    assert downscale(picture, WIDTH, HEIGHT) is picture
    for width, height in ((WIDTH + 1, HEIGHT), (WIDTH, HEIGHT + 1), (0, 1)):
        with pytest.raises(ValueError, match=r"\(48, 64, 3\)"):
            downscale(picture, width, height)
    assert padded(picture, WIDTH, HEIGHT) is picture


# ---- the lane of a stream


async def test_a_stream_has_a_lane_of_its_own_that_is_forgotten_when_it_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.1)
    executor = ThreadExecutor(cores=1)
    began, order = trio.Event(), []
    go_on = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def first() -> None:
        trio.from_thread.run_sync(began.set, trio_token=token)
        trio.from_thread.run(go_on.wait, trio_token=token)
        order.append("first")

    lane = encoder_lane("session/track")
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.run, lane, first)
            await began.wait()
            nursery.start_soon(executor.run, lane, order.append, "second")
            await executor.run(encoder_lane("other/track"), order.append, "other")
            assert order == ["other"], "neither waits for the other stream"
            assert lane in executor.lanes()
            go_on.set()
    assert order == ["other", "first", "second"], "one call at a time"
    with trio.fail_after(DEADLINE):
        while executor.lanes():  # noqa: ASYNC110  a thread that ends sets no event
            await trio.sleep(0.01)
