"""H.264: libx264 and FFmpeg's decoder, through PyAV (the extra `video`), which work with the GIL released.

PyAV is imported when it is first used. Its errors become `ValueError` here, each with the reason. Neither
class may be used by two threads at a time.

The stream can be decoded by a browser's WebCodecs as it comes: constrained baseline, 4:2:0, Annex B, with the
parameter sets in front of every key frame. Each frame that goes in comes out at once, and none waits for a
later one. The colours are BT.709 in limited range, and the stream says so.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import attrs
import numpy as np
from attrs.validators import ge, gt

from reactor_trio.media.arrays import MAX_PIXELS
from reactor_trio.media.scale import has_pyav, padded

if TYPE_CHECKING:
    from types import ModuleType

    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

MISSING = 'H.264 needs PyAV: pip install "reactor-trio[video]"'
QUALITY = 23
"""x264's constant rate factor, by which simple pictures take less than their bit rate. 18 is hard to tell
from the original, 28 looks coarse."""
BUFFER_SECONDS = 0.5
"""Seconds of bit rate that a burst, such as a key frame, may borrow from the time after it."""

_BT709 = 1
_LIMITED = 1


def is_available() -> bool:
    """Whether PyAV is installed; does not import it."""
    return has_pyav()


def _even(config: object, field: attrs.Attribute[int], value: int) -> None:
    if value % 2:
        raise ValueError(f"{field.name!r} must be even, not {value}")


@attrs.frozen
class H264Config:
    """The settings of an encoder. Raises `ValueError` for sizes and rates that 4:2:0 video cannot have."""

    width: int = attrs.field(validator=[ge(2), _even])
    """Pixels, even."""
    height: int = attrs.field(validator=[ge(2), _even])
    """Pixels, even."""
    fps: float = attrs.field(validator=gt(0))
    """Frames a second to expect: with the bit rate it gives the bits that a frame may take."""
    bit_rate: int = attrs.field(validator=gt(0))
    """Bits a second at that rate, at most; the first second may take half as much again."""


@attrs.frozen
class H264Packet:
    """One encoded frame, in Annex B."""

    payload: bytes = attrs.field(repr=False)
    key: bool
    """Whether it can be decoded without the frames before it."""


class H264Encoder:
    """The encoder of one stream. It begins a new stream, with a key frame, whenever its config changes."""

    def __init__(self) -> None:
        # Made for the first frame, in the thread that encodes it.
        self._context: VideoCodecContext | None = None
        self._reformatter: VideoReformatter | None = None
        self._config: H264Config | None = None
        self._count = 0

    @property
    def is_open(self) -> bool:
        """Whether it holds the memory of an encoder: some 20 MB at 1280 x 720."""
        return self._context is not None

    def encode(self, frame: np.ndarray, config: H264Config, *, key: bool = False) -> H264Packet:
        """Encode a frame (H, W, 3), uint8, RGB, C-contiguous; `key` makes it a key frame.

        The frame is scaled to the config's size, or padded if only the last row or column is missing. Raises
        `ValueError` for a frame or config that x264 refuses, and `ImportError`, which names the remedy, if
        PyAV is not installed.
        """
        av = _pyav()
        try:
            if self._context is None or config != self._config:
                self.close()
                self._context, self._config = _open_encoder(config), config
                # Kept, since to set one up takes as long as to encode half a frame.
                self._reformatter = av.video.reformatter.VideoReformatter()
            picture = self._picture(frame, config)
            picture.pts, self._count = self._count, self._count + 1
            if key:
                picture.pict_type = av.video.frame.PictureType.I
            [packet] = self._context.encode(picture)
        except (av.FFmpegError, ValueError) as error:
            self.close()
            raise ValueError(f"no H.264 of shape {frame.shape} with {config}: {error}") from error
        return H264Packet(bytes(packet), bool(packet.is_keyframe))

    def close(self) -> None:
        """Free the memory of the encoder. The next frame begins a new stream."""
        # PyAV frees the codec with the object, and there is no other reference to it.
        self._context = self._reformatter = None
        self._count = 0

    def _picture(self, frame: np.ndarray, config: H264Config) -> VideoFrame:
        from av.video.frame import VideoFrame
        from av.video.reformatter import ColorRange, Colorspace, Interpolation

        size = (config.height, config.width)
        if all(0 <= wanted - have <= 1 for wanted, have in zip(size, frame.shape, strict=False)):
            frame = padded(frame, config.width, config.height)
        assert self._reformatter is not None
        return self._reformatter.reformat(
            VideoFrame.from_numpy_buffer(np.ascontiguousarray(frame), format="rgb24"),
            config.width,
            config.height,
            "yuv420p",
            interpolation=Interpolation.AREA,
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )


class H264Decoder:
    """Decodes the frames of one track, each once and in order, from a key frame on.

    After a frame that the server dropped, decoding goes on: later frames were encoded without it. After a
    frame that was received but not decoded, ask the server for a key frame.

    Raises `ImportError`, which names the remedy, if PyAV is not installed.
    """

    def __init__(self, *, max_pixels: int = MAX_PIXELS) -> None:
        av = _pyav()
        self._context = av.CodecContext.create("h264", "r")
        self._context.thread_count = 1  # several would keep frames back
        self._context.options = {"max_pixels": str(max_pixels)}

    def decode(self, payload: bytes | memoryview) -> np.ndarray:
        """Decode the next frame to (H, W, 3), uint8, RGB.

        Raises `ValueError` for a broken payload, for a first frame that is no key frame, and for a picture of
        more than `max_pixels`. After an error, decoding goes on with a key frame.
        """
        av = _pyav()
        try:
            frames = self._context.decode(av.Packet(bytes(payload)))
        except av.FFmpegError as error:
            raise ValueError(f"broken H.264: {error}") from error
        if len(frames) != 1 or frames[0].is_corrupt:
            raise ValueError("broken H.264: no picture; a stream begins with a key frame")
        return _pixels(frames[0])


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImportError(MISSING) from error
    return av


def _open_encoder(config: H264Config) -> VideoCodecContext:
    from av.video.codeccontext import VideoCodecContext

    context = VideoCodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = config.width, config.height, "yuv420p"
    # x264 budgets by the number of frames, so the time base is one frame, and `pts` counts frames.
    rate = Fraction(config.fps).limit_denominator(1000)
    context.framerate, context.time_base = rate, 1 / rate
    context.thread_count = 1
    context.color_range = _LIMITED
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "profile": "baseline",
        "crf": str(QUALITY),
        "maxrate": str(config.bit_rate),
        "bufsize": str(round(config.bit_rate * BUFFER_SECONDS)),
        "forced-idr": "1",
        # A key frame costs ten others. The transport loses nothing, so key frames are made on demand alone.
        "x264-params": "keyint=infinite:scenecut=0:repeat-headers=1:annexb=1",
    }
    context.open()
    return context


def _pixels(frame: VideoFrame) -> np.ndarray:
    from av.video.reformatter import ColorRange, Interpolation

    how = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
    pixels = frame.reformat(format="rgb24", interpolation=how, dst_color_range=ColorRange.JPEG).to_ndarray()
    return np.ascontiguousarray(pixels)  # FFmpeg pads the rows of most widths
