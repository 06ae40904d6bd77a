"""The same job as `command_model.py`, written by hand on FastAPI, pydantic and uvicorn.

As a good engineer would write it: a discriminated union of commands, parsed from the text in one step;
typed replies; errors answered; uvloop and httptools; no access log. Run by `benchmarks/commands.py`;
alone, `python benchmarks/command_fastapi.py [--ws IMPLEMENTATION]` prints its URL and serves `/ws`.
"""

import argparse
import socket
from typing import Annotated, Literal

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Prompt(Strict):
    prompt: Annotated[str, Field(min_length=1, max_length=500)]
    strength: Annotated[float, Field(ge=0.0, le=1.0)]


class Nothing(Strict):
    pass


class SetPrompt(Strict):
    type: Literal["set_prompt"]
    data: Prompt
    id: int | str | None = None


class Reset(Strict):
    type: Literal["reset"]
    data: Nothing = Nothing()
    id: int | str | None = None


class PromptSet(BaseModel):
    type: Literal["prompt_set"] = "prompt_set"
    data: Prompt
    reply_to: int | str | None = None


class Ack(BaseModel):
    type: Literal["ack"] = "ack"
    reply_to: int | str | None = None


class Failure(BaseModel):
    type: Literal["error"] = "error"
    errors: list[str]


COMMANDS: TypeAdapter[SetPrompt | Reset] = TypeAdapter(
    Annotated[SetPrompt | Reset, Field(discriminator="type")]
)


class Session:
    """The state of one connection, and the handlers of its commands."""

    def __init__(self) -> None:
        self.prompt, self.strength = "", 0.0

    def handle(self, command: SetPrompt | Reset) -> BaseModel:
        match command:
            case SetPrompt(data=data):
                self.prompt, self.strength = data.prompt, data.strength
                return PromptSet(data=data, reply_to=command.id)
            case Reset():
                self.prompt, self.strength = "", 0.0
                return Ack(reply_to=command.id)


app = FastAPI()


@app.websocket("/ws")
async def commands(websocket: WebSocket) -> None:
    await websocket.accept()
    session = Session()
    try:
        while True:
            text = await websocket.receive_text()
            try:
                command = COMMANDS.validate_json(text)
            except ValidationError as error:
                reply: BaseModel = Failure(errors=[fault["msg"] for fault in error.errors()])
            else:
                reply = session.handle(command)
            await websocket.send_text(reply.model_dump_json())
    except WebSocketDisconnect:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ws", default="auto", help="uvicorn's WebSocket implementation")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    host, port = listener.getsockname()
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws=options.ws, log_level="warning", access_log=False
    )
    # The socket listens already, so a client may come from this line on.
    print(f"http://{host}:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
