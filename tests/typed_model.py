"""A model as type checkers see it. mypy and pyright read this file; nothing runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

from reactor_trio import (
    Audio,
    ClientInfo,
    Input,
    InputField,
    InputFrame,
    InputState,
    InputTrack,
    MessageField,
    ModelMessage,
    Output,
    ReactorModel,
    ReactorPipeline,
    ReadMode,
    Video,
    event,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Picture(Output):
    screen: Video
    sound: Audio | None = None


class Camera(Input):
    webcam: Video
    microphone: Audio = Audio(sample_rate=24_000)


class Said(ModelMessage):
    text: str
    loud: bool = MessageField(default=False)


class Knobs(InputState):
    level: int = InputField(default=3, ge=0)


class Watcher(ReactorModel):
    input: Camera

    @event
    async def say(self, text: str, client: ClientInfo) -> Said:
        return Said(text=text)

    async def run(self) -> None:
        assert_type(self.input.webcam, InputTrack)
        assert_type(self.input.microphone.try_read(2, ReadMode.FIFO), list[InputFrame] | None)
        assert_type(await self.input.webcam.read(), list[InputFrame])
        assert_type(self.client, ClientInfo)
        assert_type(self.connected.is_set(), bool)
        assert_type(self.output.period, float)
        assert_type(self.output.statistics().waiting, int)
        self.output.fps = 24
        self.output.flush()
        assert_type(await self.compute(divmod, 7, 2), tuple[int, int])
        assert_type(await self.emit(Picture(screen=None, metadata={"step": 1}), drop=True), bool)
        await self.send(Said(text="hello", loud=True))
        _ = Said()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        _ = self.output.nothing  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        _ = self.input.nothing  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


class Painter(ReactorPipeline):
    state: Knobs

    def inference(self) -> Iterator[Any]:
        assert_type(self.state.level, int)
        yield Picture(screen=None)
