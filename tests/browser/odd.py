"""A model for the browser's tests, with names, texts and values that are hard for a page to show."""

from __future__ import annotations

import numpy as np
import trio

from reactor_trio import Input, InputField, ModelMessage, Output, ReactorModel, Video, connected, event

MARKUP = "<img src=x onerror='window.wasRun = 1'>"
"""Markup that would run a script, if a page took texts for markup."""


class Told(ModelMessage):
    value: int


class Long(ModelMessage):
    """A message of half a megabyte."""

    lines: list[str]


class Views(Output):
    front: Video
    back: Video
    side: Video


class Eyes(Input):
    eye: Video


class Odd(ReactorModel):
    """<b>Odd</b>."""

    fps = 30
    input: Eyes

    @connected
    def on_connect(self) -> None:
        self.done = trio.Event()

    @event(description="End the session")
    def leave(self) -> None:
        self.done.set()

    @event(description="Tell the number")
    def constructor(self, __proto__: int = 1) -> Told:
        return Told(value=__proto__)

    @event(description=f"Say a lot {MARKUP}")
    def talk(self, lines: int = 5000) -> Long:
        return Long(lines=[f"{number} {MARKUP}" + "." * 60 for number in range(lines)])

    @event(description="How wide it is")
    def set_width(
        self, width: float = InputField(default=0.5, gt=0, lt=1, description="How wide it is")
    ) -> None:
        pass

    @event(description="Where it begins")
    def sow(self, seed: int = InputField(default=0, ge=0, le=2**63 - 1)) -> Told:
        return Told(value=seed)

    async def run(self) -> None:
        await self.connected.wait()
        sizes = ((90, 160), (160, 90), (1, 1))
        front, back, side = (np.full((*size, 3), 90, np.uint8) for size in sizes)
        while not self.done.is_set():
            await self.emit(Views(front=front, back=back, side=side))
