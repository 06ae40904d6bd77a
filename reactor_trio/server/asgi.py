"""`reactor_trio.asgi`: a model as an ASGI 3 application, which FastAPI and Starlette applications can mount.

The ASGI server reads the sockets and speaks HTTP and WebSockets. Requests get the same answers, and clients
the same sessions, as from `Server`. If the ASGI server runs on Trio, each call is served in its own task. If
it runs on asyncio, the calls are served in a thread that runs Trio.
"""

from __future__ import annotations

import traceback
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from reactor_trio.contract.contract import read_contract
from reactor_trio.media.settings import MediaSettings
from reactor_trio.server.asgi_site import Site
from reactor_trio.server.asgi_thread import TrioThread
from reactor_trio.server.composition import Composition
from reactor_trio.server.options import AccessOptions, check_arguments, check_names, settings_of
from reactor_trio.session.limits import Limits
from reactor_trio.wire.asgi_calls import TrioCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from typing import Unpack

    from reactor_trio.model.model import ReactorModel
    from reactor_trio.wire.asgi_calls import Event, Receive, Send


class ModelApp:
    """An ASGI application that serves one model. Made by `asgi`."""

    def __init__(self, compose: Callable[[], Composition]) -> None:
        self._compose = compose
        # Made by the first call, or by `lifespan`, which drops it at its end.
        self._site: Site | None = None
        self._thread = TrioThread()

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Serve one ASGI call, of type `http`, `websocket` or `lifespan`.

        Raises `ValueError` for another type. If cancelled, the session of the call is cancelled; its
        `@disconnected` still runs.
        """
        if scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
        elif scope["type"] not in ("http", "websocket"):
            raise ValueError(f"a model cannot serve ASGI calls of type {scope['type']!r}")
        elif trio.lowlevel.in_trio_task():
            await _serve_on_trio(self._site_now(), scope, receive, send)
        else:
            # The body of an HTTP request is not read.
            receives = receive if scope["type"] == "websocket" else None
            await self._thread.serve(partial(self._site_now().handle, scope), receives, send)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Load the model on entering, and end its sessions on leaving.

        It is the lifespan of the application that mounts the model: `FastAPI(lifespan=painter.lifespan)`, or
        `async with painter.lifespan():` within the application's own lifespan. It is needed because Starlette
        does not forward lifespan events to mounted applications. Without it the first client waits while the
        model is loaded.

        Raises `RuntimeError` if the model cannot be loaded; its cause is the error of `load`. On leaving, the
        sessions have `drain_timeout` seconds to say goodbye (close 1001) and to run `@disconnected`, and are
        cancelled after that. If the leaving is cancelled, they have `limits.close_timeout` seconds from then
        on (`drain_timeout`, if that is less).
        """
        site = self._site_now()
        try:
            if trio.lowlevel.in_trio_task():
                await site.load()
            else:
                await self._thread.run(site.load)
            yield
        finally:
            self._site = None
            if trio.lowlevel.in_trio_task():
                await site.close()  # noqa: ASYNC102  it shields itself for a bounded time
            else:
                try:
                    await self._thread.run(site.close)  # noqa: ASYNC102  no Trio runs here
                finally:
                    await self._thread.stop()  # noqa: ASYNC102

    async def drain(self) -> None:
        """Refuse new clients, say goodbye to the present ones (close 1001), and wait for their sessions.

        Most ASGI servers close their connections before they tell the application that they shut down.
        Clients are told goodbye only if this is called before: for example by a route that the deployment
        requests before it stops the process. Sessions that have not ended after `drain_timeout` seconds are
        cancelled. If `drain` is cancelled, they have `limits.close_timeout` seconds from then on
        (`drain_timeout`, if that is less). Does nothing if no call has been served yet.
        """
        if (site := self._site) is not None:
            await (site.close() if trio.lowlevel.in_trio_task() else self._thread.run(site.close))

    def _site_now(self) -> Site:
        if self._site is None:
            self._site = Site(self._compose())
        return self._site

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        phase, failure = "startup", None
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as exc:
            failure = exc
        if failure is None:
            await send({"type": "lifespan.shutdown.complete"})
            return
        text = "".join(traceback.format_exception(failure))
        await send({"type": f"lifespan.{phase}.failed", "message": text})
        raise failure


async def _serve_on_trio(site: Site, scope: Event, receive: Receive, send: Send) -> None:
    calls = TrioCalls(receive, send)
    async with trio.open_nursery() as nursery:
        if scope["type"] == "websocket":
            nursery.start_soon(calls.run, name="asgi/receive")
        await site.handle(scope, calls)
        nursery.cancel_scope.cancel(reason="the call has ended")


def asgi(
    model: type[ReactorModel],
    *,
    config: Mapping[str, Any] | None = None,
    name: str | None = None,
    limits: Limits | None = None,
    media: MediaSettings | None = None,
    **options: Unpack[AccessOptions],
) -> ModelApp:
    """A model as an ASGI application: `app.mount("/painter", reactor_trio.asgi(Painter))`.

    `config` is the argument of `load`, and `name` the model's name for clients. `options` are the options of
    `serve` that do not concern sockets: `token`, `authenticate`, `auth`, `allow_origins`, `allow_hosts`,
    `web`, `max_sessions`, `max_sessions_per_address`, `max_waiting`, `max_wait`, `drain_timeout`,
    `stuck_timeout` and `handshake_timeout`.

    If the ASGI server says that it was reached at an address that other machines can reach, requests are
    refused with 403 and an error is logged, unless `token`, `authenticate` or `auth=False` is given.

    Raises `ValueError` for an impossible value, and names its keyword; `TypeError` for an unknown keyword,
    for a value of another type, and for a mistake in the model's declarations.
    """
    check_arguments(model, config, name, limits, media)
    check_names("asgi", options, AccessOptions)
    is_open = any(options.get(each) is not None for each in ("token", "authenticate")) or not options.get(
        "auth", True
    )
    # The settings need a host, though no socket is opened. With an address that others can reach, requests
    # may name any host. With a loopback address, only its own names (`origins.is_host_allowed`).
    settings = settings_of({"host": "0.0.0.0" if is_open else "127.0.0.1", **options})
    read_contract(model, name)
    return ModelApp(
        partial(
            Composition,
            model=model,
            settings=settings,
            config=config or {},
            name=name,
            limits=limits or Limits(),
            media=media or MediaSettings(),
        )
    )
