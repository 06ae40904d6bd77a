"""A small reactor server on loopback, made of trio-websocket alone: what the client's tests connect to."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio.from_thread
import trio
import trio_websocket

from fake_transport import WELCOME
from reactor_trio.errors import FieldError
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, encode_media
from reactor_trio.protocol.client_messages import (
    ConfigureTrack,
    FrameShown,
    Invoke,
    Ping,
    RequestKeyFrame,
    UploadAbort,
    UploadStart,
    decode,
)
from reactor_trio.protocol.server_messages import Ack, Error, Goodbye, Pong, UploadComplete, Welcome
from reactor_trio.protocol.text import encode_server_text

if TYPE_CHECKING:
    from collections.abc import Generator

TOKEN = "s3cret"
EVENTS = {
    "set_prompt": {"prompt": {"type": "string"}, "steps": {"type": "integer"}},
    "echo": {"camera": {"type": "object", "properties": {"name": {"type": "string"}}}},
    "refuse": {},
    "hang": {},
    "play": {},
    "leave": {},
}
GREETING = WELCOME | {
    "events": [
        {"name": name, "description": "", "dedupe": False, "schema": {"type": "object", "properties": fields}}
        for name, fields in EVENTS.items()
    ],
    "limits": WELCOME["limits"] | {"max_message_bytes": 1024 * 1024, "upload_chunk_bytes": 64 * 1024},
}


class TinyServer:
    """Answers `set_prompt` with an ack, `echo` with its data, `refuse` with an error; see `_command`."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[trio_websocket.WebSocketRequest] = []
        self.closes: list[trio_websocket.CloseReason | None] = []
        # Set when a `hang` has arrived: its caller waits from then on.
        self.hanging = threading.Event()
        self.files: dict[str, bytearray] = {}

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                trio_websocket.serve_websocket, self._connection, "127.0.0.1", 0, None
            )
            self.url = f"ws://127.0.0.1:{server.port}"
            task_status.started(self.url)

    async def _connection(self, request: trio_websocket.WebSocketRequest) -> None:
        self.requests.append(request)
        refusals = {"/private": 401, "/full": 503, "/teapot": 418}
        headers = dict(request.headers)
        if request.path in refusals and headers.get(b"authorization") != f"Bearer {TOKEN}".encode():
            retry = [(b"Retry-After", b"7")] if request.path == "/full" else []
            await request.reject(refusals[request.path], extra_headers=retry, body=b"no, sorry")
            return
        socket = await request.accept(subprotocol=names.SUBPROTOCOL)
        if request.path == "/mute":
            await trio.sleep_forever()
        try:
            await self._session(socket)
        except trio_websocket.ConnectionClosed:
            self.closes.append(socket.closed)

    async def _session(self, socket: trio_websocket.WebSocketConnection) -> None:
        await socket.send_message(Welcome(GREETING).encode())
        starts: dict[str, UploadStart] = {}
        while True:
            match decode(await socket.get_message()):
                case Invoke() as command:
                    await self._command(socket, command)
                case Ping(t, id_):
                    await socket.send_message(Pong(t, 0.0, id_).encode())
                case UploadStart(upload_id) as start:
                    starts[upload_id] = start
                    self.files[upload_id] = bytearray()
                    await self._complete(socket, start)
                case UploadChunk(upload_id, _, payload):
                    self.files[upload_id] += payload
                    await self._complete(socket, starts[upload_id])
                case UploadAbort() | ConfigureTrack() | RequestKeyFrame() | FrameShown() as asked:
                    await socket.send_message(Ack(asked.id or 0).encode())

    async def _complete(self, socket: trio_websocket.WebSocketConnection, start: UploadStart) -> None:
        if len(self.files[start.upload_id]) == start.size:
            done = UploadComplete(start.upload_id, start.name, start.mime_type, start.size, start.id)
            await socket.send_message(done.encode())

    async def _command(self, socket: trio_websocket.WebSocketConnection, command: Invoke) -> None:
        if command.event == "echo":
            await socket.send_message(encode_server_text("echoed", command.data, command.id))
        elif command.event == "refuse":
            faults = (FieldError("a[1].b", "missing"),)
            refusal = Error(names.INVALID_PAYLOAD, "wrong", errors=faults, reply_to=command.id)
            await socket.send_message(refusal.encode())
        elif command.event == "play":
            for seq in range(3):
                await socket.send_message(encode_server_text("progress", {"step": seq}))
                extra = {"applied": [command.id]} if seq == 0 and command.id is not None else {}
                frame = MediaFrame(
                    "main_video", seq, seq / 30, "raw", bytes(12), width=2, height=2, extra=extra
                )
                await socket.send_message(encode_media(frame))
            await socket.send_message(Ack(command.id or 0).encode())
        elif command.event == "leave":
            await socket.send_message(Goodbye("finished").encode())
            await socket.aclose(1000, "finished")
        elif command.event == "hang":
            self.hanging.set()
        else:
            await socket.send_message(Ack(command.id or 0).encode())


@contextmanager
def server_in_a_thread() -> Generator[TinyServer]:
    """A `TinyServer` that runs in another thread, for tests of blocking code."""
    server = TinyServer()
    with anyio.from_thread.start_blocking_portal("trio") as portal:
        task, _ = portal.start_task(server.serve)
        try:
            yield server
        finally:
            task.cancel()
