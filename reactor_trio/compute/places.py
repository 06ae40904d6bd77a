"""Whose code is it? The places in a stack, told apart by the folder of their file."""

from __future__ import annotations

import os
import site
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import attrs
import outcome
import trio

if TYPE_CHECKING:
    from types import FrameType


@attrs.frozen
class Place:
    """The line of code that a step of a task is in."""

    file: str
    line: int
    handler: str | None
    """The outermost function of the model's author in this step, such as `Painter.set_prompt`.

    None: the stack holds no code of an author or an installed package; the runtime or the machine was slow.
    """

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Spot(NamedTuple):
    """One level of a stack, without the frame itself: a frame keeps the values of all its variables alive."""

    file: str
    function: str
    """The qualified name."""
    name: str
    """The function's name without its class."""
    line: int


_PACKAGE = Path(__file__).parents[1]
_RUNTIME = tuple(
    f"{folder}{os.sep}" for folder in (_PACKAGE, Path(trio.__file__).parent, Path(outcome.__file__).parent)
)
_DEMO = f"{_PACKAGE / 'demo'}{os.sep}"
_LIBRARIES = tuple(
    f"{folder}{os.sep}"
    for folder in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)
_RUNNER = (os.path.join(os.path.dirname(trio.__file__), "_core", "_run.py"), "unrolled_run")  # noqa: PTH118, PTH120


def place_of(frame: FrameType) -> Place:
    """The place of a step whose innermost frame this is: the innermost line that the model's author wrote.

    Code of the runtime, of the standard library and of installed packages is not the author's. In a stack
    without the author's code, the place is the outermost line that the runtime called, such as a line of an
    installed model; in a stack of the runtime alone, the innermost line.
    """
    place = place_in(stack_of(frame))
    assert place is not None
    return place


def place_in(stack: list[Spot]) -> Place | None:
    """As `place_of`, for a stack as `stack_of` returns it. None if the stack is empty."""
    if not stack:
        return None
    theirs = [each for each in stack if is_authored(each.file)] or _below_runtime(stack)
    innermost = theirs[0] if theirs else stack[0]
    return Place(innermost.file, innermost.line, theirs[-1].function if theirs else None)


def is_authored(file: str) -> bool:
    """Whether the code in this file is that of a model's author, judged by its folder."""
    # The file of generated code is a name in angle brackets.
    return file.startswith(_DEMO) or not file.startswith(("<", *_RUNTIME, *_LIBRARIES))


def _below_runtime(stack: list[Spot]) -> list[Spot]:
    below: list[Spot] = []
    for each in stack:
        if each.file.startswith(_RUNTIME):
            break
        below.append(each)
    return below[-1:]


def stack_of(frame: FrameType | None) -> list[Spot]:
    """The stack of a task's step, from its innermost frame to the outermost one of the step."""
    # Holds one frame at a time: a frame that is let go late would keep its variables alive.
    stack: list[Spot] = []
    while frame is not None:
        code = frame.f_code
        spot = Spot(code.co_filename, code.co_qualname, code.co_name, frame.f_lineno)
        if (spot.file, spot.name) == _RUNNER:
            break
        frame = frame.f_back
        stack.append(spot)
    return stack
