"""Where the server listens, and how addresses are written."""

from __future__ import annotations

import logging
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from reactor_trio.server.forwarded import UNIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reactor_trio.server.settings import ServerSettings


class ListenError(Exception):
    """The address cannot be listened on: in use, not allowed, or not there."""


ACCEPT_LOG_SECONDS = 5.0
"""Seconds between two lines of the log that say that no connection can be accepted."""


class _NowAndThen(logging.Filter):
    """Lets a line through, and then none for a while."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock
        self._next = -float("inf")

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


@contextmanager
def accept_errors_now_and_then(clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """In this block Trio, which looks ten times a second, says now and then that there are no descriptors."""
    logger, rare = logging.getLogger("trio.serve_listeners"), _NowAndThen(ACCEPT_LOG_SECONDS, clock)
    logger.addFilter(rare)
    try:
        yield
    finally:
        logger.removeFilter(rare)


async def open_listeners(settings: ServerSettings) -> list[trio.SocketListener]:
    """Bind the address, all addresses of a name on the same port.

    Raises `ListenError`. If cancelled, nothing is bound.
    """
    try:
        listeners = await trio.open_tcp_listeners(settings.port, host=settings.host)
        ports = [listener.socket.getsockname()[1] for listener in listeners]
        if len(set(ports)) > 1:  # port 0, and a name with an IPv4 and an IPv6 address
            for listener in listeners:
                await listener.aclose()
            listeners = await trio.open_tcp_listeners(ports[0], host=settings.host)
    except OSError as exc:
        where = authority_of(settings.host, settings.port)
        raise ListenError(f"cannot listen on {where}: {exc.strerror or exc}") from exc
    return listeners


def peer_of(stream: trio.SocketStream) -> str:
    """Host and port of the peer; `unix` on a unix socket; empty if it has gone already."""
    if stream.socket.family == getattr(socket, "AF_UNIX", None):  # clients have no name there
        return UNIX
    try:
        host, port, *_ = stream.socket.getpeername()
    except OSError:
        return ""
    # A socket for both families says ::ffff:192.0.2.7 of an IPv4 address.
    return authority_of(host.removeprefix("::ffff:") if "." in host else host, port)


def authority_of(host: str, port: int) -> str:
    """Host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
