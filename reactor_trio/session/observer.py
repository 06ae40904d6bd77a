"""The numbers that a session counts, and the observer that it calls.

`server/metrics.py` makes Prometheus metrics of both; the session does not depend on it. Frequent events are
counted in plain numbers, `Counts`, which an observer reads when its metrics are scraped. Durations, which a
sum cannot express, are reported by calls of the `Observer`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal, Protocol

import attrs

if TYPE_CHECKING:
    from reactor_trio.contract.contract import Contract

Handled = Literal["ok", "refused", "failed"]
"""How a handler ended: by returning, by `CommandError`, by any other exception."""
NotHandled = Literal["invalid", "superseded", "overloaded", "unknown"]
"""Why a command was not handled: invalid payload or upload, a later command, too many, no such event."""
SessionState = Literal["starting", "connected", "ending"]
UNKNOWN = "(unknown)"
"""Reported in place of an event that the model does not have. No event can have this name."""


@attrs.define(eq=False)
class FrameCounts:
    """Counts of one output track's frames since the session began."""

    sent: int = 0
    """Frames given to the transport."""
    replaced: int = 0
    """Frames replaced by a newer one, because the encoder, the client or the loop was too slow."""
    dropped: int = 0
    """Frames refused by `emit(drop=True)`, or thrown away by `flush`."""
    unwanted: int = 0
    """Frames not sent because the client asked for fewer frames, or has paused the track."""
    silence: int = 0
    """Samples of silence played on an audio track because no samples of the model were due."""

    def add(self, other: FrameCounts) -> None:
        """Add the counts of another session to these."""
        self.sent += other.sent
        self.replaced += other.replaced
        self.dropped += other.dropped
        self.unwanted += other.unwanted
        self.silence += other.silence


@attrs.define(eq=False)
class InputCounts:
    """Counts of one input track's frames since the session began."""

    received: int = 0
    """Frames received from the client."""
    dropped: int = 0
    """Received frames that newer frames have replaced before they were decoded, or read by the model."""

    def add(self, other: InputCounts) -> None:
        """Add the counts of another session to these."""
        self.received += other.received
        self.dropped += other.dropped


@attrs.define(eq=False)
class Counts:
    """All counts of one session since it began. No count ever decreases."""

    messages_sent: int = 0
    """Number of text messages given to the transport."""
    bad_messages: int = 0
    """Number of messages of the client that could not be parsed."""
    upload_bytes: int = 0
    """Bytes of uploads accepted from the client."""
    frames: defaultdict[str, FrameCounts] = attrs.field(factory=lambda: defaultdict(FrameCounts))
    """Counts of frames by output track."""
    inputs: defaultdict[str, InputCounts] = attrs.field(factory=lambda: defaultdict(InputCounts))
    """Counts of frames by input track."""

    def add(self, other: Counts) -> None:
        """Add the counts of another session to these."""
        self.messages_sent += other.messages_sent
        self.bad_messages += other.bad_messages
        self.upload_bytes += other.upload_bytes
        for track, frames in other.frames.items():
            self.frames[track].add(frames)
        for track, inputs in other.inputs.items():
            self.inputs[track].add(inputs)


@attrs.frozen
class SessionStatistics:
    """The numbers of one session at one moment."""

    state: SessionState
    """`starting` until `@connected` has finished."""
    commands_waiting: int
    """Number of commands and finished uploads that wait for the dispatch task."""
    commands_aside: int
    """Number of commands that wait for their uploads."""
    command_bytes_waiting: int
    """Largest memory that the waiting commands may take, in bytes, commands aside included."""
    messages_waiting: int
    """Number of messages that wait for the client."""
    bytes_waiting: int
    """Sum of the bytes of these messages."""
    frames_waiting: int
    """Number of steps of the output, with one frame for each track, that wait until they are due."""
    upload_bytes_in_memory: int
    """Bytes of uploads in memory: small files, large files in use, and chunks not yet on the disk."""
    upload_bytes_on_disk: int
    """Bytes of uploads in temporary files."""
    counts: Counts
    """The session's own counts, not a copy: they go on to grow."""


class Observed(Protocol):
    """A session as an observer sees it."""

    def statistics(self) -> SessionStatistics:
        """The session's numbers now."""
        ...


class Observer(Protocol):
    """Is called by the sessions of a host. Its methods run on the loop, so they must be fast and never raise.

    Times are in seconds.
    """

    def model_loaded(self, contract: Contract) -> None:
        """The model is loaded. Later calls name only events and tracks of this contract, or `UNKNOWN`."""

    def session_started(self, session: Observed) -> None:
        """A session begins. `session.statistics` may be called until `session_ended`."""

    def session_ended(self, session: Observed, reason: str) -> None:
        """A session has ended, after its `@disconnected`."""

    def handled(self, event: str, outcome: Handled, waited: float, seconds: float) -> None:
        """A handler has ended, `seconds` after its start; its command had `waited` before the start."""

    def not_handled(self, event: str, outcome: NotHandled) -> None:
        """A command was not handled. `event` is an event of the model or `UNKNOWN`, never a client's text."""

    def first_frame(self, seconds: float) -> None:
        """The first frame after a handler was emitted, `seconds` after the end of the handler."""

    def encoded(self, track: str, seconds: float) -> None:
        """A frame was encoded, which took `seconds`."""

    def written(self, track: str, seconds: float) -> None:
        """A frame has been written to the transport, `seconds` after it was encoded."""

    def displayed(self, track: str, seconds: float) -> None:
        """A client reports that it shows a frame, `seconds` after the frame was written."""

    def pictured(self, seconds: float) -> None:
        """A client reports that it shows a command's first frame, `seconds` after the command arrived."""


class NoObserver:
    """An observer that ignores all calls, for hosts without metrics."""

    def model_loaded(self, contract: Contract) -> None:
        """See `Observer`, also for the methods below."""

    def session_started(self, session: Observed) -> None: ...
    def session_ended(self, session: Observed, reason: str) -> None: ...
    def handled(self, event: str, outcome: Handled, waited: float, seconds: float) -> None: ...
    def not_handled(self, event: str, outcome: NotHandled) -> None: ...
    def first_frame(self, seconds: float) -> None: ...
    def encoded(self, track: str, seconds: float) -> None: ...
    def written(self, track: str, seconds: float) -> None: ...
    def displayed(self, track: str, seconds: float) -> None: ...
    def pictured(self, seconds: float) -> None: ...
