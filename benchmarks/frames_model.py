"""The model that `benchmarks/frames.py` serves: 30 prepared frames a second, and no other work.

`load` takes `width` and `height` (pixels). `emit` copies the frame, as it does for most models; with
`read_only` it need not, since nobody can write to it.
"""

from __future__ import annotations

import itertools
from typing import Any

from frames_pictures import moving_pictures

from reactor_trio import Output, ReactorModel, Video


class Picture(Output):
    """What a viewer sees."""

    main_video: Video


class Moving(ReactorModel):
    """As fast as `emit` lets it: the pacer makes 30 frames a second of that."""

    fps = 30

    def load(self, config: dict[str, Any]) -> None:
        self.pictures = moving_pictures(config["width"], config["height"])
        for picture in self.pictures:
            picture.setflags(write=not config.get("read_only", False))

    async def run(self) -> None:
        await self.connected.wait()
        for picture in itertools.cycle(self.pictures):
            await self.emit(Picture(main_video=picture))
