"""Sessions in memory: the real thing but for the wire."""

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


# Connections of each host so far: each draws its own jitter, the same in every run.
_connections: weakref.WeakKeyDictionary[ModelHost, Iterator[int]] = weakref.WeakKeyDictionary()


class SessionClient(Client):
    """The client of a session in memory, and what a test wants to see of the other side."""

    session: Session
    """The session under test: `session.model` is its copy of the model, `session.ending` why it ended."""
    network: LiveNetwork
    """What lies between: `stall()`, `resume()`, `cut()`, `lose()`, `change(...)`."""
    transport: MemoryTransport
    """The client's end, for sending raw messages: `await client.transport.send(["no JSON"])`."""
    transcript: Transcript
    """Everything that crossed the wire so far, in order, with the times of the server's end."""

    async def ended(self) -> Ending:
        """Wait until the session has ended, `@disconnected` included, and return why."""
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
    """Load a model once, for several sessions of it: give the host to `open_session` for the class.

    Raises what `load` raises. If cancelled, there is no host.
    """
    if not structlog.is_configured():
        # Its own default prints every variable of every frame where `rich` is installed: whole pictures.
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
    """A client of a real session of `model`, over a connection in memory.

    All that a served session does happens here: the same nursery, channels, validation, pacing, limits and
    hooks. Time is Trio's, so under `MockClock(autojump_threshold=0)`, as `reactor_trio.testing.run` and
    pytest-trio's `autojump_clock` set it up, a minute takes no time. Blocking work runs inline and at once
    unless an `executor` is given, such as `DeviceCost(0.080)`. `network` is what lies between client and
    server; without one everything arrives at once. `media` says how video is sent. `model` may be a
    `ModelHost` (see `load_host`), so that several sessions share it.

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
    """Several clients at once, of one loaded model: each has a session of its own, as when they are served.

    They connect one after the other. `network` lies between each of them and the server, or is one for each.
    Everything else is as in `open_session`. Raises `ValueError` if there are not `count` networks.
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
