"""The output tracks of a session for one client, each with the codec and rate that the client asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactor_trio.contract.faults import listed
from reactor_trio.errors import FieldError, InvalidPayload, ProtocolError
from reactor_trio.link.audio_out import AudioTrack
from reactor_trio.link.encoding import VideoEncoder
from reactor_trio.link.latency import FrameLatency
from reactor_trio.link.video_out import VideoTrack
from reactor_trio.protocol import names
from reactor_trio.protocol.client_messages import ConfigureTrack, FrameShown, RequestKeyFrame

if TYPE_CHECKING:
    from reactor_trio.declare.tracks import TrackSpec
    from reactor_trio.link.outbox import Outbox
    from reactor_trio.session.applied import Applied
    from reactor_trio.session.audio_timeline import AudioBlock
    from reactor_trio.session.context import SessionContext
    from reactor_trio.session.output_steps import Picture
    from reactor_trio.session.pacing import OutputStream


class OutputTracks:
    """The output tracks of one link: the `Viewer` (`session/links.py`) that the session's pacer calls.

    The receive task calls `take` with the client's messages about tracks.
    """

    def __init__(self, context: SessionContext, output: OutputStream, outbox: Outbox) -> None:
        self._context = context
        self._output = output
        self._outbox = outbox
        self._latency = FrameLatency(context.observer)
        self.video: dict[str, VideoTrack] = {}
        """Video tracks by name. The link runs `VideoTrack.encode` of each in a task."""
        self._audio: dict[str, AudioTrack] = {}
        for track in context.contract.tracks:
            if track.direction == "out":
                self._open(track)

    def _open(self, track: TrackSpec) -> None:
        context, outbox, latency = self._context, self._outbox, self._latency
        counts = context.counts.frames[track.name]
        if track.rate is not None:
            pts = self._output.pts
            self._audio[track.name] = AudioTrack(track.name, track.rate, outbox, latency, counts, pts)
            return
        encoder = VideoEncoder(track.name, context.executor, context.media, self._rate, context.id)
        progress = self._output.have_progressed
        self.video[track.name] = VideoTrack(encoder, context.executor, outbox, latency, counts, progress)

    def _rate(self) -> float:
        return 1 / self._output.period

    def _track(self, name: str) -> VideoTrack | AudioTrack:
        return self.video[name] if name in self.video else self._audio[name]

    # ---- called by the pacer: see `session.links.Viewer`

    def show(self, picture: Picture, *, is_overtaken: bool) -> None:
        """See `Viewer.show`."""
        self.video[picture.track].show(picture, is_overtaken=is_overtaken)

    def play(self, track: str, block: AudioBlock) -> None:
        """See `Viewer.play`."""
        self._audio[track].play(block)

    def carry(self, track: str, seq: int, applied: tuple[Applied, ...]) -> None:
        """See `Viewer.carry`."""
        self._track(track).carry(seq, applied)

    def flush(self) -> None:
        """See `Viewer.flush`."""
        for frame in self._outbox.drop_frames():
            self._track(frame.track).lost(frame)
        for track in self.video.values():
            track.clear()

    @property
    def is_idle(self) -> bool:
        """See `Viewer.is_idle`."""
        return all(track.is_idle for track in self.video.values())

    @property
    def encoded(self) -> int:
        """See `Viewer.encoded`."""
        return sum(track.encoded for track in self.video.values())

    # ---- called by the receive task

    def take(self, asked: ConfigureTrack | RequestKeyFrame | FrameShown) -> None:
        """Carry out a message about an output track. Raises `ProtocolError` with the message's id."""
        try:
            self._check(asked)
            match asked:
                case ConfigureTrack(track, changes):
                    self._track(track).configure(changes)
                case RequestKeyFrame(track):
                    self._request_key_frame(track)
                case FrameShown(track, seq):
                    self._latency.shown(track, seq)
        except ProtocolError as error:
            error.reply_to = asked.id
            raise

    def _check(self, asked: ConfigureTrack | RequestKeyFrame | FrameShown) -> None:
        track = asked.track
        if track in self.video or track in self._audio:
            return
        tracks = [each.name for each in self._context.contract.tracks if each.direction == "out"]
        has = f"it has: {listed(tracks)}" if tracks else "it has none"
        fault = FieldError("track", f"this model has no output track {track!r}; {has}")
        raise InvalidPayload([fault], event=asked.type)

    def _request_key_frame(self, track: str) -> None:
        if track not in self.video:
            fault = FieldError("track", f"is audio, which has no key frames: {track!r}")
            raise InvalidPayload([fault], event=names.REQUEST_KEY_FRAME)
        self.video[track].encoder.request_key_frame()
