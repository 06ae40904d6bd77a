"""The endings sweep of `test_endings_sweep.py`, with a real WebSocket over a real pair of sockets.

The clock is virtual here too: bytes that one end writes are readable at the other at once, so no time passes
while bytes are on their way. These runs are slower, so only some scheduling points of each scenario are cut:
evenly spread ones, and different ones for each ending.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio

import test_endings_sweep
from raw_websocket import BINARY, CLOSE, PONG, TEXT, frame
from reactor_trio.link.host import ModelHost
from reactor_trio.wire import framing as frames
from reactor_trio.wire.accept import accept_websocket
from reactor_trio.wire.framing import FrameReader
from reactor_trio.wire.streams import PatientStream
from reactor_trio.wire.websocket import WebSocketTransport
from test_endings_sweep import (
    ENDINGS,
    LIMITS,
    SCENARIOS,
    Cut,
    Cuts,
    Outcome,
    Probe,
    Scenario,
    Theatre,
    Victim,
    faults_of,
    faults_of_farewell,
)

CUTS = 24
"""The least number of scheduling points that are cut for each scenario and ending."""
SWEPT = ("idle", "handler", "upload in threads", "emit", "send", "hook")
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
SMALL_BUFFER = 4096
"""Bytes, as asked of the kernel: so few that the server soon notices a client that pauses."""


class SocketTransport:
    """The server's end of a WebSocket over a socket pair; the test plays the client.

    The client's methods are those of `StrictTransport`, and synchronous, so that they can be called at any
    scheduling point. The task `client` reads for the client, and answers pings and the close frame as any
    library does.
    """

    def __init__(self, inner: WebSocketTransport, ours: trio.socket.SocketType, theirs: Any) -> None:
        self.inner = inner
        self.faults: list[str] = []
        self.read: list[tuple[float, str | bytes]] = []
        self.close_code: int | None = None
        """The code of the server's close frame; None if the server closed by force, or after the client."""
        self.aborted = False
        self._ours, self._theirs = ours, theirs
        self._reader = FrameReader(masked=False, max_message_bytes=LIMITS.max_message_bytes)
        self._began = trio.current_time()
        self._reads = trio.Event()
        self._reads.set()
        self._is_lost = False
        # Whether the client has sent a close frame; whether it has read the server's.
        self._has_hung_up = self._is_closed = False

    # ---- the client

    async def client(self) -> None:
        try:
            while not self._is_closed and self._theirs.fileno() != -1:
                await trio.lowlevel.wait_readable(self._theirs)
                await self._reads.wait()
                if not self.read_now():
                    return
        except (trio.ClosedResourceError, OSError):
            pass

    def read_now(self) -> bool:
        """Read all bytes that have arrived; returns False if no more can come."""
        while not self._is_lost and self._theirs.fileno() != -1:
            try:
                data = self._theirs._sock.recv(1 << 16)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self._reader.feed(data)
            self._take()
        return False

    def _take(self) -> None:
        while (item := self._reader.next()) is not None:
            if not isinstance(item, bytearray):
                if self._is_closed:
                    self.faults.append("a message after the close frame")
                self.read.append((trio.current_time() - self._began, item))
            elif item and item[0] == frames.PING:
                self._write(frame(PONG, self._reader.payload_of(item)))
            elif item and item[0] == frames.CLOSE:
                self._is_closed = True
                if not self._has_hung_up:
                    payload = self._reader.payload_of(item)
                    self.close_code = struct.unpack(">H", payload[:2])[0]
                    self._write(frame(CLOSE, payload))
        if self._reader.fault is not None:
            self.faults.append(f"bad framing: {self._reader.fault.reason}")

    def _write(self, data: bytes) -> None:
        if not self._is_lost and self._theirs.fileno() != -1:
            with contextlib.suppress(OSError):  # the server has hung up, or reads nothing any more
                self._theirs._sock.sendall(data)

    def arrive(self, *messages: str | bytes) -> None:
        for message in messages:
            is_text = isinstance(message, str)
            payload = message.encode() if isinstance(message, str) else message
            self._write(frame(TEXT if is_text else BINARY, payload))

    def hang_up(self, code: int = 1000) -> None:
        if not self._is_lost:
            self._has_hung_up = True
            self._write(frame(CLOSE, struct.pack(">H", code)))

    def cut(self) -> None:
        self._is_lost = True
        self._theirs.close()

    def freeze(self) -> None:
        self.pause()
        self._is_lost = True

    def stall(self) -> None:
        self.freeze()
        if self._ours.fileno() != -1:  # these bytes are never read: they fill the network
            with contextlib.suppress(OSError):
                while self._ours._sock.send(bytes(SMALL_BUFFER)):  # type: ignore[attr-defined]
                    pass

    def pause(self) -> None:
        self._reads = trio.Event()

    def resume(self) -> None:
        self._reads.set()

    # ---- the session

    @property
    def has_ended(self) -> bool:
        return self._ours.fileno() == -1

    @property
    def last_received(self) -> float:
        return self.inner.last_received

    @property
    def has_unsent(self) -> bool:
        return self.inner.has_unsent

    async def receive(self) -> Any:
        return await self.inner.receive()

    async def send(self, messages: list[Any]) -> None:
        await self.inner.send(messages)

    def send_nowait(self, messages: list[Any]) -> bool:
        return self.inner.send_nowait(messages)

    async def ping(self) -> None:
        await self.inner.ping()

    async def aclose(self, code: int, reason: str) -> None:
        await self.inner.aclose(code, reason)

    async def abort(self) -> None:
        self.aborted = True
        await self.inner.abort()


async def play(transport: SocketTransport, scenario: Scenario) -> None:
    for seconds, what in scenario.steps:
        await trio.sleep(seconds)
        if callable(what):
            getattr(transport, what.__name__)()
        else:
            transport.arrive(*what)
    await trio.sleep(0.05)
    transport.hang_up()


@attrs.define
class SocketTheatre(Theatre):
    """The theatre of `test_endings_sweep.py`, with a victim on a socket."""

    async def _victim(self, host: ModelHost, scenario: Scenario, cuts: Cuts, result: Outcome) -> None:
        left, theirs = trio.socket.socketpair()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        stream = PatientStream(trio.SocketStream(left), send_timeout=LIMITS.send_timeout)
        with theirs:
            async with accept_websocket(
                stream, key=KEY, subprotocol=None, max_message_bytes=LIMITS.max_message_bytes
            ) as websocket:
                assert theirs._sock.recv(4096).endswith(b"\r\n\r\n")  # type: ignore[attr-defined]
                transport = SocketTransport(websocket, left, theirs)
                await self._session(host, transport, scenario, cuts, result)

    async def _session(
        self, host: ModelHost, transport: Any, scenario: Scenario, cuts: Cuts, result: Outcome
    ) -> None:
        session = host.session(transport)
        session.model.probe = probe = Probe(transport=transport, emits=scenario.emits)
        victim = Victim(session, transport, probe, trio.CancelScope())
        cut = Cut({step: functools.partial(ENDINGS[name][0], victim) for step, name in cuts.items()})
        trio.lowlevel.add_instrument(cut)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.client, name="victim's client")
            nursery.start_soon(play, transport, scenario, name="victim's client")
            with victim.outside:
                await session.run()
            transport.read_now()
            nursery.cancel_scope.cancel()
        trio.lowlevel.remove_instrument(cut)
        assert session.ending is not None
        result.steps, result.reason = cut.steps, session.ending.reason
        result.faults += [*faults_of(session, transport), *faults_of_farewell(session, transport)]
        result.faults += [f"a temporary file is open: {file!r}" for file in self.files if not file.closed]
        expected = ("run() failed", "inference() failed") if probe.fails else ()
        result.faults += [f"logged: {error}" for error in self.errors if error not in expected]
        if cut.failure is not None:
            result.faults.append(f"the cut failed: {cut.failure!r}")


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_endings_sweep, "Theatre", SocketTheatre)
        yield from test_endings_sweep.theatre.__wrapped__()  # type: ignore[attr-defined]


def undisturbed(theatre: Theatre, name: str) -> Outcome:
    if name not in _undisturbed:
        _undisturbed[name] = theatre.play(SCENARIOS[name], {})
    return _undisturbed[name]


_undisturbed: dict[str, Outcome] = {}


@pytest.mark.parametrize("scenario", SWEPT)
def test_undisturbed_a_scenario_ends_with_its_client(theatre: Theatre, scenario: str) -> None:
    result = undisturbed(theatre, scenario)
    assert result.faults == []
    assert result.reason == "client_closed"
    assert result.steps > CUTS


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("scenario", SWEPT)
def test_a_session_on_a_socket_ends_cleanly_wherever_it_is_cut(
    theatre: Theatre, scenario: str, ending: str
) -> None:
    reference = undisturbed(theatre, scenario)
    stride = max(1, reference.steps // CUTS)
    offset = [*ENDINGS].index(ending) * stride // len(ENDINGS)
    expected = {ENDINGS[ending][1], reference.reason}
    if ending in ("heartbeat", "slow client"):
        # A real network takes no more for a frozen client than its buffers hold; and a network that takes
        # nothing any more may have taken a ping before.
        expected |= {"heartbeat_lost", "slow_client"}
    faults: list[str] = []
    for step in range(1 + offset, reference.steps + 1, stride):
        result = theatre.play(SCENARIOS[scenario], {step: ending})
        if result.reason not in expected:
            result.faults.append(f"it ended with {result.reason}")
        if result.neighbour != reference.neighbour:
            result.faults.append("the neighbour noticed")
        faults += [f"before step {step}: {fault}" for fault in result.faults]
    assert not faults, "\n".join([f"{len(faults)} faults", *faults[:10]])
