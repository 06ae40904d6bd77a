"""A model for the browser's tests: it sends `Heard` for each block of sound that is loud enough."""

from __future__ import annotations

import numpy as np

from reactor_trio import Audio, Input, ModelMessage, ReactorModel


class Heard(ModelMessage):
    """A sound."""

    loudness: float


class Microphone(Input):
    voice: Audio = Audio(sample_rate=16_000)


class Ear(ReactorModel):
    """Listens."""

    input: Microphone

    async def run(self) -> None:
        await self.connected.wait()
        while True:
            [block] = await self.input.voice.read()
            loudness = float(np.abs(block.data.astype(np.float64)).max()) / 32768
            if loudness > 0.05:
                await self.send(Heard(loudness=loudness))
