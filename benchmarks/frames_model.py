"""The model that `benchmarks/frames.py` serves: 30 prepared frames a second, and no other work.

`load` takes `width` and `height` (pixels). The frames are read-only, so `emit` takes them as they are; with
`copied` they could be written to, and `emit` copies each, as it does for a model that paints its frames anew.
"""

from __future__ import annotations

import itertools
from typing import Any

from frames_pictures import moving_pictures

from reactor_trio import Output, ReactorModel, Video


class Picture(Output):
    """The track that viewers see."""

    main_video: Video


class Moving(ReactorModel):
    """As fast as `emit` lets it: the pacer makes 30 frames a second of that."""

    fps = 30

    def load(self, config: dict[str, Any]) -> None:
        self.pictures = moving_pictures(config["width"], config["height"])
        for picture in self.pictures:
            picture.setflags(write=config.get("copied", False))

    async def run(self) -> None:
        await self.connected.wait()
        for picture in itertools.cycle(self.pictures):
            await self.emit(Picture(main_video=picture))
