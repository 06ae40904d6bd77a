"""The timeline of one audio track: cuts samples in steps of any length into blocks of 20 ms. Pure.

A timeline starts with the first samples of its track and counts time in samples, so there is no drift. A
block is cut at the end of its 20 ms, when all its samples are due; missing samples are silence, and samples
that come later do not replace them. The samples of a step are appended to those before. If a step is due so
much later than the end of these samples that picture and sound would be out of sync, silence fills the gap.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from reactor_trio.media.audio import PCM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.session.applied import Applied
    from reactor_trio.session.observer import FrameCounts
    from reactor_trio.session.output_steps import Content, Sound

BLOCKS_PER_SECOND = 50

TOLERANCE = 0.005
"""Seconds by which sound may be ahead of its picture. More than the rounding of any sample rate, which would
otherwise cause clicks; less than the period of any video."""


@attrs.define(eq=False)
class AudioBlock:
    """20 ms of an audio track."""

    seq: int
    at: float
    """When the first sample of the block is due, in seconds of Trio's clock."""
    channels: int
    payload: bytes = attrs.field(repr=False)
    """The samples as `pcm_s16le`, channels interleaved."""
    metadata: bytes | None
    """The metadata of the step as JSON; None if there is none."""
    applied: tuple[Applied, ...]


@attrs.define(eq=False)
class _Mark:
    """Metadata and commands that belong to the sample at this place."""

    place: int
    metadata: bytes | None
    applied: tuple[Applied, ...]


class AudioTimeline:
    """The waiting samples of one audio track and their times.

    A timeline is at rest, and has no blocks, until samples come, and again after one second of silence. The
    pacer calls `lay` for the sound of a step and `cut` for each block.
    """

    def __init__(self, rate: int, counts: FrameCounts) -> None:
        self.rate = rate
        """Samples per second, of each channel."""
        self.channels: int | None = None
        """Number of channels; None until the first samples come."""
        self.block = max(1, rate // BLOCKS_PER_SECOND)
        """Samples of a block, per channel."""
        self._counts = counts
        self.seq = 0
        """Sequence number of the next block."""
        # When the sample at place 0 is due, in seconds of Trio's clock; None at rest.
        self._origin: float | None = None
        # Samples that have been cut into blocks, silence included, and samples that wait.
        self._cut = self._waiting = 0
        self._chunks: deque[np.ndarray[Any, Any]] = deque()
        self._marks: deque[_Mark] = deque()
        # Samples of silence since the last sample that was laid.
        self._silent = 0

    @property
    def waiting(self) -> int:
        """Number of samples that wait to be cut into blocks."""
        return self._waiting

    @property
    def free_at(self) -> float:
        """When all samples so far have been played, in seconds of Trio's clock; -inf at rest."""
        if self._origin is None:
            return -math.inf
        return self._origin + (self._cut + self._waiting) / self.rate

    @property
    def next_block_at(self) -> float:
        """When the next block is to be cut, in seconds of Trio's clock; inf at rest."""
        if self._origin is None:
            return math.inf
        return self._origin + (self._cut + self.block) / self.rate

    def lay(self, sound: Sound, due: float) -> None:
        """Append the samples of a step that is due at `due`, in seconds of Trio's clock."""
        if self._origin is None:
            self._origin, self._cut = due, 0
        elif due - self.free_at > TOLERANCE:
            self._lay_silence(round((due - self.free_at) * self.rate))
        if sound.metadata is not None or sound.applied:
            self._marks.append(_Mark(self._cut + self._waiting, sound.metadata, sound.applied))
        self._chunks.append(sound.samples)
        self._waiting += len(sound.samples)
        self._silent = 0

    def _lay_silence(self, samples: int) -> None:
        self._chunks.append(np.zeros((samples, self.channels or 1), PCM))
        self._waiting += samples
        self._counts.silence += samples

    def cut(self) -> AudioBlock:
        """Cut the next block, filled up with silence. The timeline must not be at rest."""
        assert self._origin is not None
        assert self.channels is not None
        missing = max(0, self.block - self._waiting)
        self._counts.silence += missing
        self._silent += missing
        metadata, applied = self._take_marks(self._cut + self.block)
        block = AudioBlock(
            self.seq,
            self._origin + self._cut / self.rate,
            self.channels,
            self._take_samples(self.channels),
            metadata,
            applied,
        )
        self.seq += 1
        self._cut += self.block
        if self._silent >= self.rate:
            self.rest()
        return block

    def _take_samples(self, channels: int) -> bytes:
        chunks = self._chunks
        if chunks and len(chunks[0]) == self.block:
            self._waiting -= self.block
            return chunks.popleft().tobytes()
        samples = np.zeros((self.block, channels), PCM)
        filled = 0
        while chunks and filled < self.block:
            taken = chunks[0][: self.block - filled]
            samples[filled : filled + len(taken)] = taken
            filled += len(taken)
            if len(taken) == len(chunks[0]):
                chunks.popleft()
            else:
                chunks[0] = chunks[0][len(taken) :]
        self._waiting -= filled
        return samples.tobytes()

    def _take_marks(self, end: int) -> tuple[bytes | None, tuple[Applied, ...]]:
        """Take the newest metadata and all commands of the samples before this place."""
        metadata: bytes | None = None
        applied: tuple[Applied, ...] = ()
        while self._marks and self._marks[0].place < end:
            mark = self._marks.popleft()
            metadata = metadata if mark.metadata is None else mark.metadata
            applied += mark.applied
        return metadata, applied

    def rest(self) -> None:
        """Stop cutting blocks until samples come. No samples may wait."""
        self._origin = None
        self._silent = 0

    def clear(self) -> tuple[Applied, ...]:
        """Throw away the waiting samples, and rest; returns the commands that they would have reflected."""
        self.count_dropped(self._waiting)
        applied = tuple([each for mark in self._marks for each in mark.applied])
        self._chunks.clear()
        self._marks.clear()
        self._waiting = 0
        self.rest()
        return applied

    def count_dropped(self, samples: int) -> None:
        """Count so many samples as dropped, in blocks, rounded up."""
        self._counts.dropped += -(-samples // self.block)


def check_channels(content: Content, timelines: Mapping[str, AudioTimeline]) -> None:
    """Check and record the number of channels of each track of the content.

    Raises `ValueError` if a track had another number of channels before in this session.
    """
    for name, layout in content.audio.items():
        began_with = timelines[name].channels
        if began_with not in (None, layout.channels):
            raise ValueError(
                f"track {name!r} has {began_with} channels in this session and was given {layout.channels}: "
                "their number may not change"
            )
    for name, layout in content.audio.items():
        timelines[name].channels = layout.channels
