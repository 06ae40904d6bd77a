"""Sends frames to the model: one of a track at a time, encoded in a thread, written in turn with commands."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs
import trio

from reactor_trio.client.payloads import payload
from reactor_trio.compute.lanes import ENCODE
from reactor_trio.media.audio import AudioLayout, inspect_audio, pcm_samples
from reactor_trio.media.jpeg import encode_jpeg
from reactor_trio.media.video import VideoLayout, inspect_video, rgb_frames
from reactor_trio.protocol.binary import MediaFrame, encode_media

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.client.messages import TrackInfo, Welcome
    from reactor_trio.client.outbox import Outbox
    from reactor_trio.compute.executor import Executor


@attrs.define(eq=False)
class _Track:
    """An input track of the model."""

    info: TrackInfo
    seq: int = 0
    # Held from before a frame is encoded until the write task takes it, so that no caller encodes more frames
    # than the network carries.
    turn: trio.Lock = attrs.field(factory=trio.Lock)


class Publisher:
    """Encodes and sends the frames of `Client.publish`."""

    def __init__(self, welcome: Welcome, outbox: Outbox, executor: Executor) -> None:
        self._tracks = {name: _Track(info) for name, info in welcome.tracks.items() if info.direction == "in"}
        self._max_bytes = welcome.limits.max_message_bytes
        self._outbox = outbox
        self._executor = executor
        self._began: float | None = None

    async def publish(
        self, name: str, frame: object, metadata: Mapping[str, Any] | None, pts: float | None, quality: int
    ) -> None:
        """See `Client.publish`."""
        track = self._track(name)
        pts = self._time() if pts is None else _finite(pts)
        extra = {} if metadata is None else {"metadata": payload(metadata, {})}
        layout = inspect_audio(frame, track=name) if track.info.kind == "audio" else _one(frame, name)
        async with track.turn:
            seq, track.seq = track.seq, track.seq + 1
            media = MediaFrame(name, seq, pts, "", b"", extra=extra)
            if isinstance(layout, AudioLayout):
                media = await self._audio(media, track.info, frame, layout)
            else:
                media = await self._video(media, frame, layout, quality)
            await self._outbox.put_chunk(self._message(media))

    def _track(self, name: str) -> _Track:
        if name not in self._tracks:
            choices = ", ".join(self._tracks) or "none"
            raise ValueError(f"no input track {name!r}; the model takes {choices}")
        return self._tracks[name]

    def _time(self) -> float:
        # All tracks share one clock, so that sound and picture of the same moment have the same time.
        now = trio.current_time()
        if self._began is None:
            self._began = now
        return now - self._began

    async def _video(self, media: MediaFrame, frame: object, layout: VideoLayout, quality: int) -> MediaFrame:
        data = await self._executor.run(ENCODE, _jpeg, frame, layout, quality)
        return attrs.evolve(media, codec="jpeg", payload=data, width=layout.width, height=layout.height)

    async def _audio(
        self, media: MediaFrame, info: TrackInfo, frame: object, layout: AudioLayout
    ) -> MediaFrame:
        if layout.immediate:
            data = _pcm(frame, layout)
        else:
            data = await self._executor.run(ENCODE, _pcm, frame, layout)
        return attrs.evolve(media, codec="pcm_s16le", payload=data, rate=info.rate, channels=layout.channels)

    def _message(self, media: MediaFrame) -> bytes:
        message = encode_media(media)
        if len(message) > self._max_bytes:
            # For a longer message the server would close the connection (1009).
            remedy = "a lower quality or a smaller picture" if media.codec == "jpeg" else "shorter blocks"
            raise ValueError(
                f"track {media.track!r}: a frame of {len(message)} bytes, but the server takes at most "
                f"{self._max_bytes} (max_message_bytes); send {remedy}"
            )
        return message


def _one(frame: object, track: str) -> VideoLayout:
    layout = inspect_video(frame, track=track)
    if layout.count != 1 or len(getattr(frame, "shape", ())) != 3:
        raise ValueError(f"track {track!r} was given a batch; publish its frames one by one")
    return layout


def _finite(pts: float) -> float:
    if not math.isfinite(pts):
        raise ValueError(f"pts must be a number of seconds, not {pts!r}")
    return float(pts)


def _jpeg(frame: object, layout: VideoLayout, quality: int) -> bytes:
    (pixels,) = rgb_frames(frame, layout)
    return encode_jpeg(pixels, quality)


def _pcm(frame: object, layout: AudioLayout) -> bytes:
    return pcm_samples(frame, layout).tobytes()
