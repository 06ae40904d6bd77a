"""Test a model in virtual time, against the real session, without a socket or a thread.

    from reactor_trio.testing import DeviceCost, Network, open_session, run

    async def main():
        slow = Network(delay=0.05, bandwidth=50_000)
        async with open_session(Painter, network=slow, executor=DeviceCost(0.080)) as client:
            reply = await client.call("get_current_prompt")
            assert reply.data == {"prompt": "a sunny meadow"}
            client.transcript.assert_matches("tests/golden/prompt.txt")

    run(main)

pytest loads the plugin, `pytest_reactor_trio`, as soon as the package is installed. The guide is
`docs/testing.md`.
"""

from __future__ import annotations

from reactor_trio.testing.deterministic import TookTooLong, deterministic_scheduling, run
from reactor_trio.testing.device import DeviceCost
from reactor_trio.testing.executor import InlineExecutor
from reactor_trio.testing.leaks import Leak, LeakWatch
from reactor_trio.testing.live_network import LiveNetwork
from reactor_trio.testing.network import Link, Network
from reactor_trio.testing.session import SessionClient, load_host, open_session, open_sessions
from reactor_trio.testing.transcript import Transcript, TranscriptEntry
from reactor_trio.testing.transport import MemoryTransport, memory_transport_pair

__all__ = [
    "DeviceCost",
    "InlineExecutor",
    "Leak",
    "LeakWatch",
    "Link",
    "LiveNetwork",
    "MemoryTransport",
    "Network",
    "SessionClient",
    "TookTooLong",
    "Transcript",
    "TranscriptEntry",
    "deterministic_scheduling",
    "load_host",
    "memory_transport_pair",
    "open_session",
    "open_sessions",
    "run",
]
