"""The client of a session, over any transport: its methods, and the handling of each message that arrives.

The read task and the write task of its connection are in `client/connection.py`. This module has no task of
its own: it is the state that any number of callers share with those two.
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
"""Bytes that are reserved for the header of an upload's chunk: more than it ever takes."""


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
        """The reason of the server's `reactor.goodbye` (`finished`, `shutting_down`, ...); None before it."""
        self._connection = Connection(transport, self._take, self._end)
        self._executor = executor or ThreadExecutor()
        self._max_frames = max_frames
        self._random_id = random_id
        self._outbox = self._connection.outbox
        self._answers = Answers()
        self._messages: Inbox[ServerMessage] = Inbox(max_messages)
        # Replaced when the welcome names the tracks.
        self._tracks = OutputTracks((), max_frames)
        # Ids of uploads that this client has aborted: an error about one is not handed to the caller.
        self._given_up: deque[str] = deque(maxlen=64)
        # Filled by the read task with places in the queue and the welcome; `over` waits for it.
        self._greeting = Greeting(on_queued)

    @classmethod
    @asynccontextmanager
    async def over(cls, transport: Transport, **options: Any) -> AsyncGenerator[Client]:
        """Wait for the server's welcome, yield a client on this transport, and close it at the end.

        `executor` runs blocking calls (reading files, encoding JPEG), `max_messages` bounds the queue of
        messages that answer nothing, `max_frames` the queue of each track. While all sessions of the server
        are taken, this waits in the server's queue: `on_queued(position)` is called at each change, and
        position 1 is next. The time limit of the welcome does not run meanwhile; use `trio.fail_after` to
        bound the waiting.

        Raises `HandshakeFailed` if the server sends no readable welcome, `TransportClosed` if the server
        closes instead, and any error of `on_queued`. The close is a handshake that takes at most 3 s, also if
        cancelled.
        """
        client = cls(transport, **options)
        async with open_plain_nursery() as nursery:
            # `run` serves until the end of the `with` block; no caller depends on its first step.
            nursery.start_soon(client._connection.run, name="client")  # noqa: ASYNC113
            try:
                await client._greeting.wait()
                yield client
            finally:
                # `aclose` has a time limit of its own; one second more is for closing by force.
                with trio.move_on_after(CLOSE_TIMEOUT + 1, shield=True):
                    await client.aclose()
                client._connection.cancel()

    # ---- commands

    @property
    def welcome(self) -> Welcome:
        """The server's description of itself: its model, events, messages, tracks and limits."""
        assert self._greeting.welcome is not None  # since `over` waited for it
        return self._greeting.welcome

    async def send(self, event: str, data: object = None, /, **fields: Any) -> None:
        """Send a command and ask for no answer; an error arrives as a message of type `reactor.error`.

        The payload is `data` (a mapping, an attrs or dataclass instance) and the keyword fields; it may
        contain `UploadHandle`s at any place. Waits while 64 messages are waiting to be written. Raises
        `TypeError` or `ValueError` for values that JSON cannot carry. If cancelled, nothing is sent.
        """
        await self._post(Invoke(event, payload(data, fields)))

    async def call(self, event: str, data: object = None, /, **fields: Any) -> ServerMessage | None:
        """Send a command and wait for its answer: the reply, or None if the handler returned nothing.

        Raises `CommandError` (also for an unknown event and an invalid payload, with `errors`),
        `Superseded` if a later command replaced this one, and the errors of `send`. If cancelled, the
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
        """Measure the seconds from this client to the server's session and back."""
        asked = trio.current_time()
        await self._ask(Ping(asked))
        return trio.current_time() - asked

    async def _post(self, message: Invoke | Control) -> None:
        text = message.encode()
        limit = self.welcome.limits.max_message_bytes
        # For a longer message the server would close the connection (1009). A character has at most 4 bytes.
        if len(text) * 4 > limit and (size := len(text.encode())) > limit:
            type_ = message.event if isinstance(message, Invoke) else message.type
            raise ValueError(
                f"{type_}: {size} bytes of JSON, but the server takes at most {limit}; upload them"
            )
        await self._outbox.put(text)

    # ---- what arrives

    async def receive(self, type: str | None = None) -> ServerMessage:  # noqa: A002  the wire's word
        """Wait for the next message that answers nothing, of this type if one is given; others stay queued.

        Raises `TransportClosed` once the connection has ended and no such message is left. If cancelled, no
        message is lost.
        """
        if type is None:
            return await self._messages.take()
        return await self._messages.take(lambda message: message.type == type)

    def messages(self) -> Incoming[ServerMessage]:
        """`async for message in client.messages()`: every message that answers nothing, until the end."""
        return Incoming(self.receive)

    async def frame(self, track: str | None = None) -> Frame:
        """Take the oldest queued frame of a track, or wait for the next. Each frame goes to one reader.

        Without `track`, the only video track is meant. Raises `ValueError` for a track that the model does
        not send (naming the choices), `TransportClosed` once the connection has ended and no frame is left.
        If cancelled, no frame is lost.
        """
        return await self._tracks.inbox(track).take()

    def frames(self, track: str | None = None) -> Incoming[Frame]:
        """`async for frame in client.frames()`: the frames of a track, until the end; see `frame`."""
        return Incoming(self._tracks.inbox(track).take)

    @property
    def dropped_messages(self) -> int:
        """How many messages were dropped unread: a full queue drops its oldest message."""
        return self._messages.dropped

    @property
    def dropped_frames(self) -> int:
        """How many frames arrived and were dropped unread; gaps in `Frame.seq` show other losses."""
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
        """Change settings of an output track; settings left out stay, None means the server's default.

        `codec` is one of `welcome.tracks[track].codecs`, `max_fps` frames a second, `max_width` pixels.
        Audio takes only `paused`. The settings hold for frames encoded after the answer; earlier frames may
        still be on their way. Raises `CommandError` if the server refuses. If cancelled, the settings may
        still be changed.
        """
        settings = given(codec=codec, max_fps=max_fps, max_width=max_width, paused=paused)
        await self._ask(ConfigureTrack(track, settings))

    async def request_key_frame(self, track: str) -> None:
        """Ask for a frame that can be decoded without those before it; see `Frame.key`.

        Raises `CommandError` if there is no such track. If cancelled, the frame may still come.
        """
        await self._ask(RequestKeyFrame(track))

    async def shown(self, frame: Frame) -> None:
        """Report that this frame is on the screen now: for the server's metrics, and for `latency`.

        Waits for no answer. If cancelled, the server is not told.
        """
        self._tracks.latency.shown(frame, trio.current_time())
        await self._post(FrameShown(frame.track, frame.seq))

    def latency(self) -> Latency:
        """The seconds that the last 256 commands took, from `call` to the first frame that reflects them."""
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
        """Send a frame to an input track of the model; returns once the write task has taken the frame.

        A picture is one frame as `emit` takes it: `(H, W, 3)`, RGB, uint8 or float in [0, 1], sent as JPEG of
        `quality` 1 to 100, encoded in a worker thread. Sound is `(channels, samples)` or `(samples,)`, int16
        or float in [-1, 1], at the track's rate. `metadata` is a JSON object for the model; `pts` is the
        frame's time in seconds, by default since the first `publish` to any track. Waits while the previous
        frame of the track is not written yet. The server answers a frame that it cannot use with a
        `reactor.error`.

        Raises `ValueError` for a track that the model does not have (naming the choices), for values that are
        no frame, and for a frame larger than the server accepts. If cancelled, the frame may not be sent.
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
        """Upload a path, bytes or an open binary file; returns a handle to put into payloads.

        Files are read in a worker thread, chunk by chunk; the type is guessed from the name.
        `on_progress(sent, total)` is called after each chunk, with bytes. Several tasks may upload at once:
        their chunks take turns, and no command waits for more than one chunk.

        Raises `CommandError` as soon as the server refuses, and `OSError` for a file that cannot be read.
        If cancelled, the upload is aborted, and the server is told.
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
        # A chunk and its header must fit into one message.
        limits = self.welcome.limits
        largest = max(1, min(limits.upload_chunk_bytes, limits.max_message_bytes - CHUNK_HEADER_BYTES))
        try:
            # An answer before the last chunk is a refusal: it cancels the sending, whatever that waits for.
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
        """Write all queued messages, then close; after 3 s, or if cancelled, close by force.

        Does nothing if the client is closed. The context manager that made the client calls it too.
        """
        await self._connection.aclose(code, reason)

    # ---- called by the read task

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
            # A later version of the server may send such messages; the session must go on without them.
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
