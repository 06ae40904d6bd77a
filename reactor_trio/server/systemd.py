"""The protocols of a service manager: it passes sockets on, and is told when the server is ready.

They are those of sd_listen_fds(3) and sd_notify(3), and need no library.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

FIRST_FD: Final = 3
MOST_FDS: Final = 64
"""The most sockets that are passed to one server."""
_ENVIRONMENT: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def passed_descriptors(environ: MutableMapping[str, str]) -> range:
    """The descriptors that a service manager has passed to this process; empty if there are none.

    The variables are removed from the environment, so that no child process takes them for its own. Raises
    `ValueError` for a malformed number of descriptors.
    """
    pid, count, _ = (environ.pop(name, "") for name in _ENVIRONMENT)
    if pid != str(os.getpid()):
        return range(0)
    if not count.isdecimal() or len(count) > len(str(MOST_FDS)) or int(count) > MOST_FDS:
        raise ValueError(f"LISTEN_FDS should be a number up to {MOST_FDS}: {count[:20]!r}")
    return range(FIRST_FD, FIRST_FD + int(count))


def listening_sockets(descriptors: Sequence[int]) -> tuple[socket.socket, ...]:
    """The sockets of these descriptors, listening. Raises `ValueError` for one that cannot listen."""
    return tuple(_listening_socket(fd) for fd in descriptors)


def _listening_socket(fd: int) -> socket.socket:
    try:
        found = socket.socket(fileno=fd)
    except OSError as exc:
        raise ValueError(f"descriptor {fd} is no socket: {exc.strerror}") from None
    try:
        families = (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None))
        if found.type != socket.SOCK_STREAM or found.family not in families:
            raise ValueError(f"descriptor {fd} is no stream socket of TCP or unix")
        if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            name = found.getsockname()
            # `listen` on a socket without an address would choose one that other machines can reach.
            if not (name[1] if isinstance(name, tuple) else name) or _is_connected(found):
                raise ValueError(f"descriptor {fd} is a socket that does not listen")
            found.listen(socket.SOMAXCONN)
        found.set_inheritable(False)
    except BaseException:
        found.detach()  # a descriptor that was passed by mistake must not be closed
        raise
    return found


def _is_connected(found: socket.socket) -> bool:
    try:
        found.getpeername()
    except OSError:
        return False
    return True


def notify(state: str) -> None:
    """Tell the service manager `READY=1` or `STOPPING=1`, if there is one. Never raises and never blocks."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.sendto(state.encode(), address)
