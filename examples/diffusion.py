"""A picture that dreams on: image-to-image diffusion, each frame made from the last one, steered by a prompt.

    pip install diffusers transformers
    python -m reactor_trio serve examples/diffusion.py --set checkpoint=stabilityai/sd-turbo

It wants a GPU to be fast; `--set device=cpu` and `--set size=256` make it run anywhere. `checkpoint` is the
name on the Hugging Face Hub, or the folder, of any pipeline that does image-to-image. Then open
http://127.0.0.1:8080/, or steer it from a second terminal:

    python -m reactor_trio call ws://127.0.0.1:8080 set_prompt "prompt=a lighthouse in a storm, oil on canvas"
    python -m reactor_trio call ws://127.0.0.1:8080 set_strength strength=0.6
    python -m reactor_trio call ws://127.0.0.1:8080 set_start start=@photo.jpg

`inference` is a plain generator, driven in a worker thread under the device's limiter: each `yield` gives the
device to the next session, and lets this one's commands in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import interpolate

from reactor_trio import (
    CommandError,
    InputField,
    InputState,
    Output,
    ReactorPipeline,
    UploadedFile,
    Video,
    event,
)
from reactor_trio.media.jpeg import decode_jpeg


class DreamState(InputState):
    prompt: str = InputField(default="a meadow at dawn, watercolour", min_length=1, max_length=300)
    strength: float = InputField(default=0.5, ge=0.1, le=1, description="share that is dreamt anew")
    steps: int = InputField(default=2, ge=1, le=8, description="denoising steps for a frame")
    zoom: float = InputField(default=1.02, ge=1, le=1.2, description="how fast the picture comes nearer")
    seed: int = InputField(default=0, ge=0, le=2**31)


class Dream(Output):
    main_video: Video


class Dreamer(ReactorPipeline):
    """Dreams on from your prompt, and from your picture."""

    state: DreamState

    def load(self, config: dict[str, Any]) -> None:
        from diffusers.pipelines.auto_pipeline import AutoPipelineForImage2Image

        self.device = config.get("device", "cuda" if torch.cuda.is_available() else "cpu")
        self.size = int(config.get("size", 512))
        half = str(self.device).startswith("cuda")
        pipelines: Any = AutoPipelineForImage2Image  # it has no annotations
        self.pipe = pipelines.from_pretrained(
            config["checkpoint"], torch_dtype=torch.float16 if half else torch.float32
        ).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)

    @event(description="Dream on from this picture", in_thread=True)
    def set_start(
        self, start: UploadedFile = InputField(max_size=16_000_000, mime_types=["image/jpeg"])
    ) -> None:
        try:
            pixels = torch.from_numpy(decode_jpeg(start.data, min_side=self.size))
        except ValueError as error:
            raise CommandError("bad_image", f"{start.name}: {error}") from None
        self.image = self.fitted(pixels.permute(2, 0, 1)[None].float() / 255)

    def inference(self) -> Iterator[Dream]:
        self.image = torch.rand(1, 3, self.size, self.size)
        while True:
            state = self.state
            frames = self.pipe(
                prompt=state.prompt,
                image=self.image,
                strength=state.strength,
                # Of these, the share `strength` is done.
                num_inference_steps=math.ceil(state.steps / state.strength),
                guidance_scale=0.0,
                generator=torch.Generator(self.device).manual_seed(state.seed),
                output_type="pt",
            ).images
            self.image = self.fitted(frames.float().cpu(), state.zoom)
            yield Dream(main_video=frames[0])

    def fitted(self, image: torch.Tensor, zoom: float = 1.0) -> torch.Tensor:
        """The middle square of an image (1, 3, H, W), enlarged by `zoom`: (1, 3, size, size)."""
        height, width = image.shape[-2:]
        side = int(min(height, width) / zoom)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[:, :, top : top + side, left : left + side]
        return interpolate(square, (self.size, self.size), mode="bilinear", align_corners=False)
