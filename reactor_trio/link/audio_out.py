"""One audio track of a session's output: from the samples that are due to blocks in the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import trio

from reactor_trio.errors import FieldError, InvalidPayload
from reactor_trio.link.carried import Carried
from reactor_trio.link.outbox import OutFrame
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, encode_media
from reactor_trio.session.audio_clock import AudioBlock, AudioLine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.link.outbox import Outbox
    from reactor_trio.session.latency import LatencyTracker
    from reactor_trio.session.observer import FrameCounts
    from reactor_trio.session.output_steps import Sound

LATE = 0.1
"""Seconds after which silence is not sent any more: the loop was held up, and no one has heard it."""


class AudioTrack:
    """From the pacer to the outbox. `pts` says what a time of the runtime's clock is to the client."""

    def __init__(
        self,
        name: str,
        rate: int,
        outbox: Outbox,
        latency: LatencyTracker,
        counts: FrameCounts,
        pts: Callable[[float], float],
    ) -> None:
        self.name = name
        self.line = AudioLine(rate, counts)
        """What is due."""
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

    def play(self, sound: Sound, due: float) -> None:
        """Take the samples of a step that is due then, in seconds of the runtime's clock."""
        self.line.lay(sound, due)

    def send_block(self, late: float) -> None:
        """Put the next block into the outbox; its end was so many seconds ago."""
        if late > LATE and not self.line.waiting:
            self.line.rest()
            return
        block = self.line.cut()
        if self._is_paused:
            self._counts.unwanted += 1
            self._carried.add(block.seq, block.applied)
            return
        block.applied = self._carried.hand_on(block.seq, block.applied)
        data = encode_media(self._media(block))
        oldest = self._outbox.put_audio(OutFrame(self.name, block.seq, data, block.applied, self._written))
        if oldest is not None:
            self.lost(oldest)

    def _written(self, block: OutFrame) -> None:
        self._latency.written(block.track, block.seq)

    def _media(self, block: AudioBlock) -> MediaFrame:
        extra: dict[str, Any] = {}
        if block.applied:
            now = trio.current_time()
            extra.update(self._latency.encoded(self.name, block.seq, block.applied, now, now))
        if block.metadata is not None:
            extra["metadata"] = orjson.Fragment(block.metadata)
        return MediaFrame(
            self.name,
            block.seq,
            self._pts(block.at),
            "pcm_s16le",
            block.payload,
            rate=self.line.rate,
            channels=block.channels,
            extra=extra,
        )

    def carry(self, sound: Sound) -> None:
        """Take over what samples reflected that were thrown away before they were due."""
        self._carried.add(self.line.seq, sound.applied)

    def lost(self, block: OutFrame) -> None:
        """A block will not be sent."""
        self._carried.add(block.seq, block.applied)

    def clear(self) -> None:
        """Throw away the samples that are due, and rest."""
        self._carried.add(self.line.seq, self.line.clear())
