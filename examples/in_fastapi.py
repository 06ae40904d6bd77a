"""A model in a FastAPI application, beside pages and routes of your own, on one port.

    uvicorn --app-dir examples in_fastapi:app

Its page is at http://127.0.0.1:8000/lamp/, and a route that is not the model's at http://127.0.0.1:8000/about.
"""

from __future__ import annotations

import numpy as np
from fastapi import FastAPI

import reactor_trio
from reactor_trio import InputField, Output, ReactorModel, Video, connected, event


class Picture(Output):
    lamp: Video


class Lamp(ReactorModel):
    """Glows in the colour that its client chooses."""

    @connected
    def on_connect(self) -> None:
        self.colour = [255, 160, 60]

    @event(description="Choose the colour", dedupe=True)
    def set_colour(self, colour: list[int] = InputField(min_length=3, max_length=3)) -> None:
        self.colour = colour

    async def run(self) -> None:
        await self.connected.wait()
        while True:
            picture = np.full((120, 160, 3), np.clip(self.colour, 0, 255), np.uint8)
            await self.emit(Picture(lamp=picture))


lamp = reactor_trio.asgi(Lamp)
app = FastAPI(lifespan=lamp.lifespan)
app.mount("/lamp", lamp)


@app.get("/about")
def about() -> dict[str, str]:
    return {"model": "/lamp/"}
