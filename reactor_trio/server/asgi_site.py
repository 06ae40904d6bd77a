"""The model of one ASGI application, on Trio: it is loaded once, serves calls, and ends its sessions.

Each ASGI call is served in the task that calls `handle`. So a connection is one nursery here, too.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import trio

from reactor_trio.errors import TransportClosed
from reactor_trio.logs.logger import get_logger
from reactor_trio.server.arrival import UNIX
from reactor_trio.server.asgi_http import events_of, request_of, server_of
from reactor_trio.server.http import BodyLost, Response, plain, unavailable
from reactor_trio.server.settings import is_loopback_host
from reactor_trio.session.failures import contained, split
from reactor_trio.wire.asgi import AsgiTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from reactor_trio.server.composition import Composition
    from reactor_trio.server.sessions import Granted
    from reactor_trio.wire.asgi_calls import Calls, Event
    from reactor_trio.wire.transport import Transport

ANSWER_SECONDS = 60.0
"""Seconds that a client may take to read an answer."""
OF_THE_MODEL = ("/ws", "/schema")
"""Paths that are answered only when the model is loaded."""

log = get_logger(__name__)


class LoadFailed(RuntimeError):
    """The model could not be loaded; `__cause__` is the error of `load`."""


class Site:
    """One model in one Trio run, from its `load` until all of its sessions have ended."""

    def __init__(self, composition: Composition) -> None:
        self._composition = composition
        self._settings = composition.settings
        self._service = composition.service()
        self._loading = trio.Lock()
        self._failure: BaseException | None = None
        # One for each call that is being served; `close` cancels them.
        self._scopes: set[trio.CancelScope] = set()
        # Set when the last call has ended. A new one takes its place then.
        self._is_idle = trio.Event()
        self._has_told_of_auth = False
        self._has_told_of_failure = False

    async def load(self) -> None:
        """Load the model, or wait until another task has loaded it. A checkpoint only if it is not loaded.

        Raises `LoadFailed`; a model whose `load` has failed is not loaded again. If cancelled, the model's
        `load` is cancelled, and the next call of this method begins it anew.
        """
        if self._service.ready.is_set():
            return
        async with self._loading:
            if self._failure is None and not self._service.ready.is_set():
                try:
                    self._service.open(await self._composition.load())
                except BaseException as raised:  # noqa: ASYNC103  `split` hands on
                    self._failure, rest = split(raised)
                    if rest is not None:
                        raise rest from None  # noqa: ASYNC104  `split` hands on
        if self._failure is not None:
            name = self._service.name
            raise LoadFailed(f"{name} could not be loaded: {self._failure!r}") from self._failure

    async def handle(self, scope: Mapping[str, Any], calls: Calls) -> None:
        """Serve one call of type `http` or `websocket` to its end. Raises nothing but `Cancelled`.

        If cancelled, the call's session is cancelled; its `@disconnected` runs before this returns.
        """
        with self._noted(), contained(_call_failed):
            is_websocket = scope["type"] == "websocket"
            if is_websocket and not await _is_connecting(calls):
                return
            found = await self._found(scope)
            if isinstance(found, Response):
                await _answer(found, scope, calls)
            else:
                await self._service.sessions.serve(found, self._accepted(found, calls))

    async def close(self) -> None:
        """Ask all sessions to end, and wait for that. After `drain_timeout` the remaining ones are cancelled.

        If cancelled, sessions have at most `close_timeout` seconds from then on; this still waits for them.
        """
        seconds = self._settings.drain_timeout
        try:
            await self._close(seconds)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._close(min(seconds, self._composition.limits.close_timeout))
            raise

    async def _close(self, seconds: float) -> None:
        self._service.drain()
        with trio.move_on_after(seconds):
            await self._ended()
        for scope in tuple(self._scopes):
            scope.cancel(reason="the application shuts down")
        await self._ended()

    async def _ended(self) -> None:
        while self._scopes:
            await self._is_idle.wait()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
                if not self._scopes:
                    self._is_idle.set()
                    self._is_idle = trio.Event()

    async def _found(self, scope: Mapping[str, Any]) -> Response | Granted:
        """The answer to a request, or a place among the sessions."""
        if (refusal := self._unguarded(scope)) is not None:
            return refusal
        request = request_of(scope)
        if request.path in OF_THE_MODEL:
            try:
                await self.load()
            except LoadFailed as failed:
                if not self._has_told_of_failure:
                    self._has_told_of_failure = True
                    log.error("the model could not be loaded", exc_info=failed.__cause__)
                return unavailable(f"{self._service.name} could not be loaded")
        deadline = trio.current_time() + self._settings.handshake_timeout
        return await self._service.reception.receive(request, deadline=deadline)

    def _unguarded(self, scope: Mapping[str, Any]) -> Response | None:
        """A refusal, if other machines can reach the application and no option says who may come in."""
        server = server_of(scope)
        if self._settings.authenticator is not None or self._settings.no_auth:
            return None
        if server is not None and (server == UNIX or is_loopback_host(server)):
            return None
        if not self._has_told_of_auth:
            self._has_told_of_auth = True
            remedy = "give asgi() a token, authenticate, or auth=False if the application sees to it"
            log.error("requests are refused: others can reach the application", address=server, remedy=remedy)
        return plain(403, "this model is served to its own machine only, as it has no token")

    @asynccontextmanager
    async def _accepted(self, granted: Granted, calls: Calls) -> AsyncIterator[Transport]:
        limits = self._service.sessions.limits
        transport = AsgiTransport(
            calls, send_timeout=limits.send_timeout, max_message_bytes=limits.max_message_bytes
        )
        accept = {"type": "websocket.accept", "subprotocol": granted.upgrade.subprotocol}
        await calls.send([accept], limits.send_timeout)
        try:
            yield transport
        finally:
            await transport.abort()  # noqa: ASYNC102  no checkpoint that matters


async def _is_connecting(calls: Calls) -> bool:
    """Wait for the first event; returns whether it begins a connection."""
    while not (events := calls.take()):
        await calls.wait()
    return events[0]["type"] == "websocket.connect" and len(events) == 1


async def _answer(response: Response, scope: Mapping[str, Any], calls: Calls) -> None:
    """Send the answer, a long body piece by piece. Raises as `Calls.send` does, and `BodyLost`."""
    events, body = events_of(response, scope), response.long_body
    await calls.send(events, ANSWER_SECONDS)
    if body is None or not events[-1].get("more_body"):
        return
    sent = 0
    while sent < body.size:
        data = await body.read(sent)
        sent += len(data)
        piece: Event = {"type": "http.response.body", "body": data, "more_body": sent < body.size}
        await calls.send([piece], ANSWER_SECONDS)


def _call_failed(failure: BaseException) -> None:
    if isinstance(failure, TransportClosed | trio.TooSlowError):
        log.debug("client went away")
    elif isinstance(failure, BodyLost):
        log.warning("an answer was cut off: its file cannot be read to the end", reason=str(failure))
    else:
        log.error("connection failed", exc_info=failure)
