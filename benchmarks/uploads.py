"""How fast uploads are, and how they delay another client's commands.

    python benchmarks/uploads.py [--rounds 5] [--tree ../other/checkout]

A server for each tree (this one, and those of `--tree`), a process each, with the limits that it has by
default. In each round every server gets uploads of 4 MiB (in memory) and of 64 MiB (on the disk), in chunks
of 256 KiB, in turn, so that all of them meet the same noise: printed is the median rate, and the server's
processor time. Then a client sends a command every 10 ms beside one and ten clients that upload 64 MiB again
and again.

Loopback only; it stops by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from commands import Connection, Server
from floods import binary, client, cpu_seconds, measure, percentile, start

HERE = Path(__file__).parent
MIB = 1 << 20
CHUNK = 256 * 1024
SIZES = {"4 MiB": 4 * MIB, "64 MiB": 64 * MIB}
SECONDS = 5.0
"""Of each look at the commands."""


def chunks(upload_id: str, size: int) -> Iterator[bytes]:
    payload = bytes(CHUNK)
    for offset in range(0, size, CHUNK):
        yield binary(2, {"upload_id": upload_id, "offset": offset}, payload[: size - offset])


def upload(connection: Connection, upload_id: str, size: int) -> None:
    """Send a file, and wait until the server says that it has it."""
    connection.socket.sendall(start(upload_id, size))
    for chunk in chunks(upload_id, size):
        connection.socket.sendall(chunk)
    said = b""
    while b"reactor.upload_complete" not in said:
        data = connection.socket.recv(1 << 16)
        if not data or b"reactor.error" in data:
            raise RuntimeError(f"the upload failed: {data!r}")
        said += data


def keep_uploading(address: tuple[str, int], seconds: float) -> dict[str, int]:
    """Upload 64 MiB again and again, each in a session of its own."""
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        with contextlib.closing(Connection(address)) as connection:
            upload(connection, "u", SIZES["64 MiB"])
        count += 1
    return {"uploads": count}


@dataclass
class Tree:
    """One checkout, and its measurements."""

    path: Path
    server: Server
    rates: dict[str, list[float]] = field(default_factory=dict)
    used: dict[str, list[float]] = field(default_factory=dict)

    def one_round(self) -> None:
        assert self.server.process is not None
        for name, size in SIZES.items():
            with contextlib.closing(Connection(self.server.address)) as connection:
                used, began = cpu_seconds(self.server.process.pid), time.perf_counter()
                count = 64 * MIB // size // 4 or 1  # enough for the processor's clock
                for number in range(count):
                    upload(connection, f"u{number}", size)
                took = time.perf_counter() - began
                used = cpu_seconds(self.server.process.pid) - used
            self.rates.setdefault(name, []).append(count * size / took / 1e6)
            self.used.setdefault(name, []).append(1000 * used / (count * size / MIB))

    def commands_beside(self, uploads: int) -> str:
        with contextlib.ExitStack() as stack:
            for _ in range(uploads):
                stack.enter_context(
                    client("upload", self.server.address, SECONDS + 2, nice=5, script=__file__)
                )
            time.sleep(1)
            took = stack.enter_context(client("measure", self.server.address, SECONDS, script=__file__))()
        times = took["took"]
        return f"{statistics.median(times):.1f} | {percentile(times, 0.99):.1f} | {max(times):.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another checkout")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role is not None:
        role, address, *arguments = json.loads(options.role)
        does = {"measure": measure, "upload": keep_uploading}[role]
        print(json.dumps(does(tuple(address), *arguments)))
        return 0
    # -P: not the package in the current folder, but the tree's.
    serve = [
        sys.executable,
        "-P",
        "-m",
        "reactor_trio",
        "serve",
        str(HERE / "command_model.py"),
        "--port",
        "0",
    ]
    trees = []
    with contextlib.ExitStack() as stack:
        for path in (HERE.parent, *options.tree):
            command = ["env", f"PYTHONPATH={path.resolve()}", *serve, "--log-level", "error"]
            tree = Tree(path.resolve(), Server(path.resolve().name, command))
            stack.enter_context(tree.server.running())
            trees.append(tree)
        for number in range(options.rounds):
            for tree in trees if number % 2 else reversed(trees):
                tree.one_round()
        print("| tree | file | MB/s | server's ms a MiB |")
        print("|---|---|---:|---:|")
        for tree in trees:
            for name in SIZES:
                rate, used = statistics.median(tree.rates[name]), statistics.median(tree.used[name])
                print(f"| {tree.path.name} | {name} | {rate:.0f} | {used:.2f} |", flush=True)
        print("\n| tree | uploads beside | p50 of a command, ms | p99 | max |")
        print("|---|---:|---:|---:|---:|")
        for count in (0, 1, 10):
            for tree in trees:
                print(f"| {tree.path.name} | {count} | {tree.commands_beside(count)} |", flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(HERE.parent))
    sys.exit(main())
