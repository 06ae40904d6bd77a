"""The watchdog names the line that holds the loop, once, and says nothing if no line does."""

from __future__ import annotations

import pathlib
import sys
import time
import weakref
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import structlog
import trio
from structlog.testing import capture_logs

import reactor_trio
from reactor_trio import ReactorModel, event
from reactor_trio.compute.loop_time import Usage
from reactor_trio.compute.places import Place, Spot, is_authored, place_of, stack_of
from reactor_trio.compute.watchdog import HUNG, LIMIT, MAX_PLACES, Watchdog, measure_lag, watching
from reactor_trio.testing import open_session

TEST_TIMEOUT = 30.0
STALL = 0.3
HERE = __file__


class Blocking(ReactorModel):
    @event
    async def block(self) -> None:
        time.sleep(STALL)  # noqa: ASYNC251  blocks on purpose

    @event
    def block_inline(self) -> None:
        _deep_down()


def _deep_down() -> None:
    time.sleep(STALL)


def line_of(function: Callable[..., Any]) -> int:
    """The number of the line that has the function's only statement."""
    return function.__code__.co_firstlineno + (2 if function is Blocking.block else 1)


def fits(found: dict[str, Any], handler: str, line: int) -> None:
    assert found["place"] == f"{HERE}:{line}"
    assert found["handler"] == handler
    assert found["session_id"] == "session-1"
    assert 1000 * STALL <= found["milliseconds"] < 10_000 * STALL
    assert "self.compute" in found["advice"]
    assert "in_thread=True" in found["advice"]


def warnings_about(logs: list[Any], file: str = HERE) -> list[dict[str, Any]]:
    """The warnings about lines of `file`: on a busy machine, any other line may be held up, too."""
    return [entry for entry in logs if entry.get("place", "").startswith(file)]


@pytest.mark.real_time
async def test_a_blocking_line_is_named_once_with_its_handler_and_session() -> None:
    stalls: list[float] = []
    with trio.fail_after(TEST_TIMEOUT), capture_logs() as logs, watching(Watchdog(stalls.append)):
        async with open_session(Blocking) as client:
            await client.call("block")
            await client.call("block")
            await client.call("block_inline")
    first, second = warnings_about(logs)
    fits(first, "Blocking.block", line_of(Blocking.block))
    # A plain handler runs in the task that received its command, and is named all the same.
    fits(second, "Blocking.block_inline", line_of(_deep_down))
    assert second["task"] == "session-1/receive"
    assert sum(stall >= STALL for stall in stalls) == 3


async def test_an_idle_hour_says_nothing() -> None:
    class Idle(ReactorModel):
        pass

    watchdog = Watchdog(clock=trio.lowlevel.current_clock().current_time)
    with capture_logs() as logs:
        trio.lowlevel.add_instrument(watchdog)
        async with open_session(Idle):
            await trio.sleep(3599)
        trio.lowlevel.remove_instrument(watchdog)
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []


# ---- step by step, on a clock of the test's own


class Stage:
    """A watchdog whose loop, thread and clock are the test."""

    def __init__(self, frame: FrameType | None = None) -> None:
        self.now = 100.0
        self.frame = frame
        self.stalls: list[float] = []
        self.running = self.queued = self.collecting = 0.0
        self.watchdog = Watchdog(
            self.stalls.append,
            clock=lambda: self.now,
            frame=lambda: self.frame,
            usage=lambda: Usage(self.running, self.queued, self.collecting),
        )
        self.task = trio.lowlevel.current_task()

    def step(self, *looks_at: float, lasts: float) -> list[float]:
        """Take a step of `lasts` seconds, with looks of the thread `looks_at` seconds after its beginning.

        Returns what each look returns: the seconds until the next one.
        """
        began = self.now
        self.watchdog.before_task_step(self.task)
        answers = []
        for seconds in looks_at:
            self.now = began + seconds
            answers.append(self.watchdog.look())
        self.now = began + lasts
        self.watchdog.before_io_wait(0.0)
        return answers


def frame_here() -> FrameType:
    return sys._getframe()


@pytest.mark.real_time
async def test_a_look_comes_back_when_the_step_would_be_overdue() -> None:
    stage = Stage()
    assert stage.watchdog.look() == LIMIT  # no step is under way
    assert stage.step(0.0, 0.25 * LIMIT, lasts=0.5 * LIMIT) == pytest.approx([LIMIT, 0.75 * LIMIT])
    assert stage.stalls == []


@pytest.mark.real_time
async def test_the_place_seen_most_often_is_the_one_named() -> None:
    stage = Stage()
    first, other = frame_here(), (lambda: sys._getframe())()
    with capture_logs() as logs:
        stage.watchdog.before_task_step(stage.task)
        for frame in (first, other, other):
            stage.frame = frame
            stage.now += 2 * LIMIT
            stage.watchdog.look()
        stage.watchdog.before_io_wait(0.0)
    [entry] = logs
    assert entry["place"] == f"{HERE}:{other.f_lineno}"
    assert entry["milliseconds"] == pytest.approx(6000 * LIMIT)


@pytest.mark.real_time
async def test_a_stall_that_nobody_saw_is_said_by_its_task_and_counted() -> None:
    stage = Stage()
    with capture_logs() as logs:
        stage.step(lasts=1.0)
        stage.step(lasts=2.0)
    [entry] = logs
    assert entry["task"] == stage.task.name
    assert "place" not in entry
    assert stage.stalls == [1.0, 2.0]


@pytest.mark.real_time
async def test_a_step_ends_where_the_next_one_begins_and_waiting_is_no_step() -> None:
    stage = Stage()
    with capture_logs():
        stage.watchdog.before_task_step(stage.task)
        stage.now += 1.0
        stage.watchdog.before_task_step(stage.task)
        stage.now += 0.5 * LIMIT
        stage.watchdog.before_io_wait(60.0)
        stage.now += 60.0
        assert stage.watchdog.look() == LIMIT
        stage.watchdog.before_task_step(stage.task)
    assert stage.stalls == [1.0]


@pytest.mark.real_time
async def test_samples_of_one_step_are_not_used_for_the_next() -> None:
    stage = Stage(frame_here())
    with capture_logs() as logs:
        stage.step(1.5 * LIMIT, lasts=0.5 * LIMIT)  # sampled, though it ends in time by the clock
        stage.frame = None
        stage.step(lasts=1.0)
    [entry] = logs
    assert "place" not in entry


@pytest.mark.real_time
async def test_a_step_that_does_not_end_is_said_while_it_lasts() -> None:
    stage = Stage(frame_here())
    with capture_logs() as logs:
        stage.watchdog.before_task_step(stage.task)
        for seconds in (1.0, HUNG, HUNG + 1):
            stage.now = 100.0 + seconds
            stage.watchdog.look()
        assert [entry["event"] for entry in logs] == ["the loop is blocked, still"]
        stage.watchdog.before_io_wait(0.0)
    assert [entry["event"] for entry in logs] == ["the loop is blocked, still", "the loop was blocked"]


@pytest.mark.real_time
async def test_what_is_logged_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(range(10 * MAX_PLACES))
    monkeypatch.setattr(
        "reactor_trio.compute.watchdog.place_in", lambda stack: Place("model.py", next(lines), "run")
    )
    stage = Stage(frame_here())
    with capture_logs() as logs:
        for _ in range(MAX_PLACES + 10):
            stage.step(2 * LIMIT, lasts=3 * LIMIT)
    assert len(logs) == MAX_PLACES
    assert len(stage.stalls) == MAX_PLACES + 10


# ---- stalls with and without a line to blame


@pytest.mark.real_time
async def test_a_step_that_had_no_processor_is_not_blamed() -> None:
    stage = Stage(frame_here())
    stage.watchdog.look()
    with capture_logs() as logs:
        stage.watchdog.before_task_step(stage.task)
        stage.now += 1.0
        stage.running, stage.queued = 0.02, 0.98
        stage.watchdog.look()
        stage.watchdog.before_io_wait(0.0)
    assert logs == []
    assert stage.stalls == []


@pytest.mark.real_time
async def test_a_line_that_sleeps_or_computes_is_blamed_also_where_processors_are_scarce() -> None:
    for running, queued in ((0.0, 0.3), (0.5, 0.5), (1.0, 0.0)):
        stage = Stage(frame_here())
        stage.watchdog.look()
        with capture_logs() as logs:
            stage.watchdog.before_task_step(stage.task)
            stage.now += 1.0
            stage.running, stage.queued = running, queued
            stage.watchdog.look()
            stage.watchdog.before_io_wait(0.0)
        assert [entry["place"].split(":")[0] for entry in logs] == [HERE]
        assert stage.stalls == [1.0]


@pytest.mark.real_time
async def test_a_process_that_was_stopped_is_not_blamed() -> None:
    stage = Stage(frame_here())
    stage.watchdog.look()
    with capture_logs() as logs:
        stage.watchdog.before_task_step(stage.task)
        stage.watchdog._due = stage.now + LIMIT
        stage.now += 60.0  # neither the loop nor the thread that looks ran, and neither was in a queue
        stage.watchdog.before_io_wait(0.0)
    assert logs == []


@pytest.mark.real_time
async def test_a_line_that_holds_pythons_lock_is_blamed_though_nobody_could_look() -> None:
    stage = Stage()
    stage.watchdog.look()
    with capture_logs() as logs:
        stage.watchdog.before_task_step(stage.task)
        stage.watchdog._due = stage.now + LIMIT
        stage.now += 1.0
        stage.running = 1.0
        stage.watchdog.before_io_wait(0.0)
    assert [entry["event"] for entry in logs] == ["the loop was blocked"]


@pytest.mark.real_time
async def test_a_step_that_waits_for_a_processor_for_ever_is_not_called_hung() -> None:
    stage = Stage(frame_here())
    stage.watchdog.look()
    with capture_logs() as logs:
        stage.watchdog.before_task_step(stage.task)
        for _ in range(3):
            stage.now += HUNG
            stage.queued += HUNG
            stage.watchdog.look()
    assert logs == []


@pytest.mark.real_time
async def test_the_garbage_collector_is_told_apart() -> None:
    stage = Stage(frame_here())
    stage.watchdog.look()
    with capture_logs() as logs:
        stage.watchdog.before_task_step(stage.task)
        stage.now += 1.0
        stage.running, stage.collecting = 1.0, 0.97
        stage.watchdog.look()
        stage.watchdog.before_io_wait(0.0)
    [entry] = logs
    assert entry["event"] == "the garbage collector held the loop"
    assert "place" not in entry
    assert stage.stalls == [1.0]


@pytest.mark.real_time
async def test_what_a_client_sent_is_no_fault_of_the_model() -> None:
    stage = Stage(frame_in(RUNTIME))
    stage.task = FakeTask("session-7/receive", trio.lowlevel.current_task())  # type: ignore[assignment]
    with structlog.contextvars.bound_contextvars(session_id="session-7"), capture_logs() as logs:
        stage.watchdog.before_task_step(stage.task)
        stage.now += 1.0
        entry_of_task = trio.lowlevel.current_task().context
        assert entry_of_task
        stage.watchdog.before_io_wait(0.0)
    [entry] = logs
    assert entry["session_id"] == "session-7"
    assert "client sent" in entry["advice"]


class FakeTask:
    def __init__(self, name: str, real: trio.lowlevel.Task) -> None:
        self.name = name
        self._real = real

    @property
    def context(self) -> Any:
        return copy_context()


def test_a_sample_keeps_no_frame() -> None:
    def hold() -> weakref.ref[Any]:
        class Held:
            pass

        held = Held()
        samples.extend(stack_of(sys._getframe()))
        return weakref.ref(held)

    samples: list[Any] = []
    assert hold()() is None
    assert samples


# ---- lines of the author, and of others


def frame_in(file: str) -> FrameType:
    """The frame of a function `f` on line 1 of `file`, called from here."""
    namespace: dict[str, Any] = {"sys": sys}
    exec(compile("def f(): return sys._getframe()", file, "exec"), namespace)
    frame = namespace["f"]()
    assert isinstance(frame, FrameType)
    return frame


LIBRARY = str(Path(structlog.__file__).parent / "made_up.py")
RUNTIME = str(Path(reactor_trio.__file__).parent / "session" / "made_up.py")


@pytest.mark.parametrize(
    ("file", "authored"),
    [
        (HERE, True),
        (str(Path(reactor_trio.__file__).parent / "demo" / "painter.py"), True),
        (RUNTIME, False),
        (LIBRARY, False),
        (trio.__file__, False),
        (pathlib.__file__, False),
        ("<attrs generated init model.Painter>", False),
    ],
)
def test_a_line_is_the_authors_by_where_it_is(file: str, authored: bool) -> None:
    assert is_authored(file) == authored


def chain(monkeypatch: pytest.MonkeyPatch, *files: str) -> Place:
    """The place of a step whose stack has one line of each of `files`, the innermost first."""
    stack = [Spot(file, "f", "f", 1) for file in files]
    monkeypatch.setattr("reactor_trio.compute.places.stack_of", lambda frame: list(stack))
    return place_of(frame_here())


def test_a_library_that_the_author_calls_is_charged_to_the_author(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chain(monkeypatch, LIBRARY, "/models/painter.py", RUNTIME) == Place("/models/painter.py", 1, "f")


def test_a_model_that_is_installed_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LIBRARY.replace("made_up", "model")
    assert chain(monkeypatch, LIBRARY, model, RUNTIME) == Place(model, 1, "f")


def test_without_anyone_elses_line_it_is_the_innermost_and_no_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chain(monkeypatch, RUNTIME, LIBRARY, RUNTIME) == Place(RUNTIME, 1, None)


# ---- lag


async def test_the_lag_is_how_late_the_loop_was() -> None:
    seen: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(measure_lag, seen.append)
        await trio.sleep(1.05)
        nursery.cancel_scope.cancel(reason="measured")
    assert seen == pytest.approx([0.0] * 10)
