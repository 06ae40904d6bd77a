"""What a session tells of itself: numbers that it counts, and an observer that it calls.

`server/metrics.py` makes Prometheus metrics of both; the session knows nothing of it. What happens often
is counted in plain numbers, `Counts`, that an observer reads when it is asked. Only what a sum cannot
tell, how long a command took, is a call.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal, Protocol

import attrs

if TYPE_CHECKING:
    from reactor_trio.contract.contract import Contract

Handled = Literal["ok", "refused", "failed"]
"""How a handler ended: it returned, it raised `CommandError`, it raised anything else."""
NotHandled = Literal["invalid", "superseded", "overloaded", "unknown"]
"""Why a command got no handler: its payload or upload, a later command, too many, no such event."""
SessionState = Literal["starting", "connected", "ending"]


@attrs.define(eq=False)
class FrameCounts:
    """Frames of one track, since the session began."""

    sent: int = 0
    """Given to the transport."""
    replaced: int = 0
    """Replaced by a newer one before they could be sent: the encoder or the client was behind."""
    dropped: int = 0
    """Refused by `emit(drop=True)`, or thrown away by `flush`."""


@attrs.define(eq=False)
class Counts:
    """What a session has done since it began; only ever grows."""

    messages_sent: int = 0
    """Text messages given to the transport."""
    bad_messages: int = 0
    """Messages of the client that could not be read."""
    upload_bytes: int = 0
    """Bytes of uploads that were accepted."""
    frames: defaultdict[str, FrameCounts] = attrs.field(factory=lambda: defaultdict(FrameCounts))
    """By track."""

    def add(self, other: Counts) -> None:
        """Add another session's."""
        self.messages_sent += other.messages_sent
        self.bad_messages += other.bad_messages
        self.upload_bytes += other.upload_bytes
        for track, theirs in other.frames.items():
            ours = self.frames[track]
            ours.sent += theirs.sent
            ours.replaced += theirs.replaced
            ours.dropped += theirs.dropped


@attrs.frozen
class SessionStatistics:
    """Numbers of one session."""

    state: SessionState
    """`starting` until `@connected` has finished."""
    commands_waiting: int
    """Commands and finished uploads that wait for the dispatcher."""
    messages_waiting: int
    """Messages that wait for the client."""
    bytes_waiting: int
    """Bytes of these messages."""
    frames_waiting: int
    """Steps of the output, a frame a track, that wait for their time."""
    counts: Counts
    """Not a copy."""


class Observed(Protocol):
    """What an observer sees of a session."""

    def statistics(self) -> SessionStatistics:
        """The numbers now."""
        ...


class Observer(Protocol):
    """Told of a host's sessions, on the loop: it must be quick, and never raise. Times are in seconds."""

    def model_loaded(self, contract: Contract) -> None:
        """The events and tracks that will be spoken of."""

    def session_started(self, session: Observed) -> None:
        """Its numbers may be asked for until it has ended."""

    def session_ended(self, session: Observed, reason: str) -> None:
        """After `@disconnected`."""

    def handled(self, event: str, outcome: Handled, waited: float, seconds: float) -> None:
        """A handler has ended, `seconds` after it began; the command had `waited` since it arrived."""

    def not_handled(self, event: str, outcome: NotHandled) -> None:
        """A command got no handler. `event` is the client's word if the outcome is `unknown`."""

    def first_frame(self, seconds: float) -> None:
        """The first frame emitted after a handler has been taken, so long after the handler ended."""


class NoObserver:
    """Sees nothing."""

    def model_loaded(self, contract: Contract) -> None:
        """See `Observer`, also below."""

    def session_started(self, session: Observed) -> None: ...
    def session_ended(self, session: Observed, reason: str) -> None: ...
    def handled(self, event: str, outcome: Handled, waited: float, seconds: float) -> None: ...
    def not_handled(self, event: str, outcome: NotHandled) -> None: ...
    def first_frame(self, seconds: float) -> None: ...
