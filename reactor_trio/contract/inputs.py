"""Input tracks of a model's class: an annotation such as `input: Camera` binds the tracks of `Camera`.

A binding is an attribute of the class. A subclass inherits it, and hides it by assigning to its name.
"""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Any, Final

from reactor_trio.declare.hints import Unresolved, attribute_hint, is_class_var, name_of, own_annotations
from reactor_trio.declare.records import missing_annotation
from reactor_trio.declare.tracks import Audio, Input, Output, Video

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

USUAL = "input"
"""The usual name of the attribute. It has no other meaning, so a mistake under this name is refused."""
_NOTHING: Final = object()


class BoundInput:
    """The attribute of a model that returns the input tracks of its session."""

    def __init__(self, name: str, input_class: type[Input]) -> None:
        self.name = name
        self.input_class = input_class

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is None:
            return self
        return model._session_port(self.name).inputs.bound[self.name]

    def __set__(self, model: Any, value: object) -> None:
        raise AttributeError(
            f"{type(model).__name__}.{self.name} is bound to the input tracks of "
            f"{self.input_class.__qualname__}: choose another name"
        )


def bind_inputs(cls: type, base: type) -> None:
    """Bind the input tracks that a class which was just made, and its mixins, annotate.

    `base` is the class of the runtime, whose own annotations are not looked at.

    Raises `TypeError`, naming class and attribute, for an `input` that cannot be resolved, a name that is
    taken, an `Input` without tracks, and two tracks of one name. An annotation of another attribute that
    cannot be resolved is ignored: its class may have been imported under TYPE_CHECKING.
    """
    for owner in _own_classes(cls, base):
        for name in own_annotations(owner):
            input_class = _input_class(owner, name)
            if input_class is not None:
                _check_name(cls, owner, name)
                _bind(cls, name, input_class)
    _check_usual(cls)
    _check_tracks(cls)


def bound_inputs(cls: type) -> Mapping[str, type[Input]]:
    """Attribute -> its `Input` class, those of the bases first."""
    found: dict[str, type[Input]] = {}
    for owner in reversed(cls.__mro__):
        for name, value in vars(owner).items():
            if isinstance(value, BoundInput) and inspect.getattr_static(cls, name) is value:
                found[name] = value.input_class
    return found


def check_late_inputs(cls: type) -> None:
    """Raises `TypeError` for an `Input` that is defined below the model, and so was not bound."""
    for owner in cls.__mro__[:-1]:
        for name in own_annotations(owner):
            free = inspect.getattr_static(cls, name, _NOTHING) is _NOTHING
            if free and _input_class(owner, name) is not None:
                raise TypeError(
                    f"{owner.__qualname__}.{name}: the Input class stands below the model, so it was not "
                    f"there when the model was made; write it above"
                )


def _own_classes(cls: type, base: type) -> Iterator[type]:
    """The mixins of a class, then the class. Its bases that are models were looked at when they were made."""
    for owner in reversed(cls.__mro__[:-1]):
        if owner is cls or not (issubclass(owner, base) or issubclass(base, owner)):
            yield owner


def _input_class(owner: type, name: str) -> type[Input] | None:
    """The `Input` that an annotation binds, if it names one."""
    annotation = own_annotations(owner)[name]
    if is_class_var(annotation):
        return None
    try:
        hint = attribute_hint(owner, name)
    except Unresolved as exc:
        if name == USUAL:
            raise TypeError(f"{owner.__qualname__}.{name}: {exc.reason}") from None
        return None
    if isinstance(hint, type) and issubclass(hint, Input):
        return hint
    if hint in (Video, Audio) or (name == USUAL and isinstance(hint, type) and issubclass(hint, Output)):
        raise TypeError(
            f"{owner.__qualname__}.{name} is annotated {name_of(hint)}, which is no Input: write "
            f"`class Camera(Input)` with the tracks, and `{USUAL}: Camera` here"
        )
    if any(isinstance(each, type) and issubclass(each, Input) for each in typing.get_args(hint)):
        raise TypeError(
            f"{owner.__qualname__}.{name} is annotated {annotation!r}; "
            f"input tracks are bound by the name of their class alone"
        )
    return None


def _check_name(cls: type, owner: type, name: str) -> None:
    where = f"{owner.__qualname__}.{name}"
    if name in getattr(cls, "__reserved__", frozenset()):
        raise TypeError(f"{where}: {name!r} is a name of the runtime's own; choose another")
    taken: Any = inspect.getattr_static(cls, name, _NOTHING)
    if taken is not _NOTHING and not isinstance(taken, BoundInput):
        kind = "a method" if callable(taken) else "a value"
        raise TypeError(f"{where} is bound to input tracks, but there is {kind} of that name too")


def _bind(cls: type, name: str, input_class: type[Input]) -> None:
    if not input_class.__tracks__:
        raise TypeError(f"{cls.__qualname__}.{name}: {input_class.__qualname__} declares no track")
    setattr(cls, name, BoundInput(name, input_class))


def _check_usual(cls: type) -> None:
    """Raises `TypeError` for `input = Camera`, which binds nothing."""
    value = inspect.getattr_static(cls, USUAL, None)
    if isinstance(value, type) and issubclass(value, Input):
        raise TypeError(missing_annotation(cls, USUAL, f"{USUAL}: {value.__name__}"))


def _check_tracks(cls: type) -> None:
    owners: dict[str, tuple[str, type]] = {}
    for attribute, input_class in bound_inputs(cls).items():
        for track in input_class.__tracks__:
            if track.name in owners:
                other, other_class = owners[track.name]
                raise TypeError(
                    f"{cls.__qualname__}: two input tracks are named {track.name!r}: "
                    f"{other} ({other_class.__qualname__}) and {attribute} ({input_class.__qualname__})"
                )
            owners[track.name] = attribute, input_class
