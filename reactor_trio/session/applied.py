"""Which frame is the first to reflect which command.

A command belongs to the first frame that is emitted after its handler has ended, for only that frame is sure
to reflect it; or to the frame that its own handler emits. Everything is bounded: no model has to emit. What
becomes of the frame on its way to a client is the link's to measure (`link/latency.py`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from reactor_trio.protocol.text import Id

MAX_APPLIED = 64
"""Commands that wait for a frame, and that one frame names; the newest are kept."""
MAX_ID_LENGTH = 64
"""Characters of an `id` that a frame names: 64 of them always fit into a header (64 KiB)."""


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


_Handled = tuple["Id | None", float, float, float]
"""A command: `id`, `arrived`, `began`, `ended`. A plain tuple: every command makes one, few see a frame."""


class AppliedCommands:
    """The commands of one session on their way to a frame. Synchronous throughout, on the loop."""

    def __init__(self) -> None:
        # A model that never emits costs no more than this; the oldest falls out.
        self._handled: deque[_Handled] = deque(maxlen=MAX_APPLIED)
        # The task in which handlers run that wait, and the one that runs there now: `id`, `arrived`, `began`.
        self._task: trio.lowlevel.Task | None = None
        self._running: tuple[Id | None, float, float] | None = None
        # What stands for that one beside the frame that it has emitted itself.
        self._reflected: Applied | None = None
        # By track: commands of which another track's frame came first.
        self._owed: dict[str, tuple[Applied, ...]] = {}

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
