"""The server: one conversation a connection, from its first byte to the end of its session.

See docs/design.md#endings, docs/design.md#shutting-down and docs/design.md#the-process.
"""

from __future__ import annotations

import importlib.metadata
import os
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

import attrs
import orjson
import trio

from reactor_trio.compute.executor import is_stuck
from reactor_trio.compute.watchdog import measure_lag
from reactor_trio.contract.openapi import openapi
from reactor_trio.errors import TransportClosed
from reactor_trio.logs.logger import get_logger
from reactor_trio.server.address import network_of
from reactor_trio.server.admission import Admission
from reactor_trio.server.auth import Refused, auth_request, identify, offered_token
from reactor_trio.server.forwarded import arrival_of
from reactor_trio.server.gate import (
    RESERVED_SECONDS,
    Gate,
    connections_for,
    descriptor_limit,
    descriptors_in_use,
)
from reactor_trio.server.guesses import FORGOTTEN_AFTER, Guesses
from reactor_trio.server.http import (
    RETRY_SECONDS,
    HeadError,
    HeadParser,
    Request,
    Response,
    State,
    Status,
    Upgrade,
    answer,
    is_guarded,
    too_many,
    unavailable,
)
from reactor_trio.server.listeners import (
    accept_errors_now_and_then,
    authority_of,
    open_listeners,
    peer_of,
    places_of,
    removed_at_the_end,
)
from reactor_trio.server.waiting_client import WaitingClient
from reactor_trio.server.web import web_files
from reactor_trio.session.failures import contained, split
from reactor_trio.session.limits import Limits
from reactor_trio.wire.streams import PatientStream
from reactor_trio.wire.tls import TLSStream
from reactor_trio.wire.websocket import accept_websocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from reactor_trio.compute.executor import Executor
    from reactor_trio.contract.contract import Contract
    from reactor_trio.declare.identity import Identity
    from reactor_trio.server.admission import Place
    from reactor_trio.server.gate import Pass
    from reactor_trio.server.metrics import Metrics
    from reactor_trio.server.settings import ServerSettings
    from reactor_trio.wire.transport import Transport

READ_BYTES = 64 * 1024
ANSWER_SECONDS = 60.0
"""How long a client may take to read an answer, however steadily it reads."""
LINGER_SECONDS = 2.0
"""How long an answered client may take to read its answer and hang up."""
ALWAYS_ANSWERED = ("/health", "/metrics")
"""Also where no more connections are taken."""
MAX_LOGGED = 200
"""Characters of a header in the log."""

_TOO_MANY = unavailable("there are too many connections")

log = get_logger(__name__)


class Drainable(Protocol):
    """A session, or a client that waits for one."""

    def drain(self) -> None:
        """Ask it to say goodbye and end."""

    @property
    def is_in_its_last_hook(self) -> bool:
        """Whether nothing is left of it but a hook that is cut off when its time is up."""
        ...


class ServedSession(Drainable, Protocol):
    """What the server needs of `session.connection.Session`."""

    async def run(self) -> object:
        """Serve the connection to its end."""


class ServedHost(Protocol):
    """What the server needs of `session.host.ModelHost`."""

    @property
    def contract(self) -> Contract: ...
    @property
    def limits(self) -> Limits: ...
    def session(
        self,
        transport: Transport,
        *,
        address: str = "",
        identity: Identity | None = None,
        early: Sequence[str | bytes] = (),
    ) -> ServedSession: ...


class Server:
    """One model behind one port. `run` serves it; `drain` and `cancel` end that."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        name: str,
        metrics: Metrics | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.settings = settings
        self.name = name
        """What `/health` calls the model."""
        self.addresses: tuple[tuple[str, int], ...] = ()
        """Host and port of each listener that has them, once `run` has bound them."""
        self.paths: tuple[str, ...] = ()
        """The unix sockets among them."""
        self._policy = settings.policy
        self._authenticate = settings.authenticator
        self._proxies = settings.proxies
        self._metrics = metrics
        """What `/metrics` shows; the host must have been given it as its observer."""
        self._executor = executor
        """The host's, by which `/health` tells whether the device is stuck."""
        self._status: Status = "loading"
        self._host: ServedHost | None = None
        self._schema: bytes | None = None
        self._web = web_files()
        # Connections that were let in, or wait for it, from their handshake on.
        self._admission = Admission(
            max_sessions=settings.max_sessions,
            max_waiting=settings.max_waiting,
            max_per_network=settings.max_sessions_per_address,
        )
        # All connections, from the first on.
        self._gate = Gate(max_connections=settings.max_connections, max_unfinished=settings.max_handshakes)
        self._guesses = Guesses()
        if metrics is not None:
            metrics.waiting_clients = lambda: self._admission.waiting
            metrics.gate = self._gate
        # Sessions and waiting clients: whom `drain` asks to end.
        self._drainable: set[Drainable] = set()
        # Set when the last of these connections of a draining server has ended; `run` waits for it.
        self._drained = trio.Event()
        self.ready = trio.Event()
        """Set when the model is loaded."""
        # Everything that `run` does, so that `cancel` can end it.
        self._scope = trio.CancelScope()

    @property
    def authority(self) -> str:
        """Host and port to connect to, as they stand in a URL."""
        if self.settings.sockets and self.addresses:
            return authority_of(*self.addresses[0])
        return authority_of(
            self.settings.host, self.addresses[0][1] if self.addresses else self.settings.port
        )

    @property
    def is_secure(self) -> bool:
        """Whether the port speaks TLS: https and wss."""
        return self.settings.ssl_context is not None

    @property
    def state(self) -> State:
        """What requests are answered by."""
        admission = self._admission
        is_full = not admission.has_room
        metrics = None if self._metrics is None else self._metrics.exposition
        return State(
            status=self._status_now(),
            model=self.name,
            sessions=admission.sessions,
            waiting=admission.waiting,
            is_full=is_full,
            schema=self._schema,
            web=self._web,
            metrics=metrics,
        )

    @property
    def sessions(self) -> int:
        """Connections that were let in and have not ended."""
        return self._admission.sessions

    @property
    def hook_timeout(self) -> float:
        """Seconds that a session's last hook may take."""
        return 0.0 if self._host is None else self._host.limits.hook_timeout

    @property
    def only_hooks_are_left(self) -> bool:
        """Whether each session is in its last hook, if there is one. From any thread."""
        left = tuple(self._drainable)
        return bool(left) and all(each.is_in_its_last_hook for each in left)

    def _status_now(self) -> Status:
        timeout, executor = self.settings.stuck_timeout, self._executor
        if self._status == "ready" and timeout and executor is not None and is_stuck(executor, timeout):
            return "failed"
        return self._status

    async def run(
        self,
        load: Callable[[], Awaitable[ServedHost]],
        *,
        listeners: Iterable[trio.SocketListener] | None = None,
        task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Bind, load the model while requests are answered with 503, then serve until drained or cancelled.

        `task_status` is told once the model is loaded. Raises `ListenError`, and whatever `load` raises.
        If cancelled, sessions are cancelled too.
        """
        bound = await open_listeners(self.settings) if listeners is None else list(listeners)
        if not self._gate.max_connections:
            self._gate.max_connections = connections_for(descriptor_limit(), descriptors_in_use())
        addresses, paths = places_of(bound)
        self.addresses, self.paths = tuple(addresses), tuple(paths)
        unix = removed_at_the_end(self.settings.uds if listeners is None else None)
        failure: BaseException | None = None
        # Connections outlive the listeners, and `failure` leaves both nurseries without a group around it.
        with unix, self._scope, accept_errors_now_and_then():
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as listening:
                    serve = partial(trio.serve_listeners, self._handle, bound, handler_nursery=connections)
                    listening.start_soon(serve, name="server/listen")
                    if self._metrics is not None:
                        listening.start_soon(measure_lag, self._metrics.lag.observe, name="server/lag")
                    try:
                        self._show(await load())
                        task_status.started(self)
                        await self._drained.wait()
                    except BaseException as raised:  # noqa: ASYNC103  `split` hands on
                        failure, rest = split(raised)
                        if rest is not None:
                            raise rest from None  # noqa: ASYNC104  `split` hands on
                    listening.cancel_scope.cancel(reason="the server stops")
                connections.cancel_scope.cancel(reason="the server stops")
        if failure is not None:
            raise failure

    def drain(self) -> None:
        """Take no more sessions and ask those that run to end; `run` returns after the last one.

        How long that may take is the caller's decision: `cancel` does not ask.
        """
        if self._status == "loading":
            self.cancel()
        self._status = "draining"
        for each in tuple(self._drainable):
            each.drain()
        self._check_drained()

    def _check_drained(self) -> None:
        if self._status == "draining" and self._admission.is_empty:
            self._drained.set()

    def cancel(self) -> None:
        """Cancel whatever still runs."""
        self._scope.cancel(reason="the server was told to stop")

    def _show(self, host: ServedHost) -> None:
        contract = host.contract
        self._schema = orjson.dumps(openapi(contract, version=_version()))
        self._host, self.name = host, contract.name
        self._status = "ready"
        self.ready.set()

    async def _handle(self, stream: trio.SocketStream) -> None:
        """One connection. Nothing but cancellation leaves it: the other connections share its nursery."""
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
        """Answer 503 as far as that needs no waiting."""
        fd = stream.socket.fileno()
        if self.settings.ssl_context is not None or fd < 0:
            return
        # Another step of this task may have closed it, but not since `fileno` was asked.
        with suppress(OSError):
            os.write(fd, _TOO_MANY.encode())
        with suppress(OSError):
            os.read(fd, READ_BYTES)  # else what the client has sent turns the close into a reset

    async def _converse(self, socket: trio.SocketStream, passed: Pass) -> None:
        peer = peer_of(socket)
        timeout = self.settings.handshake_timeout
        deadline = trio.current_time() + (min(timeout, RESERVED_SECONDS) if passed.is_reserved else timeout)
        stream = await self._secured(socket, deadline)
        parser = HeadParser(max_head_bytes=self.settings.max_head_bytes)
        try:
            request = await self._read_head(stream, parser, deadline)
        except HeadError as exc:
            await self._respond(self._patient(stream), exc.response, passed)
            return
        if request is None:
            return
        passed.is_busy = True
        arrival = arrival_of(request, peer, self._proxies, self.settings.root_path)
        request, address = attrs.evolve(request, arrival=arrival), arrival.address
        log.debug("request", method=request.method, path=request.path, address=address)
        identity: Identity | Refused | None = None
        is_wanted = not passed.is_reserved or request.path in ALWAYS_ANSWERED
        if self._authenticate is not None and is_guarded(request) and is_wanted:
            identity = await identify(self._authenticate, auth_request(request, address), deadline=deadline)
        if isinstance(identity, Refused):
            until = trio.current_time() if passed.is_reserved else deadline
            what: Response | Upgrade = await self._refusal(request, identity.response, address, until)
        elif not is_wanted:
            what = _TOO_MANY
        else:
            what = self._answer(request, address)
        if isinstance(what, Upgrade):
            assert not isinstance(identity, Refused)
            # No checkpoint since the state was asked, so there is room.
            place = self._admission.enter(network_of(address))
            passed.has_session()
            await self._serve_session(self._patient(stream, parser.rest), what, place, address, identity)
        else:
            self._tell_of_page(request, what.status, address)
            with_body = request.method != "HEAD"
            await self._respond(self._patient(stream), what, passed, with_body=with_body)

    def _answer(self, request: Request, address: str) -> Response | Upgrade:
        """What a request gets whose client may come in."""
        what = answer(request, self._policy, self.state)
        if isinstance(what, Upgrade) and not self._admission.admits(network_of(address)):
            self._gate.refused["address"] += 1
            return too_many("this address has all the sessions that it may have", RETRY_SECONDS)
        return what

    async def _refusal(self, request: Request, response: Response, address: str, deadline: float) -> Response:
        """What a client gets that may not come in. One that guesses waits for it."""
        if response.status != 401 or offered_token(request) is None:
            return response
        self._gate.refused["token"] += 1
        guess = self._guesses.wrong(network_of(address) or address, trio.current_time())
        if guess.is_logged:
            log.warning("wrong token", address=address, times=guess.count)
        with trio.move_on_at(deadline):
            await trio.sleep(guess.pause)
        return too_many("too many wrong tokens", FORGOTTEN_AFTER) if guess.is_one_too_many else response

    def _tell_of_page(self, request: Request, status: int, address: str) -> None:
        # A browser does not tell its page why, so the operator has to be told.
        if status == 403:
            origin = ", ".join(request.all("origin"))[:MAX_LOGGED]
            host = request.host[:MAX_LOGGED]
            log.info("page refused", origin=origin, host=host, remedy="--allow-origin", address=address)
        elif status == 421:
            self._gate.refused["host"] += 1
            host = request.host[:MAX_LOGGED]
            log.info("page refused", host=host, remedy="--allow-host", address=address)

    async def _secured(self, socket: trio.SocketStream, deadline: float) -> trio.abc.Stream:
        """The socket, or TLS over it. Raises `trio.BrokenResourceError` if the client does not speak it."""
        if self.settings.ssl_context is None:
            return socket
        stream = TLSStream(socket, self.settings.ssl_context)
        with trio.move_on_at(deadline):
            await stream.do_handshake()
            return stream
        raise trio.BrokenResourceError("the TLS handshake took too long")

    async def _read_head(
        self, stream: trio.abc.Stream, parser: HeadParser, deadline: float
    ) -> Request | None:
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

    async def _respond(
        self, stream: PatientStream, response: Response, passed: Pass, *, with_body: bool = True
    ) -> None:
        passed.is_busy = passed.is_answered = True
        # Two parts: those who read slowly share the body of a page, and have no copies of it.
        parts = (response.encode(with_body=False), response.body if with_body else b"")
        with trio.move_on_after(RESERVED_SECONDS if passed.is_reserved else ANSWER_SECONDS) as scope:
            await stream.send_buffers(parts)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client took too long to read its answer")
        passed.is_busy = False
        with trio.move_on_after(LINGER_SECONDS):
            await stream.drain()

    async def _serve_session(
        self, stream: PatientStream, upgrade: Upgrade, place: Place, address: str, identity: Identity | None
    ) -> None:
        host = self._host
        assert host is not None, "only a ready server grants an upgrade"
        try:
            async with accept_websocket(
                stream,
                key=upgrade.key,
                subprotocol=upgrade.subprotocol,
                max_message_bytes=host.limits.max_message_bytes,
            ) as transport:
                early: Sequence[str | bytes] | None = ()
                if place.position:
                    early = await self._wait_in_line(transport, place, host.limits, address)
                if early is not None:
                    session = host.session(transport, address=address, identity=identity, early=early)
                    with self._drains(session):
                        await session.run()
        finally:
            place.leave()
            self._check_drained()

    async def _wait_in_line(
        self, transport: Transport, place: Place, limits: Limits, address: str
    ) -> Sequence[str | bytes] | None:
        """What the client sent while it waited, or None if it was not let in."""
        waiting = WaitingClient(transport, place, limits, max_wait=self.settings.max_wait, address=address)
        with self._drains(waiting):
            return waiting.early if await waiting.run() else None

    @contextmanager
    def _drains(self, each: Drainable) -> Iterator[None]:
        self._drainable.add(each)
        if self._status == "draining":  # it was let in before, and has only now finished its handshake
            each.drain()
        try:
            yield
        finally:
            self._drainable.discard(each)

    def _patient(self, stream: trio.abc.Stream, prefix: bytes = b"") -> PatientStream:
        limits = self._host.limits if self._host is not None else Limits()
        return PatientStream(stream, send_timeout=limits.send_timeout, prefix=prefix)


def _connection_failed(failure: BaseException) -> None:
    if _is_loss(failure):
        log.debug("client went away")
    else:
        log.error("connection failed", exc_info=failure)


def _is_loss(failure: BaseException) -> bool:
    if isinstance(failure, BaseExceptionGroup):
        return all(map(_is_loss, failure.exceptions))
    return isinstance(failure, (trio.BrokenResourceError, trio.ClosedResourceError, TransportClosed))


def _version() -> str:
    try:
        return importlib.metadata.version("reactor-trio")
    except importlib.metadata.PackageNotFoundError:  # a source tree that was not installed
        return "0"
