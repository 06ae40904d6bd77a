"""One output track of audio for one client: blocks that are due are encoded and put into the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import trio

from reactor_trio.errors import FieldError, InvalidPayload
from reactor_trio.link.carried import Carried
from reactor_trio.link.outbox import OutFrame
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, encode_media

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.link.latency import FrameLatency
    from reactor_trio.link.outbox import Outbox
    from reactor_trio.session.applied import Applied
    from reactor_trio.session.audio_timeline import AudioBlock
    from reactor_trio.session.observer import FrameCounts


class AudioTrack:
    """Sends one audio track to one client. `OutputTracks` makes one for each audio output of the model.

    The pacer's blocks arrive through `play`. `pts` converts a time of the runtime's clock to the time that
    the client sees, both in seconds.
    """

    def __init__(
        self,
        name: str,
        rate: int,
        outbox: Outbox,
        latency: FrameLatency,
        counts: FrameCounts,
        pts: Callable[[float], float],
    ) -> None:
        self.name = name
        self._rate = rate
        self._outbox = outbox
        self._latency = latency
        self._counts = counts
        self._pts = pts
        self._carried = Carried()
        self._is_paused = False

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change the client's settings of this track: only `paused` exists.

        A paused track sends no block, and the track's time goes on meanwhile. Raises `InvalidPayload` for any
        other setting, and changes nothing then.
        """
        wrong = [name for name in changes if name != "paused"]
        if wrong:
            faults = [FieldError(name, "an audio track has no such setting, only paused") for name in wrong]
            raise InvalidPayload(faults, event=names.CONFIGURE_TRACK)
        self._is_paused = bool(changes.get("paused", self._is_paused))
        if self._is_paused:
            for block in self._outbox.withdraw(self.name):
                self.lost(block)

    def play(self, block: AudioBlock) -> None:
        """Put a block that is due into the outbox; if the track is paused, count the block as unwanted."""
        if self._is_paused:
            self._counts.unwanted += 1
            self.carry(block.seq, block.applied)
            return
        applied = self._carried.hand_on(block.seq, block.applied)
        data = encode_media(self._media(block, applied))
        oldest = self._outbox.put_audio(OutFrame(self.name, block.seq, data, applied, self._written))
        if oldest is not None:
            self.lost(oldest)

    def _written(self, block: OutFrame) -> None:
        self._latency.written(block.track, block.seq)

    def _media(self, block: AudioBlock, applied: tuple[Applied, ...]) -> MediaFrame:
        extra: dict[str, Any] = {}
        if applied:
            now = trio.current_time()
            extra.update(self._latency.encoded(self.name, block.seq, applied, now, now))
        if block.metadata is not None:
            extra["metadata"] = orjson.Fragment(block.metadata)
        return MediaFrame(
            self.name,
            block.seq,
            self._pts(block.at),
            "pcm_s16le",
            block.payload,
            rate=self._rate,
            channels=block.channels,
            extra=extra,
        )

    def carry(self, seq: int, applied: tuple[Applied, ...]) -> None:
        """Keep the commands that an unsent block reflected, for the next block of the track."""
        self._carried.add(seq, applied)

    def lost(self, block: OutFrame) -> None:
        """Note that an encoded block will not be sent: the next block takes over its commands."""
        self.carry(block.seq, block.applied)
