"""A device whose work takes virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from reactor_trio import ModelMessage, ReactorModel, event
from reactor_trio.compute.lanes import ENCODE, Device, Lane
from reactor_trio.testing import DeviceCost, load_host, open_session, open_sessions

GPU, OTHER_GPU = Device("cuda:0").lane, Device("cuda:1").lane
FRAME = 0.080


class Done(ModelMessage):
    at: float


class Forward(ReactorModel):
    @event
    async def forward(self) -> Done:
        await self.compute(abs, -1)
        return Done(at=trio.current_time())


async def timed(device: DeviceCost, lane: Lane, *args: Any) -> float:
    await device.run(lane, len, *args)
    return trio.current_time()


async def test_what_if_a_frame_takes_80_ms() -> None:
    async with open_session(Forward, executor=DeviceCost(FRAME)) as client:
        for number in range(1, 4):
            reply = await client.call("forward")
            assert reply is not None
            assert reply.data["at"] == pytest.approx(number * FRAME)


async def test_sessions_take_turns_on_their_device() -> None:
    device = DeviceCost(1.0)
    times: list[float] = []
    async with open_sessions(await load_host(Forward, executor=device), 3) as clients:
        async with trio.open_nursery() as nursery:

            async def one(client: Any) -> None:
                times.append((await client.call("forward")).data["at"])

            for client in clients:
                nursery.start_soon(one, client)
    assert times == [1.0, 2.0, 3.0]
    assert device.busy == {Device(Forward().device).lane.name: 3.0}


async def test_lanes_work_side_by_side_and_other_work_costs_nothing() -> None:
    device = DeviceCost(1.0)
    times = []

    async def one(lane: Lane) -> None:
        times.append((lane.name, await timed(device, lane, "x")))

    async with trio.open_nursery() as nursery:
        for lane in (GPU, GPU, OTHER_GPU, ENCODE):
            nursery.start_soon(one, lane)
    assert sorted(times) == [(GPU.name, 1.0), (GPU.name, 2.0), (OTHER_GPU.name, 1.0), (ENCODE.name, 0.0)]


async def test_each_item_may_cost_something() -> None:
    device = DeviceCost(0.5, per_item=0.25, items=len)
    assert await timed(device, GPU, [1, 2, 3, 4]) == 1.5
    assert device.cost([]) == 0.5
    assert DeviceCost(per_item=2.0).cost("anything") == 2.0, "without `items` a call is one item"
    device.fixed = 0.0
    assert device.cost([1]) == 0.25


async def test_a_call_that_is_cancelled_in_the_queue_is_not_called() -> None:
    device, called = DeviceCost(10.0), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, GPU, called.append, "first")
        await trio.sleep(1)
        with trio.move_on_after(1) as scope:
            await device.run(GPU, called.append, "second")
        assert scope.cancelled_caught
        assert trio.current_time() == 2
    assert called == ["first"]
    assert await timed(device, GPU, "") == 20, "the lane is free"


async def test_a_call_that_is_cancelled_while_it_runs_is_waited_for_and_gives_its_result() -> None:
    device = DeviceCost(10.0)
    with trio.move_on_after(1) as scope:
        result = await device.run(GPU, len, "four")
        assert (result, trio.current_time()) == (4, 10.0)
        await trio.lowlevel.checkpoint()
        raise AssertionError("unreachable")
    assert scope.cancelled_caught


async def test_a_call_in_a_scope_that_is_cancelled_already_is_not_called() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await DeviceCost(1.0).run(GPU, pytest.fail, "called")
    assert trio.current_time() == 0


async def test_what_the_work_raises_comes_at_the_end_of_its_time() -> None:
    device = DeviceCost(1.0)
    with pytest.raises(ZeroDivisionError):
        await device.run(GPU, divmod, 1, 0)
    assert trio.current_time() == 1.0
    assert await timed(device, GPU, "") == 2.0


async def test_running_says_what_each_device_works_on() -> None:
    device = DeviceCost(1.0)
    async with trio.open_nursery() as nursery:
        for lane in (GPU, GPU, OTHER_GPU):
            nursery.start_soon(device.run, lane, len, "x")
        await trio.sleep(0.5)
        assert {(call.lane, call.name) for call in device.running()} == {(GPU, "len"), (OTHER_GPU, "len")}
    assert device.running() == ()


@pytest.mark.parametrize("fields", [{"fixed": -1}, {"per_item": float("inf")}], ids=str)
def test_an_impossible_cost_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="seconds >= 0"):
        DeviceCost(**fields)
