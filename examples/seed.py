"""Events, hooks, messages and uploads in one model: what most models are made of.

    python -m reactor_trio serve examples/seed.py

Then, in a second terminal (each call is a session of its own, so each begins with a sunny meadow):

    python -m reactor_trio call ws://127.0.0.1:8080 set_prompt prompt="a dark forest"
    python -m reactor_trio call ws://127.0.0.1:8080 set_prompt prompt=""
    python -m reactor_trio call ws://127.0.0.1:8080 get_current_prompt --listen 24
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reactor_trio import (
    CommandError,
    InputField,
    ModelMessage,
    Output,
    ReactorModel,
    UploadedFile,
    Video,
    connected,
    disconnected,
    event,
    file_uploaded,
)
from reactor_trio.media.jpeg import decode_jpeg

Pixels = npt.NDArray[np.uint8]


class CurrentPrompt(ModelMessage):
    """What is being painted."""

    prompt: str


class Progress(ModelMessage):
    """Sent with every frame."""

    step: int


class UploadReceived(ModelMessage):
    """A file is here, and commands may refer to it."""

    name: str
    size: int


class Picture(Output):
    main_video: Video


class Pipeline:
    """Stands in for a real one: stripes that move, in a colour that follows from the prompt."""

    def __init__(self, width: int, height: int) -> None:
        y, x = np.mgrid[0:height, 0:width]
        self.phase = (x + 2 * y) / 40

    def forward(self, prompt: str, style: Pixels | None, step: int) -> Pixels:
        colour = np.random.default_rng(list(prompt.encode())).uniform(60, 255, 3)
        if style is not None:
            colour = style.mean(axis=(0, 1))
        light = 0.6 + 0.4 * np.sin(self.phase + step / 8)
        frame: Pixels = (light[..., None] * colour).astype(np.uint8)
        return frame


class Seed(ReactorModel):
    """Paints what the prompt says."""

    fps = 24

    def load(self, config: dict[str, Any]) -> None:
        self.pipe = Pipeline(config.get("width", 320), config.get("height", 180))

    @connected
    async def on_connect(self) -> None:
        self.prompt, self.step = "a sunny meadow", 0
        self.style: Pixels | None = None

    @disconnected
    async def on_disconnect(self) -> None:
        print(f"{self.client.id} saw {self.step} frames")

    @event(name="set_prompt", description="Change the scene prompt")
    def set_prompt(self, prompt: str = InputField(min_length=1, max_length=500)) -> None:
        self.prompt = prompt

    @event(name="get_current_prompt", description="Return the current prompt")
    async def get_current_prompt(self) -> None:
        await self.send(CurrentPrompt(prompt=self.prompt))

    @event(name="set_reference_image", description="Paint in the colours of a JPEG", dedupe=True)
    async def set_reference_image(self, image: UploadedFile) -> None:
        try:
            self.style = await self.compute(decode_jpeg, image.data)
        except ValueError as error:
            raise CommandError("bad_image", f"{image.name}: {error}") from error

    @file_uploaded
    async def on_upload(self, uploaded_file: UploadedFile) -> None:
        await self.send(UploadReceived(name=uploaded_file.name, size=uploaded_file.size))

    async def run(self) -> None:
        while True:
            await self.connected.wait()
            while self.connected.is_set():
                frame = await self.compute(self.pipe.forward, self.prompt, self.style, self.step)
                await self.emit(Picture(main_video=frame))
                await self.send(Progress(step=self.step))
                self.step += 1
