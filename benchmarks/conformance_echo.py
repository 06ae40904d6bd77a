"""A WebSocket echo on the server's own seam, for the Autobahn test suite.

    python benchmarks/conformance_echo.py [--port 9001]

The way in is the server's: `HeadParser` reads the request, `answer` decides, `accept_websocket` upgrades.
Only the session is missing. A fragmented message comes back whole, as the seam hands over whole messages.
Loopback only; it runs until it is stopped.
"""

from __future__ import annotations

import argparse
from functools import partial

import trio

from reactor_trio.errors import TransportClosed
from reactor_trio.server.http import HeadError, HeadParser, Response
from reactor_trio.server.origins import Policy
from reactor_trio.server.routes import State, answer
from reactor_trio.wire.accept import accept_websocket
from reactor_trio.wire.streams import PatientStream

HOST = "127.0.0.1"
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""The suite's largest message has 16 MiB."""
SEND_TIMEOUT = 30.0
"""Seconds in which the suite must take 64 KiB."""
HEAD_TIMEOUT = 10.0
"""Seconds for a request head."""
READ_BYTES = 64 * 1024
STATE = State("ready", "Echo", sessions=0)


async def echo(socket: trio.SocketStream) -> None:
    """One connection, from its first byte to its close."""
    parser = HeadParser()
    request = None
    async with socket:
        try:
            with trio.fail_after(HEAD_TIMEOUT):
                while request is None:
                    if not (data := await socket.receive_some(READ_BYTES)):
                        return
                    request = parser.feed(data)
            what = answer(request, Policy(), STATE)
        except HeadError as error:
            what = error.response
        except (trio.TooSlowError, trio.BrokenResourceError):
            return
        stream = PatientStream(socket, send_timeout=SEND_TIMEOUT, prefix=parser.rest)
        try:
            if isinstance(what, Response):
                await stream.send_all(what.encode())
                return
            async with accept_websocket(
                stream, key=what.key, subprotocol=what.subprotocol, max_message_bytes=MAX_MESSAGE_BYTES
            ) as transport:
                while True:
                    await transport.send(await transport.receive())
        except (TransportClosed, trio.BrokenResourceError):
            pass


async def serve(port: int = 0, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve for ever; `task_status` is told the port."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, echo, port, host=HOST))
        task_status.started(listeners[0].socket.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=9001, help="(9001)")
    port = parser.parse_args().port
    print(f"echo at ws://{HOST}:{port}/ws", flush=True)
    trio.run(serve, port)


if __name__ == "__main__":
    main()
