"""What clients may set in a `ReactorPipeline`, and what it yields when there is nothing to show."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from typing import TYPE_CHECKING, ClassVar, Final, dataclass_transform

import attrs

from reactor_trio.contract.state import read_state
from reactor_trio.declare.fields import InputField
from reactor_trio.declare.hints import Unresolved, own_annotations
from reactor_trio.declare.records import RecordType, make_record, missing_annotation
from reactor_trio.model.messages import check_annotated

if TYPE_CHECKING:
    # So that `Iterator[Picture | None]` is the type of a generator that yields it.
    Idle: Final[None] = None
else:

    class _Idle(enum.Enum):
        """The type of `Idle`."""

        IDLE = "Idle"

        def __bool__(self):
            return False

        def __repr__(self):
            return "Idle"

    Idle = _Idle.IDLE
    """`yield Idle`: there is nothing to show; go on when a command was handled, or a frame's time is over."""


_PLAIN: Final = (str, int, float, bool)


@dataclass_transform(field_specifiers=(InputField, attrs.field, dataclasses.field))
class InputState(metaclass=RecordType):
    """What the clients of a `ReactorPipeline` may set; a subclass with annotations is all there is to write.

        class GameState(InputState):
            prompt: str = InputField(default="a sunny meadow", max_length=500)
            brightness: float = InputField(default=1.0, ge=0, le=2)
            _noise: object = None

    Each session has its own, made of the defaults, as `self.state`. Each public field is a command: here
    `set_prompt`, whose payload is `{"prompt": ...}`. What a field may be, and `InputField`, is as for the
    parameters of an `@event`. A field that begins with an underscore is hidden from clients, and may be
    anything.

    Raises `TypeError` naming class and field, when the subclass is made, for a field without a default, a
    mutable default, or a type that a client cannot send.
    """

    __is_state__: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        _check_annotated(cls)
        if not make_record(cls, is_state=True):
            return
        # An annotation may name a class further down in the file; the model that uses the state looks again.
        with contextlib.suppress(Unresolved):
            read_state(cls)


def _check_annotated(cls: type) -> None:
    """`brightness = 1.0` would be no field, but a class attribute that no client can set."""
    check_annotated(cls)
    for name, value in vars(cls).items():
        if name[0].islower() and name not in own_annotations(cls) and type(value) in _PLAIN:
            raise TypeError(missing_annotation(cls, name, f"{name}: {type(value).__name__} = {value!r}"))
