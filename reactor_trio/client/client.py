"""The client of a session, over any transport: the same nursery as a session has, seen from the other side.

    | task  | waits for                                       | owns                         |
    |-------|-------------------------------------------------|------------------------------|
    | read  | the transport, always; never for a reader of it | the answers and both inboxes |
    | write | the outbox                                      | the transport's writing side |
    | watch | silence of the server                           | -                            |

Callers only put into the outbox and take from the inboxes, so a caller that is cancelled never cuts a
message in half.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import attrs
import trio

from reactor_trio.client.answers import Answer, Answers
from reactor_trio.client.errors import HandshakeFailed, again
from reactor_trio.client.inbox import Inbox, Incoming
from reactor_trio.client.messages import Frame, ServerMessage, UploadHandle, Welcome, read_answer
from reactor_trio.client.nursery import open_plain_nursery
from reactor_trio.client.outbox import Outbox
from reactor_trio.client.payloads import payload
from reactor_trio.client.uploads import Source, Upload, open_upload
from reactor_trio.compute.executor import Executor, ThreadExecutor
from reactor_trio.errors import ProtocolError, TransportClosed, TransportStalled
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, decode_binary, encode_upload_chunk
from reactor_trio.protocol.text import ServerText, decode_server_text, encode_client_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from reactor_trio.session.transport import Transport

log = logging.getLogger(__name__)

WELCOME_TIMEOUT = 10.0
"""Seconds for the welcome: it is sent before the model is asked anything, so only a network can delay it."""
CLOSE_TIMEOUT = 3.0
"""Seconds for writing what waits and for the closing handshake, the same as a server's `close_timeout`."""
HEARTBEAT = 20.0
"""Seconds of silence after which the server is pinged, and then is lost: the same as a server's own."""
CHUNK_HEADER_BYTES = 256
"""More than the header of an upload's chunk ever takes."""


class Client:
    """A session with a model. Made by `open_client`, or by `Client.over` on a transport.

    Any number of tasks may use it at once. All queues are bounded: see `dropped_messages`,
    `dropped_frames`. Methods raise `TransportClosed` once the connection has ended.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        executor: Executor | None = None,
        max_messages: int = 1024,
        max_frames: int = 64,
        random_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        on_queued: Callable[[int], object] | None = None,
    ) -> None:
        self.closed: TransportClosed | None = None
        """How the connection ended; None while it is open."""
        self.goodbye: str | None = None
        """Why the server closes of its own will (`finished`, `shutting_down`, ...), once it has said so."""
        self._transport = transport
        self._executor = executor or ThreadExecutor()
        self._max_frames = max_frames
        self._random_id = random_id
        self._outbox = Outbox()
        self._answers = Answers()
        self._messages: Inbox[ServerMessage] = Inbox(max_messages)
        self._frames: dict[str, Inbox[Frame]] = {}
        self._welcome: Welcome | HandshakeFailed | None = None
        self._on_queued = on_queued
        # Place in the server's line, 1 is next; None before it has named one.
        self._position: int | None = None
        # Uploads that were given up: the server may still complain of one, which is nobody's news.
        self._given_up: deque[str] = deque(maxlen=64)
        # What is said in the closing handshake.
        self._last_words = (1000, "")
        # What this side knows of the end better than the transport does.
        self._cause: TransportClosed | None = None
        # Shielded, so that a cancelled caller can still close politely; `over` cancels it when it is left.
        self._service = trio.CancelScope(shield=True)
        # Set by the read task with a place in the line, the welcome or the end; `over` waits for it.
        self._greeted = trio.Event()
        # Set by the read task when nothing more comes, by the write task when it has closed; `aclose` waits.
        self._read_ended = trio.Event()
        self._write_ended = trio.Event()

    @classmethod
    @asynccontextmanager
    async def over(cls, transport: Transport, **options: Any) -> AsyncGenerator[Client]:
        """A client on this transport, once the server's welcome is there; at the end the transport is closed.

        `executor` runs what blocks (reading files), `max_messages` bounds the queue of unsolicited
        messages, `max_frames` that of each track. While all sessions of the server are taken, this waits in
        its line: `on_queued(position)` is called at each change, 1 is next. The time that the welcome may
        take does not run meanwhile; `trio.fail_after` bounds the waiting.

        Raises `HandshakeFailed` for a server without a readable welcome, `TransportClosed` if it closes
        instead, and what `on_queued` raises. Leaving takes at most 3 s, also if cancelled, since the close is
        polite first.
        """
        client = cls(transport, **options)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(client._run, name="client")
            try:
                await client._greet()
                yield client
            finally:
                # `aclose` bounds itself; the second more is for closing by force.
                with trio.move_on_after(CLOSE_TIMEOUT + 1, shield=True):
                    await client.aclose()
                client._service.cancel(reason="the client was left")

    # ---- commands

    @property
    def welcome(self) -> Welcome:
        """What the server said of itself: its model, events, messages, tracks and limits."""
        assert isinstance(self._welcome, Welcome)  # since `over` waited for it
        return self._welcome

    async def send(self, event: str, data: object = None, /, **fields: Any) -> None:
        """Send a command and ask for no answer; an error arrives as a message of type `reactor.error`.

        The payload is `data` (a mapping, an attrs or dataclass instance) and the keyword fields; an
        `UploadHandle` may stand anywhere in it. Waits while 64 messages are waiting to be written.
        Raises `TypeError` or `ValueError` for what JSON cannot carry. If cancelled, nothing is sent.
        """
        await self._post(event, payload(data, fields))

    async def call(self, event: str, data: object = None, /, **fields: Any) -> ServerMessage | None:
        """Send a command and wait for its answer: the reply, or None if the handler returned nothing.

        Raises `CommandError` (also for an unknown event and an invalid payload, with `errors`),
        `Superseded` if a later command replaced this one, and what `send` raises. If cancelled, the
        command may still be carried out; its late answer is dropped.
        """
        with self._answers.expect() as answer:
            await self._post(event, payload(data, fields), answer.id)
            return read_answer(event, await answer.wait())

    async def ping(self) -> float:
        """Seconds from here through the server's session and back."""
        asked = trio.current_time()
        with self._answers.expect() as answer:
            await self._post(names.PING, {"t": asked}, answer.id)
            read_answer(names.PING, await answer.wait())
        return trio.current_time() - asked

    async def _post(self, type_: str, data: Mapping[str, Any], id_: int | None = None) -> None:
        text = encode_client_text(type_, data, id_)
        limit = self.welcome.limits.max_message_bytes
        # The server would close the whole connection for it (1009). A character has at most 4 bytes.
        if len(text) * 4 > limit and (size := len(text.encode())) > limit:
            raise ValueError(
                f"{type_}: {size} bytes of JSON, but the server takes at most {limit}; upload them"
            )
        await self._outbox.put(text)

    # ---- what arrives

    async def receive(self, type: str | None = None) -> ServerMessage:  # noqa: A002  the wire's word
        """The next message that is no answer, of this type if one is given; others stay queued in order.

        Raises `TransportClosed` at the end, after what had arrived. If cancelled, no message is lost.
        """
        if type is None:
            return await self._messages.take()
        return await self._messages.take(lambda message: message.type == type)

    def messages(self) -> Incoming[ServerMessage]:
        """`async for message in client.messages()`: every message that is no answer, until the end."""
        return Incoming(self.receive)

    async def frame(self, track: str | None = None) -> Frame:
        """The oldest frame of the track that waits, or the next one. A frame goes to one reader.

        Without `track`, of the only video track. Raises `ValueError` naming the choices, `TransportClosed`
        at the end. If cancelled, no frame is lost.
        """
        return await self._track(track).take()

    def frames(self, track: str | None = None) -> Incoming[Frame]:
        """`async for frame in client.frames()`: the frames of a track, until the end; see `frame`."""
        return Incoming(self._track(track).take)

    @property
    def dropped_messages(self) -> int:
        """Messages that nobody read in time: the oldest of a full queue makes room for the newest."""
        return self._messages.dropped

    @property
    def dropped_frames(self) -> int:
        """Frames that arrived and that nobody read in time; those lost on the way show in `Frame.seq`."""
        return sum(frames.dropped for frames in self._frames.values())

    def _track(self, name: str | None) -> Inbox[Frame]:
        tracks = [track for track in self.welcome.tracks.values() if track.direction == "out"]
        choices = [track.name for track in tracks if name is not None or track.kind == "video"]
        if name is None and len(choices) == 1:
            name = choices[0]
        if name is None and not choices:
            raise ValueError("this model sends no video")
        if name not in choices:
            asked = "say which track" if name is None else f"no track {name!r}"
            raise ValueError(f"{asked}; the model sends {', '.join(choices) or 'none'}")
        return self._frames[name]

    # ---- uploads

    async def upload(
        self,
        source: Source,
        *,
        name: str | None = None,
        mime_type: str | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> UploadHandle:
        """Upload a path, bytes or an open binary file; the handle may stand in any payload.

        Files are read in a worker thread, chunk by chunk; the type is guessed from the name.
        `on_progress(sent, total)` is called in bytes after each chunk. Several tasks may upload at once:
        their chunks take turns, and no command waits for more than one chunk.
        Raises `CommandError` as soon as the server refuses, and `OSError` for a file that cannot be read.
        If cancelled, the server is told that the upload was given up.
        """
        async with open_upload(source, name, mime_type, self._executor) as upload:
            handle = UploadHandle(self._random_id(), upload.name, upload.mime_type, upload.size)
            with self._answers.expect() as answer:
                await self._post(names.UPLOAD_START, attrs.asdict(handle), answer.id)
                done = await self._transfer(upload, handle.upload_id, answer, on_progress)
            read_answer(names.UPLOAD_START, done)
            return handle

    async def _transfer(
        self, upload: Upload, upload_id: str, answer: Answer, on_progress: Callable[[int, int], object] | None
    ) -> ServerText:
        # A chunk is one message, so it must fit into one with its header.
        limits = self.welcome.limits
        largest = max(1, min(limits.upload_chunk_bytes, limits.max_message_bytes - CHUNK_HEADER_BYTES))
        try:
            # An answer before the last chunk is a refusal: it ends the sending, wherever that is.
            with answer.until:
                sent = 0
                while sent < upload.size:
                    data = await upload.read(min(largest, upload.size - sent))
                    await self._outbox.put_chunk(encode_upload_chunk(UploadChunk(upload_id, sent, data)))
                    sent += len(data)
                    if on_progress is not None:
                        on_progress(sent, upload.size)
            return await answer.wait()
        except BaseException:
            self._give_up(upload_id)
            raise

    def _give_up(self, upload_id: str) -> None:
        self._given_up.append(upload_id)
        with suppress(TransportClosed):
            self._outbox.put_nowait(encode_client_text(names.UPLOAD_ABORT, {"upload_id": upload_id}))

    # ---- closing

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Write what waits, then close; after 3 s, or if cancelled, the connection is closed by force.

        Closing twice does nothing. Leaving the context does it too.
        """
        if not self._outbox.is_closed:
            self._last_words = (code, reason)
            self._outbox.close(TransportClosed(code, reason or "closed by this client"))
        try:
            with trio.move_on_after(CLOSE_TIMEOUT):
                await self._write_ended.wait()
                await self._read_ended.wait()
        finally:
            if not (self._write_ended.is_set() and self._read_ended.is_set()):
                with trio.move_on_after(1, shield=True):
                    await self._transport.abort()

    # ---- the tasks

    async def _greet(self) -> None:
        with trio.move_on_after(WELCOME_TIMEOUT) as timeout:
            while self._welcome is None and self.closed is None:
                await self._greeted.wait()
                self._greeted = trio.Event()
                timeout.deadline = math.inf
                if self._position is not None and self._on_queued is not None:
                    position, self._position = self._position, None
                    self._on_queued(position)
        if isinstance(self._welcome, HandshakeFailed):
            raise self._welcome
        if self._welcome is None and self.closed is not None:
            raise again(self.closed)
        if self._welcome is None:
            raise HandshakeFailed(f"the server sent no reactor.welcome within {WELCOME_TIMEOUT:g} s")

    async def _run(self) -> None:
        with self._service:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, name="client/read")
                nursery.start_soon(self._write, name="client/write")
                nursery.start_soon(self._watch, name="client/watch")

    async def _read(self) -> None:
        try:
            while True:
                for message in await self._transport.receive():
                    self._take(message)
        except TransportClosed as closed:
            self._end(self._cause or closed)

    def _end(self, closed: TransportClosed) -> None:
        self.closed = closed
        self._outbox.fail(closed)
        self._answers.fail(closed)
        self._messages.end(closed)
        for frames in self._frames.values():
            frames.end(closed)
        self._greeted.set()
        self._read_ended.set()

    async def _write(self) -> None:
        try:
            while (batch := await self._outbox.take()) is not None:
                if batch.messages:
                    await self._transport.send(batch.messages)
                if batch.ping:
                    await self._transport.ping()
            await self._transport.aclose(*self._last_words)
        except TransportClosed as closed:
            # What the peer said before it left is still to be read, so the end is left to the read task.
            self._cause = closed if isinstance(closed, TransportStalled) else None
            self._outbox.fail(closed)
        finally:
            self._write_ended.set()

    async def _watch(self) -> None:
        while not self._read_ended.is_set():
            heard = self._transport.last_received
            await trio.sleep_until(heard + HEARTBEAT)
            if self._transport.last_received > heard:
                continue
            self._outbox.ask_ping()
            await trio.sleep(HEARTBEAT)
            if self._transport.last_received == heard:
                self._cause = TransportClosed(1006, f"not a byte from the server for {2 * HEARTBEAT:g} s")
                await self._transport.abort()
                return

    def _take(self, message: str | bytes) -> None:
        try:
            if isinstance(message, bytes):
                self._take_binary(decode_binary(message))
            else:
                self._take_text(decode_server_text(message))
        except ProtocolError as error:
            # A later server may send more than this client can read; what it can read must go on.
            log.warning("unreadable message from the server: %s", error)

    def _take_binary(self, media: MediaFrame | UploadChunk) -> None:
        if isinstance(media, MediaFrame) and media.track in self._frames:
            self._frames[media.track].put(Frame.read(media, trio.current_time()))

    def _take_text(self, text: ServerText) -> None:
        if text.reply_to is not None:
            self._answers.put(text)
        elif text.type == names.WELCOME:
            self._take_welcome(text)
        elif text.type == names.QUEUED:
            self._take_position(text)
        elif text.type == names.GOODBYE:
            self.goodbye = str(text.data.get("reason", ""))
        elif text.type not in (names.UPLOAD_READY, names.UPLOAD_COMPLETE) and not self._is_stale(text):
            self._messages.put(ServerMessage(text.type, text.data))

    def _take_welcome(self, text: ServerText) -> None:
        if self._welcome is not None:
            return
        try:
            self._welcome = Welcome.read(text.data)
            self._frames = {name: Inbox(self._max_frames) for name in self._welcome.tracks}
        except HandshakeFailed as error:
            self._welcome = error
        self._greeted.set()

    def _take_position(self, text: ServerText) -> None:
        position = text.data.get("position")
        if type(position) is int and self._welcome is None:
            self._position = position
            self._greeted.set()

    def _is_stale(self, text: ServerText) -> bool:
        return text.type == names.ERROR and text.data.get("upload_id") in self._given_up
