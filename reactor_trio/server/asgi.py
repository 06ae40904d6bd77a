"""`reactor_trio.asgi`: a model as an ASGI 3 application, to be mounted in one of FastAPI's or Starlette's.

The ASGI server reads the sockets and speaks HTTP and WebSockets; what requests are answered, and the
sessions, are those of the own server. On Trio each call is served where it is made; on asyncio in a thread
that runs Trio.
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
from reactor_trio.server.options import AccessOptions, check_names, settings_of
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
        # Until the end of a `lifespan`: another one makes another.
        self._site: Site | None = None
        self._thread = TrioThread()

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Serve one ASGI call: of type `http`, `websocket` or `lifespan`.

        If cancelled, the session of the call is cancelled, and runs its `@disconnected`.
        """
        if scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
        elif scope["type"] not in ("http", "websocket"):
            raise ValueError(f"a model cannot serve ASGI calls of type {scope['type']!r}")
        elif trio.lowlevel.in_trio_task():
            await _serve_on_trio(self._site_now(), scope, receive, send)
        else:
            # Of a request no more is read than its head.
            receives = receive if scope["type"] == "websocket" else None
            await self._thread.serve(partial(self._site_now().handle, scope), receives, send)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Load the model, and end its sessions on leaving: the `lifespan` of the application that mounts it.

        `FastAPI(lifespan=painter.lifespan)`, or `async with painter.lifespan():` in a lifespan of one's own:
        Starlette tells applications that are mounted nothing of the life of the whole. Without it the model
        is loaded for the first client, who waits for it.

        Raises `RuntimeError` if the model cannot be loaded, with the reason as its cause. On leaving,
        sessions have `drain_timeout` seconds to say goodbye (close 1001) and to run `@disconnected`; then
        they are cancelled. If this is cancelled, they have `limits.close_timeout` seconds instead, if that is
        less.
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
                await site.close()  # noqa: ASYNC102  which shields itself, and bounds that
            else:
                try:
                    await self._thread.run(site.close)  # noqa: ASYNC102  no Trio runs here
                finally:
                    await self._thread.stop()  # noqa: ASYNC102

    async def drain(self) -> None:
        """Let no more clients in, say goodbye to those that are there (close 1001), and wait for their end.

        Call it before the ASGI server shuts down, if that closes connections by itself first, as most do: in
        a signal handler's task, or for a request by which a load balancer takes the machine out. What has not
        ended after `drain_timeout` seconds is cancelled. If cancelled, `limits.close_timeout` bounds it
        instead.
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

    `config` is what `load` is given, and `name` the model's name for clients. `options` are those of `serve`
    that do not concern its sockets: `token`, `authenticate`, `auth`, `allow_origins`, `allow_hosts`,
    `max_sessions`, `max_sessions_per_address`, `max_waiting`, `max_wait`, `drain_timeout`, `stuck_timeout`
    and `handshake_timeout`.

    Where other machines can reach the application, as the ASGI server tells, requests are refused with 403,
    and the log says so, unless there are `token`, `authenticate` or `auth=False`.

    Raises `ValueError`, which names the keyword, for a value that cannot be, and `TypeError` for a mistake in
    the model's declarations.
    """
    check_names("asgi", options, AccessOptions)
    is_open = any(options.get(each) is not None for each in ("token", "authenticate")) or not options.get(
        "auth", True
    )
    # Nothing is listened on; an open address has the server believe what name it is asked by.
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
