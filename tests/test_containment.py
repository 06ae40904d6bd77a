"""An exception that a model raises, of any class and at any place, ends its own session or request alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import attrs
import numpy as np
import pytest
import trio

import reactor_trio.link.encoding
from reactor_trio import (
    InputState,
    ModelMessage,
    Output,
    ReactorModel,
    ReactorPipeline,
    UploadedFile,
    Video,
    connected,
    disconnected,
    event,
    file_uploaded,
)
from reactor_trio.declare.identity import AuthRequest
from reactor_trio.errors import CommandError, TransportClosed
from reactor_trio.link.host import ModelHost
from reactor_trio.server.auth import Refused, identify
from reactor_trio.session.failures import interrupts_are_raised
from reactor_trio.session.observer import NoObserver
from reactor_trio.testing import InlineExecutor, open_session
from traces import kept_cancelled

Raise = Callable[[], Any]
"""Raises; the return type is only for the type checker."""
FRAME = np.zeros((8, 8, 3), np.uint8)
KEPT = "a Cancelled that was kept"


class Panic(BaseException):
    """Like `pyo3_runtime.PanicException`, the panic of a library in Rust."""


class Picture(Output):
    screen: Video


class Said(ModelMessage):
    text: Any


async def raiser(what: str) -> Raise:
    """A function that raises the exception of this kind."""
    kept = await kept_cancelled()

    def raise_it() -> None:
        if what == KEPT:
            raise kept
        if what == "a group":
            raise BaseExceptionGroup("two", [Panic("one"), ValueError("two")])
        raise KINDS[what]

    return raise_it


KINDS: dict[str, type[BaseException]] = {
    "ValueError": ValueError,
    "a panic": Panic,
    "asyncio.CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "SystemExit": SystemExit,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "KeyboardInterrupt": KeyboardInterrupt,
    "a group": BaseExceptionGroup,
    KEPT: trio.Cancelled,
}


# ---- the places


class Base(ReactorModel):
    """The base of the models here; `is_culprit` is False in the session that must not notice anything."""

    culprits = 0
    left: list[bool]

    @connected
    def on_connect(self) -> None:
        self.is_culprit = False

    @event
    def ping(self) -> None:
        pass

    @event
    def become_the_culprit(self) -> None:
        self.is_culprit = True

    @disconnected
    def on_disconnect(self) -> None:
        self.left.append(self.is_culprit)


def places(raise_it: Raise) -> dict[str, Any]:
    """Models by the name of the place that raises: the event `go`, or a place that runs after it."""

    class Handler(Base):
        @event
        def go(self) -> None:
            raise_it()

    class AsyncHandler(Base):
        @event
        async def go(self) -> None:
            await trio.lowlevel.checkpoint()
            raise_it()

    class InThread(Base):
        @event(in_thread=True)
        def go(self) -> None:
            raise_it()

    class Compute(Base):
        @event
        async def go(self) -> None:
            await self.compute(raise_it)

    class OwnNursery(Base):
        @event
        async def go(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise_it()

    class Decorated(Base):
        @event
        def go(self) -> None:
            return self.later()  # type: ignore[return-value]

        async def later(self) -> None:
            raise_it()

    class Torn(Said):
        def __getattribute__(self, name: str) -> Any:
            return raise_it() if name in ("text", "__dict__") else super().__getattribute__(name)

    class Reply(Base):
        @event
        def go(self) -> Said:
            return Torn(text="x")

    class Emit(Base):
        @event
        async def go(self) -> None:
            class Torn:
                dtype = np.uint8

                @property
                def shape(self) -> Any:
                    return raise_it()

            await self.emit(Picture(screen=Torn()))

    class Run(Base):
        @event
        def go(self) -> None:
            self.may_run.set()

        async def run(self) -> None:
            self.may_run = trio.Event()
            await self.may_run.wait()
            raise_it()

    class RunCompute(Run):
        async def run(self) -> None:
            self.may_run = trio.Event()
            await self.may_run.wait()
            await self.compute(raise_it)

    class Encoder(Base):
        @event
        async def go(self) -> None:
            await self.emit(Picture(screen=FRAME))

    class FileUploaded(Base):
        @event
        def go(self) -> None:
            pass

        @file_uploaded
        def on_file(self, uploaded_file: UploadedFile) -> None:
            raise_it()

    class Leaving(Base):
        @event
        def go(self) -> None:
            pass

        @disconnected
        async def on_disconnect(self) -> None:
            self.left.append(self.is_culprit)
            await trio.lowlevel.checkpoint()
            if self.is_culprit:
                raise_it()

    return {
        name: each for name, each in locals().items() if isinstance(each, type) and issubclass(each, Base)
    } | pipelines(raise_it)


def pipelines(raise_it: Raise) -> dict[str, Any]:
    class State(InputState):
        go: bool = False

    class Parts(ReactorPipeline):
        state: State
        left: list[bool]

        @connected
        def on_connect(self) -> None:
            self.is_culprit = False

        @event
        def ping(self) -> None:
            pass

        @event
        def become_the_culprit(self) -> None:
            self.is_culprit = True

        @event
        def go(self) -> None:
            self.state.go = True

        @disconnected
        def on_disconnect(self) -> None:
            self.left.append(self.is_culprit)

        def inference(self) -> Iterator[Any]:
            while not self.state.go:
                yield None
            raise_it()

    class AsyncParts(Parts):
        async def inference(self) -> AsyncIterator[Any]:
            while not self.state.go:
                yield None
            raise_it()

    class Cleanup(Parts):
        def inference(self) -> Iterator[Any]:
            try:
                while True:
                    yield None
            finally:
                if self.is_culprit:
                    raise_it()

    class AsyncCleanup(Parts):
        async def inference(self) -> AsyncIterator[Any]:
            try:
                while True:
                    yield None
            finally:
                await trio.lowlevel.checkpoint()
                if self.is_culprit:
                    raise_it()

    return {"Pipeline": Parts, "AsyncPipeline": AsyncParts, "Cleanup": Cleanup, "AsyncCleanup": AsyncCleanup}


PLACES = [
    *("Handler", "AsyncHandler", "InThread", "Compute", "OwnNursery", "Decorated", "Reply", "Emit"),
    *("Run", "RunCompute", "Encoder", "FileUploaded", "Leaving"),
    *("Pipeline", "AsyncPipeline", "Cleanup", "AsyncCleanup"),
]


SILENT = {
    ("OwnNursery", KEPT),  # the author's nursery swallows it like a Cancelled of its own
    *((place, kind) for place in ("Cleanup", "AsyncCleanup") for kind in (KEPT, "GeneratorExit")),
}
"""Places and kinds for which nothing is logged: the exception looks like the usual end of the place."""


class Counting(NoObserver):
    """Counts the sessions that have started and ended, as the server's numbers do."""

    def __init__(self) -> None:
        self.started, self.ended = 0, 0

    def session_started(self, session: Any) -> None:
        self.started += 1

    def session_ended(self, session: Any, reason: str) -> None:
        self.ended += 1


async def _host(model: type[ReactorModel]) -> tuple[ModelHost, Counting]:
    counting, numbers = Counting(), iter(range(1, 100))
    host = await ModelHost.load(
        model, executor=InlineExecutor(), observer=counting, session_id=lambda: f"session-{next(numbers)}"
    )
    return host, counting


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
async def test_it_ends_there_and_the_other_session_goes_on(
    place: str, kind: str, errors: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_it = await raiser(kind)
    interrupts_are_raised.set(False)  # as in a server, which takes SIGINT itself
    model = places(raise_it)[place]
    model.left = []
    if place == "Encoder":
        monkeypatch.setattr(reactor_trio.link.encoding, "encode_jpeg", lambda *_: raise_it())
    host, counting = await _host(model)
    async with open_session(host) as bystander:
        await bystander.call("ping")
        async with open_session(host) as client:
            await client.call("become_the_culprit")
            with contextlib.suppress(CommandError, TransportClosed):
                await client.call("go")
            if place == "FileUploaded":
                await client.upload(b"data", name="a.txt", mime_type="text/plain")
            await trio.sleep(1)
            ends = place in ("Run", "RunCompute", "Encoder", "Pipeline", "AsyncPipeline")
            if ends:
                ending = await client.ended()
                assert ending.close_code == 1011
                assert client.closed is not None
                assert client.closed.code == 1011
            else:
                await client.call("ping")
        assert model.left == [True]
        assert bool(errors) is ((place, kind) not in SILENT)
        await bystander.call("ping")
        assert counting.started - counting.ended == 1
    assert model.left == [True, False]
    assert counting.started == counting.ended == 2


# ---- before a session, and at its beginning


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["connected", "copy", "setting", "same", "other"])
async def test_a_session_that_cannot_begin_is_closed_with_1011(
    where: str, kind: str, errors: list[dict[str, Any]]
) -> None:
    raise_it = await raiser(kind)
    interrupts_are_raised.set(False)
    is_broken = False

    class Model(ReactorModel):
        @event
        def ping(self) -> None:
            pass

        @connected
        async def on_connect(self) -> None:
            if is_broken and where == "connected":
                raise_it()

        def __copy__(self) -> Any:
            if is_broken and where == "copy":
                raise_it()
            if is_broken and where in ("same", "other"):
                return self if where == "same" else object()
            copied = object.__new__(type(self))
            vars(copied).update(vars(self))
            return copied

        @property
        def fps(self) -> Any:
            return raise_it() if is_broken and where == "setting" else 30

    host, counting = await _host(Model)
    async with open_session(host) as bystander:
        await bystander.call("ping")
        is_broken = True
        async with open_session(host) as client:
            assert (await client.receive("reactor.error")).data["code"] == "model_error"
            assert (await client.ended()).close_code == 1011
        assert [error["event"] for error in errors] == [
            "@connected failed" if where == "connected" else "the model could not be copied for a session"
        ]
        assert errors[0]["exc_info"] is not None
        await bystander.call("ping")
    assert counting.started == counting.ended == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_validator_that_is_worse_than_wrong_costs_its_command(
    kind: str, errors: list[dict[str, Any]]
) -> None:
    raise_it = await raiser(kind)
    interrupts_are_raised.set(False)

    def validate(instance: object, field: object, value: int) -> None:
        if value == 13:
            raise_it()

    @attrs.frozen
    class Box:
        width: int = attrs.field(validator=validate)

    class State(InputState):
        size: int = attrs.field(default=1, validator=validate)

    def hinted(self: Any, box: Any, rest: Any = "") -> None:
        pass

    hinted.__annotations__ = {"box": Box, "rest": str, "return": None}

    class Model(ReactorPipeline):
        __annotations__ = {"state": State}
        put = event(name="put")(hinted)

        def inference(self) -> Iterator[Any]:
            while True:
                yield None

    host, _ = await _host(Model)
    async with open_session(host) as client:
        await client.call("put", box={"width": 1})
        with pytest.raises(CommandError):
            await client.call("put", box={"width": 13})
        with pytest.raises(CommandError):  # a payload so long that it is checked in a thread
            await client.call("put", box={"width": 13}, rest="x" * 20_000)
        with pytest.raises(CommandError):
            await client.call("set_size", size=13)
        await client.call("set_size", size=2)
        assert client.session.ending is None


@pytest.mark.parametrize("kind", KINDS)
async def test_an_observer_that_raises_costs_a_request_or_its_session(
    kind: str, errors: list[dict[str, Any]]
) -> None:
    raise_it = await raiser(kind)
    interrupts_are_raised.set(False)

    class Raising(Counting):
        def handled(self, event: str, *_: Any) -> None:
            if event == "go":
                raise_it()

        def session_started(self, session: Any) -> None:
            super().session_started(session)
            if self.started == 3:
                raise_it()

    model = places(raise_it)["Encoder"]
    model.left = []
    observer, numbers = Raising(), iter("123")
    host = await ModelHost.load(
        model, executor=InlineExecutor(), observer=observer, session_id=lambda: next(numbers)
    )
    async with open_session(host) as bystander:
        async with open_session(host) as client:
            with pytest.raises(CommandError, match="internal_error"):
                await client.call("go")
            await client.call("ping")
        with pytest.raises(TransportClosed):
            async with open_session(host) as client:
                await client.call("ping")
        await bystander.call("ping")
    assert observer.started == observer.ended == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_authenticate_that_raises_refuses_its_request(kind: str, errors: list[dict[str, Any]]) -> None:
    raise_it = await raiser(kind)
    interrupts_are_raised.set(False)

    async def authenticate(request: AuthRequest) -> None:
        await trio.lowlevel.checkpoint()
        raise_it()

    request = AuthRequest(None, {}, "127.0.0.1", "/ws", {})
    for hook in (authenticate, lambda _: raise_it()):
        result = await identify(hook, request, deadline=trio.current_time() + 1)
        assert isinstance(result, Refused)
        assert result.response.status == 500
    assert [error["event"] for error in errors] == ["authenticate() failed"] * 2


async def test_an_interrupt_ends_the_run_where_ctrl_c_may_be_one() -> None:
    """Without a server, Trio raises the operator's KeyboardInterrupt wherever the main thread is."""

    def interrupts() -> None:
        raise KeyboardInterrupt

    model = places(interrupts)["AsyncHandler"]
    model.left = []

    async def interrupted() -> None:
        async with open_session(model) as client:
            await client.call("go")

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as left:
        await interrupted()
    assert left.errisinstance(KeyboardInterrupt) or left.group_contains(KeyboardInterrupt)
    assert model.left == [False]
