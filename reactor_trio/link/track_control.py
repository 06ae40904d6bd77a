"""What a client says of the tracks that it is sent: how it wants them, and what it has shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactor_trio.contract.faults import listed
from reactor_trio.errors import FieldError, InvalidPayload, ProtocolError
from reactor_trio.protocol import control

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reactor_trio.declare.tracks import TrackSpec
    from reactor_trio.protocol.text import ClientText
    from reactor_trio.session.latency import LatencyTracker
    from reactor_trio.session.pacing import OutputStream


class TrackControl:
    """The receive task's side of a session's output tracks."""

    def __init__(self, tracks: Iterable[TrackSpec], output: OutputStream, latency: LatencyTracker) -> None:
        self._names = [track.name for track in tracks if track.direction == "out"]
        self._output = output
        self._latency = latency

    def take(
        self,
        asked: control.ConfigureTrack | control.RequestKeyFrame | control.FrameShown,
        message: ClientText,
    ) -> None:
        """Do what a message asks. Raises `ProtocolError`, in answer to it."""
        try:
            self._check(asked.track, message)
            match asked:
                case control.ConfigureTrack(track, changes):
                    self._output.configure(track, changes)
                case control.RequestKeyFrame(track):
                    self._output.request_key_frame(track)
                case control.FrameShown(track, seq):
                    self._latency.shown(track, seq)
        except ProtocolError as error:
            error.reply_to = message.id
            raise

    def _check(self, track: str, message: ClientText) -> None:
        if track in self._names:
            return
        has = f"it has: {listed(self._names)}" if self._names else "it has none"
        fault = FieldError("track", f"this model has no output track {track!r}; {has}")
        raise InvalidPayload([fault], event=message.type)
