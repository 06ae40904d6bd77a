"""The encoder of one video track for one client: its codec, frame rate and size. One for a track and session.

The code here runs on the loop and describes the encoding; the executor runs it in a thread. JPEG is encoded
in the lane `ENCODE`, which all sessions share. H.264 has a lane for each stream, since two threads cannot
encode one stream at a time, and a stream must not wait for the pictures of other tracks and sessions.
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
"""Least seconds between key frames that a client requests: a key frame costs as much as ten other frames."""
NEW_STREAMS = 2.0
"""New H.264 streams a second that a client's settings may cause: each needs a new encoder and a key frame."""
NEW_STREAMS_AT_ONCE = 6
"""New H.264 streams in a burst, after some seconds without one."""
RESUMES, RESUMES_AT_ONCE = 4.0, 12
"""Times a second, and times in a burst, that a client may resume a paused track: the picture whose encoding
the pause made useless is encoded again, in H.264 as a key frame."""
SHORT_PIXELS = 1 << 19
"""Pixels of a picture up to which its JPEG is short work, 1 to 1.5 ms: 724 x 724."""
CLOSE_TIMEOUT = 5.0
"""Seconds that closing an encoder may wait for the thread that uses the encoder."""
MIN_FPS, MAX_FPS = 1.0, 240.0
"""Bounds, in frames a second, of the rate from which the bit rate of H.264 is computed."""


@attrs.define(eq=False)
class Encoded:
    """One encoded frame, as its message will carry it."""

    codec: str
    payload: bytes | memoryview = attrs.field(repr=False)
    width: int
    """Pixels, after scaling."""
    height: int
    extra: Mapping[str, Any] | None = None
    """Further fields of the message's header, such as `key`."""


@attrs.define(eq=False)
class Encoding:
    """A call that encodes one frame, for the caller of `VideoEncoder.begin` to give to the executor."""

    lane: Lane
    call: Callable[[], Encoded]
    is_short: bool = False
    """Whether the call takes no longer than copying a large frame, which the loop does as well."""


@attrs.frozen
class VideoChoices:
    """The settings of one video track that a client can change; the defaults are the server's."""

    codec: VideoCodec
    max_fps: float | None = None
    """Frames a second; None: as many as the model shows."""
    max_width: int | None = None
    """Pixels; None: the width of the picture."""
    paused: bool = False


class VideoEncoder:
    """The encoder of one video track for one client. `VideoTrack` calls it for each picture.

    `rate()` returns the frames a second that the model shows now. `session_id` names the lane of H.264.
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
        # The choices in force. They lag behind if the client changes a stream more often than `NEW_STREAMS`.
        self._applied = self._default
        self._new_streams = TokenBucket(NEW_STREAMS, NEW_STREAMS_AT_ONCE, trio.current_time())
        self._resumes = TokenBucket(RESUMES, RESUMES_AT_ONCE, trio.current_time())
        self._thinning = Thinning(None)
        self._h264 = H264Encoder()
        # Frames a second for which the H.264 stream was begun.
        self._fps = 0.0
        # Whether the next H.264 frame must be a key frame, and whether the client has requested one.
        self._must_key = False
        self._wants_key = False
        self._last_key = -math.inf

    # ---- the client's requests

    @property
    def is_paused(self) -> bool:
        """Whether the client wants no frames at all for now."""
        return self._choices.paused

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change the settings, from the next frame on; None resets a setting to its default.

        `changes` has fields of `VideoChoices`, each in range (`protocol/client_messages.py`). Raises
        `InvalidPayload` for a codec that the server does not offer, and `ProtocolError` (`overloaded`) if the
        client resumes a paused track too often; no setting is changed then.
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
        """Make the next frame a key frame, but not more than two a second: the client has lost its stream."""
        self._wants_key = True

    # ---- encoding, called by `VideoTrack`

    def takes(self, pts: float) -> bool:
        """Whether the client wants the frame with this time in seconds. Call once for each frame, in order.

        A paused track takes every frame, since the newest is sent when the track is resumed.
        """
        return self._choices.paused or self._thinning.takes(pts)

    def begin(self, pixels: np.ndarray[Any, Any]) -> Encoded | Encoding:
        """Begin to encode a frame, (H, W, 3), uint8, RGB, C-contiguous.

        Returns the encoded frame if no work is needed, otherwise the call for the executor. The caller begins
        one frame at a time, and gives each `Encoded` to `have_encoded`, in order.
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
        if self._h264.is_open:  # give its memory back: the client may never choose H.264 again
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
        """Note that a frame has been encoded, whether or not it will be sent."""
        if encoded.extra and "key" in encoded.extra:
            self._last_key, self._wants_key = trio.current_time(), False

    def _stream_fps(self, choices: VideoChoices) -> float:
        """Frames a second for the bit rate. A new rate begins a new stream, so small changes are ignored."""
        fps = max(MIN_FPS, min(self._rate(), choices.max_fps or MAX_FPS, MAX_FPS))
        if not self._fps / 2 <= fps <= self._fps * 1.1:
            self._fps = fps
        return self._fps

    def _may_have_key(self) -> bool:
        return self._wants_key and trio.current_time() - self._last_key >= KEY_FRAME_INTERVAL

    def lost(self) -> None:
        """Note that an encoded frame will not be sent, so the next one must be a key frame."""
        self._must_key = True

    async def aclose(self) -> None:
        """Close the H.264 encoder and so free its memory. Call it when no frame is being encoded.

        Shielded from cancellation: it waits for the thread that closes the encoder, for at most 5 s.
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
