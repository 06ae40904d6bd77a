"""A webcam effect in PyTorch: your camera in, the same picture with edges, inverted, or with trails, out.

    python -m reactor_trio serve examples/webcam.py

Open http://127.0.0.1:8080/ and switch the camera on. Or steer it from a second terminal:

    python -m reactor_trio call ws://127.0.0.1:8080 set_effect effect=edges
    python -m reactor_trio call ws://127.0.0.1:8080 set_effect effect=trails strength=0.9
    python -m reactor_trio call ws://127.0.0.1:8080 set_effect effect=sepia

`read` takes the newest frame and throws older ones away, so the effect is never behind, however slow the
device is.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.nn.functional import conv2d, pad

from reactor_trio import Input, InputField, InputFrame, Output, ReactorModel, Video, connected, event

Effect = Literal["edges", "invert", "trails", "none"]

SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
LUMA = torch.tensor([0.299, 0.587, 0.114])
"""Weights of red, green and blue (ITU-R BT.601)."""


class Camera(Input):
    webcam: Video


class Screen(Output):
    screen: Video


class WebcamEffect(ReactorModel):
    """Changes the picture of your webcam."""

    input: Camera

    def load(self, config: dict[str, Any]) -> None:
        self.device = config.get("device", "cuda" if torch.cuda.is_available() else "cpu")
        self.kernels = torch.stack([SOBEL, SOBEL.T]).unsqueeze(1).to(self.device)
        self.luma = LUMA.to(self.device)

    @connected
    def on_connect(self) -> None:
        self.effect: Effect = "edges"
        self.strength = 0.8
        self.previous: torch.Tensor | None = None

    @event(description="Choose what is done to the picture", dedupe=True)
    def set_effect(
        self,
        effect: Effect = "edges",
        strength: float = InputField(default=0.8, ge=0, le=1, description="0 shows the picture as it is"),
    ) -> None:
        self.effect, self.strength = effect, strength

    async def run(self) -> None:
        await self.connected.wait()
        while True:
            [frame] = await self.input.webcam.read()
            shown = await self.compute(self.apply, frame, self.effect, self.strength)
            # With drop, as a camera is its own clock: a frame that has no room is one that would come late.
            await self.emit(Screen(screen=shown, metadata={"pts_in": frame.pts}), drop=True)

    def apply(self, frame: InputFrame, effect: Effect, strength: float) -> torch.Tensor:
        """In a worker thread: a frame (H, W, 3) uint8 to one (H, W, 3) float in [0, 1]."""
        with torch.inference_mode():
            pixels = torch.from_numpy(frame.data).to(self.device).float() / 255
            changed = self.changed(pixels, effect)
            shown = torch.lerp(pixels, changed, strength)
            self.previous = shown
            return shown

    def changed(self, pixels: torch.Tensor, effect: Effect) -> torch.Tensor:
        if effect == "invert":
            return 1 - pixels
        if effect == "edges":
            grey = (pixels @ self.luma)[None, None]
            across, down = conv2d(pad(grey, (1, 1, 1, 1), mode="replicate"), self.kernels)[0]
            return torch.hypot(across, down).clamp(0, 1)[:, :, None].expand(-1, -1, 3)
        if effect == "trails" and self.previous is not None and self.previous.shape == pixels.shape:
            return torch.maximum(pixels, self.previous * 0.95)
        return pixels
