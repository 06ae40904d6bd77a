"""A connection in memory for tests of a client: the test plays the server."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import trio

from reactor_trio.errors import TransportClosed
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import UploadChunk, decode_binary
from reactor_trio.protocol.server_messages import Error
from reactor_trio.protocol.text import Id, encode_server_text, read_client_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROMPT_SCHEMA = {
    "type": "object",
    "properties": {"prompt": {"type": "string", "minLength": 1}},
    "required": ["prompt"],
    "additionalProperties": False,
}
WELCOME: dict[str, Any] = {
    "protocol": 1,
    "session_id": "s1",
    "model": {"name": "painter", "description": "Paints."},
    "events": [
        {"name": "set_prompt", "description": "Change the prompt", "dedupe": True, "schema": PROMPT_SCHEMA},
        {"name": "reset", "description": "", "dedupe": False, "schema": {"type": "object", "properties": {}}},
    ],
    "messages": [{"name": "progress", "description": "", "schema": {"type": "object"}}],
    "tracks": [
        {"name": "main_video", "kind": "video", "direction": "out"},
        {"name": "main_audio", "kind": "audio", "direction": "out"},
        {"name": "webcam", "kind": "video", "direction": "in"},
    ],
    "limits": {
        "max_message_bytes": 4096,
        "max_upload_bytes": 1_000_000,
        "upload_chunk_bytes": 1000,
        "max_queued_events": 64,
    },
}


@attrs.frozen
class Heard:
    """A text message of the client, with its fields on the wire."""

    type: str
    data: dict[str, Any]
    id: Id | None = None


class FakeTransport:
    """Implements `Transport` for the client; the test plays the server with the other methods."""

    def __init__(self, *, greet: bool = True) -> None:
        self.heard: deque[Heard | UploadChunk] = deque()
        self.closed_with: tuple[int, str] | None = None
        self.aborted = False
        self.pings = 0
        self.pongs = True
        # Seconds for which `ping` goes on after the ping has been answered.
        self.ping_returns_after = 0.0
        # While this event is not set, no message of the client is accepted.
        self.accepting = trio.Event()
        self.accepting.set()
        # False: the closing handshake is never answered.
        self.closes_politely = True
        self.answer: Callable[[Heard | UploadChunk], None] | None = None
        self._last_received = trio.current_time()
        self._to_client: deque[str | bytes] = deque()
        self._end: TransportClosed | None = None
        self._wake = trio.Event()
        self._news = trio.Event()
        if greet:
            self.say(names.WELCOME, WELCOME)

    # ---- the server's side

    def say(self, type_: str, data: dict[str, Any] | None = None, reply_to: str | int | None = None) -> None:
        self.deliver(encode_server_text(type_, data or {}, reply_to))

    def refuse(self, code: str, message: str, **fields: Any) -> None:
        self.deliver(Error(code, message, **fields).encode())

    def deliver(self, message: str | bytes) -> None:
        self._to_client.append(message)
        self._last_received = trio.current_time()
        self._wake.set()

    def hang_up(self, code: int = 1006, reason: str = "connection lost") -> None:
        if self._end is None:
            self._end = TransportClosed(code, reason)
        self._wake.set()

    async def hear(self) -> Heard:
        """The next text message of the client."""
        message = await self.hear_any()
        assert isinstance(message, Heard)
        return message

    async def hear_any(self) -> Heard | UploadChunk:
        while not self.heard:
            self._news = trio.Event()
            await self._news.wait()
        return self.heard.popleft()

    # ---- Transport

    @property
    def last_received(self) -> float:
        return self._last_received

    async def receive(self) -> Sequence[str | bytes]:
        await trio.lowlevel.checkpoint()
        while not self._to_client:
            if self._end is not None:
                raise self._end
            self._wake = trio.Event()
            await self._wake.wait()
        messages = list(self._to_client)
        self._to_client.clear()
        return messages

    async def send(self, messages: Sequence[str | bytes]) -> None:
        await self.accepting.wait()
        if self._end is not None:
            raise self._end
        for message in messages:
            self._hear(message)

    def _hear(self, message: str | bytes) -> None:
        heard = decode_binary(message) if isinstance(message, bytes) else Heard(*read_client_text(message))
        assert isinstance(heard, (Heard, UploadChunk))
        if self.answer is not None:
            self.answer(heard)
        self.heard.append(heard)
        self._news.set()

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()
        self.pings += 1
        if self.pongs:
            self._last_received = trio.current_time()
        if self.ping_returns_after:
            await trio.sleep(self.ping_returns_after)

    async def aclose(self, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        if self._end is not None:
            return
        self.closed_with = code, reason
        if not self.closes_politely:
            await trio.sleep_forever()
        self.hang_up(code, reason)

    async def abort(self) -> None:
        await trio.lowlevel.checkpoint()
        self.aborted = True
        self.hang_up(1006, "closed by force")
