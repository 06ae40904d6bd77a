"""From a command to the picture that shows it: which stage took how long.

arrived -> began -> ended        the command: read from the transport; its handler
-> emitted                       the first `emit` after it
-> encoded                       that frame (or one that replaced it) has been encoded
-> written -> shown              it was written to the transport; the client says it is on the screen

A command belongs to the first frame that is emitted after its handler has ended, for only that one is sure
to reflect it; or to the frame that its own handler emits. Everything is bounded: no model has to emit, and no
client has to say what it has shown.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

import attrs
import trio

from reactor_trio.session.observer import NoObserver, Observer

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from reactor_trio.protocol.text import Id

MAX_APPLIED = 64
"""Commands that wait for a frame, and that one frame names; the newest are kept."""
MAX_ID_LENGTH = 64
"""Characters of an `id` that a frame names: 64 of them always fit into a header (64 KiB)."""
MAX_FRAMES = 256
"""Frames of a track that may wait for the client to say that they are shown."""


@attrs.frozen
class Applied:
    """A command whose handler has ended well, on its way to the first frame that reflects it.

    All times are in seconds of the runtime's clock.
    """

    id: Id | None
    arrived: float
    began: float
    ended: float
    emitted: float


_Sent = tuple[float, "float | None", "float | None", "tuple[float, ...]"]
"""A frame after its encoder: when it was encoded, written and shown, and when the commands came that it is
the first to reflect. A plain tuple, also since hundreds are kept: no garbage collector need look at it."""


_Handled = tuple["Id | None", float, float, float]
"""A command: `id`, `arrived`, `began`, `ended`. A plain tuple: every command makes one, few see a frame."""


class LatencyTracker:
    """The latencies of one session. Synchronous throughout, on the loop; made in a task of Trio's."""

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = NoObserver() if observer is None else observer
        self._now = trio.lowlevel.current_clock().current_time
        # A model that never emits costs no more than this; the oldest falls out.
        self._handled: deque[_Handled] = deque(maxlen=MAX_APPLIED)
        # The task in which handlers run that wait, and the one that runs there now: `id`, `arrived`, `began`.
        self._task: trio.lowlevel.Task | None = None
        self._running: tuple[Id | None, float, float] | None = None
        # What stands for that one beside the frame that it has emitted itself.
        self._reflected: Applied | None = None
        # When the last emit was called that the observer has been told of.
        self._reported = -math.inf
        # By track: commands of which another track's frame came first.
        self._owed: dict[str, tuple[Applied, ...]] = {}
        # By track and seq, in the order of encoding; oldest first.
        self._frames: defaultdict[str, dict[int, _Sent]] = defaultdict(dict)

    # ---- commands, told by the dispatcher

    def handled(self, id_: Id | None, arrived: float, began: float, ended: float) -> None:
        """A handler has ended well."""
        # On the way of every command: see benchmarks/commands.py before anything is added here. The id is
        # kept for as long as no frame comes, so it must not be what a client makes of it, a whole message.
        if type(id_) is str and len(id_) > MAX_ID_LENGTH:
            id_ = None
        self._handled.append((id_, arrived, began, ended))

    def handlers_run_here(self) -> None:
        """The calling task is the one in which handlers run that wait: what it emits is theirs."""
        self._task = trio.lowlevel.current_task()

    def running(self, id_: Id | None, arrived: float, began: float) -> None:
        """A handler that waits goes on from here, until `ran` or `failed`."""
        self._running = id_, arrived, began

    def ran(self, id_: Id | None, arrived: float, began: float, ended: float) -> None:
        """The handler that was running has ended well."""
        self._running = None
        if self._reflected is None:
            self.handled(id_, arrived, began, ended)
        else:
            self._reflected = None

    def failed(self) -> None:
        """The handler that was running, if one was, raised."""
        self._running = self._reflected = None

    # ---- frames, told by the output

    def take(self, now: float) -> tuple[Applied, ...]:
        """The commands handled since the last call, for the frame that is emitted now."""
        own = self._running if self._reflected is None else None
        if own is not None and trio.lowlevel.current_task() is self._task:
            self.handled(*own, now)
            applied = self._take_all(now)
            self._reflected = applied[-1]
            return applied
        return self._take_all(now) if self._handled else ()

    def _take_all(self, now: float) -> tuple[Applied, ...]:
        applied = tuple([Applied(*command, now) for command in self._handled])
        self._handled.clear()
        return applied

    def give_back(self, applied: Iterable[Applied]) -> None:
        """The frame they were taken for was not accepted: the next one reflects them first."""
        older = list(applied)
        if older and older[-1] is self._reflected:
            older.pop()
            self._reflected = None
        commands = [(each.id, each.arrived, each.began, each.ended) for each in older]
        self._handled = deque([*commands, *self._handled], MAX_APPLIED)

    def share(
        self, applied: tuple[Applied, ...], tracks: Iterable[str], present: Container[str]
    ) -> dict[str, tuple[Applied, ...]]:
        """What each track that is `present` in an accepted output reflects first.

        The model's other `tracks` owe it to their next frame: it is theirs that shows the command there.
        """
        shares: dict[str, tuple[Applied, ...]] = {}
        if not (applied or self._owed):
            return shares
        for track in tracks:
            owed = (*self._owed.pop(track, ()), *applied)[-MAX_APPLIED:]
            if track in present:
                shares[track] = owed
            elif owed:
                self._owed[track] = owed
        return shares

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
