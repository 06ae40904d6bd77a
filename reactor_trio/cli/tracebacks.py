"""Prints an exception of the author's model, without the frames of the runtime."""

from __future__ import annotations

import importlib
import os
import traceback
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click
import outcome
import trio

from reactor_trio.logs.values import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_OUR_FOLDER = f"{Path(__file__).parents[1]}{os.sep}"


def print_traceback(exc: BaseException) -> None:
    """Print the traceback from the first frame of the author's code on; all of it if there is none.

    The traceback of a `TypeError` that the runtime raised because of the author's class also ends at the last
    frame of the author's code.
    """
    frames = _first_of_theirs(exc.__traceback__)
    if frames is not None and isinstance(exc, TypeError):
        frames = _without_our_tail(frames)
    if frames is None and not isinstance(exc, SyntaxError):  # its text names the place
        frames = exc.__traceback__
    text = "".join(traceback.format_exception(type(exc), exc, frames))
    click.echo("\n".join(map(printable, text.rstrip("\n").split("\n"))), err=True)


def _without_our_tail(frames: TracebackType) -> TracebackType | None:
    kept: TracebackType | None = None
    for frame in reversed(list(_chain(frames))):
        is_ours = frame.tb_frame.f_code.co_filename.startswith(_OUR_FOLDER)
        if kept is not None or not is_ours:
            kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def _chain(frames: TracebackType | None) -> Iterator[TracebackType]:
    while frames is not None:
        yield frames
        frames = frames.tb_next


def _first_of_theirs(frames: TracebackType | None) -> TracebackType | None:
    packages = (Path(__file__).parents[1], Path(trio.__file__).parent, Path(outcome.__file__).parent)
    not_theirs = (*(f"{folder}{os.sep}" for folder in packages), "<frozen importlib", importlib.__file__)
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(not_theirs):
        frames = frames.tb_next
    return frames
