"""Records which commands each emitted frame is the first to reflect.

A command is reflected by the first frame that is emitted after its handler has ended, or by a frame that its
handler emits itself; an earlier frame may not show the command's effect. All collections are bounded, since a
model need not emit any frame. The link measures the way of the frame to the client (`link/latency.py`).
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
"""Largest number of commands that wait for a frame, or that one frame names; the newest are kept."""
MAX_ID_LENGTH = 64
"""Largest number of characters of an `id` that a frame names: 64 ids always fit into a 64 KiB header."""


@attrs.frozen
class Applied:
    """A command whose handler has succeeded, and the time of the first frame that reflects it.

    All times are in seconds of Trio's clock.
    """

    id: Id | None
    arrived: float
    began: float
    ended: float
    emitted: float


_Handled = tuple["Id | None", float, float, float]
"""A handled command: `id`, `arrived`, `began`, `ended`. A plain tuple, because every command makes one."""


class AppliedCommands:
    """The commands of one session that wait for the first frame that reflects them.

    `Handlers` reports commands, `OutputStream` takes them for frames. All methods are synchronous and run on
    the loop.
    """

    def __init__(self) -> None:
        # Bounded for models that never emit; the oldest command is removed first.
        self._handled: deque[_Handled] = deque(maxlen=MAX_APPLIED)
        # The dispatch task, and the command whose handler waits in it now: `id`, `arrived`, `began`.
        self._task: trio.lowlevel.Task | None = None
        self._running: tuple[Id | None, float, float] | None = None
        # The entry of the running command, once its handler has emitted a frame itself.
        self._reflected: Applied | None = None
        # By track: commands that a frame of another track has reflected already.
        self._owed: dict[str, tuple[Applied, ...]] = {}

    # ---- commands, reported by `Handlers`

    def handled(self, id_: Id | None, arrived: float, began: float, ended: float) -> None:
        """Record a command whose handler has succeeded."""
        # Runs for every command: run benchmarks/commands.py before adding work here. The id is kept until a
        # frame is emitted, so a client must not make it as long as a whole message.
        if type(id_) is str and len(id_) > MAX_ID_LENGTH:
            id_ = None
        self._handled.append((id_, arrived, began, ended))

    def handlers_run_here(self) -> None:
        """Note the calling task as the dispatch task: outputs that it emits come from the running handler."""
        self._task = trio.lowlevel.current_task()

    def running(self, id_: Id | None, arrived: float, began: float) -> None:
        """Note the command whose handler is awaited from now on, until `ran` or `failed`."""
        self._running = id_, arrived, began

    def ran(self, id_: Id | None, arrived: float, began: float, ended: float) -> None:
        """The handler of the running command has succeeded."""
        self._running = None
        if self._reflected is None:
            self.handled(id_, arrived, began, ended)
        else:
            self._reflected = None

    def failed(self) -> None:
        """The handler of the running command, if there is one, has raised."""
        self._running = self._reflected = None

    # ---- frames, reported by `OutputStream`

    def take(self, now: float) -> tuple[Applied, ...]:
        """Take the commands handled since the last call, for the frame that is emitted now, at `now`."""
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
        """Return the commands of `take` if the frame was not accepted; the next frame reflects them first."""
        older = list(applied)
        if older and older[-1] is self._reflected:
            older.pop()
            self._reflected = None
        commands = [(each.id, each.arrived, each.began, each.ended) for each in older]
        self._handled = deque([*commands, *self._handled], MAX_APPLIED)

    def share(
        self, applied: tuple[Applied, ...], tracks: Iterable[str], present: Container[str]
    ) -> dict[str, tuple[Applied, ...]]:
        """Return, for each track in `present`, the commands that its frame is the first to reflect.

        `present` are the tracks of an accepted output. The other `tracks` of the model keep these commands
        for their own next frame.
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
