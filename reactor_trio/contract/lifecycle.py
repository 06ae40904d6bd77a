"""Checks of the members that the runtime itself uses: `run`, `inference`, `load`, `fps`, `buffer_size`."""

from __future__ import annotations

import inspect
import math
import numbers
from abc import ABC
from typing import Any, Final

from reactor_trio.declare.hints import signature

_REST: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""Parameters that need no argument."""


def check_lifecycle(cls: type) -> None:
    """Raises `TypeError`, naming class and attribute, for a member that cannot work in any session."""
    _check_run(cls, inspect.getattr_static(cls, "run"))
    _check_load(cls, inspect.getattr_static(cls, "load"))
    settings = {name: inspect.getattr_static(cls, name) for name in ("fps", "buffer_size")}
    # A property has a value in an instance only.
    plain = {name: value for name, value in settings.items() if not hasattr(type(value), "__get__")}
    wrong = wrong_setting(cls, plain)
    if wrong is not None:
        raise TypeError(wrong)


def check_inference(cls: type, base: type) -> None:
    """Raises `TypeError` if a pipeline has a `run`, or no `inference` that is a generator.

    `base` is the class of the runtime. A class that derives from `ABC`, or has an abstract `inference`, is a
    base class for pipelines, and needs no `inference`.
    """
    own = cls.__mro__[: cls.__mro__.index(base)]
    if any("run" in vars(owner) for owner in own):
        raise TypeError(
            f"{cls.__qualname__}.run would be in the place of inference(), which the runtime drives: leave "
            f"it out, or derive from ReactorModel for a loop of your own"
        )
    function = inspect.getattr_static(cls, "inference")
    if ABC in cls.__bases__ or getattr(function, "__isabstractmethod__", False):
        return
    if not any("inference" in vars(owner) for owner in own):
        raise TypeError(
            f"{cls.__qualname__} has no inference(): write `def inference(self)` that yields outputs"
        )
    if not (is_generator(function) or is_async_generator(function)):
        raise TypeError(
            f"{cls.__qualname__}.inference is no generator: `yield` each output, as in "
            f"`while True: yield Picture(...)`"
        )
    _check_bare(cls, "inference", function)


def is_generator(function: Any) -> bool:
    """Whether it is a generator function, below its decorators."""
    return inspect.isgeneratorfunction(_unwrapped(function))


def is_async_generator(function: Any) -> bool:
    """Whether it is an async generator function, below its decorators."""
    return inspect.isasyncgenfunction(_unwrapped(function))


def _unwrapped(function: Any) -> Any:
    return inspect.unwrap(function) if callable(function) else function


def wrong_setting(cls: type, settings: dict[str, Any]) -> str | None:
    """The text of an error for a wrong `fps` or `buffer_size` among the settings; None if all are right."""
    for name, value in settings.items():
        if name == "fps" and not _is_rate(value):
            return f"{cls.__qualname__}.fps is a finite number > 0, in frames per second, not {value!r}"
        if name == "buffer_size" and not _is_count(value):
            return f"{cls.__qualname__}.buffer_size is a whole number of frames, 1 or more, not {value!r}"
    return None


def _is_rate(value: Any) -> bool:
    if value.__class__ is bool or not isinstance(value, numbers.Real):
        return False
    return math.isfinite(value) and float(value) > 0


def _is_count(value: Any) -> bool:
    return value.__class__ is not bool and isinstance(value, numbers.Integral) and int(value) >= 1


def _check_run(cls: type, run: Any) -> None:
    if is_generator(run) or is_async_generator(run):
        raise TypeError(
            f"{cls.__qualname__}.run cannot have a `yield`: frames go out with `await self.emit(...)`"
        )
    # A callable object is let through: it may return an awaitable.
    if inspect.isfunction(_unwrapped(run)) and not _is_async(run):
        raise TypeError(f"{cls.__qualname__}.run is awaited: write `async def run(self)`")
    _check_bare(cls, "run", run)


def _check_bare(cls: type, name: str, function: Any) -> None:
    """Raises `TypeError` for a method with parameters, as the runtime passes no arguments."""
    if not inspect.isfunction(function):
        return
    parameters = [*signature(function).parameters.values()]
    required = [each.name for each in parameters if each.default is each.empty and each.kind not in _REST]
    if not parameters or len(required) > 1:
        raise TypeError(
            f"{cls.__qualname__}.{name} is called without arguments: write `{name}(self)`, not "
            f"`{name}({', '.join(required)})`"
        )


def _check_load(cls: type, load: Any) -> None:
    if is_generator(load) or is_async_generator(load):
        raise TypeError(f"{cls.__qualname__}.load cannot have a `yield`: it is called, not iterated over")


def _is_async(function: Any) -> bool:
    # A decorator may wrap a plain def in an async def, or an async def in a plain one.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inspect.unwrap(function))
