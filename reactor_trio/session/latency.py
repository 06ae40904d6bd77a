"""From a command to the picture that shows it: which stage took how long.

arrived -> began -> ended        the command: read from the transport; its handler
-> emitted                       the first `emit` after it
-> encoded                       that frame (or one that replaced it) has been encoded
-> written -> shown              it was written to the transport; the client says it is on the screen
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reactor_trio.protocol.text import Id


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


class LatencyTracker:
    """The latencies of one session."""

    def handled(self, id_: Id | None, arrived: float, began: float, ended: float) -> None:
        """A handler has ended well."""

    def take(self, now: float) -> tuple[Applied, ...]:
        """The commands handled since the last call, for the frame that is emitted now."""
        return ()

    def give_back(self, applied: Iterable[Applied]) -> None:
        """The frame they were taken for was not accepted: the next one reflects them first."""

    def encoded(
        self, track: str, seq: int, applied: tuple[Applied, ...], began: float, ended: float
    ) -> dict[str, Any]:
        """A frame has been encoded; returns what its header says of it: `applied` and `timing`, if anything."""
        return {}

    def written(self, track: str, seq: int) -> None:
        """The frame has been written to the transport."""

    def shown(self, track: str, seq: int) -> None:
        """The client says that the frame is on its screen."""
