"""Pipelines for tests: the generator of `scripted(script)` is `script(model)`, plain or async."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import trio

from reactor_trio import (
    Audio,
    Idle,
    InputField,
    InputState,
    ModelMessage,
    Output,
    ReactorPipeline,
    UploadedFile,
    Video,
    disconnected,
)

FRAME = np.full((8, 8, 3), 7, np.uint8)
STEP = 0.1
"""Seconds of a step, in tests whose steps take time."""


class Said(ModelMessage):
    text: str


class Picture(Output):
    screen: Video


class Quiet(Output):
    """An output that a test yields without a value on any track."""

    quiet: Video = None
    still: Audio = None


class GameState(InputState):
    prompt: str = InputField(default="a sunny meadow", max_length=20, description="What is to be seen")
    strength: float = InputField(default=0.5, ge=0, le=1)
    reference: UploadedFile | None = InputField(default=None, mime_types=["image/*"])
    _noise: object = None


class Game(ReactorPipeline):
    """A pipeline whose generator is `script`; each session has a `log` of its own."""

    state: GameState
    fps = 10
    script: Callable[[Any], Any]

    @functools.cached_property
    def log(self) -> list[Any]:
        return []

    def inference(self) -> Iterator[Any]:
        yield from self.script(self)

    @disconnected
    def on_disconnect(self) -> None:
        self.log.append("disconnected")


class AsyncGame(Game):
    async def inference(self) -> AsyncIterator[Any]:
        script = self.script(self)
        try:
            while True:
                value = next(script, StopIteration)
                if value is StopIteration:
                    return
                yield value
        finally:
            script.close()


def module_of(code: str, **names: Any) -> dict[str, Any]:
    """The names of a new module that runs `code` with `names`, and without our `from __future__`."""
    module = ModuleType("authors_module")
    sys.modules[module.__name__] = module
    vars(module).update(names)
    exec(compile(code, "authors_module.py", "exec", dont_inherit=True), vars(module))
    return vars(module)


def scripted(script: Any, base: type[Game] = Game, **attributes: Any) -> type[Game]:
    return type("Scripted", (base,), {"script": staticmethod(script), **attributes})


def pictures(model: Game) -> Iterator[Any]:
    while True:
        yield Picture(screen=FRAME)


def idles(model: Game) -> Iterator[Any]:
    while True:
        model.log.append(round(trio.current_time(), 3))
        yield Idle


BOTH = pytest.mark.parametrize("base", [Game, AsyncGame], ids=["sync", "async"])
