"""`ReactorModel`: the one class that a model's author writes."""

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
    """An attribute that the session provides; assigning to it is a mistake worth a clear word."""

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
    """Base of every model: `load()` brings the weights in, `run()` produces frames and messages.

    The runtime makes one instance, the prototype, and calls `load` on it once. Each connection then gets
    `copy.copy(prototype)`: what `load` stored is shared by all sessions, by reference, and what a handler
    or `run` assigns to `self` is the session's own. So a mutable container made in `load` is shared.

    An annotation with an `Input`, such as `input: Camera`, binds its tracks: see `InputTrack`.

    A mistake in the declaration of events and hooks is a `TypeError` when the class is made. `send`, `emit`
    and `compute` are to be awaited; one that was not is an error in the log, with its place.
    """

    fps: float = 30.0
    """Frames per second at which the output is paced."""
    # Two, not Reactor's four: each frame that waits is a period between a command and its picture, and two
    # outlast a step that takes three times as long as it should.
    buffer_size: int = 2
    """Frames that may wait to be shown; then `emit` waits. A batch that is larger is let in whole. Of sound
    without video as much may wait as these frames take."""
    # Any: it is a string, a torch.device, or what else the author's library takes.
    device: Any = "cpu"
    """What `compute` runs on: one call at a time for each device, all sessions together."""

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
        """Bring the weights in: called once in the process, before any client is accepted.

        May be `def` (run in a worker thread) or `async def`. `config` is the model's YAML file with the
        command line's `--set` on top, {} if there is none.
        """

    async def run(self) -> None:
        """Produce frames and messages for as long as the client is there; the default waits for ever.

        Started once for each session, before `@connected`. Returning ends the session politely, raising
        ends it with `model_error`. Cancelled when the session ends for any other reason.
        """
        await trio.sleep_forever()

    def send(self, message: ModelMessage) -> Coroutine[Any, Any, None]:
        """Send a message to the client, after all that was sent before; waits while the client is behind.

        Raises `TypeError` if a value in it cannot be serialised. In `@disconnected` it does nothing. If
        cancelled, the message was not sent.
        """
        return Call(self, "send", self._reactor_send(message))

    async def _reactor_send(self, message: ModelMessage) -> None:
        await self._session_port("send").send(message)

    def emit(
        self, output: Output, drop: bool = False, compute_time: float | None = None
    ) -> Coroutine[Any, Any, bool]:
        """Show a frame, or a batch of frames, with the sound that belongs to it; returns if it was taken.

        Video is `(H, W, 3)` or `(N, H, W, 3)`, RGB, uint8 or float in [0, 1], as numpy array or as torch
        tensor on any device; tensors also `(3, H, W)`. Audio is `(channels, samples)` or `(samples,)`, of 1
        to 8 channels, int16 or float in [-1, 1] (clipped; NaN is silence), at the track's `sample_rate`; the
        number of channels stays the same in a session. The values are copied: the buffer may be reused. A
        track that is None is left as it is. `metadata` of the output goes with its frames.

        Frames leave at `self.output.fps`, and none before the sound of the one before has been played. Sound
        begins with its frame; that of a batch is spread over its frames; what is missing is silence. Sound
        without video is paced by its own length.

        When `buffer_size` frames wait, or sound without video that lasts as long as these do, `emit` waits,
        or with `drop=True` throws the output away and returns False. What is larger than the buffer is let
        in when it is empty. `compute_time`, the seconds that the model took for this output, lowers the rate
        to what it can sustain: a smoothed average, in which one slow step does not count for much.

        Raises `ValueError`, with track, shape and dtype, for anything else, for tracks with different numbers
        of frames, and for metadata that is no JSON object of at most 16 KiB. In `@disconnected` it returns
        False. If cancelled, the output was not taken.
        """
        port = self._session_port("emit")
        return Call(self, "emit", port.emit(output, drop=drop, compute_time=compute_time))

    def compute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Run blocking work in a worker thread and return its result; one call at a time for each device.

        The loop that serves every client goes on meanwhile. If cancelled while waiting for the device, `fn`
        is not called; if cancelled later, this waits for `fn` to end, since a thread cannot be stopped.
        """
        return Call(self, "compute", self._reactor_compute(fn, *args, **kwargs))

    async def _reactor_compute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._reactor_executor is None:
            raise NoSession("compute() needs the runtime: it can be used from load() on")
        return await self._reactor_executor.compute(self.device, fn, *args, **kwargs)

    def _reactor_begin(self) -> None:
        """Make what is the session's own, just before `@connected`. For the runtime."""

    def _session_port(self, name: str) -> SessionPort:
        if self._reactor_port is None:
            raise NoSession(
                f"{type(self).__name__}.{name} needs a session: use it in run(), in handlers and in hooks"
            )
        return self._reactor_port


ReactorModel.__reserved__ = frozenset(name for name in vars(ReactorModel) if not name.startswith("__"))
ReactorModel.__declarations__ = read_declarations(ReactorModel)
