"""Any event becomes a line of bounded length without control characters; no event raises an error."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.errors import ProtocolError
from reactor_trio.logs.failures import MAX_CHAIN, MAX_FRAMES, MAX_TRACEBACK, text_of
from reactor_trio.logs.logger import get_logger
from reactor_trio.logs.rendering import LineRenderer
from reactor_trio.logs.repeats import BURST, MAX_PLACES, RATE, Repeats
from reactor_trio.logs.setup import LogFormat, configure_logging
from reactor_trio.logs.values import MAX_ITEMS, MAX_LINE, MAX_TEXT, Tidier, printable
from reactor_trio.server.connections import Connections
from reactor_trio.server.service import Service
from reactor_trio.server.settings import ServerSettings

pytestmark = pytest.mark.real_time

LONGEST = 3 * MAX_LINE + 2 * MAX_TRACEBACK
FORMATS: tuple[LogFormat, ...] = ("text", "json")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Text(str):
    """A string whose methods raise errors or return control characters."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        return "\x1b[2J"

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("no slice")

    def __format__(self, spec: str) -> str:
        raise RuntimeError("no format")


class Panic(BaseException):
    """A `BaseException` that is no `Exception`, like a panic of a library written in Rust."""


class Hostile:
    """An object that raises `Panic` when it is shown or compared."""

    def __repr__(self) -> str:
        raise Panic("no repr")

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise Panic("no equality")

    def __hash__(self) -> int:
        return 1


class Shouting:
    def __repr__(self) -> str:
        return "\x1b]0;owned\x07\r\n" * 10_000


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise Panic("no text")

    __repr__ = __str__


def cycle() -> list[object]:
    items: list[object] = []
    items.append(items)
    return items


ODD: list[object] = [
    Text("\x1b[2J"),
    Hostile(),
    Shouting(),
    "\ud800",
    "\x1b[2J\r\n\x9b\u202e\u2028\x7f\x00",
    "x" * 20_000_000,
    b"\xff" * 20_000_000,
    memoryview(bytes(1000)).cast("B", (10, 100)),
    list(range(1_000_000)),
    {Hostile(): Hostile()},
    {f"\x1b{number}": number for number in range(1000)},
    cycle(),
    10**5000,
    -(2**64),
    math.nan,
    math.inf,
    object,
    {1, 2},
    print,
    sys.float_info,
]
VALUES = st.recursive(
    st.one_of(
        st.text(),
        st.binary(),
        st.integers(),
        st.floats(),
        st.none(),
        st.booleans(),
        st.sampled_from(range(len(ODD))).map(lambda number: ODD[number]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.text(max_size=5), inner, max_size=5),
        st.tuples(inner),
    ),
    max_leaves=10,
)


def line_of(log_format: LogFormat, event: dict[str, Any], exc: BaseException | None = None) -> str:
    stamped = {"level": "info", "timestamp": "2026-01-01T00:00:00Z", **event}
    return LineRenderer(log_format).render(stamped, exc)


def is_clean(line: str) -> None:
    assert len(line) <= LONGEST
    assert all(part.isprintable() for part in line.split("\n"))
    line.encode()  # raises an error if the line has a lone surrogate


@given(event=VALUES, fields=st.dictionaries(st.text(max_size=30), VALUES, max_size=5))
def test_any_event_is_one_bounded_line_of_text(event: object, fields: dict[str, Any]) -> None:
    fields = {key: value for key, value in fields.items() if key not in ("exc_info", "exception", "stack")}
    line = line_of("text", {**fields, "event": event})
    is_clean(line)
    assert "\n" not in line


@given(event=VALUES, fields=st.dictionaries(st.text(max_size=30), VALUES, max_size=5))
def test_any_event_is_one_object_of_json(event: object, fields: dict[str, Any]) -> None:
    line = line_of("json", {**fields, "event": event})
    is_clean(line)
    assert "\n" not in line
    assert isinstance(orjson.loads(line), dict)


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "key", ["event", "level", "timestamp", "logger", "stack", "exception", "value", "exc_info"]
)
def test_odd_values_in_every_place(log_format: LogFormat, value: object, key: str) -> None:
    is_clean(line_of(log_format, {"event": "x", key: value}))


@given(st.text(), st.lists(st.text(), max_size=3))
def test_a_traceback_has_no_control_characters_and_looks_like_no_line(text: str, notes: list[str]) -> None:
    failure = ValueError(text)
    for note in notes:
        failure.add_note(note)
    for log_format in FORMATS:
        first, *rest = line_of(log_format, {"event": "failed"}, failure).split("\n")
        is_clean(first)
        for line in rest:
            is_clean(line)
            assert line.startswith("  ")


def raised(failure: BaseException, depth: int = 0) -> BaseException:
    try:
        if depth:
            raise raised_deep(failure, depth)
        raise failure
    except BaseException as caught:
        return caught


def raised_deep(failure: BaseException, depth: int) -> BaseException:
    if depth:
        return raised_deep(failure, depth - 1)
    raise failure


def chained(length: int) -> BaseException:
    failure: BaseException = ValueError("the first")
    for number in range(length):
        after = ValueError(f"number {number}")
        after.__cause__ = failure
        failure = after
    return failure


def nested(depth: int) -> BaseException:
    failure: Exception = ValueError("within")
    for _ in range(depth):
        failure = ExceptionGroup("\x1b[2J", [failure, ValueError("beside")])
    return failure


CYCLE = ValueError("a")
CYCLE.__context__ = KeyError("b")
CYCLE.__context__.__context__ = CYCLE
FAILURES = [
    Unspeakable(),
    Panic("panic"),
    ValueError("x" * 20_000_000),
    ValueError("line\n" * 1_000_000),
    ValueError(Hostile()),
    KeyError(Text("x")),
    chained(3),
    chained(5000),
    nested(3),
    nested(300),
    ExceptionGroup("many", [ValueError(str(number)) for number in range(10_000)]),
    BaseExceptionGroup("panics", [Panic("x"), KeyboardInterrupt()]),
    CYCLE,
    raised(ValueError("deep"), 500),
    SyntaxError("\x1b", ("\x1b.py", 1, 1, "\x1b[2J")),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "\x1b"),
    OSError(28, "No space left", "\x1b\ud800"),
    ProtocolError("bad", "\ud800"),
]


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_any_failure_can_be_logged(log_format: LogFormat, failure: BaseException) -> None:
    line = line_of(log_format, {"event": "failed"}, failure)
    is_clean(line)
    assert type(failure).__name__ in line
    if log_format == "json":
        orjson.loads(line)


def test_what_is_cut_is_said() -> None:
    tidy = Tidier()
    assert tidy.value("x" * (MAX_TEXT + 7)) == "x" * MAX_TEXT + "... (7 more characters)"
    items = tidy.value(list(range(MAX_ITEMS + 3)))
    assert isinstance(items, list)
    assert items[-1] == "... (3 more)"
    assert tidy.value(b"x" * 103) == repr(b"x" * 100) + "... (3 more bytes)"
    assert text_of(raised(ValueError("deep"), 500)).count("  File") <= MAX_FRAMES
    assert "more exceptions than are shown" in text_of(chained(2 * MAX_CHAIN))


@given(st.text())
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert printable(text).isprintable()
    assert (printable(text) == text) == text.isprintable()


# ---- limits of repeated lines


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_place_that_says_too_much_is_left_out_and_counted() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    place = repeats.place("here", lambda: "page refused")
    written = 0
    for _ in range(2 * BURST // 100):
        if repeats.admit(place):
            written += 1
            assert repeats.charge(place, 100) == 0
    assert written == pytest.approx(BURST / 100, abs=1)
    assert repeats.suppressed == place.left_out == 2 * BURST // 100 - written
    assert repeats.owes
    assert list(repeats.settle()) == []
    # Another place in the code may still log.
    assert repeats.admit(repeats.place("there", lambda: "session started"))
    clock.now += 1
    assert list(repeats.settle()) == [("page refused", 2 * BURST // 100 - written)]
    assert not repeats.owes
    clock.now += 9
    again = 0
    while repeats.admit(place):
        repeats.charge(place, 100)
        again += 1
    assert again == pytest.approx(10 * RATE / 100, abs=2)


def test_places_are_bounded() -> None:
    repeats = Repeats(Clock())
    for number in range(2 * MAX_PLACES):
        repeats.charge(repeats.place(number, lambda: "x"), 100 + 0 * number)
    assert repeats.place("new", lambda: "x") is repeats.place("other", lambda: "y")


def test_a_flood_from_one_line_of_code_is_bounded_and_the_next_line_tells(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = configure_logging("json")
    for number in range(5000):
        get_logger("x").info(f"told apart by no client {number}", text="x" * 100)
    logged = capsys.readouterr().err
    assert 0 < len(logged) < 1.1 * BURST
    left_out = log.repeats.suppressed
    assert left_out == 5000 - len(logged.splitlines())
    get_logger("x").info("another place")
    assert "another place" in capsys.readouterr().err
    # Two kinds of failures that one place logs are counted apart: both are in the log.
    for failure in (raised(ValueError("a")), raised_elsewhere()):
        for _ in range(2000):
            get_logger("x").error("handler failed", exc_info=failure)
    logged = capsys.readouterr().err
    assert "ValueError" in logged
    assert "KeyError" in logged


def raised_elsewhere() -> BaseException:
    try:
        raise KeyError("b")
    except KeyError as caught:
        return caught


# ---- loggers


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_line_with_the_wrong_arguments_is_logged_as_what_it_was_given(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(log_format)
    logging.getLogger().handlers[:-1] = []  # pytest's own handlers raise the errors of a line
    log = structlog.get_logger()
    log.info("a number: %d", "none")
    log.info()
    log.info("twice", event="once")
    log.log("info", "no level")
    log.debug("a number: %d", "none")  # below the level info
    logging.getLogger("library").warning("a number: %d", "none")
    logging.getLogger("library").warning("extra", extra={"level": "\x1b", "key": Hostile()})
    logged = capsys.readouterr().err
    assert logged.count("a number: %d") == 2
    assert len(logged.splitlines()) == 6
    is_clean(logged)


def test_the_runtimes_logger_does_not_raise_whatever_structlog_was_told_to_do() -> None:
    def fail(*_: object) -> str:
        raise Panic("a processor of the author's")

    structlog.configure(processors=[fail])
    log = get_logger("x", session_id="1").bind(more=2)
    for method in (log.debug, log.info, log.warning, log.error, log.exception):
        method("x", event_="y")


def test_ctrl_c_is_not_swallowed() -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    structlog.configure(processors=[interrupted])
    with pytest.raises(KeyboardInterrupt):
        get_logger("x").info("x")


def test_a_stream_that_was_closed_is_no_reason_to_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(sys, "stderr", Closed())
    log = configure_logging()
    structlog.get_logger().info("x")
    logging.warning("x")
    assert log.lost == 2


def test_no_stream_at_all_is_no_reason_to_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    configure_logging()
    structlog.get_logger().info("x")
    with warnings.catch_warnings(record=True):
        logging.warning("x")


class TornStream:
    """The stream of a client that is gone: closing the stream fails, too."""

    async def aclose(self) -> None:
        raise OSError("the socket is gone")


@pytest.mark.parametrize("failure", [Panic("x"), ValueError("x"), BaseExceptionGroup("x", [Panic("x")])])
async def test_a_connection_whose_failure_cannot_be_logged_ends_alone(
    failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise Panic("a processor of the author's")

    async def converse(*_: object) -> None:
        raise failure

    structlog.configure(processors=[fail])
    monkeypatch.setattr(Connections, "_converse", converse)
    settings = ServerSettings(port=0)
    service = Service(settings, name="x")
    connections = Connections(settings, service.gate, service.reception, service.sessions)
    with trio.fail_after(30):
        await connections.handle(TornStream())  # type: ignore[arg-type]
