"""The same client for code without an event loop: `with connect("ws://127.0.0.1:8080") as client`.

Trio runs in a thread of its own, behind an anyio portal; each method hands its call over and waits.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.from_thread
import trio

from reactor_trio.client.tracks import UNSET, Unset
from reactor_trio.client.websocket import open_client
from reactor_trio.errors import TransportClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping

    from anyio.abc import TaskStatus
    from anyio.from_thread import BlockingPortal

    from reactor_trio.client.client import Client
    from reactor_trio.client.latency import Latency
    from reactor_trio.client.messages import UploadHandle, Welcome
    from reactor_trio.client.received_frame import Frame
    from reactor_trio.client.upload_sender import Source
    from reactor_trio.protocol.server_messages import ServerMessage

T = TypeVar("T")


@contextmanager
def connect(url: str, token: str | None = None, **options: Any) -> Generator[BlockingClient]:
    """Connect and, on leaving, close; arguments and errors are those of `open_client`.

    An interrupt (Ctrl-C) ends a call that waits, and then closes the connection, as any other error does.
    """
    with anyio.from_thread.start_blocking_portal("trio") as portal:
        task, (client, leave) = portal.start_task(partial(_hold, url, token=token, **options))
        try:
            yield BlockingClient(portal, client)
        finally:
            # An error of the body is raised in its own thread; Trio's thread only leaves the client's
            # context.
            portal.call(leave.set)
            task.result()


async def _hold(
    url: str, *, task_status: TaskStatus[tuple[Client, trio.Event]], token: str | None, **options: Any
) -> None:
    # Set by `connect` when the body of its `with` block has ended.
    leave = trio.Event()
    async with open_client(url, token=token, **options) as client:
        task_status.started((client, leave))
        await leave.wait()


class BlockingClient:
    """A session with a model, for blocking code; see `Client` for what each method does and raises.

    Any number of threads may use it at once. Callbacks run in Trio's thread, and may not call the client.
    """

    def __init__(self, portal: BlockingPortal, client: Client) -> None:
        self._portal = portal
        self._client = client

    @property
    def welcome(self) -> Welcome:
        """See `Client.welcome`."""
        return self._client.welcome

    @property
    def closed(self) -> TransportClosed | None:
        """See `Client.closed`."""
        return self._client.closed

    @property
    def goodbye(self) -> str | None:
        """See `Client.goodbye`."""
        return self._client.goodbye

    @property
    def dropped_messages(self) -> int:
        """See `Client.dropped_messages`."""
        return self._client.dropped_messages

    @property
    def dropped_frames(self) -> int:
        """See `Client.dropped_frames`."""
        return self._client.dropped_frames

    def send(self, event: str, data: object = None, /, **fields: Any) -> None:
        """See `Client.send`."""
        self._wait(partial(self._client.send, event, data, **fields))

    def call(self, event: str, data: object = None, /, **fields: Any) -> ServerMessage | None:
        """See `Client.call`."""
        return self._wait(partial(self._client.call, event, data, **fields))

    def ping(self) -> float:
        """See `Client.ping`."""
        return self._wait(self._client.ping)

    def receive(self, type: str | None = None, seconds: float | None = None) -> ServerMessage:  # noqa: A002
        """See `Client.receive`. Raises `TimeoutError` after `seconds`: blocking code has no cancel scopes."""
        return self._wait(partial(self._client.receive, type), seconds)

    def messages(self) -> Iterator[ServerMessage]:
        """See `Client.messages`."""
        return self._until_closed(self._client.receive)

    def frame(self, track: str | None = None, seconds: float | None = None) -> Frame:
        """See `Client.frame`. Raises `TimeoutError` after `seconds`."""
        return self._wait(partial(self._client.frame, track), seconds)

    def frames(self, track: str | None = None) -> Iterator[Frame]:
        """See `Client.frames`."""
        self._client.frames(track)  # raises for an unknown track now, not at the first frame
        return self._until_closed(partial(self._client.frame, track))

    def configure_track(
        self,
        track: str,
        *,
        codec: str | Unset | None = UNSET,
        max_fps: float | Unset | None = UNSET,
        max_width: int | Unset | None = UNSET,
        paused: bool | Unset | None = UNSET,
    ) -> None:
        """See `Client.configure_track`."""
        self._wait(
            partial(
                self._client.configure_track,
                track,
                codec=codec,
                max_fps=max_fps,
                max_width=max_width,
                paused=paused,
            )
        )

    def request_key_frame(self, track: str) -> None:
        """See `Client.request_key_frame`."""
        self._wait(partial(self._client.request_key_frame, track))

    def shown(self, frame: Frame) -> None:
        """See `Client.shown`."""
        self._wait(partial(self._client.shown, frame))

    def latency(self) -> Latency:
        """See `Client.latency`."""
        # On Trio's thread, because arriving frames change the statistics there.
        return self._portal.call(self._client.latency)

    def publish(
        self,
        track: str,
        frame: object,
        *,
        metadata: Mapping[str, Any] | None = None,
        pts: float | None = None,
        quality: int = 85,
    ) -> None:
        """See `Client.publish`."""
        self._wait(partial(self._client.publish, track, frame, metadata=metadata, pts=pts, quality=quality))

    def upload(
        self,
        source: Source,
        *,
        name: str | None = None,
        mime_type: str | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> UploadHandle:
        """See `Client.upload`."""
        return self._wait(
            partial(self._client.upload, source, name=name, mime_type=mime_type, on_progress=on_progress)
        )

    def close(self, code: int = 1000, reason: str = "") -> None:
        """See `Client.aclose`."""
        self._wait(partial(self._client.aclose, code, reason))

    def _until_closed(self, take: Callable[[], Awaitable[T]]) -> Iterator[T]:
        while True:
            try:
                item = self._wait(take)
            except TransportClosed:
                return
            yield item

    def _wait(self, call: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
        future = self._portal.start_task_soon(_within, call, math.inf if seconds is None else seconds)
        try:
            return future.result()
        except BaseException:
            # After an interrupt of the waiting, the call in Trio's thread must not go on.
            future.cancel()
            raise


async def _within(call: Callable[[], Awaitable[T]], seconds: float) -> T:
    with trio.move_on_after(seconds):
        return await call()
    raise TimeoutError(f"nothing within {seconds:g} s")
