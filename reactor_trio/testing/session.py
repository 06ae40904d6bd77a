"""Sessions in memory: everything is as in a server, except for the socket."""

from __future__ import annotations

import itertools
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
import trio

from reactor_trio.client.client import Client
from reactor_trio.link.host import ModelHost
from reactor_trio.logs.setup import plain_tracebacks
from reactor_trio.testing.executor import InlineExecutor
from reactor_trio.testing.leaks import watched
from reactor_trio.testing.live_network import LiveNetwork
from reactor_trio.testing.network import Network
from reactor_trio.testing.transcript import Transcript, recorder
from reactor_trio.testing.transport import MemoryTransport, memory_transport_pair
from reactor_trio.wire.nursery import open_plain_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from reactor_trio.compute.executor import Executor
    from reactor_trio.media.settings import MediaSettings
    from reactor_trio.model.model import ReactorModel
    from reactor_trio.session.endings import Ending
    from reactor_trio.session.limits import Limits
    from reactor_trio.session.session import Session


# The number of each host's next connection: each connection draws its own jitter, the same in every run.
_connections: weakref.WeakKeyDictionary[ModelHost, Iterator[int]] = weakref.WeakKeyDictionary()


class SessionClient(Client):
    """The client of a session in memory, with the session, the network and the transcript beside it."""

    session: Session
    """The session under test: `session.model` is its copy of the model, `session.ending` how it ended."""
    network: LiveNetwork
    """The network between client and session: `stall()`, `resume()`, `cut()`, `lose()`, `change(...)`."""
    transport: MemoryTransport
    """The client's end of the connection, for raw messages: `await client.transport.send(["no JSON"])`."""
    transcript: Transcript
    """All messages so far, in order, with the times at which the session read or wrote them."""

    async def ended(self) -> Ending:
        """Wait until the session has ended and `@disconnected` has run; return how it ended."""
        await self._session_ended.wait()
        assert self.session.ending is not None
        return self.session.ending

    # Set by the session's task when its `run` has returned.
    _session_ended: trio.Event


async def load_host(
    model_class: type[ReactorModel],
    config: dict[str, Any] | None = None,
    *,
    name: str | None = None,
    limits: Limits | None = None,
    executor: Executor | None = None,
    media: MediaSettings | None = None,
) -> ModelHost:
    """Load a model once for several sessions: pass the host to `open_session` in place of the class.

    Raises what `load` raises. If cancelled, no host is made.
    """
    if not structlog.is_configured():
        # Where `rich` is installed, structlog's default prints every variable of every frame: whole pictures.
        plain_tracebacks()
    return await ModelHost.load(
        model_class,
        config,
        name=name,
        limits=limits,
        executor=executor or InlineExecutor(),
        session_id=_counting_ids("session"),
        media=media,
    )


def _counting_ids(prefix: str) -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"


@asynccontextmanager
async def open_session(
    model: type[ReactorModel] | ModelHost,
    config: dict[str, Any] | None = None,
    *,
    limits: Limits | None = None,
    executor: Executor | None = None,
    media: MediaSettings | None = None,
    network: Network | None = None,
    **client_options: Any,
) -> AsyncIterator[SessionClient]:
    """Open a client of a real session of `model`, over a connection in memory.

    The session has the same nursery, channels, validation, pacing, limits and hooks as a served one. Its time
    is Trio's: in virtual time, by the pytest plugin or by `run`, a minute takes no time. Blocking calls are
    made at once on the loop, unless an `executor` is given, such as `DeviceCost(0.080)`. Without a `network`
    messages arrive at once. `media` says how video is sent. `model` may be a `ModelHost`, from `load_host`,
    which several sessions share.

    Leaving closes the client and waits for the session's `@disconnected`. Raises what `load` raises, and
    `TypeError` for a `config`, `limits`, `executor` or `media` beside a host, which has its own.
    """
    host = await _host(model, config, limits, executor, media)
    number = next(_connections.setdefault(host, itertools.count(1)))
    ours, theirs = memory_transport_pair(
        send_timeout=host.limits.send_timeout, network=network, name=f"connection {number}"
    )
    session = host.session(theirs, address="memory")
    transcript = _record(theirs)
    ended = trio.Event()

    async def serve() -> None:
        try:
            with watched(session):
                await session.run()
        finally:
            ended.set()

    async with open_plain_nursery() as nursery:
        # The client waits for the welcome, and so for this task.
        nursery.start_soon(serve, name=session.id)  # noqa: ASYNC113
        options = {"executor": host.executor, "random_id": _counting_ids("upload"), **client_options}
        async with SessionClient.over(ours, **options) as client:
            assert isinstance(client, SessionClient)
            client.session, client.transport, client.transcript = session, ours, transcript
            client.network = LiveNetwork(ours)
            client._session_ended = ended
            yield client


@asynccontextmanager
async def open_sessions(
    model: type[ReactorModel] | ModelHost,
    count: int,
    config: dict[str, Any] | None = None,
    *,
    limits: Limits | None = None,
    executor: Executor | None = None,
    media: MediaSettings | None = None,
    network: Network | Sequence[Network | None] | None = None,
    **client_options: Any,
) -> AsyncIterator[tuple[SessionClient, ...]]:
    """Open several clients of one loaded model, each with a session of its own, as in a server.

    The clients connect one after the other. `network` is one for all of them, or a sequence with one for
    each. All else is as in `open_session`. Raises `ValueError` if there are not `count` networks.
    """
    networks = [network] * count if network is None or isinstance(network, Network) else list(network)
    if len(networks) != count:
        raise ValueError(f"{count} clients need {count} networks, not {len(networks)}")
    host = await _host(model, config, limits, executor, media)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(open_session(host, network=each, **client_options))
            for each in networks
        ]
        yield tuple(clients)


async def _host(
    model: type[ReactorModel] | ModelHost,
    config: dict[str, Any] | None,
    limits: Limits | None,
    executor: Executor | None,
    media: MediaSettings | None,
) -> ModelHost:
    if isinstance(model, ModelHost):
        given = {"config": config, "limits": limits, "executor": executor, "media": media}
        ignored = [name for name, value in given.items() if value is not None]
        if ignored:
            raise TypeError(f"{', '.join(ignored)}: the host has its own; give it to load_host")
        return model
    return await load_host(model, config, limits=limits, executor=executor, media=media)


def _record(server_end: MemoryTransport) -> Transcript:
    began = trio.current_time()
    transcript = Transcript()

    def now() -> float:
        return trio.current_time() - began

    server_end.on_receive = recorder(transcript, ">", now)
    server_end.on_send = recorder(transcript, "<", now)
    return transcript
