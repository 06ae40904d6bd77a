"""`ReactorModel`: the base class of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

import trio

from reactor_trio.contract.contract import check_tracks
from reactor_trio.contract.events import Declarations, read_declarations
from reactor_trio.contract.inputs import bind_inputs
from reactor_trio.contract.lifecycle import check_lifecycle
from reactor_trio.contract.state import check_state_name
from reactor_trio.errors import NoSession
from reactor_trio.model.calls import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from reactor_trio.declare.client_info import ClientInfo
    from reactor_trio.declare.connected import Connected
    from reactor_trio.declare.tracks import Output
    from reactor_trio.model.messages import ModelMessage
    from reactor_trio.model.ports import ExecutorPort, OutputPort, SessionPort

P = ParamSpec("P")
T = TypeVar("T")


class _OfTheSession:
    """An attribute that the session provides. Raises `AttributeError` if a model assigns to it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, model: ReactorModel | None, owner: type | None = None) -> Any:
        if model is None:
            return self
        return getattr(model._session_port(self.name), self.name)

    def __set__(self, model: ReactorModel, value: object) -> None:
        raise AttributeError(
            f"{type(model).__name__}.{self.name} belongs to the runtime: choose another name"
        )


class ReactorModel:
    """Base of every model: `load()` loads the weights, `run()` produces frames and messages.

    The runtime makes one instance, the prototype, and calls its `load` once. Each session then gets
    `copy.copy(prototype)`: all sessions share the attributes that `load` has set, by reference, and an
    attribute that a handler or `run` sets belongs to its session. So a mutable container made in `load` is
    shared.

    An annotation with an `Input`, such as `input: Camera`, binds its tracks: see `InputTrack`.

    A mistake in the declaration of events and hooks is a `TypeError` when the class is made. `send`, `emit`
    and `compute` must be awaited; a call without `await` is an error in the log, with its place.
    """

    fps: float = 30.0
    """Frames per second at which the output is paced."""
    # Two, not Reactor's four: each waiting frame adds a period between a command and its picture, and two
    # frames last through a step that takes three times its usual time.
    buffer_size: int = 2
    """Frames that may wait to be shown; if the buffer is full, `emit` waits. A larger batch is let in whole.
    Sound without video may wait up to the duration of these frames."""
    # Any: a string, a torch.device, or another object that the author's library takes.
    device: Any = "cpu"
    """The device of `compute`, which runs one call at a time for each device, of all sessions together."""

    __reserved__: ClassVar[frozenset[str]]
    __declarations__: ClassVar[Declarations]

    _reactor_executor: ExecutorPort | None = None
    _reactor_port: SessionPort | None = None

    if TYPE_CHECKING:
        connected: Connected
        client: ClientInfo
        output: OutputPort
        output_buffer: OutputPort
    else:
        connected = _OfTheSession()
        client = _OfTheSession()
        output = _OfTheSession()

        @property
        def output_buffer(self):
            """The name that `output` has in Reactor's runtime."""
            return self.output

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__declarations__ = read_declarations(cls)
        check_lifecycle(cls)
        bind_inputs(cls, ReactorModel)
        check_state_name(cls)
        check_tracks(cls)

    def load(self, config: dict[str, Any]) -> Any:
        """Load the weights: called once in the process, before any client is accepted.

        May be `def` (run in a worker thread) or `async def`. `config` is the model's YAML file with the
        command line's `--set` on top, {} if there is none.
        """

    async def run(self) -> None:
        """Produce frames and messages for as long as the client is there; the default waits for ever.

        The runtime starts it once for each session, before `@connected`. If it returns, the session ends
        normally; if it raises, the session ends with `model_error`. It is cancelled when the session ends for
        any other reason.
        """
        await trio.sleep_forever()

    def send(self, message: ModelMessage) -> Coroutine[Any, Any, None]:
        """Send a message to the client, after all earlier messages; waits while the client is behind.

        Raises `TypeError` if a value in the message has no JSON form. In `@disconnected` it does nothing. If
        cancelled, the message was not sent.
        """
        return Call(self, "send", self._reactor_send(message))

    async def _reactor_send(self, message: ModelMessage) -> None:
        await self._session_port("send").send(message)

    def emit(
        self, output: Output, drop: bool = False, compute_time: float | None = None
    ) -> Coroutine[Any, Any, bool]:
        """Show a frame, or a batch of frames, with its sound; returns whether the output was taken.

        Video is `(H, W, 3)` or `(N, H, W, 3)`, RGB, uint8 or float in [0, 1], as numpy array or as torch
        tensor on any device; tensors also `(3, H, W)`. Audio is `(channels, samples)` or `(samples,)`, of 1
        to 8 channels, int16 or float in [-1, 1] (clipped; NaN is silence), at the track's `sample_rate`; the
        number of channels stays the same in a session. The values are copied: the model may reuse the buffer.
        A track that is None is left as it is. The `metadata` of the output goes with its frames.

        Frames leave at `self.output.fps`, and no frame leaves before the sound of the frame before it has
        been played. Sound begins with its frame; the sound of a batch is spread over its frames; missing
        sound is silence. Sound without video is paced by its own length.

        When `buffer_size` frames wait, or sound without video of the same duration, `emit` waits; with
        `drop=True` it throws the output away and returns False. An output larger than the buffer is let in
        when the buffer is empty. `compute_time` is the time in seconds that the model took for this output: a
        smoothed average of it, in which one slow step counts little, lowers the frame rate to one that the
        model can sustain.

        Raises `ValueError`, with track, shape and dtype, for any other value, for tracks with different
        numbers of frames, and for metadata that is no JSON object of at most 16 KiB. In `@disconnected` it
        returns False. If cancelled, the output was not taken.
        """
        port = self._session_port("emit")
        return Call(self, "emit", port.emit(output, drop=drop, compute_time=compute_time))

    def compute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Run blocking work in a worker thread and return its result; one call at a time for each device.

        The loop that serves all clients goes on meanwhile. If cancelled while waiting for the device, `fn` is
        not called. If cancelled later, the call waits for `fn` to end, since a thread cannot be stopped.
        """
        return Call(self, "compute", self._reactor_compute(fn, *args, **kwargs))

    async def _reactor_compute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._reactor_executor is None:
            raise NoSession("compute() needs the runtime: it can be used from load() on")
        return await self._reactor_executor.compute(self.device, fn, *args, **kwargs)

    def _reactor_begin(self) -> None:
        """Make the attributes that belong to the session, just before `@connected`. For the runtime."""

    def _session_port(self, name: str) -> SessionPort:
        if self._reactor_port is None:
            raise NoSession(
                f"{type(self).__name__}.{name} needs a session: use it in run(), in handlers and in hooks"
            )
        return self._reactor_port


ReactorModel.__reserved__ = frozenset(name for name in vars(ReactorModel) if not name.startswith("__"))
ReactorModel.__declarations__ = read_declarations(ReactorModel)
