"""The client of a session, over any transport: what it can be asked, and where what arrives is put.

The tasks of its connection are in `client/connection.py`; here is nothing but what any number of callers
share with them.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
import trio

from reactor_trio.client.answers import Answer, Answers
from reactor_trio.client.connection import CLOSE_TIMEOUT, Connection
from reactor_trio.client.greeting import Greeting
from reactor_trio.client.inbox import Inbox, Incoming
from reactor_trio.client.messages import UploadHandle, Welcome, read_answer
from reactor_trio.client.payloads import payload
from reactor_trio.client.publish import Publisher
from reactor_trio.client.received_frame import Frame
from reactor_trio.client.tracks import UNSET, OutputTracks, Unset, given
from reactor_trio.client.upload_sender import Source, Upload, open_upload
from reactor_trio.compute.executor import Executor, ThreadExecutor
from reactor_trio.errors import CommandError, ProtocolError, TransportClosed
from reactor_trio.protocol import server_messages
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, encode_upload_chunk
from reactor_trio.protocol.client_messages import (
    ConfigureTrack,
    FrameShown,
    Invoke,
    Ping,
    RequestKeyFrame,
    UploadAbort,
    UploadStart,
)
from reactor_trio.protocol.server_messages import ServerMessage
from reactor_trio.wire.nursery import open_plain_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from reactor_trio.client.latency import Latency
    from reactor_trio.protocol.client_messages import Control
    from reactor_trio.wire.transport import Transport

log = logging.getLogger(__name__)

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
        self._connection = Connection(transport, self._take, self._end)
        self._executor = executor or ThreadExecutor()
        self._max_frames = max_frames
        self._random_id = random_id
        self._outbox = self._connection.outbox
        self._answers = Answers()
        self._messages: Inbox[ServerMessage] = Inbox(max_messages)
        # The real ones come with the welcome.
        self._tracks = OutputTracks((), max_frames)
        # Uploads that were given up: the server may still complain of one, which is nobody's news.
        self._given_up: deque[str] = deque(maxlen=64)
        # The read task puts in what the server says at first; `over` waits for it.
        self._greeting = Greeting(on_queued)

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
            # It serves until the client is left; nobody waits for its first step.
            nursery.start_soon(client._connection.run, name="client")  # noqa: ASYNC113
            try:
                await client._greeting.wait()
                yield client
            finally:
                # `aclose` bounds itself; the second more is for closing by force.
                with trio.move_on_after(CLOSE_TIMEOUT + 1, shield=True):
                    await client.aclose()
                client._connection.cancel()

    # ---- commands

    @property
    def welcome(self) -> Welcome:
        """What the server said of itself: its model, events, messages, tracks and limits."""
        assert self._greeting.welcome is not None  # since `over` waited for it
        return self._greeting.welcome

    async def send(self, event: str, data: object = None, /, **fields: Any) -> None:
        """Send a command and ask for no answer; an error arrives as a message of type `reactor.error`.

        The payload is `data` (a mapping, an attrs or dataclass instance) and the keyword fields; an
        `UploadHandle` may stand anywhere in it. Waits while 64 messages are waiting to be written.
        Raises `TypeError` or `ValueError` for what JSON cannot carry. If cancelled, nothing is sent.
        """
        await self._post(Invoke(event, payload(data, fields)))

    async def call(self, event: str, data: object = None, /, **fields: Any) -> ServerMessage | None:
        """Send a command and wait for its answer: the reply, or None if the handler returned nothing.

        Raises `CommandError` (also for an unknown event and an invalid payload, with `errors`),
        `Superseded` if a later command replaced this one, and what `send` raises. If cancelled, the
        command may still be carried out; its late answer is dropped.
        """
        called, data = trio.current_time(), payload(data, fields)
        with self._answers.expect() as answer:
            await self._post(Invoke(event, data, answer.id))
            self._tracks.latency.sent(answer.id, called)
            try:
                return read_answer(event, await answer.wait())
            except CommandError:
                self._tracks.latency.failed(answer.id)
                raise

    async def ping(self) -> float:
        """Seconds from here through the server's session and back."""
        asked = trio.current_time()
        await self._ask(Ping(asked))
        return trio.current_time() - asked

    async def _post(self, message: Invoke | Control) -> None:
        text = message.encode()
        limit = self.welcome.limits.max_message_bytes
        # The server would close the whole connection for it (1009). A character has at most 4 bytes.
        if len(text) * 4 > limit and (size := len(text.encode())) > limit:
            type_ = message.event if isinstance(message, Invoke) else message.type
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
        return await self._tracks.inbox(track).take()

    def frames(self, track: str | None = None) -> Incoming[Frame]:
        """`async for frame in client.frames()`: the frames of a track, until the end; see `frame`."""
        return Incoming(self._tracks.inbox(track).take)

    @property
    def dropped_messages(self) -> int:
        """Messages that nobody read in time: the oldest of a full queue makes room for the newest."""
        return self._messages.dropped

    @property
    def dropped_frames(self) -> int:
        """Frames that arrived and that nobody read in time; those lost on the way show in `Frame.seq`."""
        return self._tracks.dropped

    # ---- tracks

    async def configure_track(
        self,
        track: str,
        *,
        codec: str | Unset | None = UNSET,
        max_fps: float | Unset | None = UNSET,
        max_width: int | Unset | None = UNSET,
        paused: bool | Unset | None = UNSET,
    ) -> None:
        """Say how an output track is wanted: what is left out stays as it is, None is the server's default.

        `codec` is one of `welcome.tracks[track].codecs`, `max_fps` frames a second, `max_width` pixels.
        Audio takes only `paused`. It holds for frames that are encoded after the answer; earlier ones may
        still be on their way. Raises `CommandError` if the server refuses. If cancelled, it may still do it.
        """
        settings = given(codec=codec, max_fps=max_fps, max_width=max_width, paused=paused)
        await self._ask(ConfigureTrack(track, settings))

    async def request_key_frame(self, track: str) -> None:
        """Ask for a frame that can be decoded without those before it; see `Frame.key`.

        Raises `CommandError` if there is no such track. If cancelled, the frame may still come.
        """
        await self._ask(RequestKeyFrame(track))

    async def shown(self, frame: Frame) -> None:
        """Say that this frame is on the screen now: for the server's metrics, and for `latency`.

        Waits for no answer. If cancelled, the server is not told.
        """
        self._tracks.latency.shown(frame, trio.current_time())
        await self._post(FrameShown(frame.track, frame.seq))

    def latency(self) -> Latency:
        """How long the last 256 commands took, from `call` to the frame that reflects them, in seconds."""
        return self._tracks.latency.statistics()

    async def _ask(self, message: Control) -> None:
        with self._answers.expect() as answer:
            await self._post(attrs.evolve(message, id=answer.id))
            read_answer(message.type, await answer.wait())

    async def publish(
        self,
        track: str,
        frame: object,
        *,
        metadata: Mapping[str, Any] | None = None,
        pts: float | None = None,
        quality: int = 85,
    ) -> None:
        """Send a frame to an input track of the model; returns when it is being written.

        A picture is one frame as `emit` takes it: `(H, W, 3)`, RGB, uint8 or float in [0, 1], sent as JPEG of
        `quality` 1 to 100, encoded in a worker thread. Sound is `(channels, samples)` or `(samples,)`, int16
        or float in [-1, 1], at the track's rate. `metadata` is a JSON object for the model; `pts` the frame's
        time in seconds, by default those since the first `publish`, of any track. Waits while the track's
        previous frame was not written. A frame that does not fit is answered with a `reactor.error`.

        Raises `ValueError` for a track that is not there (naming the choices), for values that are no frame,
        and for a frame larger than the server takes. If cancelled, the frame may not be sent.
        """
        await self._publisher.publish(track, frame, metadata, pts, quality)

    @cached_property
    def _publisher(self) -> Publisher:
        return Publisher(self.welcome, self._outbox, self._executor)

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
                await self._post(UploadStart(**attrs.asdict(handle), id=answer.id))
                done = await self._transfer(upload, handle.upload_id, answer, on_progress)
            read_answer(UploadStart.type, done)
            return handle

    async def _transfer(
        self, upload: Upload, upload_id: str, answer: Answer, on_progress: Callable[[int, int], object] | None
    ) -> server_messages.Answer:
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
            self._outbox.put_nowait(UploadAbort(upload_id).encode())

    # ---- closing

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Write what waits, then close; after 3 s, or if cancelled, the connection is closed by force.

        Closing twice does nothing. Leaving the context does it too.
        """
        await self._connection.aclose(code, reason)

    # ---- what the read task brings

    def _end(self, closed: TransportClosed) -> None:
        self.closed = closed
        self._answers.fail(closed)
        self._messages.end(closed)
        self._tracks.end(closed)
        self._greeting.end(closed)

    def _take(self, message: str | bytes) -> None:
        try:
            noun = server_messages.decode_server(message)
        except ProtocolError as error:
            # A later server may send more than this client can read; what it can read must go on.
            log.warning("unreadable message from the server: %s", error)
            return
        match noun:
            case MediaFrame():
                self._tracks.put(Frame.read(noun, trio.current_time()))
            case server_messages.Welcome(data):
                self._take_welcome(data)
            case server_messages.Queued(position):
                self._greeting.take_position(position)
            case server_messages.Goodbye(reason):
                self.goodbye = reason
            case server_messages.UploadReady() | UploadChunk():
                pass
            case _ if noun.reply_to is not None:
                self._answers.put(noun)
            case ServerMessage():
                self._messages.put(noun)
            case server_messages.Error(upload_id=upload_id) if upload_id not in self._given_up:
                self._messages.put(ServerMessage(noun.type, noun.data))

    def _take_welcome(self, data: Mapping[str, Any]) -> None:
        welcome = self._greeting.take_welcome(data)
        if welcome is not None:
            self._tracks = OutputTracks(welcome.tracks.values(), self._max_frames)
