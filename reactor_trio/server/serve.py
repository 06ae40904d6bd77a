"""The server: a `Service` with listeners, from binding them to the end of the last connection.

See docs/design.md#shutting-down and docs/design.md#the-process.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from reactor_trio.compute.watchdog import measure_lag
from reactor_trio.server.connections import Connections
from reactor_trio.server.gate import connections_for, descriptor_limit, descriptors_in_use
from reactor_trio.server.listeners import (
    accept_errors_now_and_then,
    authority_of,
    open_listeners,
    places_of,
    removed_at_the_end,
)
from reactor_trio.server.service import Service
from reactor_trio.session.failures import split

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from reactor_trio.compute.executor import Executor
    from reactor_trio.server.metrics import Metrics
    from reactor_trio.server.routes import State
    from reactor_trio.server.sessions import ServedHost
    from reactor_trio.server.settings import ServerSettings


class Server:
    """One model behind one port. `run` serves it; `drain` and `cancel` end that.

    `name` is the model's while it is loading. The other arguments are those of `Service`.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        name: str,
        metrics: Metrics | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.settings = settings
        self.addresses: tuple[tuple[str, int], ...] = ()
        """Host and port of each listener that has them, once `run` has bound them."""
        self.paths: tuple[str, ...] = ()
        """The paths of the listeners that are unix sockets."""
        self._service = Service(settings, name=name, metrics=metrics, executor=executor)
        self._metrics = metrics
        # Around everything that `run` does; `cancel` cancels it.
        self._scope = trio.CancelScope()

    @property
    def name(self) -> str:
        """The model's name in `/health`."""
        return self._service.name

    @property
    def ready(self) -> trio.Event:
        """Set when the model is loaded."""
        return self._service.ready

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
        """The values by which a request is answered now."""
        return self._service.state

    @property
    def sessions(self) -> int:
        """Connections that were let in and have not ended."""
        return self._service.sessions.admission.sessions

    @property
    def hook_timeout(self) -> float:
        """Seconds that a session's `@disconnected` may take."""
        return self._service.sessions.hook_timeout

    @property
    def only_hooks_are_left(self) -> bool:
        """Whether there are sessions and each of them runs its `@disconnected`. From any thread."""
        return self._service.sessions.only_hooks_are_left

    async def run(
        self,
        load: Callable[[], Awaitable[ServedHost]],
        *,
        listeners: Iterable[trio.SocketListener] | None = None,
        task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Bind, load the model while requests are answered with 503, then serve until drained or cancelled.

        `task_status` is told once the model is loaded. Raises `ListenError`, and the errors of `load`. If
        cancelled, the sessions are cancelled too, and run their `@disconnected`.
        """
        service = self._service
        bound = await open_listeners(self.settings) if listeners is None else list(listeners)
        if not service.gate.max_connections:
            service.gate.max_connections = connections_for(descriptor_limit(), descriptors_in_use())
        addresses, paths = places_of(bound)
        self.addresses, self.paths = tuple(addresses), tuple(paths)
        handle = Connections(self.settings, service.gate, service.reception, service.sessions).handle
        unix = removed_at_the_end(self.settings.uds if listeners is None else None)
        failure: BaseException | None = None
        # Connections outlive the listeners, and `failure` leaves both nurseries without a group around it.
        with unix, self._scope, accept_errors_now_and_then():
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as listening:
                    serve = partial(trio.serve_listeners, handle, bound, handler_nursery=connections)
                    listening.start_soon(serve, name="server/listen")
                    if self._metrics is not None:
                        listening.start_soon(measure_lag, self._metrics.lag.observe, name="server/lag")
                    try:
                        service.open(await load())
                        task_status.started(self)
                        await service.sessions.drained.wait()
                    except BaseException as raised:  # noqa: ASYNC103  `split` lets cancellation pass
                        failure, rest = split(raised)
                        if rest is not None:
                            raise rest from None  # noqa: ASYNC104  `split` lets cancellation pass
                    listening.cancel_scope.cancel(reason="the server stops")
                connections.cancel_scope.cancel(reason="the server stops")
        if failure is not None:
            raise failure

    def drain(self) -> None:
        """Let no more clients in and ask the sessions to end; `run` returns after the last connection.

        Sets no deadline: the caller decides when to `cancel`. While the model is loading it cancels at once.
        """
        if self._service.status == "loading":
            self.cancel()
        self._service.drain()

    def cancel(self) -> None:
        """Cancel `run`, and all connections with it."""
        self._scope.cancel(reason="the server was told to stop")
