"""The demo model, and the example to read first: this file is all that an author writes.

A session is one client. What `load` stores is shared by all sessions; what `@connected` and the handlers
assign to `self` is the session's own. Handlers run between two awaits of `run`, so neither needs a lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from reactor_trio import (
    CommandError,
    InputField,
    MessageField,
    ModelMessage,
    Output,
    ReactorModel,
    UploadedFile,
    Video,
    connected,
    event,
)
from reactor_trio.compute.lanes import DECODE
from reactor_trio.demo.network import Morph, Network, scene_of
from reactor_trio.demo.palette import hex_colours, palette_of, read_colours

if TYPE_CHECKING:
    from reactor_trio.compute.executor import Executor
    from reactor_trio.demo.network import Scene
    from reactor_trio.demo.styles import StyleName


class CurrentPrompt(ModelMessage):
    """The prompt that is being painted."""

    prompt: str


class Progress(ModelMessage):
    """Sent with every frame."""

    step: int = MessageField(description="number of the frame, from 0")
    seconds: float = MessageField(description="time of the frame since the session began")


class PaletteExtracted(ModelMessage):
    """The main colours of an uploaded picture, as #rrggbb, the most frequent first."""

    colours: list[str]


class Picture(Output):
    """What the client sees."""

    main_video: Video


class Painter(ReactorModel):
    """Paints moving abstract pictures; every prompt seeds another one."""

    fps = 24

    def load(self, config: dict[str, Any]) -> None:
        """Build the network. `config` may have `width`, `height` (pixels), `seed` and `device`."""
        device = self.device = config.get("device", "cpu")
        # The network is too small to share a frame out among cores: they would wait for each other longer
        # than they work. One core paints, and the others are left to the encoder.
        torch.set_num_threads(1)
        size = config.get("width", 512), config.get("height", 512)
        self.network = Network(*size, seed=config.get("seed", 7)).to(device)
        # The first frame is slow (threads, memory, kernels): paint it before a client waits for it.
        self.network.paint(scene_of("warm-up", "silk"), seconds=0.0)

    @connected
    def on_connect(self) -> None:
        self.prompt = "a sunny meadow"
        self.style: StyleName = "silk"
        self.palette: torch.Tensor | None = None
        self.speed = 1.0
        self.step = 0
        self.time = 0.0
        scene = self.scene()
        self.morph = Morph(scene, scene, since=0.0)

    @event(description="Paint something else")
    def set_prompt(self, prompt: str = InputField(min_length=1, max_length=500)) -> None:
        self.prompt = prompt
        self.change_scene()

    @event(description="Return the current prompt")
    def get_current_prompt(self) -> CurrentPrompt:
        return CurrentPrompt(prompt=self.prompt)

    @event(description="Paint in another manner")
    def set_style(self, style: Literal["silk", "marble", "neon", "paper", "ink"]) -> None:
        self.style = style
        self.change_scene()

    @event(description="How fast the picture moves; 0 holds it still")
    def set_speed(self, speed: float = InputField(default=1.0, ge=0.0, le=4.0)) -> None:
        self.speed = speed

    @event(description="Take the colours from a picture", dedupe=True)
    async def set_palette_image(
        self,
        image: UploadedFile = InputField(mime_types=["image/jpeg"], max_size=16 * 1024 * 1024),
    ) -> PaletteExtracted:
        executor = cast("Executor", self._reactor_executor)  # a model's port to it has the devices alone
        try:
            # In the lane of the frames that clients send: in that of the device a photo of 32 million pixels
            # would delay the pictures of all clients by a tenth of a second.
            colours = await executor.run(DECODE, read_colours, image.data)
        except ValueError as error:
            raise CommandError("bad_image", str(error)) from error
        self.palette = palette_of(colours)
        self.change_scene()
        return PaletteExtracted(colours=hex_colours(colours))

    @event(description="Go back to the prompt's own colours")
    def clear_palette(self) -> None:
        self.palette = None
        self.change_scene()

    async def run(self) -> None:
        while True:
            await self.connected.wait()
            while self.connected.is_set():
                scene = self.morph.at(self.seconds)
                frame = await self.compute(self.network.paint, scene, self.time)
                await self.emit(Picture(main_video=frame))
                await self.send(Progress(step=self.step, seconds=self.seconds))
                self.step += 1
                self.time += self.speed / self.fps

    @property
    def seconds(self) -> float:
        """Time of the next frame in seconds: counted in frames, so it is the same under any clock."""
        return self.step / self.fps

    def scene(self) -> Scene:
        """Return the scene that the client has asked for."""
        return scene_of(self.prompt, self.style, self.palette)

    def change_scene(self) -> None:
        """Begin to change from the scene that is seen now, even in the middle of a change."""
        self.morph = Morph(self.morph.at(self.seconds), self.scene(), since=self.seconds)
