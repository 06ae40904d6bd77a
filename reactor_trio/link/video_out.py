"""One video track as a link sends it: a slot with the newest picture, and how it is encoded and sent.

Three things may let the next picture begin: that it is shown, that the encoder is done with the one before,
and that this one has been written. Each is a plain call on the loop, which does what there is to do right
there: a task for that would take two steps more for each frame, a fifth of what the loop spends on it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import outcome
import trio

from reactor_trio.link.carried import Carried
from reactor_trio.link.encoding import Encoded
from reactor_trio.link.outbox import OutFrame
from reactor_trio.protocol.binary import encode_video

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.compute.calls import PendingCall
    from reactor_trio.compute.executor import Executor
    from reactor_trio.link.encoding import VideoEncoder
    from reactor_trio.link.latency import FrameLatency
    from reactor_trio.link.outbox import Outbox
    from reactor_trio.session.applied import Applied
    from reactor_trio.session.observer import FrameCounts
    from reactor_trio.session.output_steps import Picture


class VideoTrack:
    """From the pacer to the outbox: of the pictures that wait for the encoder, the newest wins."""

    def __init__(
        self,
        encoder: VideoEncoder,
        executor: Executor,
        outbox: Outbox,
        latency: FrameLatency,
        counts: FrameCounts,
        on_progress: Callable[[], object],
    ) -> None:
        self.encoder = encoder
        self.encoded = 0
        """Frames that have been encoded."""
        self._executor = executor
        self._outbox = outbox
        self._latency = latency
        self._counts = counts
        # Called when a picture has left this track, for whoever waits until none is here.
        self._on_progress = on_progress
        self._now = trio.lowlevel.current_clock().current_time
        self._carried = Carried()
        self._picture: Picture | None = None
        # The picture that is with the encoder (None too if it was flushed meanwhile), and the commands that
        # it is the first to reflect.
        self._encoding: Picture | None = None
        self._reflects: tuple[Applied, ...] = ()
        # Whether the encoder is at work, and the call that is.
        self._is_busy = False
        self._call: PendingCall | None = None
        # Whether `encode` runs: only then pictures are encoded.
        self._is_open = False
        # What `encode` waits for, and raises.
        self._has_failed = trio.Event()
        self._failure: BaseException | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no picture is here that is going to be shown."""
        return self._encoding is None and (self._picture is None or self.encoder.is_paused)

    def show(self, picture: Picture, *, is_overtaken: bool = False) -> None:
        """Put a picture that is due into the slot, if the client wants it.

        One that `is_overtaken` is not begun with: another comes right behind it.
        """
        if not self.encoder.takes(picture.pts):
            self._counts.unwanted += 1
            self.carry(picture.seq, picture.applied)
        else:
            if self._picture is not None:
                self._count_replaced()
                self.carry(self._picture.seq, self._picture.applied)
            self._picture = picture
        if not is_overtaken:
            self._encode_next()

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
        self._encode_next()
        self._on_progress()

    def carry(self, seq: int, applied: tuple[Applied, ...]) -> None:
        """Take over the commands that a frame reflected which will not be sent."""
        self._carried.add(seq, applied)

    def lost(self, frame: OutFrame) -> None:
        """An encoded frame will not be sent."""
        self.encoder.lost()
        self.carry(frame.seq, frame.applied)

    def clear(self) -> None:
        """Throw away the pictures in the slot and in the encoder."""
        if self._encoding is not None:
            self._counts.dropped += 1
            self.carry(self._encoding.seq, self._reflects)
        if self._picture is not None:
            self._counts.dropped += 1
            self.carry(self._picture.seq, self._picture.applied)
        self._encoding = self._picture = None

    async def encode(self) -> None:
        """Encode pictures, always the newest, when the one before is written. Until it is cancelled.

        Then it waits for what the encoder is at, and for at most 5 s until it has given its memory back.
        Raises what the encoder raised.
        """
        self._is_open = True
        try:
            self._encode_next()
            await self._has_failed.wait()
            assert self._failure is not None
            raise self._failure
        finally:
            self._is_open = False
            if self._call is not None:
                await self._call.end()  # noqa: ASYNC102  shielded in there: a thread cannot be stopped
            await self.encoder.aclose()  # noqa: ASYNC102  shielded in there, for 5 s at most

    def _encode_next(self) -> None:
        """Begin with the picture that waits, if there is one and it is its turn.

        Never raises, whoever calls it, be it the model by its `emit`: what fails here, `encode` raises.
        """
        if self._picture is None or self._is_busy or not self._is_open or self.encoder.is_paused:
            return
        if self._outbox.has_frame(self.encoder.track):
            return
        picture, self._picture = self._picture, None
        self._reflects = self._carried.hand_on(picture.seq, picture.applied)
        self._encoding = picture
        self._is_busy = True
        try:
            self._begin(picture)
        except BaseException as failure:  # what is not ours to stop, `encode` raises as well  # noqa: ASYNC103  `encode` raises it
            self._fail(failure)

    def _begin(self, picture: Picture) -> None:
        began = self._now()
        work = self.encoder.begin(picture.pixels)
        if isinstance(work, Encoded):
            self._take(picture, began, work)
        else:
            done = partial(self._done, picture, began)
            self._call = self._executor.begin(work.lane, work.call, done, short=work.is_short)

    def _done(self, picture: Picture, began: float, result: outcome.Outcome[Encoded]) -> None:
        """What the executor calls, on the loop. It must not raise."""
        self._call = None
        if isinstance(result, outcome.Error):
            self._fail(result.error)
            return
        try:
            self._take(picture, began, result.unwrap())
        except BaseException as failure:  # noqa: ASYNC103  `encode` raises it
            self._fail(failure)
        else:
            self._encode_next()

    def _fail(self, failure: BaseException) -> None:
        self._failure = failure
        self._has_failed.set()

    def _take(self, picture: Picture, began: float, encoded: Encoded) -> None:
        self._is_busy = False
        self.encoder.have_encoded(encoded)
        if self._encoding is not picture:  # it was flushed, and counted
            self.encoder.lost()
        elif self.encoder.is_paused:
            self._put_back(picture)
        else:
            self._encoding = None
            self._send(picture, encoded, began)
        self._on_progress()

    def _written(self, frame: OutFrame) -> None:
        self._latency.written(frame.track, frame.seq)
        self._encode_next()

    def _put_back(self, picture: Picture) -> None:
        """The track was paused while this one was with the encoder: it may yet be the first that is shown."""
        self._encoding = None
        self.encoder.lost()
        if self._picture is None:
            self._picture = picture  # with its own commands; those that it was handed go back
            self.carry(picture.seq, self._reflects[: len(self._reflects) - len(picture.applied)])
        else:
            self._count_replaced()
            self.carry(picture.seq, self._reflects)

    def _send(self, picture: Picture, encoded: Encoded, began: float) -> None:
        self.encoded += 1
        track, seq, applied = picture.track, picture.seq, self._reflects
        extra = self._latency.encoded(track, seq, applied, began, self._now())
        if encoded.extra:
            extra.update(encoded.extra)
        if picture.metadata is not None:
            extra["metadata"] = orjson.Fragment(picture.metadata)
        codec, payload, width, height = encoded.codec, encoded.payload, encoded.width, encoded.height
        data = encode_video(track, seq, picture.pts, codec, payload, width, height, extra)
        replaced = self._outbox.put_frame(OutFrame(track, seq, data, applied, self._written))
        if replaced is not None:
            self.lost(replaced)
