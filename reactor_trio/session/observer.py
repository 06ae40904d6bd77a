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
UNKNOWN = "(unknown)"
"""What is said in place of a name that the model does not have: no event can be called so."""


@attrs.define(eq=False)
class FrameCounts:
    """Frames of one track, since the session began."""

    sent: int = 0
    """Given to the transport."""
    replaced: int = 0
    """Replaced by a newer one before they could be sent: the encoder, the client or the loop was behind."""
    dropped: int = 0
    """Refused by `emit(drop=True)`, or thrown away by `flush`."""
    unwanted: int = 0
    """Left out because the client asked for fewer frames, or has paused the track."""
    silence: int = 0
    """Samples of silence that an audio track was filled with, for want of anything to play."""

    def add(self, other: FrameCounts) -> None:
        """Add another session's."""
        self.sent += other.sent
        self.replaced += other.replaced
        self.dropped += other.dropped
        self.unwanted += other.unwanted
        self.silence += other.silence


@attrs.define(eq=False)
class InputCounts:
    """Frames of one track from the client, since the session began."""

    received: int = 0
    """Taken from the client, to be decoded and read."""
    dropped: int = 0
    """Of these, those that newer ones pushed out before they were decoded, or before the model read them."""

    def add(self, other: InputCounts) -> None:
        """Add another session's."""
        self.received += other.received
        self.dropped += other.dropped


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
    """By output track."""
    inputs: defaultdict[str, InputCounts] = attrs.field(factory=lambda: defaultdict(InputCounts))
    """By input track."""

    def add(self, other: Counts) -> None:
        """Add another session's."""
        self.messages_sent += other.messages_sent
        self.bad_messages += other.bad_messages
        self.upload_bytes += other.upload_bytes
        for track, frames in other.frames.items():
            self.frames[track].add(frames)
        for track, inputs in other.inputs.items():
            self.inputs[track].add(inputs)


@attrs.frozen
class SessionStatistics:
    """Numbers of one session."""

    state: SessionState
    """`starting` until `@connected` has finished."""
    commands_waiting: int
    """Commands and finished uploads that wait for the dispatcher."""
    commands_aside: int
    """Commands that wait for their uploads."""
    command_bytes_waiting: int
    """Bytes that the commands may take that wait, aside or not."""
    messages_waiting: int
    """Messages that wait for the client."""
    bytes_waiting: int
    """Bytes of these messages."""
    frames_waiting: int
    """Steps of the output, a frame a track, that wait for their time."""
    upload_bytes_in_memory: int
    """Of uploads: small files, large ones in use, and what is not yet on the disk."""
    upload_bytes_on_disk: int
    """Of uploads in temporary files."""
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
        """A command got no handler. `event` is one of the model's, or `UNKNOWN`, never a client's word."""

    def first_frame(self, seconds: float) -> None:
        """The first frame after a handler was emitted, so long after the handler ended."""

    def encoded(self, track: str, seconds: float) -> None:
        """A frame took so long to encode."""

    def written(self, track: str, seconds: float) -> None:
        """A frame has been written to the transport, so long after it was encoded."""

    def displayed(self, track: str, seconds: float) -> None:
        """A client says that a frame is on its screen, so long after it was written."""

    def pictured(self, seconds: float) -> None:
        """The same of the first frame that reflects a command, so long after the command arrived."""


class NoObserver:
    """Sees nothing."""

    def model_loaded(self, contract: Contract) -> None:
        """See `Observer`, also below."""

    def session_started(self, session: Observed) -> None: ...
    def session_ended(self, session: Observed, reason: str) -> None: ...
    def handled(self, event: str, outcome: Handled, waited: float, seconds: float) -> None: ...
    def not_handled(self, event: str, outcome: NotHandled) -> None: ...
    def first_frame(self, seconds: float) -> None: ...
    def encoded(self, track: str, seconds: float) -> None: ...
    def written(self, track: str, seconds: float) -> None: ...
    def displayed(self, track: str, seconds: float) -> None: ...
    def pictured(self, seconds: float) -> None: ...
