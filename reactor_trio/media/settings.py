"""The settings of encoding: how a server sends video to clients that ask for nothing else."""

from __future__ import annotations

from typing import Final, Literal, get_args

import attrs
from attrs.validators import ge, in_, instance_of, le

from reactor_trio.media import h264

VideoCodec = Literal["jpeg", "h264", "raw"]
VIDEO_CODECS: Final[tuple[VideoCodec, ...]] = get_args(VideoCodec)

BITS_PER_PIXEL = 0.1
"""Bits that H.264 of fair quality takes for a pixel: 2.8 Mbit/s at 1280 x 720 and 30 frames a second."""


@attrs.frozen(kw_only=True)
class MediaSettings:
    """How video is encoded; each field is a command line option under its own name.

    Raises `ValueError` for a value out of range, and for `h264` where PyAV is not installed.
    """

    video_codec: VideoCodec = attrs.field(default="jpeg", validator=in_(VIDEO_CODECS))
    """The codec for clients that ask for no other."""
    jpeg_quality: int = attrs.field(default=85, validator=[instance_of(int), ge(1), le(100)])
    """1 to 100."""
    min_video_bit_rate: int = attrs.field(default=300_000, validator=[instance_of(int), ge(1)])
    """Bits a second that an H.264 track may take however small its frames are."""
    max_video_bit_rate: int = attrs.field(default=8_000_000, validator=[instance_of(int), ge(1)])
    """Bits a second that an H.264 track may take at most."""

    def __attrs_post_init__(self) -> None:
        if self.min_video_bit_rate > self.max_video_bit_rate:
            raise ValueError(
                f"'min_video_bit_rate' must be <= max_video_bit_rate ({self.max_video_bit_rate}): "
                f"{self.min_video_bit_rate}"
            )
        if self.video_codec == "h264" and not h264.is_available():
            raise ValueError(h264.MISSING)

    @property
    def video_codecs(self) -> tuple[VideoCodec, ...]:
        """The codecs that a client can choose from, the default first; H.264 only if PyAV is installed."""
        offered: list[VideoCodec] = [self.video_codec]
        for codec in VIDEO_CODECS:
            if codec not in offered and (codec != "h264" or h264.is_available()):
                offered.append(codec)
        return tuple(offered)

    def bit_rate(self, width: int, height: int, fps: float) -> int:
        """Bits a second that H.264 of this size (pixels) and rate (frames a second) may take."""
        fair = round(width * height * fps * BITS_PER_PIXEL)
        return max(self.min_video_bit_rate, min(fair, self.max_video_bit_rate))
