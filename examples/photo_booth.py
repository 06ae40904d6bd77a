"""A photo booth: upload JPEGs, have them changed, see the result on a video track.

    python -m reactor_trio serve examples/photo_booth.py

Then, in a second terminal, with a photograph of your own (`@` uploads a file):

    python -m reactor_trio call ws://127.0.0.1:8080 apply photo=@photo.jpg effect=edges
    python -m reactor_trio call ws://127.0.0.1:8080 apply photo=@photo.jpg effect=warmth strength=0.3
    python -m reactor_trio call ws://127.0.0.1:8080 apply photo=@photo.jpg effect=warmth strength=7
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

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
    file_uploaded,
)
from reactor_trio.media.jpeg import decode_jpeg

Effect = Literal["edges", "posterise", "warmth"]
Pixels = npt.NDArray[np.uint8]
MAX_PIXELS = 24_000_000
"""Of a photo."""
TILE = 160  # pixels


class PhotoTaken(ModelMessage):
    """An upload is complete."""

    name: str
    count: int = MessageField(description="photos of this session so far")


class Shown(ModelMessage):
    """The booth shows a new picture."""

    width: int
    height: int


class Screen(Output):
    picture: Video


class PhotoBooth(ReactorModel):
    """Changes photographs and puts them on the screen."""

    @connected
    def on_connect(self) -> None:
        self.count = 0

    @file_uploaded
    async def on_upload(self, uploaded_file: UploadedFile) -> None:
        self.count += 1
        await self.send(PhotoTaken(name=uploaded_file.name, count=self.count))

    @event(description="Change a photo and show it", dedupe=True)
    async def apply(
        self, photo: UploadedFile, effect: Effect, strength: float = InputField(default=1.0, ge=0, le=1)
    ) -> Shown:
        return await self.show(await self.compute(change, photo, effect, strength))

    @event(description="Show photos side by side")
    async def collage(self, photos: list[UploadedFile] = InputField(min_length=1)) -> Shown:
        return await self.show(await self.compute(tile, photos))

    async def show(self, picture: Pixels) -> Shown:
        await self.emit(Screen(picture=picture))
        height, width, _ = picture.shape
        return Shown(width=width, height=height)


def read(photo: UploadedFile) -> Pixels:
    """What a handler raises as a `CommandError`, the client is told."""
    try:
        return decode_jpeg(photo.data, max_pixels=MAX_PIXELS)
    except ValueError as error:
        raise CommandError("unreadable_photo", f"{photo.name}: {error}") from error


def change(photo: UploadedFile, effect: Effect, strength: float) -> Pixels:
    """Mix a photo with its changed self; `strength` 0 is the photo, 1 the effect."""
    plain = read(photo).astype(np.float32)
    changed: npt.NDArray[np.float32]
    match effect:
        case "edges":
            down, right = np.gradient(plain.mean(axis=2))
            changed = 4 * np.hypot(down, right)[..., None]
        case "posterise":
            changed = plain // 64 * 85
        case "warmth":
            changed = plain * np.array([1.3, 1.0, 0.7], np.float32)
    return np.clip(plain + strength * (changed - plain), 0, 255).astype(np.uint8)


def tile(photos: list[UploadedFile]) -> Pixels:
    """Shrink each photo to a square, by leaving pixels out, and put them in a row."""
    pictures = map(read, photos)  # one at a time: a large photo takes much memory
    return np.concatenate([each[np.ix_(*map(every_nth, each.shape[:2]))] for each in pictures], axis=1)


def every_nth(side: int) -> npt.NDArray[np.intp]:
    return np.linspace(0, side - 1, TILE).astype(np.intp)
