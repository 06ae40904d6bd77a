"""`/metrics`: the numbers of the server and its sessions in the formats of Prometheus.

Sessions keep plain numbers and call plain methods of `Metrics` on the loop, without locks; `collect` adds the
numbers up when `/metrics` is asked for. `Metrics` has a registry of its own. Labels are the events and tracks
of the loaded model, so their number is bounded: an event that a client has made up is counted as `(unknown)`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final, get_args

import attrs
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from reactor_trio.server.gate import Gate, Limit
from reactor_trio.server.metric_families import (
    BOUNDS,
    FIRST,
    PREFIX,
    Histogram,
    count_family,
    counter_family,
    gauge_family,
    histogram_family,
    histograms_family,
)
from reactor_trio.session.observer import UNKNOWN, Counts, Handled, NotHandled, SessionState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from reactor_trio.contract.contract import Contract
    from reactor_trio.session.observer import Observed, SessionStatistics

OTHER_REASON: Final = "(other)"
MAX_REASONS: Final = 32
"""The most values of the label `reason`: more than there are reasons in `session/endings.py`."""
_OTHERS = [each for each in (*get_args(Handled), *get_args(NotHandled)) if each not in ("ok", "unknown")]

_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
_OPENMETRICS_VERSIONS: Final = ("", "0.0.1", "1.0.0")
_NOT_WANTED: Final = re.compile(r"0(\.0*)?")
"""A weight of 0 (RFC 9110, 12.4.2)."""


def _wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header (RFC 9110, 12.5.1) names OpenMetrics in a supported version.

    `choose_encoder` is not given the header itself: it raises for a malformed version, and copies text of the
    client into the head of the answer.
    """
    return any(map(_is_openmetrics, accept.split(",")))


def _is_openmetrics(accepted: str) -> bool:
    media_type, *rest = (part.strip().lower() for part in accepted.split(";"))
    named = [each.replace(" ", "").partition("=") for each in rest]
    parameters = {name: value for name, _, value in named}
    if media_type != "application/openmetrics-text" or _NOT_WANTED.fullmatch(parameters.get("q", "1")):
        return False
    return parameters.get("version", "").strip('"') in _OPENMETRICS_VERSIONS


@attrs.define(eq=False)
class _Event:
    seconds: Histogram = attrs.field(factory=Histogram)
    """Of every handled command. The number of `ok` follows from it and `others`, without a counter."""
    others: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(_OTHERS, 0))
    """Number of commands by outcome, without `ok`."""

    @property
    def outcomes(self) -> dict[str, int]:
        not_ok = sum(self.others[outcome] for outcome in get_args(Handled) if outcome != "ok")
        return {"ok": sum(self.seconds.counts) - not_ok, **self.others}


class Metrics:
    """Observes the sessions of a server, and answers `/metrics`. All methods are called on the loop."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.waiting_clients: Callable[[], int] = int
        """Returns the number of clients in the queue; set by `server.service`."""
        self.gate = Gate()
        """Counts connections and refused clients; replaced by `server.service`."""
        self.log_losses: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Returns the lines of the log that were lost, and that were left out; set by the command line."""
        self.lag = Histogram()
        """Delay of the loop: how much later than asked a sleeping task was woken."""
        self._stalls = 0
        self._live: set[Observed] = set()
        self._past = Counts()
        """The sum of the counts of sessions that have ended."""
        self._endings: Counter[str] = Counter()
        # Only `model_loaded` adds keys to these four, since keys are labels.
        self._events: dict[str, _Event] = {}
        self._encode: dict[str, Histogram] = {}
        self._send: dict[str, Histogram] = {}
        self._display: dict[str, Histogram] = {}
        # Commands that the model does not have, and messages to the runtime.
        self._unknown = _Event()
        self._unknown_names = 0
        self._waited = Histogram()
        self._first_frame = Histogram()
        self._picture = Histogram()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The answer's body and content type, for a request with this Accept header.

        OpenMetrics if the header names it, else the text format.
        """
        encoder, content_type = choose_encoder(_OPENMETRICS if _wants_openmetrics(accept) else "")
        return encoder(self.registry), content_type

    # ---- the observer (session/observer.py)

    def model_loaded(self, contract: Contract) -> None:
        """Begin every counter at 0, so that Prometheus sees the first increase."""
        for event in contract.declarations.events:
            self._events.setdefault(event, _Event())
        for track in contract.tracks:
            if track.direction == "in":
                self._past.inputs[track.name]
                continue
            self._past.frames[track.name]
            for histograms in (self._encode, self._send, self._display):
                histograms.setdefault(track.name, Histogram())

    def session_started(self, session: Observed) -> None:
        self._live.add(session)

    def session_ended(self, session: Observed, reason: str) -> None:
        self._live.discard(session)
        known = reason in self._endings or len(self._endings) < MAX_REASONS
        self._endings[reason if known else OTHER_REASON] += 1
        self._past.add(session.statistics().counts)

    def handled(self, event: str, outcome: Handled, waited: float, seconds: float) -> None:
        numbers = self._events.get(event, self._unknown)
        if outcome != "ok":
            numbers.others[outcome] += 1
        # `Histogram.observe`, twice, without the calls: this runs for every command.
        histogram = numbers.seconds
        histogram.counts[0 if seconds <= FIRST else bisect_left(BOUNDS, seconds)] += 1
        histogram.sum += seconds
        histogram = self._waited
        histogram.counts[0 if waited <= FIRST else bisect_left(BOUNDS, waited)] += 1
        histogram.sum += waited

    def not_handled(self, event: str, outcome: NotHandled) -> None:
        if outcome == "unknown":
            self._unknown_names += 1
        else:
            self._events.get(event, self._unknown).others[outcome] += 1

    def first_frame(self, seconds: float) -> None:
        self._first_frame.observe(seconds)

    def encoded(self, track: str, seconds: float) -> None:
        _observe(self._encode, track, seconds)

    def written(self, track: str, seconds: float) -> None:
        _observe(self._send, track, seconds)

    def displayed(self, track: str, seconds: float) -> None:
        _observe(self._display, track, seconds)

    def pictured(self, seconds: float) -> None:
        self._picture.observe(seconds)

    # ---- the loop (compute/watchdog.py)

    def stalled(self, seconds: float) -> None:
        """Count a task step that has held the loop for so many seconds."""
        self._stalls += 1

    # ---- the collector

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment. Called by the registry."""
        live = [session.statistics() for session in self._live]
        counts = Counts()
        counts.add(self._past)
        for numbers in live:
            counts.add(numbers.counts)
        yield from self._clients(live)
        yield self._commands()
        yield from self._times()
        yield from _waiting(live)
        yield count_family("messages_sent", "Text messages sent to clients.", counts.messages_sent)
        yield from _frame_counters(counts)
        yield count_family("upload_bytes", "Bytes of uploads that were accepted.", counts.upload_bytes)
        yield count_family("bad_messages", "Messages of clients that could not be read.", counts.bad_messages)
        yield from self._process()

    def _clients(self, live: Sequence[SessionStatistics]) -> Iterator[Metric]:
        states = Counter(numbers.state for numbers in live)
        yield gauge_family(
            "sessions",
            "Sessions by state; waiting: clients in line for one.",
            "state",
            {"waiting": self.waiting_clients(), **{state: states[state] for state in get_args(SessionState)}},
        )
        yield GaugeMetricFamily(
            f"{PREFIX}connections",
            "Connections that are open.",
            value=self.gate.connections + self.gate.reserved,
        )
        refused = {limit: self.gate.refused[limit] for limit in get_args(Limit)}
        yield counter_family(
            "refused", "Clients that were refused, by the limit that they met.", "limit", refused
        )
        yield counter_family("sessions_ended", "Sessions that have ended.", "reason", self._endings)

    def _times(self) -> Iterator[Metric]:
        yield histograms_family(
            "handler_seconds",
            "Time that handlers took.",
            {event: numbers.seconds for event, numbers in self._events.items()},
            "event",
        )
        yield histogram_family(
            "command_wait_seconds", "Time from a command's arrival to its handler.", self._waited
        )
        yield histogram_family(
            "first_frame_seconds",
            "Time from a handler's end until the first frame after it was emitted.",
            self._first_frame,
        )
        yield histograms_family("encode_seconds", "Time that encoding a frame took.", self._encode, "track")
        yield histograms_family(
            "send_seconds", "Time from a frame's encoding until it was written.", self._send, "track"
        )
        yield histograms_family(
            "display_seconds",
            "Time from writing a frame until the client said that it is shown.",
            self._display,
            "track",
        )
        yield histogram_family(
            "command_to_picture_seconds",
            "Time from a command's arrival until the client said that its first frame is shown.",
            self._picture,
        )

    def _process(self) -> Iterator[Metric]:
        yield histogram_family(
            "loop_lag_seconds", "How late the loop woke a task that wanted to wake at a given time.", self.lag
        )
        yield count_family("loop_stalls", "Task steps that held the loop for too long.", self._stalls)
        lost, left_out = self.log_losses()
        yield count_family("log_lines_lost", "Lines of the log that could not be written in time.", lost)
        yield count_family(
            "log_lines_left_out", "Lines of the log that were one too many from the same place.", left_out
        )

    def _commands(self) -> Metric:
        family = CounterMetricFamily(
            f"{PREFIX}commands", "Commands by event and outcome.", labels=("event", "outcome")
        )
        for event, numbers in self._events.items():
            for outcome, count in numbers.outcomes.items():
                family.add_metric((event, outcome), count)
        for outcome in get_args(NotHandled):
            count = self._unknown_names if outcome == "unknown" else self._unknown.others[outcome]
            family.add_metric((UNKNOWN, outcome), count)
        return family


_FRAMES: Final = {
    "frames_sent": ("Frames sent to clients.", "sent"),
    "frames_replaced": ("Frames replaced by a newer one before they could be sent.", "replaced"),
    "frames_dropped": ("Frames refused by emit(drop=True), or flushed.", "dropped"),
    "frames_unwanted": ("Frames that the client asked not to be sent.", "unwanted"),
    "silence_samples": ("Samples of silence for want of anything to play.", "silence"),
}
"""Counters of each output track: the name, its help text and the field of `FrameCounts`."""
_INPUTS: Final = {
    "input_frames": ("Frames received from clients.", "received"),
    "input_frames_dropped": ("Frames of clients that newer ones replaced before they were read.", "dropped"),
}


def _frame_counters(counts: Counts) -> Iterator[Metric]:
    outputs, inputs = counts.frames.items(), counts.inputs.items()
    for name, (text, field) in _FRAMES.items():
        yield counter_family(name, text, "track", {track: getattr(each, field) for track, each in outputs})
    for name, (text, field) in _INPUTS.items():
        yield counter_family(name, text, "track", {track: getattr(each, field) for track, each in inputs})


def _observe(histograms: Mapping[str, Histogram], track: str, seconds: float) -> None:
    histogram = histograms.get(track)
    if histogram is not None:
        histogram.observe(seconds)


def _waiting(live: Sequence[SessionStatistics]) -> Iterator[Metric]:
    yield gauge_family(
        "queue_depth",
        "What waits, all sessions together: commands, messages, or steps of the output.",
        "queue",
        {
            "inbox": sum(numbers.commands_waiting for numbers in live),
            "outbox": sum(numbers.messages_waiting for numbers in live),
            "output": sum(numbers.frames_waiting for numbers in live),
        },
    )
    yield GaugeMetricFamily(
        f"{PREFIX}outbox_bytes",
        "Bytes of messages that wait for clients.",
        value=sum(numbers.bytes_waiting for numbers in live),
    )
    yield gauge_family(
        "uploads_kept_bytes",
        "Bytes of uploads that are kept, all sessions together: in memory, or on disk.",
        "place",
        {
            "memory": sum(numbers.upload_bytes_in_memory for numbers in live),
            "disk": sum(numbers.upload_bytes_on_disk for numbers in live),
        },
    )
