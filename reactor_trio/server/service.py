"""One model as its clients see it, without the listeners: its status, its pages and its sessions."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

import orjson
import trio

from reactor_trio.compute.executor import ThreadExecutor, is_stuck
from reactor_trio.contract.openapi import openapi
from reactor_trio.server.gate import Gate
from reactor_trio.server.reception import Reception
from reactor_trio.server.routes import State
from reactor_trio.server.sessions import Sessions
from reactor_trio.server.web import web_files
from reactor_trio.server.web_folder import WebFolder

if TYPE_CHECKING:
    from reactor_trio.compute.executor import Executor
    from reactor_trio.server.metrics import Metrics
    from reactor_trio.server.routes import Status
    from reactor_trio.server.sessions import ServedHost
    from reactor_trio.server.settings import ServerSettings


class Service:
    """One model and its clients. `reception` decides about requests; `sessions` serves clients with a place.

    `metrics` is shown by `/metrics`, and must also be the observer of the host that `open` is given.
    `executor` is that of the host: `/health` asks it whether the device is stuck, and it reads the files of
    `settings.web`.
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
        self.name = name
        """The model's name in `/health`: as given, and that of the host once it is loaded."""
        self.sessions = Sessions(settings)
        self.gate = Gate(max_connections=settings.max_connections, max_unfinished=settings.max_handshakes)
        """Counts all connections, and the clients that were refused."""
        self.reception = Reception(
            settings,
            self.sessions.admission,
            refused=self.gate.refused,
            state=lambda: self.state,
            folder=None if settings.web is None else WebFolder(settings.web, executor or ThreadExecutor()),
        )
        self.ready = trio.Event()
        """Set when the model is loaded."""
        self._metrics = metrics
        self._executor = executor
        self._status: Status = "loading"
        self._schema: bytes | None = None
        # The author's page takes the place of the playground at `/`.
        self._web = {path: file for path, file in web_files().items() if settings.web is None or path != "/"}
        if metrics is not None:
            metrics.waiting_clients = lambda: self.sessions.admission.waiting
            metrics.gate = self.gate

    @property
    def status(self) -> Status:
        """`loading` until `open`, `draining` from `drain` on; `failed` while the device is stuck."""
        timeout, executor = self.settings.stuck_timeout, self._executor
        if self._status == "ready" and timeout and executor is not None and is_stuck(executor, timeout):
            return "failed"
        return self._status

    @property
    def state(self) -> State:
        """The values by which a request is answered now."""
        admission = self.sessions.admission
        return State(
            status=self.status,
            model=self.name,
            sessions=admission.sessions,
            waiting=admission.waiting,
            is_full=not admission.has_room,
            schema=self._schema,
            web=self._web,
            metrics=None if self._metrics is None else self._metrics.exposition,
        )

    def open(self, host: ServedHost) -> None:
        """Take the host of the loaded model, and let clients in from now on."""
        contract = host.contract
        self._schema = orjson.dumps(openapi(contract, version=_version()))
        self.sessions.open(host)
        self.name = contract.name
        self._status = "ready"
        self.ready.set()

    def drain(self) -> None:
        """Let no more clients in, and ask those that are there to end; `sessions.drained` is set then."""
        self._status = "draining"
        self.sessions.drain()


def _version() -> str:
    try:
        return importlib.metadata.version("reactor-trio")
    except importlib.metadata.PackageNotFoundError:  # a source tree that was not installed
        return "0"
