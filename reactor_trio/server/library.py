"""`reactor_trio.serve`: a model behind a port of its own, as a task of the application's nursery.

It is the server of `reactor-trio serve` without its process: the application keeps control of signals,
logging, the garbage collector and the limit of descriptors.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import trio

from reactor_trio.compute.watchdog import Watchdog, watching
from reactor_trio.contract.contract import read_contract
from reactor_trio.media.settings import MediaSettings
from reactor_trio.server.composition import Composition
from reactor_trio.server.options import ServeOptions, check_arguments, check_names, settings_of
from reactor_trio.session.limits import Limits
from reactor_trio.wire.nursery import open_plain_nursery

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from reactor_trio.model.model import ReactorModel
    from reactor_trio.server.serve import Server


class RunningServer:
    """A server that `serve` runs: its addresses, and the method that ends it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # Set by `drain`; a task of `serve` waits for it.
        self._is_asked = trio.Event()

    def __repr__(self) -> str:
        return f"<RunningServer {self.url}>"

    @property
    def port(self) -> int:
        """The port of the first socket that has one; 0 if all are unix sockets."""
        return self._server.addresses[0][1] if self._server.addresses else 0

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each socket that has a port."""
        return self._server.addresses

    @property
    def url(self) -> str:
        """The page's URL, `http://127.0.0.1:8080/`; or `unix:/run/painter.sock`, if all are unix sockets."""
        return self._url("http")

    @property
    def websocket_url(self) -> str:
        """The URL for `reactor_trio.client.open_client`: `ws://127.0.0.1:8080/ws`."""
        return self._url("ws", "ws")

    @property
    def sessions(self) -> int:
        """The number of clients that were let in and have not left."""
        return self._server.sessions

    def drain(self) -> None:
        """Refuse new clients, and say goodbye to the present ones (close 1001). Returns at once.

        `serve` returns after the last session has ended. Sessions that have not ended `drain_timeout` seconds
        from now are cancelled. A second call does nothing.
        """
        self._is_asked.set()

    def _url(self, scheme: str, path: str = "") -> str:
        server = self._server
        if not server.addresses:
            return f"unix:{server.paths[0]}"
        s = "s" if server.is_secure else ""
        return f"{scheme}{s}://{server.authority}{server.settings.root_path}/{path}"


async def serve(
    model: type[ReactorModel],
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    config: Mapping[str, Any] | None = None,
    name: str | None = None,
    limits: Limits | None = None,
    media: MediaSettings | None = None,
    watchdog: bool = False,
    task_status: trio.TaskStatus[RunningServer] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None:
    """Load the model and serve it until cancelled, or until `RunningServer.drain` is called.

        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(reactor_trio.serve, Painter, port=0))
            print(server.url)

    `nursery.start` returns a `RunningServer` once the model is loaded; clients get 503 before that. Port 0
    means a free port. `config` is the argument of `load`, and `name` the model's name for clients. With
    `watchdog`, a line that blocks the loop is logged; it watches each step of every task, which costs time.
    `options` are the options of the command, with underscores: `token`, `authenticate`, `auth`,
    `allow_origins`, `allow_hosts`, `web`, `max_sessions`, `max_sessions_per_address`, `max_connections`,
    `max_handshakes`, `max_waiting`, `max_wait`, `uds`, `sockets`, `ssl_context`, `proxy_headers`,
    `trusted_proxies`, `root_path`, `drain_timeout`, `stuck_timeout`, `handshake_timeout` and
    `max_head_bytes`.

    Raises `ValueError`, with the name of the keyword, for an impossible value, and for a `host` that other
    machines can reach if none of `token`, `authenticate` and `auth=False` is given; `TypeError` for an
    unknown keyword, for a value of another type, and for a mistake in the model's declarations;
    `reactor_trio.errors.ListenError` if the address cannot be listened on; and every error of `load`. A
    failure of one session is logged, and never raised.

    If cancelled, `serve` refuses new clients and asks each session to say goodbye, as `drain` does. It waits
    at most `limits.close_timeout` seconds (`drain_timeout`, if that is less), then cancels the remaining
    sessions, which closes their connections by force. Each `@disconnected` still runs, for at most
    `limits.hook_timeout` seconds. Calls in threads, such as those of `self.compute`, cannot be cancelled;
    `serve` waits for them. While the model is loading, `load` is cancelled at once.
    """
    check_arguments(model, config, name, limits, media)
    check_names("serve", options, ServeOptions)
    settings = settings_of({"host": host, "port": port, **options})
    read_contract(model, name)
    composition = Composition(
        model=model,
        settings=settings,
        config=config or {},
        name=name,
        limits=limits or Limits(),
        media=media or MediaSettings(),
    )
    server = composition.server()
    running = RunningServer(server)
    # The scope of the server. If the caller is cancelled, it ends later, so that clients are told goodbye.
    scope = trio.CancelScope(shield=True)
    with watching(Watchdog(composition.metrics.stalled)) if watchdog else nullcontext():
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_run, server, composition, scope, nursery.cancel_scope, name="server")
            try:
                await server.ready.wait()
                task_status.started(running)
                await running._is_asked.wait()
                server.drain()
                await trio.sleep(settings.drain_timeout)
                server.cancel()
            except trio.Cancelled:
                scope.deadline = trio.current_time() + min(
                    composition.limits.close_timeout, settings.drain_timeout
                )
                server.drain()
                raise


async def _run(
    server: Server,
    composition: Composition,
    scope: trio.CancelScope,
    others: trio.CancelScope,
) -> None:
    """Run the server in its scope, then cancel the tasks of the scope `others`."""
    with scope:
        await server.run(composition.load)
    others.cancel(reason="the server has ended")
