"""A model and the parts of its server, put together for the command line, `serve` and `asgi` alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.compute.executor import ThreadExecutor
from reactor_trio.link.host import ModelHost
from reactor_trio.media.settings import MediaSettings
from reactor_trio.server.metrics import Metrics
from reactor_trio.server.serve import Server
from reactor_trio.server.service import Service
from reactor_trio.server.settings import ServerSettings
from reactor_trio.session.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.compute.executor import Executor
    from reactor_trio.model.model import ReactorModel


@attrs.frozen(kw_only=True, eq=False)
class Composition:
    """The parts of one server, put together. A caller runs `server()`, or serves a `service()` by itself."""

    model: type[ReactorModel]
    settings: ServerSettings = attrs.field(factory=ServerSettings)
    config: Mapping[str, Any] = attrs.field(factory=dict)
    """The argument of the model's `load`."""
    name: str | None = None
    """The model's name for clients; None: that of its class."""
    limits: Limits = attrs.field(factory=Limits)
    media: MediaSettings = attrs.field(factory=MediaSettings)
    executor: Executor = attrs.field(factory=ThreadExecutor)
    """Runs the model's blocking work; `/health` asks it whether the device is stuck."""
    metrics: Metrics = attrs.field(factory=Metrics)
    """Observes the sessions, and is shown by `/metrics`."""

    async def load(self) -> ModelHost:
        """Make the prototype and `load` it. Errors and cancellation are those of `ModelHost.load`."""
        return await ModelHost.load(
            self.model,
            dict(self.config),
            name=self.name,
            limits=self.limits,
            executor=self.executor,
            observer=self.metrics,
            media=self.media,
        )

    def server(self) -> Server:
        """A server with listeners of its own, which is to `run(composition.load)`."""
        return Server(self.settings, name=self._name, metrics=self.metrics, executor=self.executor)

    def service(self) -> Service:
        """A service without listeners, which is to `open(await composition.load())`."""
        return Service(self.settings, name=self._name, metrics=self.metrics, executor=self.executor)

    @property
    def _name(self) -> str:
        return self.name or self.model.__name__
