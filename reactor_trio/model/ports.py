"""Ports: the protocols through which a model reaches its session and the worker threads.

The session and the executors are defined in rooms above. They have these members without deriving from a
port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from reactor_trio.declare.client_info import ClientInfo
    from reactor_trio.declare.connected import Connected
    from reactor_trio.declare.tracks import Input, Output
    from reactor_trio.model.messages import ModelMessage

P = ParamSpec("P")
T = TypeVar("T")


@attrs.frozen
class OutputStatistics:
    """Numbers of one session's output."""

    waiting: int
    """Steps in the buffer: a frame a track, or audio alone."""
    emitted: int
    """Steps that left the buffer, on time."""
    dropped: int
    """Steps that `emit(drop=True)` refused or `flush` threw away."""
    encoded: int
    """Frames of video."""


class OutputPort(Protocol):
    """`self.output`: the paced output of a session."""

    @property
    def fps(self) -> float:
        """Frames per second of the output; may be set at any time. Raises `ValueError` if it is not > 0."""
        ...

    @fps.setter
    def fps(self, value: float) -> None: ...

    @property
    def period(self) -> float:
        """Seconds between two frames now: by `fps`, or longer if `compute_time` of `emit` demands it."""
        ...

    def flush(self) -> None:
        """Throw away the frames and the audio that wait. May be called from any thread."""
        ...

    def statistics(self) -> OutputStatistics:
        """The numbers now."""
        ...


class InputsPort(Protocol):
    """The input tracks of a session."""

    @property
    def bound(self) -> Mapping[str, Input]:
        """By the model's attribute: an instance of the `Input` class, with the session's own tracks."""
        ...


class SessionPort(Protocol):
    """The session of a model's copy."""

    @property
    def connected(self) -> Connected:
        """Whether the client is there."""
        ...

    @property
    def client(self) -> ClientInfo:
        """The client."""
        ...

    @property
    def output(self) -> OutputPort:
        """The paced output."""
        ...

    @property
    def inputs(self) -> InputsPort:
        """The input tracks."""
        ...

    async def send(self, message: ModelMessage) -> None:
        """See `ReactorModel.send`."""
        ...

    def emit(self, output: Output, *, drop: bool, compute_time: float | None) -> Coroutine[Any, Any, bool]:
        """See `ReactorModel.emit`."""
        ...


class ExecutorPort(Protocol):
    """The worker threads that a model computes in."""

    async def compute(self, device: object, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn(*args, **kwargs)` on a device and return its result; one call at a time for each device.

        `device` is the model's `device`: two devices are the same if they are written the same. If cancelled
        while waiting for the device, `fn` is not called. If cancelled later, the call waits for `fn` to end,
        since a thread cannot be stopped, and `Cancelled` comes at the next checkpoint.
        """
        ...
