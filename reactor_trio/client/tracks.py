"""The tracks that the model sends: a queue of frames for each, and the settings that a client may change."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, Literal

from reactor_trio.client.inbox import Inbox
from reactor_trio.client.latency import LatencyRecorder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reactor_trio.client.messages import TrackInfo
    from reactor_trio.client.received_frame import Frame
    from reactor_trio.errors import TransportClosed


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return self.value


UNSET: Final[Literal[Unset.UNSET]] = Unset.UNSET
"""The value of a setting that stays as it is. None takes a setting back to the server's default."""


def given(**settings: Any) -> dict[str, Any]:
    """The settings that are not `UNSET`."""
    return {name: value for name, value in settings.items() if value is not UNSET}


class OutputTracks:
    """The tracks that the model sends. The read task puts frames in, any task takes them."""

    def __init__(self, tracks: Iterable[TrackInfo], max_frames: int) -> None:
        self.latency = LatencyRecorder()
        """Latency of the commands that frames of these tracks reflect."""
        self._kinds = {track.name: track.kind for track in tracks if track.direction == "out"}
        self._inboxes: dict[str, Inbox[Frame]] = {name: Inbox(max_frames) for name in self._kinds}
        # The latency of a command is measured with video if there is any, because users wait for the picture.
        self._timed = "video" if "video" in self._kinds.values() else "audio"

    def put(self, frame: Frame) -> None:
        """Queue a frame that has arrived; dropped if the welcome has no such track."""
        if frame.track in self._inboxes:
            self._inboxes[frame.track].put(frame)
            if self._kinds[frame.track] == self._timed:
                self.latency.arrived(frame)

    def end(self, closed: TransportClosed) -> None:
        """No more frames will come; the queued ones can still be taken."""
        for frames in self._inboxes.values():
            frames.end(closed)

    @property
    def dropped(self) -> int:
        """How many frames were dropped because they were not taken in time."""
        return sum(frames.dropped for frames in self._inboxes.values())

    def inbox(self, name: str | None) -> Inbox[Frame]:
        """The queue of a track, or of the only video track. Raises `ValueError`, naming the choices."""
        choices = [track for track, kind in self._kinds.items() if name is not None or kind == "video"]
        if name is None and len(choices) == 1:
            name = choices[0]
        if name is None and not choices:
            raise ValueError("this model sends no video")
        if name not in choices:
            asked = "say which track" if name is None else f"no track {name!r}"
            raise ValueError(f"{asked}; the model sends {', '.join(choices) or 'none'}")
        return self._inboxes[name]
