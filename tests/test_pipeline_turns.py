"""Pipelines: handlers run between two steps, generators are closed, plain generators have a thread."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs
import pytest
import structlog
import trio
import trio.testing

from pipelines import (
    BOTH,
    FRAME,
    STEP,
    Game,
    GameState,
    Picture,
    Said,
    idles,
    pictures,
    scripted,
)
from reactor_trio import (
    Idle,
    ReactorPipeline,
    UploadedFile,
    connected,
    disconnected,
    event,
    file_uploaded,
)
from reactor_trio.compute.executor import ThreadExecutor
from reactor_trio.compute.lanes import HANDLERS, Device
from reactor_trio.session.limits import Limits
from reactor_trio.testing import (
    DeviceCost,
    SessionClient,
    load_host,
    open_session,
    open_sessions,
)
from slow_executor import SlowExecutor

# ---- handlers run only between two steps


@attrs.define
class Watch:
    """The step or handler of one session that runs now; a second one at the same time is a fault."""

    inside: str | None = None
    handled: list[tuple[float, str]] = attrs.field(factory=list)
    steps: int = 0
    faults: list[str] = attrs.field(factory=list)

    @contextmanager
    def enter(self, name: str) -> Iterator[None]:
        if self.inside is not None:
            self.faults.append(f"{name} inside {self.inside}")
        before, self.inside = self.inside, name
        try:
            yield
        finally:
            self.inside = before
            if name != "a step":
                self.handled.append((round(trio.current_time(), 3), name))


class Watched(ReactorPipeline):
    """Each step takes `STEP` seconds; the steps and the handlers of every kind enter `watch`."""

    state: GameState
    fps = 1000

    def load(self, config: dict[str, Any]) -> None:
        self.step_time = config.get("step_time", STEP)

    @connected
    async def on_connect(self) -> None:
        self.watch = Watch()
        with self.watch.enter("@connected"):
            await trio.sleep(1)

    async def inference(self) -> AsyncIterator[Any]:
        while True:
            with self.watch.enter("a step"):
                self.watch.steps += 1
                await trio.sleep(self.step_time)
            yield Picture(screen=FRAME)

    @event
    def plain(self) -> None:
        with self.watch.enter("plain"):
            pass

    @event
    async def awaits(self, seconds: float) -> None:
        with self.watch.enter("awaits"):
            await trio.sleep(seconds)

    @event
    def hands_on(self):  # type: ignore[no-untyped-def]
        return self.awaits(0.02)

    @event(in_thread=True)
    def in_thread(self) -> None:
        with self.watch.enter("in_thread"):
            pass

    @event
    def set_prompt(self, prompt: str) -> None:
        with self.watch.enter("set_prompt"):
            self.state.prompt = prompt

    @file_uploaded
    async def on_file(self, uploaded_file: UploadedFile) -> None:
        with self.watch.enter("@file_uploaded"):
            await trio.sleep(0.02)

    @disconnected
    async def on_disconnect(self) -> None:
        with self.watch.enter("@disconnected"):
            await trio.sleep(0.02)


class Threads(SlowExecutor):
    """An executor on which handlers in threads take time, and enter the watch, too."""

    def passing(self, fn: Any) -> AbstractContextManager[object]:
        assert isinstance(fn.__self__, Watched)
        return fn.__self__.watch.enter("a thread")


async def test_handlers_of_every_kind_run_between_two_steps() -> None:
    async with open_session(Watched, executor=Threads(0.03, HANDLERS)) as client:
        await trio.sleep(1)
        watch = client.session.model.watch
        commands: list[tuple[str, dict[str, Any]]] = [
            ("plain", {}),
            ("awaits", {"seconds": 0.05}),
            ("hands_on", {}),
            ("in_thread", {}),
            ("set_prompt", {"prompt": "x"}),
            ("set_strength", {"strength": 1}),
        ]
        for number in range(120):
            name, data = commands[number % len(commands)]
            await client.send(name, data)
            if number % 10 == 0:
                await client.upload(b"x", name="x")
            await trio.sleep(0.061)
        await trio.sleep(10)
    assert watch.faults == []
    handled = [name for _, name in watch.handled]
    assert {name: handled.count(name) for name in handled} == {
        "@connected": 1,
        "plain": 20,
        "awaits": 40,
        "in_thread": 20,
        "a thread": 20,
        "set_prompt": handled.count("set_prompt"),
        "@file_uploaded": 12,
        "@disconnected": 1,
    }
    assert 1 <= handled.count("set_prompt") <= 20, "it replaces one that is deduplicated, but is none itself"
    assert watch.steps > 100


async def test_a_command_waits_for_no_more_than_the_step_under_way() -> None:
    async with open_session(Watched, executor=Threads(0.03, HANDLERS)) as client:
        await trio.sleep(1.03)
        for _ in range(30):
            asked = trio.current_time()
            await client.call("plain")
            assert trio.current_time() - asked <= STEP + 1e-9
            await trio.sleep(0.037)


async def test_all_commands_that_wait_run_before_the_next_step() -> None:
    async with open_session(Watched, executor=Threads(0.03, HANDLERS)) as client:
        await trio.sleep(1.03)
        model = client.session.model
        steps = model.watch.steps
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(client.call, "plain")
        assert model.watch.steps <= steps + 1
        assert len(model.watch.handled) == 41


@BOTH
async def test_a_generator_that_never_pauses_starves_no_command(base: type[Game]) -> None:
    def script(model: Game) -> Iterator[Any]:
        while model.state.prompt != "stop":
            model.log.append("a step")
            yield Said(text="on and on")
        yield from idles(model)

    async with open_session(scripted(script, base)) as client:
        await client.call("set_prompt", prompt="stop")
        assert 0 < len(client.session.model.log) < 1000


async def test_a_flood_of_commands_starves_no_step() -> None:
    async with open_session(Watched, {"step_time": 0.0}, limits=Limits(max_events_per_second=0)) as client:
        await trio.sleep(1)
        model = client.session.model
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                while True:
                    await client.call("awaits", seconds=0.01)

            for _ in range(20):
                nursery.start_soon(flood)
            await trio.sleep(1)
            before = model.watch.steps
            await trio.sleep(10)
            assert model.watch.steps - before > 900, "after each of the handlers, which take longer than 5 ms"
            nursery.cancel_scope.cancel()
    assert model.watch.faults == []


async def test_a_handler_cancels_no_step_and_a_waiting_output_holds_no_handler() -> None:
    async with open_session(scripted(pictures, fps=1, buffer_size=1), executor=DeviceCost(STEP)) as client:
        await trio.sleep(5.5)  # the model is in `emit`, which waits for half a second more
        asked = trio.current_time()
        await client.call("set_prompt", prompt="rain")
        assert trio.current_time() == asked


# ---- the end of a session


ENDINGS: dict[str, Callable[[SessionClient], object]] = {
    "client close": lambda client: None,
    "connection lost": lambda client: client.network.lose(),
    "drain": lambda client: client.session.drain(),
}


@pytest.mark.parametrize("where", ["a step", "a yield"])
@pytest.mark.parametrize("ending", ENDINGS)
@BOTH
async def test_it_is_closed_wherever_it_stands_before_disconnected(
    base: type[Game], ending: str, where: str
) -> None:
    def script(model: Game) -> Iterator[Any]:
        try:
            yield from pictures(model)
        finally:
            model.log.append(("closed", model.state.prompt))

    device = DeviceCost(100.0 if where == "a step" else 0.0)
    limits = Limits(heartbeat=1.0, send_timeout=1.0)
    async with open_session(scripted(script, base), executor=device, limits=limits) as client:
        device.fixed = 0.0
        await trio.sleep(1)
        await client.call("set_prompt", prompt="rain") if where == "a yield" else None
        ENDINGS[ending](client)
        if ending != "client close":
            await client.ended()
    prompt = "rain" if where == "a yield" else "a sunny meadow"
    assert client.session.model.log == [("closed", prompt), "disconnected"]


async def test_an_async_generator_may_await_while_it_is_closed() -> None:
    class Model(Game):
        async def inference(self) -> AsyncIterator[Any]:
            try:
                while True:
                    yield Picture(screen=FRAME)
            finally:
                await trio.sleep(2)
                self.log.append("tidied up")

    async with open_session(Model) as client:
        await trio.sleep(1)
    assert client.session.model.log == ["tidied up", "disconnected"]


async def test_closing_has_its_time_limit(errors: list[dict[str, Any]]) -> None:
    class Model(Game):
        async def inference(self) -> AsyncIterator[Any]:
            try:
                while True:
                    yield Picture(screen=FRAME)
            finally:
                await trio.sleep_forever()

    async with open_session(Model, limits=Limits(hook_timeout=3)) as client:
        await client.frame("screen")
        await trio.sleep(1)
        left = trio.current_time()
    assert client.session.model.log == ["disconnected"]
    assert trio.current_time() - left == pytest.approx(3)
    assert [error["event"] for error in errors] == ["closing inference() took too long"]


async def test_a_cancel_scope_across_a_yield_is_told_when_it_does_harm(errors: list[dict[str, Any]]) -> None:
    class Model(Game):
        async def inference(self) -> AsyncIterator[Any]:
            with trio.move_on_after(1):
                while True:
                    yield Picture(screen=FRAME)

    async with open_session(Model) as client:
        assert (await client.ended()).reason == "model_error"
    assert client.session.model.log == ["disconnected"]
    [error] = errors
    told = "keeps a cancel scope or a nursery open across a `yield`: end it before"
    assert str(error["exc_info"]) == f"{Model.__qualname__}.inference {told}"


async def test_a_nursery_across_a_yield_is_closed_with_it(errors: list[dict[str, Any]]) -> None:
    class Model(Game):
        async def inference(self) -> AsyncIterator[Any]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                while True:
                    yield Picture(screen=FRAME)
                    if self.state.prompt == "fail":
                        nursery.start_soon(divmod, 1, 0)

    async with open_session(Model) as client:
        await trio.sleep(1)
    assert client.session.model.log == ["disconnected"]
    assert errors == []
    async with open_session(Model) as client:
        await client.call("set_prompt", prompt="fail")
        assert (await client.ended()).reason == "model_error"
    assert client.session.model.log == ["disconnected"]


@BOTH
async def test_a_yield_while_it_is_closed_is_told(base: type[Game], errors: list[dict[str, Any]]) -> None:
    def script(model: Game) -> Iterator[Any]:
        try:
            yield from pictures(model)
        finally:
            yield Idle

    class Model(Game):
        script: Any

        async def inference(self) -> AsyncIterator[Any]:
            try:
                while True:
                    yield Picture(screen=FRAME)
            finally:
                yield Idle

    async with open_session(scripted(script) if base is Game else Model) as client:
        await trio.sleep(1)
    assert client.session.model.log == ["disconnected"]
    [error] = errors
    assert "has a `yield` where it is closed" in error["hint"]


@BOTH
async def test_what_closing_raises_is_logged_and_harms_nothing(
    base: type[Game], errors: list[dict[str, Any]]
) -> None:
    def script(model: Game) -> Iterator[Any]:
        try:
            yield from pictures(model)
        finally:
            raise ZeroDivisionError("the author's bug")

    async with open_session(scripted(script, base)) as client:
        await trio.sleep(1)
    assert client.session.ending is not None
    assert client.session.ending.reason == "client_closed"
    assert client.session.model.log == ["disconnected"]
    assert [error["event"] for error in errors] == ["inference() failed while it was closed"]


def tidy(model: Game) -> Iterator[Any]:
    try:
        yield from pictures(model)
    finally:
        model.log.append("closed")


async def test_a_device_that_is_busy_does_not_keep_a_session_from_ending(
    errors: list[dict[str, Any]],
) -> None:
    device = DeviceCost(0.0)
    limits = Limits(hook_timeout=2)
    async with open_session(scripted(tidy, buffer_size=1), executor=device, limits=limits) as client:
        await client.frame("screen")
        async with trio.open_nursery() as nursery:
            device.fixed = 1000.0
            nursery.start_soon(device.run, Device("cpu").lane, abs, -1)
            await trio.sleep(1)
            began = trio.current_time()
            client.session.drain()
            await client.ended()
            assert trio.current_time() - began == pytest.approx(2)
            assert client.session.model.log == ["closed", "disconnected"]
    assert [error["event"] for error in errors] == ["closing inference() took too long"]


# ---- real threads


@attrs.define
class Seen:
    """The notes that a generator in a thread takes at each step."""

    threads: list[int] = attrs.field(factory=list)
    contexts: list[str] = attrs.field(factory=list)
    modes: list[bool] = attrs.field(factory=list)
    closed: threading.Event = attrs.field(factory=threading.Event)


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="outside")


class InThread(ReactorPipeline):
    """A plain generator: its thread, a context variable and a mode of torch stay the same at each step."""

    state: GameState
    fps = 1000
    seen: Seen

    @connected
    def on_connect(self) -> None:
        self.seen = Seen()

    def note(self) -> None:
        self.seen.threads.append(threading.get_ident())
        self.seen.contexts.append(VARIABLE.get())
        import torch

        self.seen.modes.append(torch.is_inference_mode_enabled())

    def inference(self) -> Iterator[Any]:
        import torch

        VARIABLE.set(self.state.prompt)
        self.output.fps = 500
        with torch.inference_mode():
            try:
                while True:
                    self.note()
                    yield Picture(screen=FRAME)
            finally:
                self.note()
                assert structlog.contextvars.get_contextvars()["session_id"] == self.client.id
                self.seen.closed.set()


@pytest.mark.real_time
@pytest.mark.torch
async def test_all_of_a_plain_generator_happens_in_one_thread_of_its_own() -> None:
    import torch

    with trio.fail_after(30):
        host = await load_host(InThread, executor=ThreadExecutor())
        async with open_sessions(host, 3) as clients:
            for client in clients:
                for _ in range(10):
                    await client.frame("screen")
                assert client.session.output.fps == 500, "set from its thread"
    seen = [client.session.model.seen for client in clients]
    assert all(each.closed.is_set() for each in seen)
    threads = [set(each.threads) for each in seen]
    assert [len(each) for each in threads] == [1, 1, 1]
    assert len(set.union(*threads)) == 3, "none shares it"
    assert threading.get_ident() not in set.union(*threads)
    assert {each for one in seen for each in one.contexts} == {"a sunny meadow"}
    assert all(each for one in seen for each in one.modes)
    assert (VARIABLE.get(), torch.is_inference_mode_enabled()) == ("outside", False)


@pytest.mark.real_time
async def test_a_step_under_way_is_seen_and_waited_for() -> None:
    began, go_on = threading.Event(), threading.Event()

    def script(model: Game) -> Iterator[Any]:
        try:
            began.set()
            go_on.wait(30)
            yield Idle
            model.log.append("not reached")
        finally:
            model.log.append("closed")

    executor = ThreadExecutor()
    with trio.fail_after(30):
        async with open_session(scripted(script), executor=executor) as client:
            await trio.to_thread.run_sync(began.wait)
            [call] = executor.running()
            assert (call.lane, call.name) == (Device("cpu").lane, "Scripted.inference")
            client.session.drain()
            await trio.testing.wait_all_tasks_blocked()
            assert client.session.model.log == [], "a thread cannot be stopped"
            go_on.set()
            await client.ended()
    assert client.session.model.log == ["closed", "disconnected"]
    assert executor.running() == ()


@pytest.mark.real_time
async def test_a_busy_device_keeps_no_thread_waiting_for_ever() -> None:
    began, done = threading.Event(), threading.Event()

    def occupy() -> None:
        began.set()
        done.wait(30)

    executor = ThreadExecutor()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            host = await load_host(scripted(tidy), executor=executor, limits=Limits(hook_timeout=0.05))
            async with open_session(host) as client:
                await client.frame("screen")
                nursery.start_soon(executor.run, Device("cpu").lane, occupy)
                await trio.to_thread.run_sync(began.wait)
                client.session.drain()
                await client.ended()
            done.set()
    assert client.session.model.log == ["closed", "disconnected"]


@pytest.mark.real_time
async def test_a_long_step_may_ask_whether_it_is_over() -> None:
    began = threading.Event()

    def script(model: Game) -> Iterator[Any]:
        try:
            began.set()
            while True:
                trio.from_thread.check_cancelled()
                threading.Event().wait(0.001)
            yield Idle
        finally:
            model.log.append("closed")

    with trio.fail_after(30):
        async with open_session(scripted(script), executor=ThreadExecutor()) as client:
            await trio.to_thread.run_sync(began.wait)
    assert client.session.model.log == ["closed", "disconnected"]


@pytest.mark.real_time
async def test_a_session_that_ends_at_once_leaves_no_thread() -> None:
    with trio.fail_after(30):
        host = await load_host(scripted(pictures), executor=ThreadExecutor())
        for _ in range(20):
            async with open_session(host) as client:
                client.session.drain()
                await client.ended()
