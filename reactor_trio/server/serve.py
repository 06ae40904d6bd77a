"""The server: listeners, admission, and one conversation a connection. DESIGN, sections 4.3, 4.5 and 5."""

from __future__ import annotations

import importlib.metadata
import ipaddress
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import attrs
import orjson
import structlog
import trio
from attrs.validators import ge, gt

from reactor_trio.contract.openapi import openapi
from reactor_trio.errors import TransportClosed
from reactor_trio.server.admission import Admission
from reactor_trio.server.http import (
    MAX_HEAD_BYTES,
    HeadError,
    HeadParser,
    Policy,
    Request,
    Response,
    Site,
    State,
    Upgrade,
    answer,
)
from reactor_trio.server.line import Waiting
from reactor_trio.server.page import index_page
from reactor_trio.server.streams import PatientStream
from reactor_trio.server.websocket import accept_websocket
from reactor_trio.session.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from reactor_trio.contract.contract import Contract
    from reactor_trio.server.admission import Place
    from reactor_trio.session.transport import Transport

READ_BYTES = 64 * 1024
LINGER_SECONDS = 2.0
"""How long an answered client may take to read its answer and hang up."""

log = structlog.get_logger(__name__)


class ListenError(Exception):
    """The address cannot be listened on: in use, not allowed, or not there."""


class Drainable(Protocol):
    """A session, or a client that waits for one."""

    def drain(self) -> None:
        """Ask it to say goodbye and end."""


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
        self, transport: Transport, *, address: str = "", early: Sequence[str] = ()
    ) -> ServedSession: ...


@attrs.frozen(kw_only=True)
class ServerSettings:
    """How the server is reached, and by whom. Sizes are in bytes, times in seconds.

    Raises `ValueError` for a value out of range, and for an address that others can reach if neither
    `token` is set nor `no_auth` says that this is meant.
    """

    host: str = "127.0.0.1"
    port: int = attrs.field(default=8080, validator=ge(0))
    """0 picks a free one."""
    token: str | None = attrs.field(default=None, repr=False)
    no_auth: bool = False
    allow_origins: tuple[str, ...] = ()
    """Origins besides the server's own whose pages may connect; `*` allows any."""
    max_sessions: int = attrs.field(default=0, validator=ge(0))
    """0 is no limit."""
    max_waiting: int = attrs.field(default=100, validator=ge(0))
    """Clients that may wait in line while all sessions are taken; 0: they are refused at once."""
    max_wait: float = attrs.field(default=300.0, validator=gt(0))
    """How long a client may wait in line."""
    drain_timeout: float = attrs.field(default=30.0, validator=ge(0))
    """How long sessions may take to end after the first signal."""
    handshake_timeout: float = attrs.field(default=10.0, validator=gt(0))
    """How long a request head may take to arrive."""
    max_head_bytes: int = attrs.field(default=MAX_HEAD_BYTES, validator=gt(0))

    def __attrs_post_init__(self) -> None:
        if self.token is not None and not (
            self.token.isascii() and self.token.isprintable() and self.token.strip()
        ):
            raise ValueError("a token must be visible ASCII, and not empty")
        if self.token is None and not self.no_auth and not self.is_loopback:
            raise ValueError(
                f"{self.host!r} can be reached from other machines: give a token, or say that none is wanted "
                "(--token or --no-auth)"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def policy(self) -> Policy:
        """Who may come in."""
        guarded = self.token is not None or not self.is_loopback
        return Policy(self.token, frozenset(self.allow_origins), None if guarded else frozenset({self.host}))


async def open_listeners(settings: ServerSettings) -> list[trio.SocketListener]:
    """Bind the address, all addresses of a name on the same port.

    Raises `ListenError`. If cancelled, nothing is bound.
    """
    try:
        listeners = await trio.open_tcp_listeners(settings.port, host=settings.host)
        ports = [listener.socket.getsockname()[1] for listener in listeners]
        if len(set(ports)) > 1:  # port 0, and a name with an IPv4 and an IPv6 address
            for listener in listeners:
                await listener.aclose()
            listeners = await trio.open_tcp_listeners(ports[0], host=settings.host)
    except OSError as exc:
        where = _authority(settings.host, settings.port)
        raise ListenError(f"cannot listen on {where}: {exc.strerror or exc}") from exc
    return listeners


class Server:
    """One model behind one port. `run` serves it; `drain` and `cancel` end that."""

    def __init__(self, settings: ServerSettings, *, name: str) -> None:
        self.settings = settings
        self.name = name
        """What `/health` calls the model."""
        self.addresses: tuple[tuple[str, int], ...] = ()
        """Host and port of each listener, once `run` has bound them."""
        self._policy = settings.policy
        self._status: Literal["loading", "ready", "draining"] = "loading"
        self._host: ServedHost | None = None
        self._site: Site | None = None
        # Connections that were let in, or wait for it, from their handshake on.
        self._admission = Admission(max_sessions=settings.max_sessions, max_waiting=settings.max_waiting)
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
        return _authority(self.settings.host, self.addresses[0][1] if self.addresses else self.settings.port)

    @property
    def state(self) -> State:
        """What requests are answered by."""
        admission = self._admission
        is_full = not admission.has_room
        return State(self._status, self.name, admission.sessions, admission.waiting, is_full, self._site)

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
        self.addresses = tuple(listener.socket.getsockname()[:2] for listener in bound)
        failure: Exception | None = None
        # Connections outlive the listeners, and `failure` leaves both nurseries without a group around it.
        with self._scope:
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as listening:
                    serve = partial(trio.serve_listeners, self._handle, bound, handler_nursery=connections)
                    listening.start_soon(serve, name="server/listen")
                    try:
                        self._show(await load())
                        task_status.started(self)
                        await self._drained.wait()
                    except Exception as exc:
                        failure = exc
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
        welcome, needs_token = contract.welcome(), self._policy.token is not None
        schema = orjson.dumps(openapi(contract, version=_version()))
        self._host, self.name = host, contract.name
        self._site = Site(schema, partial(index_page, welcome, needs_token=needs_token))
        self._status = "ready"
        self.ready.set()

    async def _handle(self, stream: trio.SocketStream) -> None:
        """One connection. Nothing but cancellation leaves it: the other connections share its nursery."""
        try:
            await self._converse(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, TransportClosed):
            log.debug("client went away")
        except* Exception:
            log.exception("connection failed")
        finally:
            await trio.aclose_forcefully(stream)

    async def _converse(self, stream: trio.SocketStream) -> None:
        address = _peer(stream)
        parser = HeadParser(max_head_bytes=self.settings.max_head_bytes)
        try:
            request = await self._read_head(stream, parser)
        except HeadError as exc:
            await self._respond(self._patient(stream), exc.response)
            return
        if request is None:
            return
        what = answer(request, self._policy, self.state)
        log.debug("request", method=request.method, path=request.path, address=address)
        if isinstance(what, Upgrade):
            # No checkpoint since the state was asked, so there is room.
            place = self._admission.enter()
            await self._serve_session(self._patient(stream, parser.rest), what, place, address)
        else:
            await self._respond(self._patient(stream), what, with_body=request.method != "HEAD")

    async def _read_head(self, stream: trio.SocketStream, parser: HeadParser) -> Request | None:
        request = None
        with trio.move_on_after(self.settings.handshake_timeout) as deadline:
            while request is None:
                data = await stream.receive_some(READ_BYTES)
                if not data:
                    return None
                request = parser.feed(data)
        if deadline.cancelled_caught:
            raise HeadError(408, "the request took too long")
        return request

    async def _respond(self, stream: PatientStream, response: Response, *, with_body: bool = True) -> None:
        await stream.send_all(response.encode(with_body=with_body))
        with trio.move_on_after(LINGER_SECONDS):
            await stream.drain()

    async def _serve_session(
        self, stream: PatientStream, upgrade: Upgrade, place: Place, address: str
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
                early: Sequence[str] | None = ()
                if place.position:
                    early = await self._wait_in_line(transport, place, host.limits, address)
                if early is not None:
                    session = host.session(transport, address=address, early=early)
                    with self._drains(session):
                        await session.run()
        finally:
            place.leave()
            self._check_drained()

    async def _wait_in_line(
        self, transport: Transport, place: Place, limits: Limits, address: str
    ) -> Sequence[str] | None:
        """What the client sent while it waited, or None if it was not let in."""
        waiting = Waiting(transport, place, limits, max_wait=self.settings.max_wait, address=address)
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

    def _patient(self, stream: trio.SocketStream, prefix: bytes = b"") -> PatientStream:
        limits = self._host.limits if self._host is not None else Limits()
        return PatientStream(stream, send_timeout=limits.send_timeout, prefix=prefix)


def _peer(stream: trio.SocketStream) -> str:
    try:
        host, port, *_ = stream.socket.getpeername()
    except OSError:  # it has gone already; reading will tell
        return ""
    return _authority(host, port)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _version() -> str:
    try:
        return importlib.metadata.version("reactor-trio")
    except importlib.metadata.PackageNotFoundError:  # a source tree that was not installed
        return "0"
