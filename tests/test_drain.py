"""What signals do, under a clock of ours: no process, no threads."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from reactor_trio.compute.executor import RunningCall
from reactor_trio.server import drain
from reactor_trio.server.drain import THREAD_SECONDS

TEST_TIMEOUT = 600.0
DRAIN_TIMEOUT = 30.0


class Ended(BaseException):
    """Instead of the end of the process."""


class FakeExecutor:
    def __init__(self, *calls: RunningCall) -> None:
        self.calls = calls

    def running(self) -> tuple[RunningCall, ...]:
        return self.calls


class FakeServer:
    """Remembers when it was told what."""

    def __init__(self) -> None:
        self.settings = SimpleNamespace(drain_timeout=DRAIN_TIMEOUT)
        self.state = SimpleNamespace(sessions=1)
        self.told: dict[str, float] = {}

    def drain(self) -> None:
        self.told["drain"] = trio.current_time()

    def cancel(self) -> None:
        self.told["cancel"] = trio.current_time()


@pytest.fixture(autouse=True)
def exit_is_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(status: int) -> None:
        assert status == 1
        raise Ended

    monkeypatch.setattr(os, "_exit", ended)


async def obey(
    server: FakeServer, executor: FakeExecutor, *, signals_at: tuple[float, ...], lasts: float = 300
) -> float | None:
    """When the process was ended by force, if it was, after the start; each signal comes at its time."""
    send, receive = trio.open_memory_channel[int](10)
    start = trio.current_time()

    async def deliver() -> None:
        for at in signals_at:
            await trio.sleep_until(start + at)
            send.send_nowait(signal.SIGTERM)

    ended = None
    with trio.fail_after(TEST_TIMEOUT), trio.move_on_after(lasts):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            follow: Callable[..., Any] = drain._obey
            try:
                await follow(receive, server, executor)
            except Ended:
                ended = trio.current_time() - start
            nursery.cancel_scope.cancel(reason="ended")
    send.close()
    receive.close()
    return ended


async def test_what_has_not_drained_in_time_is_cancelled(autojump_clock: MockClock) -> None:
    server, start = FakeServer(), trio.current_time()
    assert await obey(server, FakeExecutor(), signals_at=(1,)) is None
    assert server.told == {"drain": start + 1, "cancel": start + 1 + DRAIN_TIMEOUT}


async def test_a_second_signal_cancels_at_once(autojump_clock: MockClock) -> None:
    server, start = FakeServer(), trio.current_time()
    assert await obey(server, FakeExecutor(), signals_at=(1, 2)) is None
    assert server.told == {"drain": start + 1, "cancel": start + 2}


async def test_a_thread_that_goes_on_ends_the_process_and_is_named(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    now = trio.current_time()
    executor = FakeExecutor(RunningCall("device:cuda:0", "Painter.forward", now, now))
    assert await obey(FakeServer(), executor, signals_at=(1, 2)) == pytest.approx(2 + THREAD_SECONDS)
    expected = "Stopped without waiting for: Painter.forward in lane device:cuda:0, for 7 s\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("third", [3.0, 60.0])
async def test_a_third_signal_ends_the_process_at_once(
    third: float, autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await obey(FakeServer(), FakeExecutor(), signals_at=(1, 2, third)) == pytest.approx(third)
    assert "a task that does not end" in capsys.readouterr().err
