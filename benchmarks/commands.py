"""The whole job, side by side: reactor_trio against FastAPI and pydantic on uvicorn.

    python benchmarks/commands.py [--seconds 2] [--rounds 3] [--ws auto]
    python benchmarks/commands.py --versus no-watchdog --rounds 15     what the watchdog costs

The job is one typed command: `set_prompt {prompt: str (1..500), strength: float (0..1)}` arrives as a
WebSocket text message, is validated, handled (stored) and answered by a typed `prompt_set` under its id.
`command_model.py` does it on reactor_trio, `command_fastapi.py` by hand; both get the same bytes.

Three cells, in commands a second: one client that sends a command when it has the last one's answer;
one client with 64 in flight; 100 clients, each one at a time.

Both servers run all the time, each as a process of its own, pinned to one core, and are measured in
turns (A B A B ...), since machines differ from minute to minute. The load comes from this process, on
another core, over raw sockets: its frames are built beforehand, and answers are compared as whole bytes
with the one that was checked field by field before the timing, so a wrong answer ends the run. The last
column says how busy this process was: near 100 %, the client was the bottleneck and the number is a lower
bound. Loopback only; it stops by itself, and takes its servers with it. Differences under 1.3x mean
nothing on a shared machine.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gc
import json
import os
import queue
import re
import selectors
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
URL = re.compile(rb"(?:http|ws)s?://([\w.]+):(\d+)")
READY_TIMEOUT = 60.0
"""How long a server may take to print its URL, in seconds: importing torch, at worst."""
ANSWER_TIMEOUT = 10
"""How long an answer may take, in seconds; then the run fails."""
WARM_UP = 0.3
"""Seconds at the beginning of a cell that do not count."""
IN_FLIGHT = 64
CLIENTS = 100
COMMAND = {
    "type": "set_prompt",
    "data": {"prompt": "a sunny meadow, oil on canvas", "strength": 0.5},
    "id": 7,
}
ANSWER = {"type": "prompt_set", "data": COMMAND["data"], "reply_to": COMMAND["id"]}
TEXT, CLOSE, PING = 1, 8, 9


# ---- the wire, as little of it as is needed (RFC 6455, section 5.2)


def masked_text(message: object) -> bytes:
    """A client's text frame, built once. The mask is not zero, so the server has to undo it."""
    payload = json.dumps(message).encode()
    mask = b"\x5a\xc3\x17\x99"
    length = (
        bytes([0x80 | len(payload)]) if len(payload) < 126 else struct.pack(">BH", 0x80 | 126, len(payload))
    )
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return b"\x81" + length + mask + masked


def take_frame(buffer: bytearray) -> tuple[int, bytes, bytes] | None:
    """Cut the first whole frame of a server off: opcode, payload, the frame as it came."""
    if len(buffer) < 2:
        return None
    length, start = buffer[1], 2
    if length == 126:
        start = 4
    elif length == 127:
        start = 10
    if len(buffer) < start:
        return None
    if start > 2:
        length = int.from_bytes(buffer[2:start], "big")
    if len(buffer) < start + length:
        return None
    frame = bytes(buffer[: start + length])
    del buffer[: start + length]
    return frame[0] & 0x0F, frame[start:], frame


class Connection:
    """One WebSocket client, which recognises and counts its answers."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=ANSWER_TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self._handshake(address)
        self.answer = self._first_answer()
        # Python's own timeout costs a poll before every call; the kernel's costs nothing.
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", ANSWER_TIMEOUT, 0))

    def close(self) -> None:
        # 1000, masked with zeros: politely, so that neither server logs a lost client.
        with contextlib.suppress(OSError):
            self.socket.sendall(b"\x88\x82\0\0\0\0" + struct.pack(">H", 1000))
        self.socket.close()

    def receive(self) -> int:
        """Read once; how many answers came."""
        self._read()
        size = len(self.answer)
        count = len(self.buffer) // size
        whole = count * size
        if self.buffer[:whole] == self.answer * count:
            del self.buffer[:whole]
            return count
        return self._receive_other()

    def _receive_other(self) -> int:
        # Something other than answers is among them: a ping is nothing, anything else is a failure.
        count = 0
        while (frame := take_frame(self.buffer)) is not None:
            if frame[2] == self.answer:
                count += 1
            elif frame[0] != PING:
                raise RuntimeError(f"not the answer: {frame[1]!r}")
        return count

    def _read(self) -> None:
        # Into one buffer for all: `recv` would allocate its own each time, which costs more than reading.
        length = self.socket.recv_into(RECEIVED)
        if not length:
            raise RuntimeError("the server closed the connection")
        self.buffer += RECEIVED[:length]

    def _handshake(self, address: tuple[str, int]) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self._read()
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        if b" 101 " not in head.splitlines()[0]:
            raise RuntimeError(f"no WebSocket: {head!r}")
        self.buffer[:] = rest

    def _first_answer(self) -> bytes:
        # Checked by its meaning; from now on every answer must be these very bytes.
        self.socket.sendall(FRAME)
        while True:
            frame = take_frame(self.buffer)
            if frame is None:
                self._read()
            elif frame[0] == TEXT:
                message = json.loads(frame[1])
                if message == ANSWER:
                    return frame[2]
                if message["type"] != "reactor.welcome":
                    raise RuntimeError(f"not the answer: {message}")


FRAME = masked_text(COMMAND)
RECEIVED = memoryview(bytearray(1 << 16))
BLOCKS = [FRAME * count for count in range(IN_FLIGHT + 1)]


# ---- the load


def rate(step: Callable[[], int], seconds: float) -> float:
    """Call `step`, which says how many answers came, until the time is over; answers a second."""
    warm = time.perf_counter() + WARM_UP
    while time.perf_counter() < warm:
        step()
    count = 0
    started = now = time.perf_counter()
    while now < started + seconds:
        count += step()
        now = time.perf_counter()
    return count / (now - started)


def one_client(address: tuple[str, int], seconds: float, *, in_flight: int) -> float:
    """Commands a second of one client that keeps so many under way."""
    with contextlib.closing(Connection(address)) as connection:
        send, receive = connection.socket.sendall, connection.receive

        def step() -> int:
            count = receive()
            send(BLOCKS[count])
            return count

        send(BLOCKS[in_flight])
        return rate(step, seconds)


def many_clients(address: tuple[str, int], seconds: float, *, clients: int) -> float:
    """Commands a second of so many clients, each of which has one under way."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(clients):
            connection = stack.enter_context(contextlib.closing(Connection(address)))
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.socket.sendall(FRAME)

        def step() -> int:
            ready = selector.select(ANSWER_TIMEOUT)
            if not ready:
                raise RuntimeError("no answer")
            total = 0
            for key, _ in ready:
                count = key.data.receive()
                key.data.socket.sendall(BLOCKS[count])
                total += count
            return total

        return rate(step, seconds)


CELLS: dict[str, Callable[[tuple[str, int], float], float]] = {
    "one client, one at a time": lambda address, seconds: one_client(address, seconds, in_flight=1),
    f"one client, {IN_FLIGHT} in flight": lambda address, seconds: one_client(
        address, seconds, in_flight=IN_FLIGHT
    ),
    f"{CLIENTS} clients, one at a time each": lambda address, seconds: many_clients(
        address, seconds, clients=CLIENTS
    ),
}


# ---- the servers


@dataclass
class Server:
    """A server process: its name, its command line, and its result in each cell."""

    name: str
    command: Sequence[str]
    address: tuple[str, int] = ("", 0)
    process: subprocess.Popen[bytes] | None = None
    rates: dict[str, list[float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it, wait for the line with its URL, and stop it in any case."""
        process = subprocess.Popen(
            self.command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            self.address = self._wait_until_ready(process)
            self.process = process
            yield
        finally:
            stop(process)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> tuple[str, int]:
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

        def pump() -> None:
            # Read to the end, since a full pipe would stop the server; later output is for the user.
            assert process.stdout is not None
            for line in process.stdout:
                if self.address[1]:
                    sys.stderr.write(f"[{self.name}] {line.decode(errors='replace')}")
                lines.put(line)
            lines.put(b"")

        threading.Thread(target=pump, daemon=True, name=f"output of {self.name}").start()
        said = b""
        give_up = time.monotonic() + READY_TIMEOUT
        while True:
            try:
                line = lines.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                line = b""
            said += line
            if found := URL.search(line):
                return found[1].decode(), int(found[2])
            if not line:
                raise SystemExit(f"{self.name} did not start:\n{said.decode(errors='replace')}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server: politely, then by force."""
    process.terminate()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def servers(versus: str, ws: str) -> list[Server]:
    model = str(HERE.relative_to(HERE.parent) / "command_model.py:Echo")
    serve = [sys.executable, "-m", "reactor_trio", "serve", model, "--port", "0", "--log-level", "warning"]
    serve += [
        "--max-events-per-second",
        "0",
        "--max-messages-per-second",
        "0",
    ]  # the other has no limit either
    if versus == "no-watchdog":
        return [Server("watched", serve), Server("unwatched", [*serve, "--no-watchdog"])]
    by_hand = [sys.executable, str(HERE / "command_fastapi.py"), "--ws", ws]
    return [Server("reactor_trio", serve), Server("FastAPI", by_hand)]


def pin(core: int) -> None:
    """Bind this process, and the children it starts from now on, to one of its cores."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(CORES)
        os.sched_setaffinity(0, {cores[core % len(cores)]})


CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


# ---- the run


def measure(contestants: Sequence[Server], seconds: float, rounds: int) -> dict[str, float]:
    """Fill in every server's rates; returns how busy this process was at most, for each cell."""
    busy = dict.fromkeys(CELLS, 0.0)
    for number in range(rounds):
        for cell, load in CELLS.items():
            for server in contestants:
                used, started = time.process_time(), time.perf_counter()
                found = load(server.address, seconds)
                share = (time.process_time() - used) / (time.perf_counter() - started)
                busy[cell] = max(busy[cell], share)
                server.rates.setdefault(cell, []).append(found)
                print(f"round {number + 1}: {cell}: {server.name}: {found:,.0f}/s", file=sys.stderr)
    return busy


def table(contestants: Sequence[Server], busy: dict[str, float]) -> str:
    ours, theirs = contestants
    head = f"{'commands/s, median':<34}{ours.name:>14}{theirs.name:>14}{'ratio':>8}{'client busy':>14}"
    rows = [head, "-" * len(head)]
    for cell in CELLS:
        a, b = (statistics.median(server.rates[cell]) for server in contestants)
        # Pair by pair: neighbours in time met the same machine.
        pairs = zip(ours.rates[cell], theirs.rates[cell], strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        rows.append(f"{cell:<34}{a:>14,.0f}{b:>14,.0f}{ratio:>8.2f}{busy[cell]:>13.0%}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of each cell of each server and round (2)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument(
        "--versus", choices=["fastapi", "no-watchdog"], default="fastapi", help="the other server (fastapi)"
    )
    parser.add_argument("--ws", default="auto", help="uvicorn's WebSocket implementation (auto)")
    options = parser.parse_args()
    # Else SIGTERM would end this process past every `finally`, and leave the servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    contestants = servers(options.versus, options.ws)
    with contextlib.ExitStack() as stack:
        pin(0)
        for server in contestants:
            stack.enter_context(server.running())
        pin(1)
        gc.disable()
        busy = measure(contestants, options.seconds, options.rounds)
    print(table(contestants, busy))


if __name__ == "__main__":
    main()
