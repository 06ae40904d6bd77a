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
from reactor_trio.protocol import control, names
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, decode_binary, encode_media
from reactor_trio.protocol.text import ClientText, decode_client_text, encode_server_text

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
        await socket.send_message(control.welcome(GREETING))
        starts: dict[str, ClientText] = {}
        while True:
            message = await socket.get_message()
            if isinstance(message, str):
                text = decode_client_text(message)
                if text.type == names.UPLOAD_START:
                    starts[text.data["upload_id"]] = text
                    self.files[text.data["upload_id"]] = bytearray()
                else:
                    await self._command(socket, text)
                    continue
                upload_id = text.data["upload_id"]
            else:
                chunk = decode_binary(message)
                assert isinstance(chunk, UploadChunk)
                upload_id = chunk.upload_id
                self.files[upload_id] += chunk.payload
            start = starts[upload_id]
            if len(self.files[upload_id]) == start.data["size"]:
                await socket.send_message(control.upload_complete(**start.data, reply_to=start.id))

    async def _command(self, socket: trio_websocket.WebSocketConnection, text: ClientText) -> None:
        if text.type == "echo":
            await socket.send_message(encode_server_text("echoed", text.data, text.id))
        elif text.type == "refuse":
            await socket.send_message(
                control.error(
                    names.INVALID_PAYLOAD, "wrong", errors=[FieldError("a[1].b", "missing")], reply_to=text.id
                )
            )
        elif text.type == "play":
            for seq in range(3):
                await socket.send_message(encode_server_text("progress", {"step": seq}))
                extra = {"applied": [text.id]} if seq == 0 and text.id is not None else {}
                frame = MediaFrame(
                    "main_video", seq, seq / 30, "raw", bytes(12), width=2, height=2, extra=extra
                )
                await socket.send_message(encode_media(frame))
            await socket.send_message(control.ack(text.id or 0))
        elif text.type == "leave":
            await socket.send_message(control.goodbye("finished"))
            await socket.aclose(1000, "finished")
        elif text.type == names.PING:
            await socket.send_message(control.pong(text.data["t"], 0.0, text.id))
        elif text.type == "hang":
            self.hanging.set()
        else:
            await socket.send_message(control.ack(text.id or 0))


@contextmanager
def server_in_a_thread() -> Generator[TinyServer]:
    """The server beside blocking code."""
    server = TinyServer()
    with anyio.from_thread.start_blocking_portal("trio") as portal:
        task, _ = portal.start_task(server.serve)
        try:
            yield server
        finally:
            task.cancel()
