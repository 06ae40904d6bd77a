"""The connections of a server's listeners: each request is read, and answered or handed to `Sessions`.

One connection is one call of `Connections.handle`: the gate, the TLS handshake, the request head, and then
either an answer or a WebSocket, whose session runs in the same task. See docs/design.md#endings.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from reactor_trio.errors import TransportClosed
from reactor_trio.logs.logger import get_logger
from reactor_trio.protocol.names import CloseCode
from reactor_trio.server.forwarded import arrival_of
from reactor_trio.server.gate import RESERVED_SECONDS
from reactor_trio.server.http import BodyLost, HeadError, HeadParser, Response
from reactor_trio.server.listeners import peer_of
from reactor_trio.server.reception import TOO_MANY
from reactor_trio.session.failures import contained
from reactor_trio.wire.accept import accept_websocket
from reactor_trio.wire.foreign_errors import STREAM
from reactor_trio.wire.streams import PatientStream
from reactor_trio.wire.tls import TLSStream

if TYPE_CHECKING:
    from reactor_trio.server.gate import Gate, Pass
    from reactor_trio.server.http import Request
    from reactor_trio.server.reception import Reception
    from reactor_trio.server.sessions import Granted, Sessions
    from reactor_trio.server.settings import ServerSettings

READ_BYTES = 64 * 1024
ANSWER_SECONDS = 60.0
"""Seconds that a client may take to read an answer, even if it reads steadily."""
LEAST_RATE = 64 * 1024
"""Bytes a second: for a `long_body` the client is given so much more time."""
LINGER_SECONDS = 2.0
"""Seconds that a client may take to close the connection after its answer was written."""

log = get_logger(__name__)


class Connections:
    """Handles every connection that a listener accepts. `handle` is called in a task for each."""

    def __init__(
        self, settings: ServerSettings, gate: Gate, reception: Reception, sessions: Sessions
    ) -> None:
        self._settings = settings
        self._proxies = settings.proxies
        self._gate = gate
        self._reception = reception
        self._sessions = sessions

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end, and close it.

        Raises nothing but cancellation, since all connections share a nursery. If cancelled, its session runs
        its `@disconnected` first.
        """
        passed = self._gate.enter()
        try:
            with contained(_connection_failed):
                if passed is not None:
                    with trio.CancelScope() as scope:
                        passed.on_eviction = partial(
                            scope.cancel, reason="a newer connection takes its place"
                        )
                        await self._converse(stream, passed)
                if passed is None or (passed.was_evicted and not passed.is_answered):
                    self._turn_away(stream)
        finally:
            if passed is not None:
                passed.leave()
            with contained(_connection_failed):
                await trio.aclose_forcefully(stream)  # noqa: ASYNC102  no checkpoint that matters

    def _turn_away(self, stream: trio.SocketStream) -> None:
        """Answer 503 without waiting: if the socket does not take the answer at once, there is none."""
        fd = stream.socket.fileno()
        if self._settings.ssl_context is not None or fd < 0:
            return
        # The socket was open when `fileno` was called, and there was no checkpoint since.
        with suppress(OSError):
            os.write(fd, TOO_MANY.encode())
        with suppress(OSError):
            os.read(fd, READ_BYTES)  # else the client's unread bytes would turn the close into a reset

    async def _converse(self, socket: trio.SocketStream, passed: Pass) -> None:
        peer = peer_of(socket)
        timeout = self._settings.handshake_timeout
        deadline = trio.current_time() + (min(timeout, RESERVED_SECONDS) if passed.is_reserved else timeout)
        parser = HeadParser(max_head_bytes=self._settings.max_head_bytes)
        stream = await self._secured(socket, deadline)
        try:
            with STREAM:
                request = await _read_head(stream, parser, deadline)
        except HeadError as exc:
            await self._respond(self._patient(stream), exc.response, passed)
            return
        if request is None:
            return
        passed.is_busy = True
        arrival = arrival_of(request, peer, self._proxies, self._settings.root_path)
        request = attrs.evolve(request, arrival=arrival)
        found = await self._reception.receive(request, deadline=deadline, is_reserved=passed.is_reserved)
        if isinstance(found, Response):
            with_body = request.method != "HEAD"
            await self._respond(self._patient(stream), found, passed, with_body=with_body)
        else:
            passed.has_session()
            await self._serve(self._patient(stream, parser.rest), found)

    async def _secured(self, socket: trio.SocketStream, deadline: float) -> trio.abc.Stream:
        """The socket, or TLS over it. Raises `TransportClosed` if the client does not speak TLS in time."""
        if self._settings.ssl_context is None:
            return socket
        stream = TLSStream(socket, self._settings.ssl_context)
        with STREAM, trio.move_on_at(deadline):
            await stream.do_handshake()
            return stream
        raise TransportClosed(CloseCode.ABNORMAL, "the TLS handshake took too long")

    async def _respond(
        self, stream: PatientStream, response: Response, passed: Pass, *, with_body: bool = True
    ) -> None:
        passed.is_busy = passed.is_answered = True
        seconds = RESERVED_SECONDS if passed.is_reserved else ANSWER_SECONDS
        if response.long_body is not None:
            seconds += response.long_body.size / LEAST_RATE
        with trio.move_on_after(seconds) as scope:
            await _send(stream, response, with_body=with_body)
        if scope.cancelled_caught:
            raise TransportClosed(CloseCode.ABNORMAL, "the client took too long to read its answer")
        passed.is_busy = False
        with trio.move_on_after(LINGER_SECONDS):
            await stream.drain()

    async def _serve(self, stream: PatientStream, granted: Granted) -> None:
        opening = accept_websocket(
            stream,
            key=granted.upgrade.key,
            subprotocol=granted.upgrade.subprotocol,
            max_message_bytes=self._sessions.limits.max_message_bytes,
        )
        await self._sessions.serve(granted, opening)

    def _patient(self, stream: trio.abc.Stream, prefix: bytes = b"") -> PatientStream:
        return PatientStream(stream, send_timeout=self._sessions.limits.send_timeout, prefix=prefix)


async def _read_head(stream: trio.abc.Stream, parser: HeadParser, deadline: float) -> Request | None:
    """The request; None if the client closes before the end of the head. Raises `HeadError`."""
    request = None
    with trio.move_on_at(deadline) as scope:
        while request is None:
            data = await stream.receive_some(READ_BYTES)
            if not data:
                return None
            request = parser.feed(data)
    if scope.cancelled_caught:
        raise HeadError(408, "the request took too long")
    return request


async def _send(stream: PatientStream, response: Response, *, with_body: bool) -> None:
    """Write the answer; a long body piece by piece, each when the one before it was taken.

    Raises `TransportClosed` if the client is gone, and `BodyLost`. If cancelled, the stream may be torn.
    """
    head, body = response.encode(with_body=False), response.long_body
    if body is None or not (body.size and with_body):
        # In two parts, so that clients that read slowly share one copy of the body.
        with STREAM:
            await stream.send_buffers((head, response.body if with_body else b""))
        return
    sent, before = 0, head
    while sent < body.size:
        data = await body.read(sent)
        with STREAM:
            await stream.send_buffers((before, data))
        sent, before = sent + len(data), b""


def _connection_failed(failure: BaseException) -> None:
    if _is_loss(failure):
        log.debug("client went away")
    elif isinstance(failure, BodyLost):
        log.warning("an answer was cut off: its file cannot be read to the end", reason=str(failure))
    else:
        log.error("connection failed", exc_info=failure)


def _is_loss(failure: BaseException) -> bool:
    if isinstance(failure, BaseExceptionGroup):
        return all(map(_is_loss, failure.exceptions))
    return isinstance(failure, TransportClosed)
