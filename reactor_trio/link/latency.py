"""From a command to the picture that shows it: how long each stage took, as one client sees it.

arrived -> began -> ended        the command: read from the transport; its handler
-> emitted                       the first `emit` after it (`session/applied.py`)
-> encoded                       that frame, or one that replaced it, has been encoded
-> written -> shown              it was written to the transport; the client says that it is on the screen

Everything is bounded: no client has to say which frames it has shown.
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
"""Frames of a track that may wait for the client to say that they are shown."""

_Sent = tuple[float, "float | None", "float | None", "tuple[float, ...]"]
"""A frame after its encoder: when it was encoded, written and shown, and when the commands came that it is
the first to reflect. A plain tuple, also since hundreds are kept: no garbage collector need look at it."""


class FrameLatency:
    """The frames of one link. Synchronous throughout, on the loop; made in a task of Trio's."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._now = trio.lowlevel.current_clock().current_time
        # When the last emit was called that the observer has been told of.
        self._reported = -math.inf
        # By track and seq, in the order of encoding; oldest first.
        self._frames: defaultdict[str, dict[int, _Sent]] = defaultdict(dict)

    def encoded(
        self, track: str, seq: int, applied: tuple[Applied, ...], began: float, ended: float
    ) -> dict[str, Any]:
        """A frame has been encoded; returns what its header says: `applied` and `timing`, if anything."""
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
        # Of the commands before one emit the first has waited longest, and speaks for all. Each track of an
        # output brings the same commands, and a frame that was handed more those of several emits.
        for each in applied:
            if each.emitted > self._reported:
                self._reported = each.emitted
                self._observer.first_frame(each.emitted - each.ended)

    def written(self, track: str, seq: int) -> None:
        """The frame has been written to the transport."""
        sent = self._frames[track].get(seq) if track in self._frames else None
        if sent is None or sent[1] is not None:
            return
        encoded, _, shown, arrived = sent
        now = self._now()
        self._observer.written(track, now - encoded)
        self._note(track, seq, (encoded, now, shown, arrived))

    def shown(self, track: str, seq: int) -> None:
        """The client says that the frame is on its screen; ignored if it was not sent, or the second time."""
        sent = self._frames[track].get(seq) if track in self._frames else None
        if sent is None or sent[2] is not None:
            return
        encoded, written, _, arrived = sent
        self._note(track, seq, (encoded, written, self._now(), arrived))

    def _note(self, track: str, seq: int, sent: _Sent) -> None:
        _, written, shown, arrived = sent
        # A fast client may answer before the task that wrote the frame goes on.
        if written is None or shown is None:
            self._frames[track][seq] = sent
            return
        del self._frames[track][seq]
        self._observer.displayed(track, max(0.0, shown - written))
        for came in arrived:
            self._observer.pictured(shown - came)


def _timing(command: Applied, began: float, ended: float) -> dict[str, float]:
    """The stages of one command, in seconds rounded to microseconds."""
    stages = {
        "wait": command.began - command.arrived,
        "handle": command.ended - command.began,
        "emit": command.emitted - command.ended,
        "pace": began - command.emitted,
        "encode": ended - began,
    }
    return {stage: round(seconds, 6) for stage, seconds in stages.items()}
