"""The latency from a command to the picture that shows it: how long each stage took, for one client.

arrived -> began -> ended        the command was read from the transport; its handler began, and ended
-> emitted                       the model called `emit` the next time (`session/applied.py`)
-> encoded                       the emitted frame, or a frame that replaced it, was encoded
-> written -> shown              the frame was written to the transport; the client reported it as shown

At most `MAX_FRAMES` frames are kept for each track, since a client need not report the frames it has shown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import trio

from reactor_trio.session.applied import MAX_APPLIED

if TYPE_CHECKING:
    from reactor_trio.session.applied import Applied
    from reactor_trio.session.observer import Observer

MAX_FRAMES = 256
"""Frames of a track that are kept until the client reports them as shown; the oldest is forgotten."""

_Sent = tuple[float, "float | None", "float | None", "tuple[float, ...]"]
"""A frame that has been encoded: the times at which it was encoded, written and shown (None: not yet), and
the times at which the commands arrived that the frame is the first to reflect. All are in seconds of Trio's
clock. A plain tuple: hundreds of frames are kept, and the garbage collector need not track them."""


class FrameLatency:
    """Measures the frames that one link sends, and tells the session's observer.

    The tracks of the link call it when a frame was encoded, written and shown. No method waits; all of them
    run on the loop. The constructor reads Trio's clock, so it must be called inside of `trio.run`.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._now = trio.lowlevel.current_clock().current_time
        # Time of the newest `emit` that was reported to the observer.
        self._reported = -math.inf
        # By track and `seq`; the frames of a track in the order of encoding, the oldest first.
        self._frames: defaultdict[str, dict[int, _Sent]] = defaultdict(dict)

    def encoded(
        self, track: str, seq: int, applied: tuple[Applied, ...], began: float, ended: float
    ) -> dict[str, Any]:
        """Note a frame that was encoded from `began` to `ended`, in seconds of Trio's clock.

        Returns fields for the header of the frame: `applied` and `timing`, or none of them if no command of
        the frame has an `id`.
        """
        self._observer.encoded(track, ended - began)
        frames = self._frames[track]
        if len(frames) >= MAX_FRAMES:
            del frames[next(iter(frames))]
        if not applied:
            frames[seq] = ended, None, None, ()
            return {}
        frames[seq] = ended, None, None, tuple([each.arrived for each in applied[-MAX_APPLIED:]])
        self._report_emits(applied)
        named = [each for each in applied if each.id is not None][-MAX_APPLIED:]
        if not named:
            return {}
        return {"applied": [each.id for each in named], "timing": _timing(named[-1], began, ended)}

    def _report_emits(self, applied: tuple[Applied, ...]) -> None:
        # One report for each `emit`, of its first command, which has waited longest. The commands of one
        # `emit` are seen again with each other track, and a frame may carry the commands of several emits.
        for each in applied:
            if each.emitted > self._reported:
                self._reported = each.emitted
                self._observer.first_frame(each.emitted - each.ended)

    def written(self, track: str, seq: int) -> None:
        """Note that a frame has been written to the transport."""
        sent = self._frames[track].get(seq) if track in self._frames else None
        if sent is None or sent[1] is not None:
            return
        encoded, _, shown, arrived = sent
        now = self._now()
        self._observer.written(track, now - encoded)
        self._note(track, seq, (encoded, now, shown, arrived))

    def shown(self, track: str, seq: int) -> None:
        """Note the client's report that it shows a frame. Unknown frames and repeated reports are ignored."""
        sent = self._frames[track].get(seq) if track in self._frames else None
        if sent is None or sent[2] is not None:
            return
        encoded, written, _, arrived = sent
        self._note(track, seq, (encoded, written, self._now(), arrived))

    def _note(self, track: str, seq: int, sent: _Sent) -> None:
        _, written, shown, arrived = sent
        # Both times are needed. The report of a fast client may come before the sending task notes its write.
        if written is None or shown is None:
            self._frames[track][seq] = sent
            return
        del self._frames[track][seq]
        self._observer.displayed(track, max(0.0, shown - written))
        for came in arrived:
            self._observer.pictured(shown - came)


def _timing(command: Applied, began: float, ended: float) -> dict[str, float]:
    """The durations of the stages of one command, in seconds, rounded to microseconds."""
    stages = {
        "wait": command.began - command.arrived,
        "handle": command.ended - command.began,
        "emit": command.emitted - command.ended,
        "pace": began - command.emitted,
        "encode": ended - began,
    }
    return {stage: round(seconds, 6) for stage, seconds in stages.items()}
