"""A model for the browser's tests: a wall of one colour, and pictures hung on it."""

from __future__ import annotations

import numpy as np

from reactor_trio import (
    Audio,
    InputField,
    ModelMessage,
    Output,
    ReactorModel,
    UploadedFile,
    Video,
    connected,
    event,
)
from reactor_trio.media.jpeg import decode_jpeg


class Painted(ModelMessage):
    """The wall has another name."""

    name: str


class Hung(ModelMessage):
    """A picture hangs on the wall."""

    width: int
    height: int


class Room(Output):
    wall: Video
    hum: Audio = Audio(sample_rate=48_000)


class Wall(ReactorModel):
    """A wall that one can paint."""

    fps = 30

    @connected
    def on_connect(self) -> None:
        self.level, self.picture = 40, None

    @event(description="How bright the wall is", dedupe=True)
    def set_level(self, level: int = InputField(default=40, ge=0, le=255)) -> None:
        self.level, self.picture = level, None

    @event(description="Name the wall")
    def set_name(
        self, name: str = InputField(min_length=3, pattern="^[a-z]*$"), boxes: tuple[int, ...] = ()
    ) -> Painted:
        return Painted(name=name)

    @event(description="Hang a picture")
    def hang(self, picture: UploadedFile = InputField(mime_types=["image/jpeg"])) -> Hung:
        self.picture = decode_jpeg(picture.data)
        height, width, _ = self.picture.shape
        return Hung(width=width, height=height)

    async def run(self) -> None:
        await self.connected.wait()
        turns = 0.0
        while True:
            wall = np.full((180, 320, 3), self.level, np.uint8) if self.picture is None else self.picture
            samples = np.sin((turns + np.arange(1600)) * (2 * np.pi * 440 / 48_000)).astype(np.float32)
            turns += 1600
            await self.emit(Room(wall=wall, hum=samples * 0.1))
