"""`InputState`, the fields of a `ReactorPipeline` that clients may set, and `Idle`."""

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
    # `Iterator[Picture | None]` is the type of a generator that yields `Idle`.
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
    """`yield Idle`: there is nothing to show. The generator goes on after a command, or after one frame
    period."""


_PLAIN: Final = (str, int, float, bool)


@dataclass_transform(field_specifiers=(InputField, attrs.field, dataclasses.field))
class InputState(metaclass=RecordType):
    """The state of a `ReactorPipeline` that its client may set: a subclass with annotated fields.

        class GameState(InputState):
            prompt: str = InputField(default="a sunny meadow", max_length=500)
            brightness: float = InputField(default=1.0, ge=0, le=2)
            _noise: object = None

    Each session has an instance of its own, made from the defaults, as `self.state`. Each public field is a
    command: here `set_prompt`, with the payload `{"prompt": ...}`. The types and the `InputField`s of fields
    are as those of the parameters of an `@event`. A field whose name begins with an underscore is hidden from
    clients, and may have any type.

    Raises `TypeError`, naming class and field, when the subclass is made, for a field without a default, a
    mutable default, and a type that a client cannot send.
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
    """Raises `TypeError` for `brightness = 1.0`, which makes a class attribute that no client can set."""
    check_annotated(cls)
    for name, value in vars(cls).items():
        if name[0].islower() and name not in own_annotations(cls) and type(value) in _PLAIN:
            raise TypeError(missing_annotation(cls, name, f"{name}: {type(value).__name__} = {value!r}"))
