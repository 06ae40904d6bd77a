"""One output track of video for one client: a slot for the newest picture, its encoding and its sending.

Encoding of the next picture may begin at three events: the pacer shows a picture, the encoder ends its call,
or the frame before has been written. Each event is a plain call on the loop, which begins the encoding at
once. A task instead would need two more of Trio's steps for each frame, which is a fifth of the loop's time
for a frame.
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
    """Encodes and sends one video track to one client. `OutputTracks` makes one for each video output.

    The pacer's pictures arrive through `show`. One picture at most waits for the encoder: a newer picture
    replaces it. One frame at most waits in the outbox. The link runs `encode` in a task, and pictures are
    encoded only while it runs.
    """

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
        """Frames that were encoded and sent on, without those that were flushed or paused meanwhile."""
        self._executor = executor
        self._outbox = outbox
        self._latency = latency
        self._counts = counts
        # Called when a picture may have left this track: `output.flush` and others wait for `is_idle`.
        self._on_progress = on_progress
        self._now = trio.lowlevel.current_clock().current_time
        self._carried = Carried()
        self._picture: Picture | None = None
        # The picture that the encoder works on, and the commands that it is the first to reflect. The picture
        # is None also if it was flushed meanwhile.
        self._encoding: Picture | None = None
        self._reflects: tuple[Applied, ...] = ()
        # Whether the encoder works on a picture, and its call to the executor, if there is one.
        self._is_busy = False
        self._call: PendingCall | None = None
        # Whether `encode` runs: pictures are encoded only then.
        self._is_open = False
        # `encode` waits for the event, and raises the failure.
        self._has_failed = trio.Event()
        self._failure: BaseException | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no picture is being encoded, and none waits in the slot of a track that is not paused."""
        return self._encoding is None and (self._picture is None or self.encoder.is_paused)

    def show(self, picture: Picture, *, is_overtaken: bool = False) -> None:
        """Put a picture that is due into the slot, if the client wants it, and encode it if possible.

        With `is_overtaken` the encoding is not begun, since the pacer shows a newer picture right after this.
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
        """Change the client's settings of this track. Raises as `VideoEncoder.configure`.

        A paused track sends no frame: frames in the outbox are withdrawn. When the track is resumed, the
        newest picture is encoded and sent at once.
        """
        self.encoder.configure(changes)
        if self.encoder.is_paused:
            for frame in self._outbox.withdraw(self.encoder.track):
                self.lost(frame)
        self._encode_next()
        self._on_progress()

    def carry(self, seq: int, applied: tuple[Applied, ...]) -> None:
        """Keep the commands that an unsent frame reflected, for the next frame of the track."""
        self._carried.add(seq, applied)

    def lost(self, frame: OutFrame) -> None:
        """Note that an encoded frame will not be sent: the next frame takes over its commands."""
        self.encoder.lost()
        self.carry(frame.seq, frame.applied)

    def clear(self) -> None:
        """Throw away the picture in the slot, and the one that is being encoded, whose call still ends."""
        if self._encoding is not None:
            self._counts.dropped += 1
            self.carry(self._encoding.seq, self._reflects)
        if self._picture is not None:
            self._counts.dropped += 1
            self.carry(self._picture.seq, self._picture.applied)
        self._encoding = self._picture = None

    async def encode(self) -> None:
        """The encoding task of this track. Pictures are encoded until it is cancelled: always the newest, as
        soon as the frame before has been written.

        When it is cancelled, it waits for the encoder's call that runs, and then for at most 5 s until the
        encoder's memory is given back. Raises the exception that the encoder raised, if it fails.
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
        """Encode the picture in the slot, if the encoder and the track's place in the outbox are free.

        Never raises, since the caller may be the model's own `emit`: `encode` raises a failure instead.
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
        except BaseException as failure:  # also `KeyboardInterrupt`  # noqa: ASYNC103  `encode` raises it
            self._fail(failure)

    def _begin(self, picture: Picture) -> None:
        began = self._now()
        work = self.encoder.begin(picture.pixels)
        if isinstance(work, Encoded):
            self._finish(picture, began, work)
        else:
            done = partial(self._done, picture, began)
            self._call = self._executor.begin(work.lane, work.call, done, short=work.is_short)

    def _done(self, picture: Picture, began: float, result: outcome.Outcome[Encoded]) -> None:
        """The executor's callback with the outcome of a call, on the loop. Never raises: `encode` does."""
        self._call = None
        if isinstance(result, outcome.Error):
            self._fail(result.error)
            return
        try:
            self._finish(picture, began, result.unwrap())
        except BaseException as failure:  # noqa: ASYNC103  `encode` raises it
            self._fail(failure)
        else:
            self._encode_next()

    def _fail(self, failure: BaseException) -> None:
        self._failure = failure
        self._has_failed.set()

    def _finish(self, picture: Picture, began: float, encoded: Encoded) -> None:
        self._is_busy = False
        self.encoder.have_encoded(encoded)
        if self._encoding is not picture:  # the picture was flushed, and counted as dropped
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
        """Put a picture back into the slot after its track was paused during its encoding.

        When the track is resumed, the picture is the first to be sent, unless a newer one has replaced it.
        """
        self._encoding = None
        self.encoder.lost()
        if self._picture is None:
            self._picture = picture  # it keeps its own commands; those of lost frames go back
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
