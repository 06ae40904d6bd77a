"""The process around the server: what signals do, and when waiting for threads is given up."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from reactor_trio.compute.executor import Executor
    from reactor_trio.server.serve import ServedHost, Server

SIGNALS = (signal.SIGINT, signal.SIGTERM)
THREAD_SECONDS = 5.0
"""How long threads may go on after everything was cancelled."""

log = structlog.get_logger(__name__)


async def serve_process(
    server: Server,
    load: Callable[[], Awaitable[ServedHost]],
    *,
    executor: Executor,
    announce: Callable[[Server], None],
) -> None:
    """Run the server until SIGINT or SIGTERM (DESIGN, section 4.5). Only from the main thread.

    `announce` is called once the server is ready. Raises what `Server.run` raises. Ends the process with
    status 1, without cleaning up, if a thread does not end. The signals stay ignored afterwards, as the
    process is about to end.
    """
    for signum in SIGNALS:
        # What the receiver restores when it closes: a signal that comes later than that has been obeyed.
        signal.signal(signum, signal.SIG_IGN)
    failure: Exception | None = None
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            # The consumer outlives the drain, as signals that nobody took are raised again.
            nursery.start_soon(_obey, signals, server, executor, name="server/signals")
            nursery.start_soon(_announce, server, announce, name="server/announce")
            try:
                await server.run(load)
            except Exception as exc:
                failure = exc
            nursery.cancel_scope.cancel(reason="the server has ended")
    if failure is not None:
        raise failure


async def _announce(server: Server, announce: Callable[[Server], None]) -> None:
    await server.ready.wait()
    announce(server)


async def _obey(signals: AsyncIterator[int], server: Server, executor: Executor) -> None:
    await anext(signals)
    log.info("draining", sessions=server.state.sessions, seconds=server.settings.drain_timeout)
    server.drain()
    with trio.move_on_after(server.settings.drain_timeout):
        await anext(signals)
    log.warning("cancelling what is left", sessions=server.state.sessions)
    server.cancel()
    with trio.move_on_after(THREAD_SECONDS):
        await anext(signals)
        _give_up(executor)
    # Without a thread, what still runs is a hook within its own time.
    while not executor.running():
        with trio.move_on_after(1):
            await anext(signals)
            break
    _give_up(executor)


def _give_up(executor: Executor) -> NoReturn:
    now = trio.current_time()
    calls = [f"{call.name} in lane {call.lane}, for {now - call.asked:.0f} s" for call in executor.running()]
    message = "; ".join(calls) or "a task that does not end when it is cancelled"
    print(f"Stopped without waiting for: {message}", file=sys.stderr, flush=True)  # noqa: T201
    sys.stdout.flush()
    os._exit(1)
