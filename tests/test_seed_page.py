"""The page that this project was created from, sentence by sentence.

1.  "@event becomes a command the client can send."
        -> test_an_event_becomes_a_command
2.  "Use @event to define actions the client can trigger. The method's signature becomes the event schema."
        -> test_the_signature_becomes_the_schema
3.  '{"type": "get_current_prompt", "data": {}} and the runtime calls your method. This works, but printing
    to stdout isn't useful for the client.'
        -> test_the_runtime_calls_the_method_for_the_message_of_the_page
4.  "Events can also take parameters:"
        -> test_events_take_parameters
5.  "Pass dedupe=True to collapse duplicate events that queue up while the model is busy. Only the latest
    payload is processed; earlier ones are discarded."
        -> test_dedupe_processes_only_the_latest_payload
6.  "@connected runs once when a client connects, before run() resumes from await self.connected.wait()."
        -> test_connected_runs_once_before_run_resumes
7.  "async def or plain def." (of @connected and of @disconnected)
        -> test_hooks_may_be_async_or_plain
8.  "Only one @connected handler is allowed per model class." (and @disconnected, and @file_uploaded)
        -> test_only_one_hook_of_each_kind_is_allowed
9.  "@disconnected runs once when a client disconnects."
        -> test_disconnected_runs_once_when_a_client_disconnects
10. "Define a ModelMessage subclass: {"type": "current_prompt", "data": {"prompt": "..."}}. The type on the
    wire is the snake_case version of the class name."
        -> test_a_message_travels_under_its_snake_case_name
11. "Now replace the print with self.send():" and, from run()
        -> test_handlers_and_run_send_messages
12. "When your model needs binary files from the client (reference images, style assets, etc.), type an
    @event parameter as UploadedFile. The runtime handles the upload and delivers the file bytes to your
    handler automatically."
        -> test_an_upload_is_delivered_to_the_handler
13. "UploadedFile has four fields: name, mime_type, size, and data (the raw bytes)."
        -> test_an_upload_is_delivered_to_the_handler
14. "You can use them to filter by type, decode images, or pass the content to your pipeline"
        -> test_a_handler_filters_uploads_by_type
15. "@file_uploaded decorator instead. It fires once per upload regardless of which command triggered it:
    uploaded_file."
        -> test_file_uploaded_fires_once_per_upload
16. "Putting it together: a model that combines everything from this page: explicit events, lifecycle hooks,
    and outbound messages. Send set_prompt to change the prompt. Send get_current_prompt and receive a
    current_prompt message back. Receive progress messages each frame."
        -> test_putting_it_together
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import trio

from reactor_trio import (
    CommandError,
    InputField,
    ModelMessage,
    Output,
    ReactorModel,
    UploadedFile,
    Video,
    connected,
    disconnected,
    event,
    file_uploaded,
)
from reactor_trio.testing import open_session


@dataclass
class CurrentPrompt(ModelMessage):
    prompt: str


@dataclass
class Progress(ModelMessage):
    step: int


@dataclass
class Picture(Output):
    main_video: Video


class Pipe:
    """Stands for the pipeline with its weights."""

    def forward(self, prompt: str, step: int) -> np.ndarray[Any, Any]:
        return np.full((16, 16, 3), (step * 3) % 256, np.uint8)


class MyModel(ReactorModel):
    """The page's "Putting it together", in the words of its sections."""

    def load(self, config: dict[str, Any]) -> None:
        self.pipe = Pipe()

    @connected
    async def on_connect(self) -> None:
        self.prompt = "a sunny meadow"
        self._step = 0
        self.log: list[str] = []

    @disconnected
    async def on_disconnect(self) -> None:
        self.output_buffer.flush()
        self.log.append("disconnected")

    @event(name="set_prompt", description="Change the scene prompt")
    def set_prompt(self, prompt: str = InputField(min_length=1, max_length=500)) -> None:
        self.prompt = prompt

    @event(name="get_current_prompt", description="Return the current prompt")
    async def get_current_prompt(self) -> None:
        await self.send(CurrentPrompt(prompt=self.prompt))

    @event(name="set_reference_image", description="Upload a reference image", dedupe=True)
    async def set_reference_image(self, image: UploadedFile) -> None:
        if not image.mime_type.startswith("image/"):
            raise CommandError("not_an_image", f"{image.name} is {image.mime_type}")
        self.reference = image

    @file_uploaded
    async def on_upload(self, uploaded_file: UploadedFile) -> None:
        self.log.append(f"uploaded {uploaded_file.name}")

    async def run(self) -> None:
        while True:
            await self.connected.wait()
            while self.connected.is_set():
                frame = self.pipe.forward(prompt=self.prompt, step=self._step)
                await self.emit(Picture(main_video=frame))
                await self.send(Progress(step=self._step))
                self._step += 1


async def test_an_event_becomes_a_command() -> None:
    async with open_session(MyModel) as client:
        assert set(client.welcome.events) == {"set_prompt", "get_current_prompt", "set_reference_image"}
        assert client.welcome.events["set_prompt"].description == "Change the scene prompt"
        await client.call("set_prompt", prompt="a dark forest")
        assert client.session.model.prompt == "a dark forest"


async def test_the_signature_becomes_the_schema() -> None:
    async with open_session(MyModel) as client:
        schema = client.welcome.events["set_prompt"].schema
        assert schema["properties"]["prompt"]["type"] == "string"
        assert schema["properties"]["prompt"]["maxLength"] == 500
        assert schema["required"] == ["prompt"]
        assert client.welcome.events["get_current_prompt"].schema["properties"] == {}


async def test_the_runtime_calls_the_method_for_the_message_of_the_page() -> None:
    called = []

    class Printing(ReactorModel):
        @event(name="get_current_prompt", description="Log the current prompt")
        async def get_current_prompt(self) -> None:
            called.append("Current prompt: a sunny meadow")

    async with open_session(Printing) as client:
        await client.transport.send(['{"type": "get_current_prompt", "data": {}}'])
        await trio.sleep(1)
        assert called == ["Current prompt: a sunny meadow"]
        assert client.transcript[-1].direction == ">", "without an id there is no answer"


async def test_events_take_parameters() -> None:
    async with open_session(MyModel) as client:
        await client.call("set_prompt", {"prompt": "rain"})
        with pytest.raises(CommandError, match="invalid_payload") as refused:
            await client.call("set_prompt", {"prompt": ""})
        assert [error.path for error in refused.value.errors] == ["prompt"]
        assert client.session.model.prompt == "rain"


async def test_dedupe_processes_only_the_latest_payload() -> None:
    processed = []

    class Encoder(ReactorModel):
        @event(name="set_reference_image", description="Upload a reference image", dedupe=True)
        async def set_reference_image(self, image: str = "") -> None:
            await trio.sleep(1)  # a forward pass
            processed.append(image)

    async with open_session(Encoder) as client:
        for name in ["first", "a", "b", "latest"]:
            await client.send("set_reference_image", image=name)
            await trio.sleep(0.1)
        await trio.sleep(5)
    assert processed == ["first", "latest"], "`first` was being processed; the rest queued up behind it"


async def test_connected_runs_once_before_run_resumes() -> None:
    order = []

    class Ordered(ReactorModel):
        @connected
        async def on_connect(self) -> None:
            await trio.sleep(5)
            order.append("@connected")

        async def run(self) -> None:
            order.append("run begins")
            await self.connected.wait()
            order.append("run resumes")
            await trio.sleep_forever()

    async with open_session(Ordered):
        await trio.sleep(60)
    assert order == ["run begins", "@connected", "run resumes"]


async def test_hooks_may_be_async_or_plain() -> None:
    order = []

    class Plain(ReactorModel):
        @connected
        def on_connect(self) -> None:
            order.append("plain connected")

        @disconnected
        def on_disconnect(self) -> None:
            order.append("plain disconnected")

    class Async(ReactorModel):
        @connected
        async def on_connect(self) -> None:
            await trio.sleep(0.1)
            order.append("async connected")

        @disconnected
        async def on_disconnect(self) -> None:
            await trio.sleep(0.1)
            order.append("async disconnected")

    for model in (Plain, Async):
        async with open_session(model):
            await trio.sleep(1)
    assert order == ["plain connected", "plain disconnected", "async connected", "async disconnected"]


@pytest.mark.parametrize("hook", [connected, disconnected, file_uploaded])
def test_only_one_hook_of_each_kind_is_allowed(hook: Any) -> None:
    with pytest.raises(TypeError, match=rf"Twice.*{hook.__name__}") as refused:

        class Twice(ReactorModel):
            @hook
            def first(self, **_: Any) -> None: ...

            @hook
            def second(self, **_: Any) -> None: ...

    assert "first" in str(refused.value)
    assert "second" in str(refused.value)


async def test_disconnected_runs_once_when_a_client_disconnects() -> None:
    async with open_session(MyModel) as client:
        await trio.sleep(1)
        model = client.session.model
        assert model.log == []
    assert model.log == ["disconnected"]


async def test_a_message_travels_under_its_snake_case_name() -> None:
    async with open_session(MyModel) as client:
        await client.send("get_current_prompt")
        message = await client.receive("current_prompt")
        assert message.data == {"prompt": "a sunny meadow"}
        wire = [entry.message for entry in client.transcript if "current_prompt" in str(entry.message)]
        assert wire[-1] == '{"type":"current_prompt","data":{"prompt":"a sunny meadow"}}'


async def test_handlers_and_run_send_messages() -> None:
    async with open_session(MyModel) as client:
        await client.call("get_current_prompt")
        assert (await client.receive("current_prompt")).data == {"prompt": "a sunny meadow"}
        assert (await client.receive("progress")).data == {"step": 0}


async def test_an_upload_is_delivered_to_the_handler() -> None:
    photo = bytes(range(256)) * 4096
    async with open_session(MyModel) as client:
        handle = await client.upload(photo, name="photo.jpg", mime_type="image/jpeg")
        await client.call("set_reference_image", image=handle)
        received = client.session.model.reference
        assert received == UploadedFile(name="photo.jpg", mime_type="image/jpeg", size=1048576, data=photo)


async def test_a_handler_filters_uploads_by_type() -> None:
    async with open_session(MyModel) as client:
        notes = await client.upload(b"hello", name="notes.txt")
        with pytest.raises(CommandError, match=r"not_an_image: notes\.txt is text/plain"):
            await client.call("set_reference_image", image=notes)


async def test_file_uploaded_fires_once_per_upload() -> None:
    async with open_session(MyModel) as client:
        one = await client.upload(b"1", name="one.png")
        await client.upload(b"2", name="two.png")
        await client.call("set_reference_image", image=one)
        await client.call("set_reference_image", image=one)
        assert client.session.model.log == ["uploaded one.png", "uploaded two.png"]


async def test_putting_it_together() -> None:
    async with open_session(MyModel) as client:
        await client.call("set_prompt", prompt="a dark forest")
        await client.send("get_current_prompt")
        assert (await client.receive("current_prompt")).data == {"prompt": "a dark forest"}
        began = trio.current_time()
        steps = [(await client.receive("progress")).data["step"] for _ in range(60)]
        assert steps == list(range(60))
        assert 1.5 < trio.current_time() - began < 2.5, "each frame, at 30 frames a second"
        frame = await client.frame()
        assert frame.array().shape == (16, 16, 3)
