"""One audio track as a link sends it: from blocks that are due to the outbox."""

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
    """From the pacer to the outbox. `pts` says what a time of the runtime's clock is to the client."""

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
        """Change what the client has chosen. A paused track sends no block; its time goes on.

        Raises `InvalidPayload` for what an audio track does not have, and changes nothing then.
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
        """Put a block that is due into the outbox, if the client wants it."""
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
        """Take over the commands that a block reflected which will not be sent."""
        self._carried.add(seq, applied)

    def lost(self, block: OutFrame) -> None:
        """A block will not be sent."""
        self.carry(block.seq, block.applied)
