"""Test a model in virtual time, against the real session, without a socket or a thread.

from reactor_trio.testing import open_session, run

async def main():
    async with open_session(Painter, config={"seed": 7}) as client:
        reply = await client.call("get_current_prompt")
        assert reply.data == {"prompt": "a sunny meadow"}

run(main)
"""

from __future__ import annotations

from reactor_trio.testing.deterministic import deterministic_scheduling, run
from reactor_trio.testing.executor import InlineExecutor
from reactor_trio.testing.session import SessionClient, TranscriptEntry, load_host, open_session
from reactor_trio.testing.transport import MemoryTransport, memory_transport_pair

__all__ = [
    "InlineExecutor",
    "MemoryTransport",
    "SessionClient",
    "TranscriptEntry",
    "deterministic_scheduling",
    "load_host",
    "memory_transport_pair",
    "open_session",
    "run",
]
