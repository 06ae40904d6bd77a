"""Conway's game of life as a `ReactorPipeline`: state that clients set, and a generator that yields pictures.

    python -m reactor_trio serve examples/life.py

Open http://127.0.0.1:8080/ and drag the sliders. Or from a second terminal:

    python -m reactor_trio call ws://127.0.0.1:8080 set_speed speed=30
    python -m reactor_trio call ws://127.0.0.1:8080 scatter share=0.4
    python -m reactor_trio call ws://127.0.0.1:8080 set_speed speed=1000

Each field of `LifeState` is also a command (`set_speed`, `set_colour`, `set_paused`), without a handler.
Handlers run only between two `yield`s, so `inference` never sees half a change, and needs no lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from reactor_trio import Idle, InputField, InputState, ModelMessage, Output, ReactorPipeline, Video, event

COLOURS = {"green": (90, 220, 120), "amber": (250, 180, 60), "ice": (140, 200, 250)}
ROWS, COLUMNS, CELL = 90, 120, 4  # cells, cells, pixels
AGE = np.float32(0.9)  # how slowly a dead cell fades


class LifeState(InputState):
    speed: int = InputField(default=12, ge=1, le=60, description="generations per second")
    colour: Literal["green", "amber", "ice"] = "green"
    paused: bool = False
    _generation: int = 0


class Scattered(ModelMessage):
    """The field was filled anew."""

    alive: int


class Board(Output):
    board: Video


class Life(ReactorPipeline):
    """Conway's game of life on a torus."""

    state: LifeState

    @event(description="Fill the field at random")
    def scatter(self, share: float = InputField(default=0.25, ge=0, le=1)) -> Scattered:
        self.alive = np.random.default_rng().random((ROWS, COLUMNS)) < share
        return Scattered(alive=int(self.alive.sum()))

    def inference(self) -> Iterator[Board | None]:
        self.alive = np.random.default_rng(1).random((ROWS, COLUMNS)) < 0.25
        glow = np.zeros((ROWS, COLUMNS), np.float32)
        while True:
            if self.state.paused:
                yield Idle
                continue
            self.output.fps = self.state.speed
            self.alive = following(self.alive)
            self.state._generation += 1
            glow = np.maximum(self.alive, glow * AGE)
            picture = glow[:, :, None] * np.array(COLOURS[self.state.colour], np.float32)
            shown = picture.astype(np.uint8).repeat(CELL, 0).repeat(CELL, 1)
            yield Board(board=shown, metadata={"generation": self.state._generation})


def following(alive: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The next generation."""
    around = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1) if (rows, columns) != (0, 0)]
    neighbours = sum(np.roll(alive, shift, (0, 1)).astype(np.int8) for shift in around)
    born: npt.NDArray[np.bool_] = (neighbours == 3) | (alive & (neighbours == 2))
    return born
