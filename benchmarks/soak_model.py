"""The model that `benchmarks/soak.py` serves: everything it says carries its client's secret.

So a value that crosses from one session to another is seen by whoever gets it. Some of what it does is wrong
on purpose.
"""

from __future__ import annotations

import gc
import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import trio
from trio._core._run import GLOBAL_RUN_CONTEXT

from reactor_trio import (
    CommandError,
    Input,
    InputField,
    ModelMessage,
    Output,
    ReactorModel,
    UploadedFile,
    Video,
    connected,
    disconnected,
    event,
)
from reactor_trio.media.jpeg import decode_jpeg

SIDE = 16
"""Width and height of a frame, in pixels."""
CHUNK = "x" * 16_384
"""Text of one message of a flood."""
SLOW_SECONDS = 0.002
"""Seconds that a blocking call takes."""


def colour(secret: str) -> tuple[int, int, int]:
    """One of 216 colours, far enough from each other to survive JPEG."""
    number = int(hashlib.sha256(secret.encode()).hexdigest(), 16) % 216
    return number // 36 * 50, number // 6 % 6 * 50, number % 6 * 50


class State(ModelMessage):
    secret: str
    value: int


class FileTaken(ModelMessage):
    secret: str
    sha256: str
    size: int


class Tick(ModelMessage):
    secret: str
    count: int


class Flood(ModelMessage):
    secret: str
    text: str


class Counts(ModelMessage):
    """Of the whole process."""

    connected: int
    disconnected: int
    objects: int
    kinds: dict[str, int]
    """Of these, those of each type."""
    threads: list[str]


class Picture(Output):
    main_video: Video


class Camera(Input):
    webcam: Video


@dataclass
class Tree:
    """May hold either class, in either field: a payload has a class for each level of it."""

    left: Tree | Bush | None = None
    right: Tree | Bush | None = None


@dataclass
class Bush:
    left: Tree | Bush | None = None
    right: Tree | Bush | None = None
    leaves: int = 0


class Tally:
    """Shared by all sessions, as it is made in `load`."""

    def __init__(self) -> None:
        self.connected = 0
        self.disconnected = 0


class Soak(ReactorModel):
    input: Camera
    fps = 10

    def load(self, config: dict[str, Any]) -> None:
        self.tally = Tally()

    @connected
    async def on_connect(self) -> None:
        self.tally.connected += 1
        self.secret, self.value, self.broken_hook = "", 0, False
        self.claimed = trio.Event()
        self.order = "go on"

    @disconnected
    async def on_disconnect(self) -> None:
        self.tally.disconnected += 1
        await trio.lowlevel.checkpoint()
        if self.broken_hook:
            raise RuntimeError("soak: a hook that fails")

    async def run(self) -> None:
        await self.connected.wait()
        await self.claimed.wait()
        frame = np.full((SIDE, SIDE, 3), colour(self.secret), np.uint8)
        count = 0
        while self.order == "go on":
            await self.emit(Picture(main_video=frame))
            if count % 5 == 0:
                await self.send(Tick(secret=self.secret, count=count))
            count += 1
        if self.order == "fail":
            raise RuntimeError("soak: a model that fails")

    @event
    def claim(self, secret: str = InputField(min_length=1)) -> State:
        self.secret = secret
        self.claimed.set()
        return self._state()

    @event(dedupe=True)
    def steer(self, value: int) -> State:
        self.value = value
        return self._state()

    @event
    def get_state(self) -> State:
        return self._state()

    @event
    async def compute_state(self) -> State:
        await self.compute(time.sleep, SLOW_SECONDS)
        return self._state()

    @event(in_thread=True)
    def blocking_state(self) -> State:
        time.sleep(SLOW_SECONDS)
        return self._state()

    @event
    async def take_file(self, file: UploadedFile) -> FileTaken:
        digest = hashlib.sha256(file.data).hexdigest()
        await trio.lowlevel.checkpoint()
        return FileTaken(secret=self.secret, sha256=digest, size=file.size)

    @event
    async def take_photo(self, photo: UploadedFile) -> State:
        try:
            await self.compute(decode_jpeg, photo.data)
        except ValueError as error:
            raise CommandError("bad_photo", self.secret) from error
        return self._state()

    @event
    def plant(self, tree: Tree | Bush) -> State:
        return self._state()

    @event
    def refuse(self) -> None:
        raise CommandError("not_today", self.secret)

    @event
    def fail(self) -> None:
        raise RuntimeError("soak: a handler that fails")

    @event
    async def fail_compute(self) -> None:
        await self.compute(_fail)

    @event
    def fail_hook(self) -> None:
        self.broken_hook = True

    @event
    async def flood(self, messages: int = InputField(ge=1, le=10_000)) -> None:
        for _ in range(messages):
            await self.send(Flood(secret=self.secret, text=CHUNK))

    @event
    def end(self, how: str = InputField(choices=["fail", "finish"])) -> None:
        self.order = how
        self.claimed.set()

    @event
    def get_counts(self) -> Counts:
        # Trio keeps up to 1000 cancel scopes that are over, until their deadlines have passed.
        GLOBAL_RUN_CONTEXT.runner.deadlines._prune()
        gc.collect()
        objects = gc.get_objects()
        return Counts(
            connected=self.tally.connected,
            disconnected=self.tally.disconnected,
            objects=len(objects),
            kinds=dict(Counter(map(_kind, objects)).most_common(500)),
            threads=sorted(thread.name for thread in threading.enumerate()),
        )

    def _state(self) -> State:
        return State(secret=self.secret, value=self.value)


def _kind(each: object) -> str:
    return str(type(each))


def _fail() -> None:
    raise RuntimeError("soak: a computation that fails")
