"""Idle clients on real sockets: a client that answers pings at once is never cut off."""

from __future__ import annotations

import selectors
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from raw_websocket import PING, PONG, RawWebSocket, connected_to, frame
from serving import serve

HEARTBEAT = 0.5
"""Seconds; long enough for the answer to a ping on a busy machine."""
ROUNDS = 8
CLIENTS = 12
MODEL = """
from reactor_trio import ReactorModel

class Idle(ReactorModel):
    pass
"""


@pytest.mark.parametrize(
    "options", [(), ("--max-sessions", "1", "--max-waiting", "100")], ids=["session", "line"]
)
def test_idle_clients_that_answer_each_ping_at_once_stay(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    options += ("--heartbeat", str(HEARTBEAT))
    with serve(tmp_path / "model.py", tmp_path, *options) as served, ExitStack() as stack:
        address = urlsplit(served.url)
        assert address.hostname
        assert address.port
        clients = [stack.enter_context(connected_to(address.hostname, address.port)) for _ in range(CLIENTS)]
        answered, gone = answer_pings(clients, seconds=ROUNDS * HEARTBEAT)
    assert gone == 0
    assert min(answered.values()) >= 2, "each was asked more than once"


def answer_pings(clients: list[RawWebSocket], *, seconds: float) -> tuple[dict[RawWebSocket, int], int]:
    """Answer each ping at once; returns the answers of each client, and the number of clients cut off."""
    answered, gone = dict.fromkeys(clients, 0), 0
    ends = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while (left := ends - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                client = key.fileobj
                assert isinstance(client, RawWebSocket)
                if not client.read():
                    gone += 1
                    selector.unregister(client)
                for opcode, payload in client.frames():
                    if opcode == PING:
                        client.send(frame(PONG, payload))
                        answered[client] += 1
    return answered, gone
