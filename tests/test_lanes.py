"""Lanes and devices are values: two lanes, or two devices, are equal if all of their fields are equal."""

from __future__ import annotations

import threading

import attrs
import pytest
import trio
import trio.testing

from reactor_trio.compute.executor import ThreadExecutor
from reactor_trio.compute.lanes import DECODE, ENCODE, FILES, HANDLERS, PAYLOADS, Device, Lane, encoder_lane

pytestmark = pytest.mark.real_time

TEST_TIMEOUT = 20.0
FIXED = (HANDLERS, ENCODE, DECODE, PAYLOADS, FILES)


def test_a_lane_is_the_same_wherever_it_was_made() -> None:
    class Named:
        def __str__(self) -> str:
            return "cuda:1"

    assert Device("cuda:1").lane == Device(Named()).lane != Device("cuda:0").lane
    assert {encoder_lane("1/screen"), encoder_lane("1/screen"), encoder_lane("1/depth")} == {
        encoder_lane("1/screen"),
        encoder_lane("1/depth"),
    }
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        FILES.limit = 9  # type: ignore[misc]


def test_only_the_lanes_of_devices_are_those_of_devices_whatever_a_name_begins_with() -> None:
    assert Device("cpu").lane.is_device
    assert not any(lane.is_device for lane in (*FIXED, encoder_lane("device:cpu"), Lane("device:cpu")))


def test_logs_show_a_lane_by_its_name() -> None:
    lanes = (*FIXED, Device("cuda:1").lane, encoder_lane("session-1/screen"))
    assert [str(lane) for lane in lanes] == [
        "handlers",
        "encode",
        "decode",
        "payloads",
        "files",
        "device:cuda:1",
        "encoder:session-1/screen",
    ]


@pytest.mark.parametrize(
    ("lane", "on_1", "on_8"),
    [
        (HANDLERS, 32, 32),
        (FILES, 8, 8),
        (PAYLOADS, 1, 1),
        (Device("cpu").lane, 1, 1),
        (encoder_lane("1/screen"), 1, 1),
        (ENCODE, 1, 8),
        (DECODE, 1, 7),
    ],
    ids=str,
)
def test_how_many_calls_a_lane_has_at_a_time(lane: Lane, on_1: int, on_8: int) -> None:
    assert (lane.size(1), lane.size(8)) == (on_1, on_8)


@pytest.mark.parametrize(
    "lane",
    [*FIXED, Device("cpu").lane, encoder_lane("1/screen"), Lane("two", limit=2, has_own_threads=True)],
    ids=str,
)
async def test_an_executor_runs_as_many_calls_at_a_time_as_the_lane_says(lane: Lane) -> None:
    executor, cores = ThreadExecutor(cores=3), 3
    size = lane.size(cores)
    go_on, began = threading.Event(), trio.Semaphore(0)
    token = trio.lowlevel.current_trio_token()

    def call() -> None:
        token.run_sync_soon(began.release)
        assert go_on.wait(TEST_TIMEOUT)

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for _ in range(size + 1):
                nursery.start_soon(executor.run, lane, call)
            for _ in range(size):
                await began.acquire()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert [running.lane for running in executor.running()] == [lane] * size
            assert began.value == 0, "one more has to wait"
            go_on.set()
    assert executor.running() == ()
