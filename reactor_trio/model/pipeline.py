"""`ReactorPipeline`: a model written as a generator, with a state that clients set."""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from reactor_trio.contract.lifecycle import check_inference
from reactor_trio.contract.state import state_events
from reactor_trio.declare.hints import Unresolved, attribute_hint, name_of, own_annotations
from reactor_trio.model.model import ReactorModel
from reactor_trio.model.state import InputState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.contract.events import EventSpec

_NOTHING: Final = object()


class ReactorPipeline(ReactorModel):
    """A model written as a generator: `inference()` yields outputs, and the runtime shows them.

        class Game(ReactorPipeline):
            state: GameState

            def inference(self):
                while True:
                    yield Picture(main_video=self.pipe(self.state.prompt))

    The annotation `state: GameState` names an `InputState`: each session has an instance of its own as
    `self.state`, and the public fields are commands. The annotation may be left out. An `@event` with the
    name of such a command replaces it.

    `load`, events, hooks, `send`, `emit` and `compute` are those of a `ReactorModel`; `run` belongs to the
    runtime.

    Raises `TypeError`, when the class is made, also for a `state` that is no `InputState`, for an
    `inference` that is no generator, and for a `run`.
    """

    __state_class__: ClassVar[type[InputState] | None] = None
    __state_events__: ClassVar[Mapping[str, EventSpec]] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.__state_class__ = _state_class(cls)
        if cls.__state_class__ is not None:
            cls.__state_events__ = state_events(cls.__state_class__)
        check_inference(cls, ReactorPipeline)
        super().__init_subclass__(**kwargs)
        _check_setters(cls)

    def inference(self) -> Any:
        """Yield the outputs to show: a generator, `def` or `async def`.

        The runtime starts the generator when `@connected` has finished, and drives it until the session ends;
        a generator that returns is started again. A `def` generator runs in a worker thread of its session,
        each step under the limiter of the model's `device`, so it may block. Handlers and hooks run only
        between two steps.

        The generator yields an `Output`; `Idle` or None, if there is nothing to show; an array or a tensor,
        if the model has one output with one track; or a `ModelMessage`, which is sent. Any other value, and
        any exception but `BufferClosed`, ends the session with `model_error`.

        When the session ends, the generator is closed at its current `yield`: its `finally` blocks run before
        `@disconnected`.
        """
        raise NotImplementedError

    def _reactor_begin(self) -> None:
        if self.__state_class__ is not None:
            self.state = self.__state_class__()

    if not TYPE_CHECKING:  # a type checker would take any attribute for one of the model

        def __getattr__(self, name: str) -> Any:
            text = f"{type(self).__qualname__!r} object has no attribute {name!r}"
            if name == "state":
                declared = self.__state_class__ is not None
                text += (
                    ": it is the session's own, and made just before @connected"
                    if declared
                    else f": declare it, with `state: {type(self).__name__}State`, an InputState"
                )
            raise AttributeError(text, name=name, obj=self)


ReactorPipeline.__reserved__ = ReactorModel.__reserved__ | {"inference", "state"}


def _state_class(cls: type[ReactorPipeline]) -> type[InputState] | None:
    """The class that `state` is annotated with, in the class itself or in a base class."""
    _check_no_value(cls)
    for owner in cls.__mro__[: cls.__mro__.index(ReactorPipeline)]:
        if owner is not cls and issubclass(owner, ReactorPipeline):
            return owner.__state_class__
        if "state" in own_annotations(owner):
            return _annotated_state(owner)
    return None


def _annotated_state(owner: type) -> type[InputState]:
    where = f"{owner.__qualname__}.state"
    try:
        hint = attribute_hint(owner, "state")
    except Unresolved as exc:
        raise TypeError(f"{where}: {exc.reason}") from None
    if isinstance(hint, type) and issubclass(hint, InputState) and hint is not InputState:
        return hint
    remedy = "write `class State(InputState)` with the fields that clients may set, and annotate it so"
    raise TypeError(f"{where} is annotated {name_of(hint)}, which is no subclass of InputState: {remedy}")


def _check_no_value(cls: type) -> None:
    value = inspect.getattr_static(cls, "state", _NOTHING)
    if value is _NOTHING:
        return
    state_class = value if isinstance(value, type) else type(value)
    if not issubclass(state_class, InputState):
        raise TypeError(f"{cls.__qualname__}: 'state' is a name of the runtime's own; choose another")
    annotated = "state" in own_annotations(cls)
    reason = "has a value, which all clients would share" if annotated else "has no annotation"
    raise TypeError(f"{cls.__qualname__}.state {reason}: write `state: {state_class.__name__}` and no more")


def _check_setters(cls: type[ReactorPipeline]) -> None:
    """Raises `TypeError` for a method that has the name of a field's command, but is no event."""
    for name, spec in cls.__state_events__.items():
        if cls.__declarations__.events[name] is spec and hasattr(cls, name):
            raise TypeError(
                f"{cls.__qualname__}.{name} is no event, so the command {name!r} does not call it: write "
                f"@event above it, or choose another name"
            )
