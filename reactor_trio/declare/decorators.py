"""`@event` and the hooks. A decorator only marks a method; `contract/events.py` reads the marks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

HookKind = Literal["connected", "disconnected", "file_uploaded"]
F = TypeVar("F", bound="Callable[..., Any]")

MARKER: Final = "__reactor_marker__"
"""The attribute of a method that holds its marker."""


@attrs.frozen
class EventMarker:
    """The arguments of `@event`. A `name` of None stands for the name of the method."""

    name: str | None = None
    description: str = ""
    dedupe: bool = False
    in_thread: bool = False


@attrs.frozen
class HookMarker:
    """One of `@connected`, `@disconnected`, `@file_uploaded`."""

    kind: HookKind


@overload
def event(function: F, /) -> F: ...
@overload
def event(
    *, name: str | None = None, description: str = "", dedupe: bool = False, in_thread: bool = False
) -> Callable[[F], F]: ...
def event(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    description: str = "",
    dedupe: bool = False,
    in_thread: bool = False,
) -> Any:
    """Make a method a command that the client can send; its parameters are the payload's fields.

    `name` is the name of the command, by default the name of the method. `dedupe` keeps only the newest of
    the commands of this name that wait. `in_thread` runs a `def` handler in a worker thread.

    Raises `TypeError` if the decorated object is not a method, or is marked already. A mistake in the
    signature is a `TypeError` when the class is made.
    """
    return _apply("@event", EventMarker(name, description, dedupe, in_thread), function)


@overload
def connected(function: F, /) -> F: ...
@overload
def connected() -> Callable[[F], F]: ...
def connected(function: Any = None, /) -> Any:
    """Run the method once the client is there, before any event and before `self.connected` is set."""
    return _apply("@connected", HookMarker("connected"), function)


@overload
def disconnected(function: F, /) -> F: ...
@overload
def disconnected() -> Callable[[F], F]: ...
def disconnected(function: Any = None, /) -> Any:
    """Run the method once the client is gone and every other task of the session has ended."""
    return _apply("@disconnected", HookMarker("disconnected"), function)


@overload
def file_uploaded(function: F, /) -> F: ...
@overload
def file_uploaded() -> Callable[[F], F]: ...
def file_uploaded(function: Any = None, /) -> Any:
    """Run the method, with `uploaded_file: UploadedFile`, once for each complete upload."""
    return _apply("@file_uploaded", HookMarker("file_uploaded"), function)


def _apply(decorator: str, marker: EventMarker | HookMarker, function: Any) -> Any:
    def mark(target: Any) -> Any:
        if isinstance(target, str) and isinstance(marker, EventMarker):
            raise TypeError(f'@event marks a method; its name is said so: @event(name="{target}")')
        name = getattr(target, "__qualname__", None) or repr(target)
        if not callable(target) and not isinstance(target, staticmethod | classmethod):
            raise TypeError(f"{decorator} marks a method, not {name}")
        if hasattr(target, MARKER):
            raise TypeError(f"{name}: {decorator} marks a method that is marked already")
        # A staticmethod or classmethod is marked too: the class that contains it is then refused by name.
        setattr(target, MARKER, marker)
        return target

    return mark if function is None else mark(function)
