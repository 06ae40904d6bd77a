"""The time from a command to the picture that shows its effect, as the client sees it.

The client measures the total on its own clock. With the first frame that reflects a command, the server sends
how long its own stages took (`Frame.timing`). The difference is the network. So a time of one side's clock is
never compared with a time of the other's.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reactor_trio.client.received_frame import Frame
    from reactor_trio.protocol.text import Id

SAMPLES = 256
"""How many commands the statistics cover at most, and how many may wait for their frame."""
_STAGES = ("wait", "handle", "emit", "pace", "encode")


@attrs.frozen
class Spread:
    """Median, 95th percentile and newest value of some durations, in seconds."""

    p50: float
    p95: float
    last: float


@attrs.frozen
class Latency:
    """The time from a command to its picture, for the last 256 commands called whose frame has come.

    Each stage is None as long as it has no samples. The server times only one command for each frame, so
    the stages beside `total` have fewer samples.
    """

    count: int
    """Commands in `total`."""
    total: Spread | None
    """From `call` until the first frame that reflects the command arrived, or `shown` was called for it."""
    wait: Spread | None
    """In the server, until the handler began."""
    handle: Spread | None
    """In the handler."""
    emit: Spread | None
    """From the handler's end until the model emitted its next frame."""
    pace: Spread | None
    """Until the encoding of that frame began: it waits for the frames before it and for the frame rate."""
    encode: Spread | None
    """In the encoder."""
    network: Spread | None
    """The rest of `total`: the network both ways, waiting to be written at either end; if `shown` was called,
    also decoding and display."""


@attrs.define(eq=False)
class _Sample:
    """A command whose frame has come. Times are in seconds of this client's clock."""

    sent: float
    track: str
    seq: int
    seen: float
    shown: bool = False
    timing: Mapping[str, float] | None = None

    @property
    def total(self) -> float:
        return self.seen - self.sent

    @property
    def network(self) -> float:
        return max(0.0, self.total - sum((self.timing or {}).values()))


class LatencyRecorder:
    """Keeps the commands that wait for their frame, and the newest whose frame has come."""

    def __init__(self) -> None:
        self._waiting: dict[Id, float] = {}
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES)

    def sent(self, id_: Id, at: float) -> None:
        """Note that a command was called. Not every command has a frame, so the oldest are forgotten."""
        if len(self._waiting) >= SAMPLES:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[id_] = at

    def failed(self, id_: Id) -> None:
        """Forget a command that was refused: no frame will reflect it."""
        self._waiting.pop(id_, None)

    def arrived(self, frame: Frame) -> None:
        """Note that a frame has arrived, and which commands it reflects."""
        applied, timing = frame.applied, frame.timing
        for id_ in applied:
            sent = self._waiting.pop(id_, None)
            if sent is not None:
                sample = _Sample(sent, frame.track, frame.seq, frame.received_at)
                if id_ == applied[-1] and all(stage in timing for stage in _STAGES):
                    sample.timing = {stage: timing[stage] for stage in _STAGES}
                self._samples.append(sample)

    def shown(self, frame: Frame, at: float) -> None:
        """Note that a frame is on the screen; only the first call for a frame counts."""
        if not frame.applied:
            return
        for sample in self._samples:
            if not sample.shown and (sample.track, sample.seq) == (frame.track, frame.seq):
                sample.seen, sample.shown = at, True

    def statistics(self) -> Latency:
        """The numbers now."""
        split = [(sample, sample.timing) for sample in self._samples if sample.timing is not None]
        return Latency(
            count=len(self._samples),
            total=_spread([sample.total for sample in self._samples]),
            network=_spread([sample.network for sample, _ in split]),
            **{stage: _spread([timing[stage] for _, timing in split]) for stage in _STAGES},
        )


def _spread(seconds: Sequence[float]) -> Spread | None:
    if not seconds:
        return None
    in_order = sorted(seconds)
    p50, p95 = (in_order[math.ceil(share * len(in_order)) - 1] for share in (0.5, 0.95))
    return Spread(p50, p95, seconds[-1])
