"""A tone generator: sound and its wave form, made together and kept together.

    python -m reactor_trio serve examples/tone.py

Open http://127.0.0.1:8080/, press play, and drag the sliders. Or from a second terminal:

    python -m reactor_trio call ws://127.0.0.1:8080 set_tone frequency=220
    python -m reactor_trio call ws://127.0.0.1:8080 set_tone frequency=880 shape=square volume=0.1
    python -m reactor_trio call ws://127.0.0.1:8080 set_tone frequency=99999

Each step makes one picture and exactly as many samples as last for it; one clock paces both.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from reactor_trio import Audio, InputField, Output, ReactorModel, Video, connected, event

Shape = Literal["sine", "square", "saw"]

RATE, FPS = 48_000, 30
HEIGHT, WIDTH = 180, 480  # pixels
BACKGROUND, LINE = (14, 18, 24), (90, 220, 170)


class Scope(Output):
    wave_form: Video
    tone: Audio = Audio(sample_rate=RATE)


class ToneGenerator(ReactorModel):
    """Plays a tone and draws its wave form."""

    fps = FPS

    @connected
    def on_connect(self) -> None:
        self.frequency, self.volume = 440.0, 0.2
        self.shape: Shape = "sine"
        self.phase = 0.0  # of a turn

    @event(description="Choose the tone", dedupe=True)
    def set_tone(
        self,
        frequency: float = InputField(default=440.0, ge=20, le=8000, description="in Hz"),
        volume: float = InputField(default=0.2, ge=0, le=1),
        shape: Shape = "sine",
    ) -> None:
        self.frequency, self.volume, self.shape = frequency, volume, shape

    async def run(self) -> None:
        await self.connected.wait()
        while True:
            samples = self.next_samples(RATE // FPS)
            await self.emit(Scope(wave_form=draw(samples), tone=samples))

    def next_samples(self, count: int) -> npt.NDArray[np.float32]:
        """The next `count` samples, in [-1, 1]; the wave goes on where it stopped, so nothing clicks."""
        turns = self.phase + np.arange(count) * (self.frequency / RATE)
        self.phase = float((self.phase + count * self.frequency / RATE) % 1)
        wave = 2 * (turns % 1) - 1 if self.shape == "saw" else np.sin(2 * np.pi * turns)
        if self.shape == "square":
            wave = np.sign(wave)
        samples: npt.NDArray[np.float32] = (self.volume * wave).astype(np.float32)
        return samples


def draw(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The samples as a curve: (H, W, 3), uint8, RGB."""
    picture = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    shown = samples[np.linspace(0, len(samples) - 1, WIDTH).astype(int)]
    rows = ((1 - shown) / 2 * (HEIGHT - 1)).round().astype(int)
    for column, (row, following) in enumerate(zip(rows, [*rows[1:], rows[-1]], strict=True)):
        low, high = sorted((row, following))
        picture[low : high + 1, column] = LINE
    return picture
