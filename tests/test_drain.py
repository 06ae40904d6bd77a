"""The effects of signals on a server, by a scripted clock: no process, and no waiting."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import trio

from reactor_trio.compute.calls import RunningCall
from reactor_trio.compute.lanes import Device
from reactor_trio.server import drain
from reactor_trio.server.drain import HOOK_SECONDS, LEAVE_SECONDS, LOAD_SECONDS, THREAD_SECONDS, Shutdown

TEST_TIMEOUT = 20.0
DRAIN_TIMEOUT = 30.0
HOOK_TIMEOUT = 10.0


class Exited(BaseException):
    """Raised instead of ending the process."""

    def __init__(self, status: int) -> None:
        self.status = status


class ScriptedSignals:
    """Signals and news (None) at fixed seconds of a clock; the clock goes on only in `wait`."""

    def __init__(self, events: dict[float, signal.Signals | None]) -> None:
        self.now = 0.0
        self._events = dict(sorted(events.items()))

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float | None) -> signal.Signals | None:
        deadline = math.inf if seconds is None else self.now + seconds
        at = next(iter(self._events), math.inf)
        assert min(at, deadline) < math.inf, "it would wait for ever"
        if at > deadline:
            self.now = deadline
            return None
        self.now = max(self.now, at)
        return self._events.pop(at)

    def tell(self) -> None:
        pass

    @contextmanager
    def wired(self) -> Iterator[None]:
        yield


class FakeServer:
    """Remembers when it was told to drain or cancel; the last hook of its session runs until `hook_until`."""

    def __init__(self, signals: ScriptedSignals, *, is_ready: bool = True, hook_until: float = 0.0) -> None:
        self.settings = SimpleNamespace(drain_timeout=DRAIN_TIMEOUT)
        self.sessions = 1
        self.hook_timeout = HOOK_TIMEOUT
        self.ready = trio.Event()
        if is_ready:
            self.ready.set()
        self.told: dict[str, float] = {}
        self._signals = signals
        self._hook_until = hook_until

    def drain(self) -> None:
        self.told["drain"] = self._signals.now

    def cancel(self) -> None:
        self.told["cancel"] = self._signals.now

    @property
    def only_hooks_are_left(self) -> bool:
        return self._signals.now < self._hook_until


class Ending:
    """The result of a shutdown: time and status of the forced end of the process, or None without one."""

    def __init__(self, shutdown: Shutdown, server: FakeServer) -> None:
        self.shutdown = shutdown
        self.server = server
        self.at: float | None = None
        self.status: int | None = None


def follow(
    events: dict[float, signal.Signals | None],
    *calls: RunningCall,
    ends_at: float = math.inf,
    leaves_at: float = math.inf,
    **server_is: Any,
) -> Ending:
    """Do the work of the shutdown thread here; the server ends and the process leaves at the given times."""
    news: dict[float, signal.Signals | None] = {at: None for at in (ends_at, leaves_at) if at < math.inf}
    signals = ScriptedSignals(news | events)

    class Timed(ScriptedSignals):
        def wait(self, seconds: float | None) -> signal.Signals | None:
            heard = super().wait(seconds)
            shutdown._is_over |= self.now >= ends_at
            shutdown._is_leaving |= self.now >= leaves_at
            # No event is left, so the test takes the process for gone: `follow` would wait for ever.
            shutdown._is_stopped |= shutdown._is_over and not self._events and leaves_at == math.inf
            return heard

    signals.__class__ = Timed
    executor: Any = SimpleNamespace(running=lambda: calls)
    server = FakeServer(signals, **server_is)

    def exit_now(status: int) -> NoReturn:
        raise Exited(status)

    shutdown = Shutdown(executor, signals, clock=signals.clock, exit_now=exit_now)
    shutdown._on_loop = lambda function: function()  # type: ignore[method-assign]
    shutdown._server = server  # type: ignore[assignment]
    shutdown._root = SimpleNamespace(child_nurseries=[])  # type: ignore[assignment]
    ending = Ending(shutdown, server)
    try:
        shutdown.follow()
    except Exited as exited:
        ending.at, ending.status = signals.now, exited.status
    return ending


def test_what_has_not_drained_in_time_is_cancelled() -> None:
    ending = follow({1: signal.SIGTERM}, ends_at=32)
    assert ending.server.told == {"drain": 1, "cancel": 1 + DRAIN_TIMEOUT}
    assert ending.status is None


def test_what_has_drained_is_not_cancelled() -> None:
    assert follow({1: signal.SIGTERM}, ends_at=20).server.told == {"drain": 1}


def test_a_second_signal_cancels_at_once() -> None:
    ending = follow({1: signal.SIGTERM, 2: signal.SIGINT}, ends_at=2.5)
    assert ending.server.told == {"drain": 1, "cancel": 2}
    assert ending.status is None


def test_a_thread_that_goes_on_ends_the_process_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    call = RunningCall(Device("cuda:0").lane, "Painter.forward", 0, 0)
    ending = follow({1: signal.SIGTERM, 2: signal.SIGTERM}, call)
    assert (ending.at, ending.status) == (2 + THREAD_SECONDS, 1)
    expected = "Stopped without waiting for: Painter.forward in lane device:cuda:0, for 7 s\n"
    assert capsys.readouterr().err == expected


def test_a_task_that_goes_on_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    ending = follow({1: signal.SIGHUP})
    assert (ending.at, ending.status) == (1 + DRAIN_TIMEOUT + THREAD_SECONDS, 1)
    assert "a task that does not end" in capsys.readouterr().err


def test_a_third_signal_ends_the_process_at_once() -> None:
    ending = follow({1: signal.SIGTERM, 2: signal.SIGTERM, 3: signal.SIGTERM})
    assert (ending.at, ending.status) == (3, 1)


def test_a_hook_has_its_own_time() -> None:
    ending = follow({1: signal.SIGTERM, 2: signal.SIGTERM}, hook_until=11, ends_at=11)
    assert ending.status is None


def test_a_hook_that_goes_on_when_its_time_is_up_ends_the_process() -> None:
    ending = follow({1: signal.SIGTERM, 2: signal.SIGTERM}, hook_until=math.inf)
    assert ending.status == 1
    assert ending.at == pytest.approx(2 + HOOK_TIMEOUT + HOOK_SECONDS, abs=0.5)


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_model_that_loads_is_not_waited_for(signum: signal.Signals, status: int) -> None:
    ending = follow({5: signum}, is_ready=False)
    assert ending.server.told == {"cancel": 5}
    assert (ending.at, ending.status) == (5 + LOAD_SECONDS, status)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, None)])
def test_a_model_that_can_be_cancelled_while_it_loads_is(signum: signal.Signals, status: int | None) -> None:
    ending = follow({5: signum}, is_ready=False, ends_at=5.2)
    assert ending.status is None
    assert ending.shutdown.status == status


def test_a_process_that_does_not_end_after_its_server_is_ended() -> None:
    ending = follow({}, ends_at=1, leaves_at=2)
    assert (ending.at, ending.status) == (2 + THREAD_SECONDS, 1)


def test_one_more_signal_ends_it_soon_but_lets_it_end_by_itself() -> None:
    ending = follow({1: signal.SIGTERM, 4: signal.SIGTERM}, ends_at=2, leaves_at=3)
    assert (ending.at, ending.status) == (4 + LEAVE_SECONDS, 1)


def test_the_end_is_said_without_waiting_for_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def stalls(*_: object) -> None:
        threading.Event().wait(TEST_TIMEOUT)

    monkeypatch.setattr(drain, "_say", stalls)
    assert follow({1: signal.SIGTERM, 2: signal.SIGTERM, 3: signal.SIGTERM}).status == 1
