"""How one client takes one video track: which codec, how often, how large. One encoder a track and session.

Everything here runs on the loop; the work itself is done by the executor: JPEG in the encode lane, which all
sessions share, H.264 in a lane of its own, since a stream cannot be encoded by two threads at a time and must
not wait for anybody's pictures.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import trio

from reactor_trio.compute.lanes import ENCODE, Lane, encoder_lane
from reactor_trio.contract.faults import listed, shown
from reactor_trio.errors import FieldError, InvalidPayload, ProtocolError
from reactor_trio.link.thinning import Thinning
from reactor_trio.media.h264 import H264Config, H264Encoder
from reactor_trio.media.jpeg import encode_jpeg
from reactor_trio.media.scale import downscale, fitted
from reactor_trio.protocol import names
from reactor_trio.wire.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from reactor_trio.compute.executor import Executor
    from reactor_trio.media.settings import MediaSettings, VideoCodec

KEY_FRAME_INTERVAL = 0.5
"""Seconds between the key frames that a client gets by asking; each costs ten other frames."""
NEW_STREAMS = 2.0
"""New streams of H.264 a second that a client gets by asking: each is a new encoder and a key frame."""
NEW_STREAMS_AT_ONCE = 6
"""After a pause."""
RESUMES, RESUMES_AT_ONCE = 4.0, 12
"""How often a second, and how often at once, a client may let a paused track go on: the picture that was with
the encoder at the pause is encoded anew, and in H.264 as a key frame."""
SHORT_PIXELS = 1 << 19
"""Of a JPEG that takes 1 to 1.5 ms: 724 x 724."""
CLOSE_TIMEOUT = 5.0
"""Seconds that closing an encoder may wait for the thread that is at it."""
MIN_FPS, MAX_FPS = 1.0, 240.0
"""What H.264's bit rate is counted by, however rarely the model emits."""


@attrs.define(eq=False)
class Encoded:
    """One frame as it goes on the wire."""

    codec: str
    payload: bytes | memoryview = attrs.field(repr=False)
    width: int
    """Pixels, after scaling."""
    height: int
    extra: Mapping[str, Any] | None = None
    """Further fields of the header, such as `key`."""


@attrs.define(eq=False)
class Encoding:
    """A call for the executor, which encodes a frame."""

    lane: Lane
    call: Callable[[], Encoded]
    is_short: bool = False
    """It takes about as long as the copy of a large frame, which is made on the loop as well."""


@attrs.frozen
class VideoChoices:
    """What one client has asked for of one video track; the defaults are the server's."""

    codec: VideoCodec
    max_fps: float | None = None
    """Frames a second."""
    max_width: int | None = None
    """Pixels."""
    paused: bool = False


class VideoEncoder:
    """The encoder of one track for one client, of the session of this id.

    `rate()` is how many frames a second the model shows now.
    """

    def __init__(
        self, track: str, executor: Executor, media: MediaSettings, rate: Callable[[], float], session_id: str
    ) -> None:
        self.track = track
        self._lane = encoder_lane(f"{session_id}/{track}")
        self._executor = executor
        self._media = media
        self._rate = rate
        self._default = VideoChoices(media.video_codec)
        self._choices = self._default
        # Those in force: a client that changes its mind with every frame has its newest wish twice a second.
        self._applied = self._default
        self._new_streams = TokenBucket(NEW_STREAMS, NEW_STREAMS_AT_ONCE, trio.current_time())
        self._resumes = TokenBucket(RESUMES, RESUMES_AT_ONCE, trio.current_time())
        self._thinning = Thinning(None)
        self._h264 = H264Encoder()
        # The rate that the stream was begun with.
        self._fps = 0.0
        # Whether the next frame of H.264 has to be a key frame, and whether the client would like one.
        self._must_key = False
        self._wants_key = False
        self._last_key = -math.inf

    # ---- what the client asks for

    @property
    def is_paused(self) -> bool:
        """Whether the client wants no frames at all for now."""
        return self._choices.paused

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change some of the choices, from the next frame on; None takes one back to its default.

        `changes` has fields of `VideoChoices`, each in range (protocol/client_messages.py). Raises
        `InvalidPayload` for a codec that is not offered, and `ProtocolError`, `overloaded`, if the track
        would go on after a pause too often; nothing is changed then.
        """
        codec = changes.get("codec")
        if codec is not None and codec not in self._media.video_codecs:
            offered = listed(list(self._media.video_codecs))
            fault = FieldError("codec", f"must be one of {offered}, not {shown(codec)}")
            raise InvalidPayload([fault], event=names.CONFIGURE_TRACK)
        values = {
            name: getattr(self._default, name) if value is None else value for name, value in changes.items()
        }
        wanted = attrs.evolve(self._choices, **values)
        if self._choices.paused and not wanted.paused:
            self._check_resumes()
        before, self._choices = self._choices, wanted
        if self._choices.max_fps != before.max_fps:
            self._thinning = Thinning(self._choices.max_fps)
        if before.paused and not self._choices.paused:
            self._must_key = True

    def _check_resumes(self) -> None:
        wait = self._resumes.take(trio.current_time())
        if wait:
            text = f"a track may go on after a pause {RESUMES:g} times a second; try again in {wait:.2f} s"
            raise ProtocolError(names.OVERLOADED, text, event=names.CONFIGURE_TRACK)

    def request_key_frame(self) -> None:
        """The client cannot decode on. It is given a key frame next, but not more than two a second."""
        self._wants_key = True

    # ---- what the session does with its frames

    def takes(self, pts: float) -> bool:
        """Whether the client wants the frame of this time, in seconds; asked once for each, in order.

        While it is paused it takes all: the newest is what it will be shown first.
        """
        return self._choices.paused or self._thinning.takes(pts)

    def begin(self, pixels: np.ndarray[Any, Any]) -> Encoded | Encoding:
        """Say how to encode a frame (H, W, 3), uint8, RGB, C-contiguous: it may need no work.

        One at a time, and each `Encoded` is told to `have_encoded`, in order.
        """
        choices = self._apply_choices()
        if choices.codec == "h264":
            return self._h264_encoding(pixels, choices)
        height, width, _ = pixels.shape
        width, height = fitted(width, height, choices.max_width)
        is_smaller = pixels.shape[:2] != (height, width)
        if choices.codec == "jpeg":
            call = partial(_jpeg, pixels, width, height, self._media.jpeg_quality)
            encoding = Encoding(ENCODE, call, not is_smaller and width * height <= SHORT_PIXELS)
        elif is_smaller or self._h264.is_open:
            encoding = Encoding(ENCODE, partial(_raw, pixels, width, height))
        else:
            return _raw(pixels, width, height)
        if self._h264.is_open:  # its memory; the client may never come back to it
            return Encoding(self._lane, partial(_closing, self._h264, encoding.call))
        return encoding

    def _apply_choices(self) -> VideoChoices:
        wanted = attrs.evolve(self._choices, paused=False)
        if wanted != self._applied:
            is_stream = "h264" in (wanted.codec, self._applied.codec)
            if not is_stream or not self._new_streams.take(trio.current_time()):
                self._applied = wanted
        return self._applied

    def _h264_encoding(self, pixels: np.ndarray[Any, Any], choices: VideoChoices) -> Encoding:
        height, width, _ = pixels.shape
        width, height = fitted(width, height, choices.max_width, even=True)
        fps = self._stream_fps(choices)
        config = H264Config(width, height, fps, self._media.bit_rate(width, height, fps))
        key = self._must_key or self._may_have_key()
        self._must_key = False
        return Encoding(self._lane, partial(_h264, self._h264, pixels, config, key))

    def have_encoded(self, encoded: Encoded) -> None:
        """A frame has been encoded, whether it is going to be sent or not."""
        if encoded.extra and "key" in encoded.extra:
            self._last_key, self._wants_key = trio.current_time(), False

    def _stream_fps(self, choices: VideoChoices) -> float:
        """The rate to count the bits by. A new one is a new stream, so small changes are let be."""
        fps = max(MIN_FPS, min(self._rate(), choices.max_fps or MAX_FPS, MAX_FPS))
        if not self._fps / 2 <= fps <= self._fps * 1.1:
            self._fps = fps
        return self._fps

    def _may_have_key(self) -> bool:
        return self._wants_key and trio.current_time() - self._last_key >= KEY_FRAME_INTERVAL

    def lost(self) -> None:
        """A frame that was encoded will not be sent: the next one must not build on it."""
        self._must_key = True

    async def aclose(self) -> None:
        """Give the encoder's memory back, when nothing is encoded any more.

        If cancelled, it does so all the same: it waits for the thread that is at it, for at most 5 s.
        """
        if not self._h264.is_open:
            return
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self._executor.run(self._lane, self._h264.close)


def _scaled(pixels: np.ndarray[Any, Any], width: int, height: int) -> np.ndarray[Any, Any]:
    return pixels if pixels.shape[:2] == (height, width) else downscale(pixels, width, height)


def _jpeg(pixels: np.ndarray[Any, Any], width: int, height: int, quality: int) -> Encoded:
    return Encoded("jpeg", encode_jpeg(_scaled(pixels, width, height), quality), width, height)


def _raw(pixels: np.ndarray[Any, Any], width: int, height: int) -> Encoded:
    return Encoded("raw", _scaled(pixels, width, height).data.cast("B"), width, height)


def _h264(encoder: H264Encoder, pixels: np.ndarray[Any, Any], config: H264Config, key: bool) -> Encoded:
    packet = encoder.encode(pixels, config, key=key)
    extra = {"key": True} if packet.key else None
    return Encoded("h264", packet.payload, config.width, config.height, extra)


def _closing(encoder: H264Encoder, call: Callable[[], Encoded]) -> Encoded:
    encoder.close()
    return call()
