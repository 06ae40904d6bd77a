"""Drives the `inference()` generator of a `ReactorPipeline` step by step, and shows the yielded outputs.

A step is the run of the generator from one `yield` to the next. A plain generator runs in a worker thread of
its session, and each step waits for the model's device; an async generator runs in the session's run task.
Handlers run between two steps (`session/turns.py`), and while an output waits to be shown.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from reactor_trio.compute.lanes import Device
from reactor_trio.contract.lifecycle import is_async_generator
from reactor_trio.declare.tracks import Output
from reactor_trio.errors import BufferClosed
from reactor_trio.model.calls import Call
from reactor_trio.model.messages import ModelMessage
from reactor_trio.model.pipeline import ReactorPipeline
from reactor_trio.model.state import Idle
from reactor_trio.session.failures import contained

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from types import FrameType

    from reactor_trio.compute.worker import Worker
    from reactor_trio.declare.tracks import TrackSpec
    from reactor_trio.session.context import SessionContext
    from reactor_trio.session.turns import Turns

_END: Final = object()
"""Returned in place of a yielded value when the generator has returned."""


class Pipeline:
    """Runs the generators of one session of a `ReactorPipeline`. The session calls `run` in its run task.

    Closing a generator may take `hook_timeout` seconds. Then an async generator is cancelled, and a plain
    generator waits for its device no longer.
    """

    def __init__(self, context: SessionContext, model: ReactorPipeline, turns: Turns) -> None:
        self._model = model
        self._where = f"{type(model).__qualname__}.inference"
        # The model's output classes, for yielded arrays that are not wrapped in one.
        self._outputs = context.contract.outputs
        self._turns = turns
        self._executor = context.executor
        self._hook_timeout = context.limits.hook_timeout
        self._log = context.log
        self._adapts = not _has_own_fps(model)
        # Seconds that the steps since the last output have taken; None until the first output of a generator.
        # The first steps may compile or fill caches, so their time does not predict the time of later steps.
        self._spent: float | None = None

    async def run(self) -> None:
        """Start `inference` when `@connected` has finished, and again each time that it returns.

        Runs until it is cancelled; returns if `inference` raises `BufferClosed`, since the client has left.
        Raises any other exception of `inference`, `TypeError` or `ValueError` for a yielded value that cannot
        be shown, and `RuntimeError` if `inference` keeps a cancelled scope open across a `yield`. If
        cancelled, the generator has been closed.
        """
        model = self._model
        await model.connected.wait()
        if is_async_generator(type(model).inference):
            await self._rounds(None)
            return
        async with self._executor.open_worker(Device(model.device).lane, self._where) as worker:
            await self._rounds(worker)

    async def _rounds(self, worker: Worker | None) -> None:
        try:
            while True:
                steps = _AsyncSteps(self._model) if worker is None else _ThreadSteps(self._model, worker)
                try:
                    shown = await self._round(steps)
                except trio.Cancelled:
                    self._check_scopes()
                    raise
                if not shown:
                    # A generator without output would not get further by an immediate restart.
                    await self._turns.pause(self._frame_time)
        except BufferClosed:
            return

    def _check_scopes(self) -> None:
        """Raises `RuntimeError` if a scope of the generator is cancelled, but no scope around this task."""
        if trio.current_effective_deadline() != -math.inf:
            raise RuntimeError(
                f"{self._where} keeps a cancel scope or a nursery open across a `yield`: end it before"
            ) from None

    async def _round(self, steps: _Steps) -> bool:
        """Run one generator from its start to its end; returns whether it has shown an output."""
        shown, self._spent = False, None
        passed_on: trio.Cancelled | None = None
        # Opened before the generator runs: the generator may open scopes, and scopes must be closed in order.
        with trio.CancelScope() as scope:
            try:
                while (value := await self._step(steps)) is not _END:
                    try:
                        shown |= await self._take(value)
                    except (TypeError, ValueError) as failure:
                        # The value cannot be shown. The traceback has no line of the author: name the line.
                        failure.add_note(f"{self._where} yielded it at {steps.place}")
                        raise
            finally:
                scope.shield = True
                scope.deadline = trio.current_time() + self._hook_timeout
                with contained(self._close_failed):
                    try:
                        await self._close(steps)  # noqa: ASYNC102  shielded by `scope`
                    except trio.Cancelled as cancelled:  # noqa: ASYNC103  raised below
                        # Raised by a scope inside the generator, or around this task. It is no failure,
                        # but `contained` would take it for one, because `scope` is a shield.
                        passed_on = cancelled
            if passed_on is not None:
                raise passed_on
        if scope.cancelled_caught:
            self._log.error("closing inference() took too long", after_seconds=self._hook_timeout)
        return shown

    async def _step(self, steps: _Steps) -> Any:
        await self._turns.begin_step()
        began = trio.current_time()
        try:
            return await steps.next()
        finally:
            self._turns.end_step()
            if self._spent is not None:
                self._spent += trio.current_time() - began

    async def _close(self, steps: _Steps) -> None:
        if not steps.is_open:
            return
        try:
            # The session may be ending while a handler still runs: wait for the handler.
            await self._turns.begin_step(at_once=True)
        finally:
            try:
                await steps.close()  # noqa: ASYNC102
            finally:
                self._turns.end_step()

    def _close_failed(self, failure: BaseException) -> None:
        if isinstance(failure, RuntimeError) and "ignored GeneratorExit" in str(failure):
            hint = "it has a `yield` where it is closed: in a `finally` or an `except` nobody takes it"
            self._log.error("inference() could not be closed", hint=hint)
        else:
            self._log.error("inference() failed while it was closed", exc_info=failure)

    # ---- yielded values

    @property
    def _frame_time(self) -> float:
        return 1 / self._model.output.fps

    async def _take(self, value: Any) -> bool:
        """Send a yielded message, show a yielded output, or pause; returns whether an output was shown."""
        if isinstance(value, ModelMessage):
            await self._model.send(value)
            return False
        output = None if value is None or value is Idle else self._output(value)
        spent, self._spent = self._spent, 0.0
        if output is None or _is_empty(output):
            await self._turns.pause(self._frame_time)
            return False
        await self._model.emit(output, compute_time=spent if self._adapts else None)
        return True

    def _output(self, value: Any) -> Output:
        if isinstance(value, Output):
            return value
        if isinstance(value, Call):
            value.close()  # prevents a second error, that it was never awaited
        if not (hasattr(value, "shape") and hasattr(value, "dtype")):
            raise TypeError(f"{self._where} yielded {_described(value)}; it may yield {_ALLOWED}")
        if len(self._outputs) == 1 and len(self._outputs[0].__tracks__) == 1:
            [track] = self._outputs[0].__tracks__
            picture: dict[str, Any] = {track.name: value}
            return self._outputs[0](**picture)
        tracks = [f"{each.__name__}({track.name}=...)" for each in self._outputs for track in each.__tracks__]
        choices = f"write which: {', '.join(tracks)}" if tracks else "declare an Output beside the model"
        raise TypeError(
            f"{self._where} yielded {_described(value)} as it is, which is for a model with one output of "
            f"one track; {choices}"
        )


_ALLOWED: Final = "an Output, Idle or None, an array or a tensor, or a ModelMessage"


def _described(value: object) -> str:
    if isinstance(value, Call):
        return f"self.{value.method}(...), which is to be awaited (yield the value itself)"
    if inspect.isclass(value):
        return f"the class {value.__qualname__}"
    return f"a value of type {type(value).__qualname__}"


def _is_empty(output: Output) -> bool:
    return all(_is_nothing(getattr(output, track.name), track) for track in type(output).__tracks__)


def _is_nothing(value: Any, track: TrackSpec) -> bool:
    # Audio without samples takes no time to play: a model that yields it in a loop would not be paced.
    return value is None or (track.kind == "audio" and getattr(value, "shape", ())[-1:] == (0,))


def _has_own_fps(model: ReactorPipeline) -> bool:
    """Whether the author has set `fps`, in a class or in `load`."""
    owners = type(model).__mro__[: type(model).__mro__.index(ReactorPipeline)]
    return "fps" in vars(model) or any("fps" in vars(owner) for owner in owners)


class _Steps(Protocol):
    """Runs one generator of the model step by step."""

    @property
    def is_open(self) -> bool:
        """Whether the generator waits at a `yield`, and must be closed."""
        ...

    @property
    def place(self) -> str:
        """The line at which the generator waits, as `file:line`."""
        ...

    async def next(self) -> Any:
        """Run the next step; returns the yielded value, or `_END`. Raises the exception of the generator."""

    async def close(self) -> None:
        """Close the generator at its `yield`. Raises the exception that its cleanup raises."""


def _place(frame: FrameType | None) -> str:
    # A decorator may return an object that has no frame.
    return "a `yield`" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


class _ThreadSteps:
    """A plain generator; created, run and closed in its worker thread."""

    def __init__(self, model: ReactorPipeline, worker: Worker) -> None:
        self._model = model
        self._worker = worker
        self._generator: Generator[Any, None, None] | None = None

        self.is_open = False

    @property
    def place(self) -> str:
        return _place(getattr(self._generator, "gi_frame", None))

    async def next(self) -> Any:
        return await self._worker.run(self._next)

    def _next(self) -> Any:
        generator: Any = self._generator
        if generator is None:
            generator = self._generator = self._model.inference()
        self.is_open = False  # set again if the generator yields
        value = next(generator, _END)
        self.is_open = value is not _END
        return value

    async def close(self) -> None:
        assert self._generator is not None
        await self._worker.finish(self._generator.close)


class _AsyncSteps:
    """An async generator; run and closed in the task that calls `next` and `close`."""

    def __init__(self, model: ReactorPipeline) -> None:
        self._generator: AsyncGenerator[Any, None] = model.inference()
        self.is_open = False

    @property
    def place(self) -> str:
        return _place(getattr(self._generator, "ag_frame", None))

    async def next(self) -> Any:
        self.is_open = False  # set again if the generator yields
        try:
            value = await self._generator.__anext__()
        except StopAsyncIteration:
            return _END
        self.is_open = True
        return value

    async def close(self) -> None:
        try:
            await self._generator.aclose()
        except BaseExceptionGroup as group:
            # A nursery around the `yield` has wrapped GeneratorExit in a group.
            _, rest = group.split(GeneratorExit)
            if rest is not None:
                raise rest from None
