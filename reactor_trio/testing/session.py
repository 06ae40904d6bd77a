"""Sessions in memory: the real thing but for the wire."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

from reactor_trio.client.client import Client
from reactor_trio.client.nursery import open_plain_nursery
from reactor_trio.session.host import ModelHost
from reactor_trio.testing.executor import InlineExecutor
from reactor_trio.testing.transport import MemoryTransport, memory_transport_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from reactor_trio.authoring.model import ReactorModel
    from reactor_trio.compute.executor import Executor
    from reactor_trio.session.connection import Session
    from reactor_trio.session.endings import Ending
    from reactor_trio.session.limits import Limits


@attrs.frozen
class TranscriptEntry:
    """One message on the wire, with the virtual time at which the session read or wrote it."""

    time: float
    """Seconds since the session began."""
    direction: str
    """`>` to the server, `<` to the client."""
    message: str | bytes


class SessionClient(Client):
    """The client of a session in memory, and what a test wants to see of the other side."""

    session: Session
    """The session under test: `session.model` is its copy of the model, `session.ending` why it ended."""
    transport: MemoryTransport
    """The client's end: `stall()` stops reading, `cut()` breaks the connection."""
    transcript: list[TranscriptEntry]
    """Everything that crossed the wire, in order."""

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
) -> ModelHost:
    """Load a model once, for several sessions of it: give the host to `open_session` for the class.

    Raises what `load` raises. If cancelled, there is no host.
    """
    return await ModelHost.load(
        model_class,
        config,
        name=name,
        limits=limits,
        executor=executor or InlineExecutor(),
        session_id=_counting_ids("session"),
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
    **client_options: Any,
) -> AsyncIterator[SessionClient]:
    """A client of a real session of `model`, over a connection in memory.

    All that a served session does happens here: the same nursery, channels, validation, pacing, limits and
    hooks. Time is Trio's, so under `MockClock(autojump_threshold=0)`, as `reactor_trio.testing.run` and
    pytest-trio's `autojump_clock` set it up, a minute takes no time. Blocking work runs inline unless an
    `executor` is given. `model` may be a `ModelHost` (see `load_host`), so that several sessions share it.

    Leaving closes the client and waits for the session's `@disconnected`. Raises what `load` raises.
    """
    host = (
        model
        if isinstance(model, ModelHost)
        else await load_host(model, config, limits=limits, executor=executor)
    )
    ours, theirs = memory_transport_pair(send_timeout=host.limits.send_timeout)
    session = host.session(theirs, address="memory")
    transcript = _record(theirs)
    ended = trio.Event()

    async def serve() -> None:
        try:
            await session.run()
        finally:
            ended.set()

    async with open_plain_nursery() as nursery:
        nursery.start_soon(serve, name=session.id)
        options = {"executor": host.executor, "random_id": _counting_ids("upload"), **client_options}
        async with SessionClient.over(ours, **options) as client:
            assert isinstance(client, SessionClient)
            client.session, client.transport, client.transcript = session, ours, transcript
            client._session_ended = ended
            yield client


def _record(server_end: MemoryTransport) -> list[TranscriptEntry]:
    began = trio.current_time()
    transcript: list[TranscriptEntry] = []

    def recorder(direction: str) -> Callable[[str | bytes], None]:
        def record(message: str | bytes) -> None:
            transcript.append(TranscriptEntry(trio.current_time() - began, direction, message))

        return record

    server_end.on_receive = recorder(">")
    server_end.on_send = recorder("<")
    return transcript
