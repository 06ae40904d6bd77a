"""The sockets that the server listens on, and the text of their addresses and of those of peers."""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from reactor_trio.errors import ListenError
from reactor_trio.server.arrival import UNIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reactor_trio.server.settings import ServerSettings


UNIX_MODE = 0o660
"""Permissions of a unix socket: its owner and its group may connect."""
ACCEPT_LOG_SECONDS = 5.0
"""Least seconds between two lines of the log about connections that cannot be accepted."""


class _NowAndThen(logging.Filter):
    """Passes a record, and then none for `seconds`."""

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
    """In this block Trio logs at most every `ACCEPT_LOG_SECONDS` that it cannot accept connections.

    Without descriptors it tries again, and logs that, ten times a second.
    """
    logger, rare = logging.getLogger("trio.serve_listeners"), _NowAndThen(ACCEPT_LOG_SECONDS, clock)
    logger.addFilter(rare)
    try:
        yield
    finally:
        logger.removeFilter(rare)


async def open_listeners(settings: ServerSettings) -> list[trio.SocketListener]:
    """Listen on the sockets of the settings, on a unix socket, or on all addresses of the host, on one port.

    Raises `ListenError`. If cancelled, nothing is bound.
    """
    if settings.sockets:
        await trio.lowlevel.checkpoint()
        return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in settings.sockets]
    if settings.uds is not None:
        await trio.lowlevel.checkpoint()
        return [trio.SocketListener(trio.socket.from_stdlib_socket(_unix_socket(settings.uds)))]
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


def _unix_socket(path: str) -> socket.socket:
    """Bind and listen. Raises `ListenError`."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        # The file never exists with other permissions. The mask is that of the process: no other thread runs
        # yet that could make a file meanwhile.
        mask = os.umask(0o777 & ~UNIX_MODE)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(socket.SOMAXCONN)
    except OSError as exc:
        listener.close()
        raise ListenError(f"cannot listen on {path}: {exc.strerror or exc}") from exc
    except ListenError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket of a process that has ended. Raises `ListenError` for any other file."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenError(f"cannot listen on {path}: there is a file, and it is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # with a full backlog `connect` would wait
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                Path(path).unlink()
            return
        except BlockingIOError:
            pass
    raise ListenError(f"cannot listen on {path}: another process does")


@contextmanager
def removed_at_the_end(path: str | None) -> Iterator[None]:
    """Remove the unix socket on leaving, unless another process has replaced it by its own."""
    if path is None:
        yield
        return
    ours = os.lstat(path)
    try:
        yield
    finally:
        with suppress(OSError):
            there = os.lstat(path)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                Path(path).unlink()


def places_of(listeners: Iterable[trio.SocketListener]) -> tuple[list[tuple[str, int]], list[str]]:
    """The addresses of TCP listeners, and the paths of unix sockets; an abstract name begins with `@`."""
    addresses: list[tuple[str, int]] = []
    paths: list[str] = []
    for listener in listeners:
        name = listener.socket.getsockname()
        if isinstance(name, tuple):
            addresses.append(name[:2])
        else:
            paths.append(os.fsdecode(name).replace("\0", "@"))
    return addresses, paths


def peer_of(stream: trio.SocketStream) -> str:
    """Host and port of the peer; `unix` on a unix socket; empty if the peer has already closed."""
    if stream.socket.family == getattr(socket, "AF_UNIX", None):  # its clients have no address
        return UNIX
    try:
        host, port, *_ = stream.socket.getpeername()
    except OSError:
        return ""
    # A socket for both families writes an IPv4 address as ::ffff:192.0.2.7.
    return authority_of(host.removeprefix("::ffff:") if "." in host else host, port)


def authority_of(host: str, port: int) -> str:
    """Host and port in the form of a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
