"""One video track of a session's output: a slot with the newest picture, and the task that encodes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import trio

from reactor_trio.protocol.binary import MediaFrame, encode_media
from reactor_trio.session.carried import Carried
from reactor_trio.session.outbox import OutFrame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.session.encoding import Encoded, VideoEncoder
    from reactor_trio.session.latency import LatencyTracker
    from reactor_trio.session.observer import FrameCounts
    from reactor_trio.session.outbox import Outbox
    from reactor_trio.session.output_steps import Picture


class VideoTrack:
    """From the pacer to the outbox: of the pictures that wait for the encoder, the newest wins."""

    def __init__(
        self,
        encoder: VideoEncoder,
        outbox: Outbox,
        latency: LatencyTracker,
        counts: FrameCounts,
        on_progress: Callable[[], object],
    ) -> None:
        self.encoder = encoder
        self.encoded = 0
        """Frames that have been encoded."""
        self._outbox = outbox
        self._latency = latency
        self._counts = counts
        # Called when a picture has left this track, for whoever waits until none is here.
        self._on_progress = on_progress
        self._now = trio.lowlevel.current_clock().current_time
        self._carried = Carried()
        self._picture: Picture | None = None
        # The picture that is with the encoder; None too if it was flushed meanwhile.
        self._encoding: Picture | None = None
        # Set by `show`; `encode` waits for it.
        self._filled = trio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether no picture is here that is going to be shown."""
        return self._encoding is None and (self._picture is None or self.encoder.is_paused)

    def show(self, picture: Picture) -> None:
        """Put a picture that is due into the slot, if the client wants it."""
        if not self.encoder.takes(picture.pts):
            self._counts.unwanted += 1
            self.carry(picture)
            return
        if self._picture is not None:
            self._count_replaced()
            self.carry(self._picture)
        self._picture = picture
        self._filled.set()

    def _count_replaced(self) -> None:
        if self.encoder.is_paused:
            self._counts.unwanted += 1
        else:
            self._counts.replaced += 1

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change what the client has chosen; see `VideoEncoder.configure`, also for what is raised.

        Once a track is paused no frame of it leaves any more. When it goes on, the newest is shown at once.
        """
        self.encoder.configure(changes)
        if self.encoder.is_paused:
            for frame in self._outbox.withdraw(self.encoder.track):
                self.lost(frame)
        self._filled.set()
        self._on_progress()

    def carry(self, lost: Picture | OutFrame) -> None:
        """Take over what it reflected, for it will not be sent."""
        self._carried.add(lost.seq, lost.applied)

    def lost(self, frame: OutFrame) -> None:
        """An encoded frame will not be sent."""
        self.encoder.lost()
        self.carry(frame)

    def clear(self) -> None:
        """Throw away the pictures in the slot and in the encoder."""
        for picture in (self._encoding, self._picture):
            if picture is not None:
                self._counts.dropped += 1
                self.carry(picture)
        self._encoding = self._picture = None

    async def encode(self) -> None:
        """The encoder task: always the newest picture, when the one before is written. Until it is cancelled.

        Then it waits for the encoder to give its memory back: for 5 s at most.
        """
        try:
            while True:
                while not self._wants_encoding:
                    self._filled = trio.Event()
                    await self._filled.wait()
                await self._outbox.frame_written(self.encoder.track)
                if self._wants_encoding:  # it may have been flushed, or paused, meanwhile
                    await self._encode_newest()
        finally:
            await self.encoder.aclose()  # noqa: ASYNC102  shielded in there, for 5 s at most

    @property
    def _wants_encoding(self) -> bool:
        return self._picture is not None and not self.encoder.is_paused

    async def _encode_newest(self) -> None:
        picture, self._picture = self._picture, None
        assert picture is not None
        picture.applied = self._carried.hand_on(picture.seq, picture.applied)
        self._encoding = picture
        began = self._now()
        encoded = await self.encoder.encode(picture.pixels)
        if self._encoding is not picture:  # it was flushed, and counted
            self.encoder.lost()
        elif self.encoder.is_paused:
            self._put_back(picture)
        else:
            self._encoding = None
            self._send(picture, encoded, began)
        self._on_progress()

    def _put_back(self, picture: Picture) -> None:
        """The track was paused while this one was with the encoder: it may yet be the first that is shown."""
        self._encoding = None
        self.encoder.lost()
        if self._picture is None:
            self._picture = picture
        else:
            self._count_replaced()
            self.carry(picture)

    def _send(self, picture: Picture, encoded: Encoded, began: float) -> None:
        self.encoded += 1
        said = self._latency.encoded(picture.track, picture.seq, picture.applied, began, self._now())
        extra: dict[str, Any] = {**encoded.extra, **said}
        if picture.metadata is not None:
            extra["metadata"] = orjson.Fragment(picture.metadata)
        frame = MediaFrame(
            picture.track,
            picture.seq,
            picture.pts,
            encoded.codec,
            encoded.payload,
            width=encoded.width,
            height=encoded.height,
            extra=extra,
        )
        data = encode_media(frame)
        replaced = self._outbox.put_frame(OutFrame(picture.track, picture.seq, data, picture.applied))
        if replaced is not None:
            self.lost(replaced)
