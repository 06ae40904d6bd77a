"""Descriptors on real sockets: the kernel gives a closed number to the next client at once."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from reactor_trio.wire.streams import PatientStream

pytestmark = pytest.mark.real_time

ATTEMPTS = 60
"""Trio chooses by chance whether the reader or the closing task runs first: about half of them each."""
DEADLINE = 60.0
OWN, SECRET = b"of its own", b"the request head of another client"


async def test_a_reader_never_gets_the_bytes_of_the_next_client() -> None:
    with trio.fail_after(DEADLINE):
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            read = [await attempt(listener) for _ in range(ATTEMPTS)]
    assert set(read) == {OWN, trio.ClosedResourceError}


async def attempt(listener: trio.SocketListener) -> bytes | type[Exception]:
    """The bytes or error of a reader whose stream is closed in the pass of the loop in which bytes arrive."""
    address = listener.socket.getsockname()
    got: list[bytes | type[Exception]] = []
    accepted: list[trio.SocketStream] = []
    trigger, ours = trio.socket.socketpair()
    with socket.create_connection(address) as own, trigger, ours:
        stream = PatientStream(await listener.accept(), send_timeout=DEADLINE)

        async def read() -> None:
            try:
                got.append(bytes(await stream.receive_some(100)))
            except trio.ClosedResourceError as error:
                got.append(type(error))

        async def close() -> None:
            await trio.lowlevel.wait_readable(trigger)
            await trio.aclose_forcefully(stream)

        async def accept() -> None:
            accepted.append(await listener.accept())

        async with trio.open_nursery() as nursery:
            for task in (read, close, accept):
                nursery.start_soon(task)
            await trio.testing.wait_all_tasks_blocked()
            # No checkpoint until all is sent: the loop wakes the three tasks in one pass.
            ours._sock.send(b"!")  # type: ignore[attr-defined]
            with socket.create_connection(address) as other:
                other.sendall(SECRET)
                own.sendall(OWN)
        await accepted[0].aclose()
        await stream.aclose()
    return got[0]
