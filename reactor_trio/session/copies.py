"""Makes a session's own copy of the model.

The author's code may run for this, and may fail: `__copy__`, or `fps` as a property.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import attrs

from reactor_trio.contract.lifecycle import wrong_setting
from reactor_trio.errors import BadModelSetting
from reactor_trio.model.model import ReactorModel
from reactor_trio.session.failures import contained

if TYPE_CHECKING:
    from reactor_trio.model.ports import SessionPort


@attrs.frozen(eq=False)
class ModelCopy:
    """The copy of a model for one session, and the copy's settings when the session began."""

    model: ReactorModel
    """The copy; if there is a `failure`, a plain `ReactorModel` without handlers in its place."""
    fps: float
    buffer_size: int
    failure: BaseException | None = None
    """Why the model could not be copied; the session ends with this failure. None if it was copied."""


def copy_for(port: SessionPort, prototype: ReactorModel) -> ModelCopy:
    """Copy the prototype for a session. A failure of the author's code is returned, not raised.

    Exceptions that are no failures of the model are raised (`session/failures.py`).
    """
    failures: list[BaseException] = []
    with contained(failures.append):
        model = copy.copy(prototype)
        _check(model, prototype)
        model._reactor_port = port
        fps, buffer_size = model.fps, model.buffer_size
        wrong = wrong_setting(type(model), {"fps": fps, "buffer_size": buffer_size})
        if wrong is not None:
            raise BadModelSetting(wrong)
        return ModelCopy(model, fps, buffer_size)
    [failure] = failures
    nothing = ReactorModel()
    nothing._reactor_port = port
    return ModelCopy(nothing, nothing.fps, nothing.buffer_size, failure)


def _check(model: object, prototype: ReactorModel) -> None:
    where = f"{type(prototype).__qualname__}.__copy__"
    if model is prototype:
        raise TypeError(f"{where} returned the model itself: each session needs a copy of its own")
    if not isinstance(model, type(prototype)):
        raise TypeError(f"{where} returned {type(model).__qualname__}, which is another class")
