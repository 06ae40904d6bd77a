"""The latency of other clients while one client floods the server.

    python benchmarks/floods.py [--seconds 5] [--only pongs] [--bound 25]

Four processes: the server (`command_model.py`, with the limits that it has by default, on a core of its own),
a client that floods it, and another one that sends a command every 10 ms and measures how long the answer
takes; this one only starts them. The client that floods writes as fast as the server reads, throws away what
it is answered, and comes back when it is cut off. Printed is a row a flood; the exit status is 1 if the p99
of a command is over `--bound` milliseconds in one of them.

Loopback only; it stops by itself, and takes all of them with it. `benchmarks/soak.py` has the same floods.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import FRAME, Connection, Server, masked_text

HERE = Path(__file__).parent
PERIOD = 0.010
"""Seconds between two commands of the client that measures."""
BLOCK_BYTES = 128 * 1024
"""Bytes that a flood writes at once: as many as the server reads at once."""


def frame(opcode: int, payload: bytes = b"", *, last: bool = True) -> bytes:
    """A client's frame under a mask of zeros (RFC 6455, section 5.2)."""
    first, size = opcode | (0x80 if last else 0), len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = struct.pack(">BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + payload


def binary(kind: int, header: dict[str, object], payload: bytes = b"") -> bytes:
    """A binary message of the protocol, in a frame."""
    head = json.dumps(header).encode()
    return frame(2, struct.pack(">BH", kind, len(head)) + head + payload)


def text(type_: str, **data: object) -> bytes:
    return masked_text({"type": type_, "data": data})


@dataclass(frozen=True)
class Flood:
    """The bytes that a flood repeats, and those that it writes once before."""

    unit: bytes
    first: bytes = b""

    @property
    def block(self) -> bytes:
        return self.unit * max(1, BLOCK_BYTES // len(self.unit))


def start(upload: str, size: int) -> bytes:
    return text("reactor.upload_start", upload_id=upload, name="a", mime_type="a/b", size=size)


FLOODS: dict[str, Flood] = {
    "frames of one byte": Flood(frame(1, b"x")),
    "empty frames": Flood(frame(2)),
    "pings": Flood(frame(9)),
    "pings of 125 bytes": Flood(frame(9, bytes(125))),
    "pongs": Flood(frame(10)),
    "fragments of one byte": Flood(frame(0, b"x", last=False), frame(1, b"x", last=False)),
    "empty fragments": Flood(frame(0, last=False), frame(1, b"x", last=False)),
    "messages of two fragments": Flood(frame(1, b"{", last=False) + frame(0, b"}")),
    "pings between fragments": Flood(frame(9) + frame(0, b"x", last=False), frame(1, b"x", last=False)),
    "unknown commands": Flood(text("a")),
    "commands": Flood(FRAME),
    "refused commands": Flood(text("set_prompt", prompt="", strength=7, more=1)),
    "reactor.ping": Flood(text("reactor.ping", t=1)),
    "reactor.frame_shown": Flood(text("reactor.frame_shown", track="a", seq=1)),
    "reactor.configure_track": Flood(text("reactor.configure_track", track="a", max_width=16)),
    "no JSON": Flood(frame(1, b"{" * 50)),
    "chunks of no upload": Flood(binary(2, {"upload_id": "none", "offset": 0}, b"x")),
    "empty chunks": Flood(binary(2, {"upload_id": "u", "offset": 0}), start("u", 1)),
    "chunks of one byte": Flood(binary(2, {"upload_id": "u", "offset": 0}, b"x"), start("u", 1 << 20)),
    "uploads that begin and end": Flood(start("u", 9) + text("reactor.upload_abort", upload_id="u")),
    "frames of no track": Flood(binary(1, {"track": "a", "seq": 0, "pts": 0, "codec": "raw"})),
    "messages of 1 MiB, no JSON": Flood(frame(1, b"[" * ((1 << 20) - 100))),
    "unknown fields, 1 MiB": Flood(
        frame(1, b'{"type":"set_prompt","data":{%s}}' % b",".join(b'"k%d":0' % n for n in range(90_000)))
    ),
    "an unknown command of 1 MiB": Flood(
        frame(1, b'{"type":"a","data":{"a":[%s]}}' % b",".join([b"{}"] * 349_000))
    ),
}
"""By name."""


# ---- the clients, each in a process of its own


def wait_for_end(connection: Connection, ended: threading.Event) -> None:
    """Read and throw away the server's answers, so that it does not wait for this client."""
    with contextlib.suppress(OSError):
        while connection.socket.recv(1 << 20):
            pass
    ended.set()


def flood(address: tuple[str, int], name: str, seconds: float) -> dict[str, float]:
    """Flood; how many bytes went out, and how often the server closed the connection."""
    what, until = FLOODS[name], time.monotonic() + seconds
    written, closed = 0, 0
    while time.monotonic() < until:
        connection, ended = Connection(address), threading.Event()
        threading.Thread(target=wait_for_end, args=(connection, ended), daemon=True).start()
        connection.socket.settimeout(seconds)
        with contextlib.suppress(OSError):
            connection.socket.sendall(what.first)
            while time.monotonic() < until:
                connection.socket.sendall(what.block)
                written += len(what.block)
        closed += time.monotonic() < until
        connection.socket.close()
    return {"bytes": written, "closed": closed}


def measure(address: tuple[str, int], seconds: float) -> dict[str, list[float]]:
    """A command every `PERIOD`; how long each answer took, in milliseconds."""
    took: list[float] = []
    with contextlib.closing(Connection(address)) as connection:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            connection.socket.sendall(FRAME)
            while not connection.receive():
                pass
            took.append(1000 * (time.perf_counter() - began))
            time.sleep(PERIOD)
    return {"took": took}


ROLES: dict[str, Callable[..., object]] = {"flood": flood, "measure": measure}


@contextlib.contextmanager
def client(
    role: str, address: tuple[str, int], *arguments: object, nice: int = 0, script: str = __file__
) -> Iterator[Callable[[], Any]]:
    """Run one of `ROLES` in a process; yields a function that waits for its result."""
    job = json.dumps([role, address, *arguments])
    command = ["nice", "-n", str(nice), sys.executable, script, "--role", job]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield lambda: json.loads(process.communicate(timeout=120)[0])
    finally:
        process.kill()
        process.wait()


# ---- the table


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(server: Server, name: str | None, seconds: float, script: str = __file__) -> tuple[str, float]:
    """One row, and the p99 in it. `script` runs the clients, and knows the flood."""
    assert server.process is not None
    with contextlib.ExitStack() as stack:
        found = None
        if name is not None:
            found = stack.enter_context(
                client("flood", server.address, name, seconds + 1, nice=5, script=script)
            )
            time.sleep(1)
        used, began = cpu_seconds(server.process.pid), time.monotonic()
        took = stack.enter_context(client("measure", server.address, seconds, script=script))()["took"]
        used = (cpu_seconds(server.process.pid) - used) / (time.monotonic() - began)
        result = found() if found is not None else {"bytes": 0, "closed": 0}
    p99 = percentile(took, 0.99)
    numbers = [statistics.median(took), p99, max(took), result["bytes"] / 1e6]
    cells = [*[f"{number:.1f}" for number in numbers], f"{result['closed']:.0f}", f"{used:.0%}"]
    return f"| {name or 'nothing'} | {' | '.join(cells)} |", p99


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each flood (5)")
    parser.add_argument("--only", help="floods whose name has this in it")
    parser.add_argument("--bound", type=float, default=25.0, help="milliseconds of p99 (25)")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role is not None:
        role, address, *arguments = json.loads(options.role)
        print(json.dumps(ROLES[role](tuple(address), *arguments)))
        return 0
    cores = sorted(os.sched_getaffinity(0))
    serve = [sys.executable, "-m", "reactor_trio", "serve", str(HERE / "command_model.py"), "--port", "0"]
    server = Server("reactor_trio", [*serve, "--log-level", "error"])
    late = []
    with server.running():
        assert server.process is not None
        if len(cores) > 1:
            os.sched_setaffinity(server.process.pid, cores[:1])
            os.sched_setaffinity(0, cores[1:])
        print("| flood | p50, ms | p99 | max | MB written | cut off | server's core |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for name in (None, *[name for name in FLOODS if (options.only or "") in name]):
            row, p99 = run(server, name, options.seconds)
            print(row, flush=True)
            if p99 > options.bound:
                late.append(f"{name or 'nothing'}: a command's p99 is {p99:.1f} ms")
    print("\n" + ("\n".join(late) or f"No command's p99 is over {options.bound:g} ms."))
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
