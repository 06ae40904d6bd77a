"""Without keys, the coalescing channel behaves in each step like Trio's memory channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from reactor_trio.session.coalescing import open_coalescing_channel
from reactor_trio.testing import run

DEADLINE = 100.0
"""Virtual seconds."""

Operation = tuple[str, int]
"""The operation, and the number of its end or task, modulo the count of ends or tasks."""


class Driver:
    """Does operations on one channel, and records the result of each."""

    def __init__(self, nursery: trio.Nursery, channel: tuple[Any, Any]) -> None:
        self._nursery = nursery
        self._ends: dict[str, list[Any]] = {"send": [channel[0]], "receive": [channel[1]]}
        self._scopes: list[trio.CancelScope] = []
        self._values = 0
        self.results: dict[str, object] = {}

    def do(self, operation: Operation) -> None:
        """Do one operation synchronously: a task that it starts has its first step later."""
        what, number = operation
        self._values += 1
        value, name = self._values, f"{self._values} {what}"
        kind = "receive" if "receive" in what else "send"
        ends = self._ends[kind]
        end = ends[number % len(ends)]
        match what.split("_")[0]:
            case "task":
                self._start(
                    name, end.send if kind == "send" else end.receive, value if kind == "send" else None
                )
            case "now":
                self._note(name, lambda: end.send_nowait(value) if kind == "send" else end.receive_nowait())
            case "clone":
                self._note(name, lambda: ends.append(end.clone()))
            case "close":
                end.close()
            case "cancel" if self._scopes:
                self._scopes[number % len(self._scopes)].cancel()

    def _note(self, name: str, call: Callable[[], object]) -> None:
        try:
            self.results[name] = call()
        except (
            trio.WouldBlock,
            trio.EndOfChannel,
            trio.ClosedResourceError,
            trio.BrokenResourceError,
        ) as error:
            self.results[name] = type(error)

    def _start(self, name: str, call: Callable[..., Any], value: int | None) -> None:
        scope = trio.CancelScope()
        self._scopes.append(scope)

        async def task() -> None:
            with scope:
                try:
                    self.results[name] = await (call() if value is None else call(value))
                except (trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError) as error:
                    self.results[name] = type(error)

        self._nursery.start_soon(task)

    def statistics(self) -> tuple[object, ...]:
        numbers = self._ends["send"][0].statistics()
        names = ("current_buffer_used", "tasks_waiting_send", "tasks_waiting_receive", "peak_buffer_used")
        ends = (numbers.open_send_channels, numbers.open_receive_channels)
        return (*(getattr(numbers, name) for name in names), *ends)

    def end(self) -> None:
        for scope in self._scopes:
            scope.cancel()


def outcome_of(open_channel: Callable[[int], Any], size: int, steps: list[list[Operation]]) -> list[object]:
    """Results and statistics after each step; all operations of a step happen before any task goes on."""
    seen: list[object] = []

    async def main() -> None:
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                driver = Driver(nursery, open_channel(size))
                for step in steps:
                    for operation in step:
                        driver.do(operation)
                    await wait_all_tasks_blocked()
                    seen.append((dict(driver.results), driver.statistics()))
                driver.end()

    run(main)
    return seen


operations = st.tuples(
    st.sampled_from(
        [
            "task_send",
            "task_receive",
            "now_send",
            "now_receive",
            "clone_send",
            "clone_receive",
            "close_send",
            "close_receive",
            "cancel",
        ]
    ),
    st.integers(0, 5),
)
# A step starts at most one task, because Trio chooses which of two new tasks runs first.
steps = st.lists(
    st.one_of(
        st.tuples(operations.filter(lambda each: each[0].startswith("task"))).map(list),
        st.lists(operations.filter(lambda each: not each[0].startswith("task")), min_size=1, max_size=4),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=300)
@given(size=st.integers(0, 2), steps=steps)
@example(size=4, steps=[[("task_receive", 0)], [("now_send", 0), ("close_receive", 0)]])
@example(size=4, steps=[[("task_receive", 0)], [("close_send", 0), ("close_receive", 0)]])
@example(size=1, steps=[[("now_send", 0)], [("task_send", 0)], [("now_receive", 0), ("close_send", 0)]])
@example(size=0, steps=[[("task_send", 0)], [("now_receive", 0), ("close_send", 0)]])
@example(size=0, steps=[[("task_send", 0)], [("close_receive", 0), ("close_send", 0)]])
@example(size=0, steps=[[("task_send", 0)], [("now_receive", 0), ("cancel", 0)]])
def test_it_does_what_trios_channel_does(size: int, steps: list[list[Operation]]) -> None:
    expected = outcome_of(trio.open_memory_channel, size, steps)
    assert outcome_of(open_coalescing_channel, size, steps) == expected


@pytest.mark.parametrize("size", [0, 1, 2])
async def test_a_sender_that_a_key_lets_in_is_off_its_end(size: int) -> None:
    """An end is closed right after its first waiting sender, and the second by its key, were let in."""
    send, receive = open_coalescing_channel(size)
    results: list[object] = []

    async def put(value: int) -> None:
        try:
            results.append(await send.send(value, "k"))
        except trio.ClosedResourceError:
            results.append("closed")

    for value in range(size):
        send.send_nowait(value)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            for value in (10, 11):
                nursery.start_soon(put, value)
                await wait_all_tasks_blocked()
            assert receive.receive_nowait() == (0 if size else 10)
            send.close()
    # Where there is a buffer, the second value of the key has replaced the first.
    assert sorted(map(str, results)) == (["10", "None"] if size else ["None", "closed"])
