"""A soak: sessions that come, work and go at random, with faults, while the server's size is watched.

    python benchmarks/soak.py [--sessions 10000] [--seconds 600] [--seed 1] [--report FILE]

The server is `python -m reactor_trio serve benchmarks/soak_model.py`, a process of its own; the load is this
process. All sessions are drawn beforehand from the seed: when each comes, what it is (`soak_clients.KINDS`)
and what it does. Beside them come strangers, who never get as far as a session (`soak_clients.STRANGERS`).

Every client has a secret that it tells the model, and everything that the model says carries it: replies,
messages, errors, the digest of a file, the colour of a frame. One that is not the client's own is a leak.

Once a second the server's resident memory, threads and file descriptors are read from /proc. Printed are
their slopes by least squares over the second half of the run, per 1000 sessions that ended; what they owe
to the clients who are there at that moment is fitted beside it. Then the server is left alone, and what it
still holds is compared with what it held before the load. The exit status is 1 if a slope is over its bound,
a value leaked, a client met what it should not, a session did not end, a `@disconnected` is missing, the
server logged a failure of its own, or it did not stop on SIGTERM.

Linux only (/proc), loopback only, bounded in count and time; it takes its server with it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trio
from soak_clients import HEARTBEAT, KINDS, SEND_TIMEOUT, STRANGERS, Address, Leak, get

from reactor_trio.client import open_client

HERE = Path(__file__).parent
URL = re.compile(rb"ws://([\w.]+):(\d+)")
READY_TIMEOUT = 60.0
"""How long the server may take to print its URL, in seconds."""
OPTIONS = {
    "--port": "0",
    "--log-level": "error",
    "--log-format": "json",
    "--send-timeout": str(SEND_TIMEOUT),
    "--heartbeat": str(HEARTBEAT),
    "--close-timeout": "1",
    "--max-queued-bytes": str(256 * 1024),
    "--spool-bytes": "65536",
    "--max-events-per-second": "2000",  # a client that does not pause is no fault here
}
CLIENT_TIMEOUT = 60.0
"""Seconds that one client may take at most."""
MOST_AT_ONCE = 300
"""Clients at a time; later ones wait, and are counted as late."""
SETTLE_TIMEOUT = 40.0
"""How long the last sessions may take to end, in seconds: a head that comes slowly has 10 s."""
IDLE_SECONDS = 11.0
"""How long the server is left alone before it is weighed: Trio keeps idle threads for 10 s."""
WARM_SESSIONS = 40
"""Sessions before the first weighing: imports, thread stacks, caches."""
STRANGER_SHARE = 0.2
"""Strangers for each session."""
RSS_BOUND = 512.0
"""KiB for each 1000 sessions that resident memory may grow by; `ERRORS` standard errors come on top."""
THREAD_BOUND = 0.2
FD_BOUND = 0.2
"""The same in pieces."""
ERRORS = 4
"""Samples a second apart are not independent, so the true errors are larger than those that are computed."""
SURPLUS_FDS = 2
SURPLUS_THREADS = 2
SURPLUS_OBJECTS = 500
"""By how many the idle server may exceed what it held before the load: a thread or two may not have gone, and
caches have filled. Objects are those that the garbage collector knows; a session has hundreds.
"""
EXPECTED_ERRORS = ("run() failed", "handler failed", "@disconnected failed")
"""The log's events of the model's own failures; all other errors in the log are the runtime's."""


# ---- the server's size


@dataclass
class Sample:
    """The server at a moment: resident KiB, threads, descriptors; sessions that had ended, clients there."""

    sessions: int
    clients: int
    rss: float
    threads: int
    fds: int


def weigh(soak: Soak) -> Sample:
    process = Path(f"/proc/{soak.pid}")
    status = (process / "status").read_text()
    rss, threads = (
        int(line.split()[1]) for line in status.splitlines() if line.startswith(("VmRSS:", "Threads:"))
    )
    return Sample(soak.ended, soak.now, rss, threads, len(list((process / "fd").iterdir())))


def slope(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """Least squares: growth for each 1000 sessions, and its standard error."""
    sessions = np.array([sample.sessions for sample in samples]) / 1000
    clients = np.array([sample.clients for sample in samples], float)
    design = np.column_stack([sessions, clients, np.ones(len(samples))])
    found = np.array([getattr(sample, name) for sample in samples], float)
    if len(samples) < 5 or np.linalg.matrix_rank(design) < 3:
        return float("nan"), float("nan")
    fitted, *_ = np.linalg.lstsq(design, found)
    rest = found - design @ fitted
    variance = rest @ rest / (len(samples) - 3) * np.linalg.inv(design.T @ design)[0, 0]
    return float(fitted[0]), float(np.sqrt(variance))


# ---- the run


@dataclass
class Soak:
    """One run: the server's address, and the results so far."""

    server: Address
    pid: int
    counts: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    leaks: int = 0
    late: float = 0.0
    ended: int = 0
    most: int = 0
    now: int = 0
    samples: list[Sample] = field(default_factory=list)

    def complain(self, text: str) -> None:
        self.counts["complaints"] += 1
        if len(self.complaints) < 20:
            self.complaints.append(text)


def name_of(kind: Callable[..., object]) -> str:
    if isinstance(kind, partial):
        return f"{kind.func.__name__} ({kind.keywords['how']})"
    return kind.__name__


@dataclass
class Arrival:
    at: float
    kind: Callable[..., Awaitable[None]]
    number: int
    is_session: bool


def plan(sessions: int, seconds: float, seed: int) -> list[Arrival]:
    """Draw which client comes when, by the seed."""
    rng = random.Random(seed)
    sessions = max(sessions, len(KINDS))
    strangers = int(sessions * STRANGER_SHARE)
    # Each at least once: the sessions before the first weighing import all that there is to import.
    kinds = [*KINDS, *rng.choices(list(KINDS), list(KINDS.values()), k=sessions - len(KINDS))]
    kinds += rng.choices(list(STRANGERS), list(STRANGERS.values()), k=strangers)
    return sorted(
        (
            Arrival(rng.uniform(0, seconds), kind, number, number < sessions)
            for number, kind in enumerate(kinds)
        ),
        key=lambda arrival: arrival.at,
    )


async def visit(soak: Soak, arrival: Arrival, seed: int, places: trio.Semaphore) -> None:
    rng = random.Random(f"{seed}/{arrival.number}")
    secret = f"{arrival.number}-{rng.getrandbits(64):016x}"
    soak.now += 1
    soak.most = max(soak.most, soak.now)
    try:
        with trio.fail_after(CLIENT_TIMEOUT):
            await arrival.kind(soak.server, secret, rng)
    except Exception as error:
        leaks = leaks_in(error)
        soak.leaks += leaks
        text = "".join(traceback.format_exception(error, limit=-4))
        soak.complain(f"{'LEAK ' if leaks else ''}{name_of(arrival.kind)} #{arrival.number}: {text}")
    finally:
        soak.now -= 1
        soak.counts[name_of(arrival.kind)] += 1
        soak.ended += arrival.is_session
        places.release()


def leaks_in(error: BaseException) -> int:
    if isinstance(error, BaseExceptionGroup):
        return sum(map(leaks_in, error.exceptions))
    return isinstance(error, Leak)


async def load(soak: Soak, arrivals: Sequence[Arrival], seed: int) -> None:
    places = trio.Semaphore(MOST_AT_ONCE)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for arrival in arrivals:
            await trio.sleep_until(started + arrival.at)
            await places.acquire()
            soak.late = max(soak.late, trio.current_time() - started - arrival.at)
            nursery.start_soon(visit, soak, arrival, seed, places)


async def watch(soak: Soak, seconds: float) -> None:
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        await trio.sleep(1)
        sample = weigh(soak)
        soak.samples.append(sample)
        if len(soak.samples) % 120 == 0:
            print(
                f"{time.monotonic() - began:5.0f} s: {sample.sessions} sessions ended, {soak.now} clients "
                f"now, {sample.rss / 1024:.1f} MiB, {sample.threads} threads, {sample.fds} descriptors, "
                f"{soak.leaks} leaks, {soak.counts['complaints']} complaints",
                file=sys.stderr,
                flush=True,
            )


async def settle(soak: Soak) -> None:
    """Wait until `/health` counts no session."""
    with trio.move_on_after(SETTLE_TIMEOUT):
        while True:
            _, body = await get(soak.server, "/health")
            if json.loads(body)["sessions"] == 0:
                return
            await trio.sleep(0.2)
    soak.complain(f"sessions that do not end: {body.decode()}")


async def weigh_idle(soak: Soak) -> tuple[Sample, dict[str, Any]]:
    """The state and the counters of the server while it has no client."""
    await settle(soak)
    async with open_client(soak.server.url) as client:
        answer = await client.call("get_counts")
        assert answer is not None
    await settle(soak)
    await trio.sleep(IDLE_SECONDS)
    return weigh(soak), dict(answer.data)


async def run(soak: Soak, sessions: int, seconds: float, seed: int) -> Report:
    warm_up = plan(WARM_SESSIONS, 3, seed + 1)
    await load(soak, warm_up, seed + 1)
    before, counted_before = await weigh_idle(soak)
    soak.counts.clear()
    soak.ended = 0
    soak.most = 0
    soak.late = 0.0
    print(f"begins with {before}", file=sys.stderr, flush=True)
    used, started = time.process_time(), time.monotonic()
    server_used = cpu_seconds(soak.pid)
    async with trio.open_nursery() as nursery:
        # Not longer than clients come: the last ones to leave would bend the lines.
        nursery.start_soon(watch, soak, seconds)
        with trio.fail_after(seconds + 2 * CLIENT_TIMEOUT):
            await load(soak, plan(sessions, seconds, seed), seed)
        nursery.cancel_scope.cancel(reason="the load is over")
    lasted = time.monotonic() - started
    busy = (time.process_time() - used) / lasted, (cpu_seconds(soak.pid) - server_used) / lasted
    after, counted = await weigh_idle(soak)
    return Report(soak, before, after, counted_before, counted, busy, lasted)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- the result


@dataclass
class Report:
    soak: Soak
    before: Sample
    after: Sample
    counted_before: dict[str, Any]
    counted: dict[str, Any]
    busy: tuple[float, float]
    lasted: float

    def judge(self, rss_bound: float) -> str:
        """The table; faults are added to the complaints."""
        soak = self.soak
        half = soak.samples[len(soak.samples) // 2 :]
        rows = ["| server | before | after, idle | at most | slope per 1000 sessions | bound |"]
        rows.append("|---|---:|---:|---:|---:|---:|")
        for name, title, unit, bound in (
            ("rss", "resident memory", " KiB", rss_bound),
            ("threads", "threads", "", THREAD_BOUND),
            ("fds", "file descriptors", "", FD_BOUND),
        ):
            grows, error = slope(half, name)
            most = max(getattr(sample, name) for sample in soak.samples)
            before, after = getattr(self.before, name), getattr(self.after, name)
            rows.append(
                f"| {title} | {before}{unit} | {after}{unit} | {most}{unit} | {grows:+.2f} ± {error:.2f}"
                f"{unit} | {bound:g}{unit} + {ERRORS} standard errors |"
            )
            if not grows <= bound + ERRORS * error:
                soak.complain(f"{title} grow by {grows:.2f}{unit} per 1000 sessions")
        for name, surplus in (("fds", SURPLUS_FDS), ("threads", SURPLUS_THREADS)):
            if getattr(self.after, name) > getattr(self.before, name) + surplus:
                soak.complain(
                    f"{name}: {getattr(self.before, name)} before, {getattr(self.after, name)} after"
                )
        if self.counted["objects"] > self.counted_before["objects"] + SURPLUS_OBJECTS:
            more = Counter(self.counted["kinds"]) - Counter(self.counted_before["kinds"])
            kinds = ", ".join(f"{count} more {kind}" for kind, count in more.most_common(12))
            soak.complain(
                f"objects: {self.counted_before['objects']} before, {self.counted['objects']} after: {kinds}"
            )
        # The client that asks is connected itself.
        if self.counted["connected"] - 1 != self.counted["disconnected"]:
            soak.complain(f"@connected and @disconnected do not match: {self.counted}")
        served = self.counted["connected"] - self.counted_before["connected"] - 1
        kinds = "\n".join(f"| {kind} | {count} |" for kind, count in sorted(soak.counts.items()))
        matches = self.counted["connected"] - 1 == self.counted["disconnected"]
        strangers = sum(soak.counts.values()) - soak.ended - soak.counts["complaints"]
        said = [
            f"- {soak.ended} sessions and {strangers} strangers came in {self.lasted:.0f} s.",
            f"- {soak.most} clients at once at most; the latest came {soak.late:.2f} s late.",
            f"- `@connected` ran {served} times, `@disconnected` as often: {'yes' if matches else 'NO'}.",
            f"- Values seen by the wrong client: {soak.leaks}.",
            f"- Live Python objects: {self.counted_before['objects']}, later {self.counted['objects']}.",
            f"- Processor: server {self.busy[1]:.0%} of a core, load {self.busy[0]:.0%}.",
        ]
        return "\n".join([*said, "", *rows, "", "| client | count |", "|---|---:|", kinds])


def logged(path: Path) -> tuple[Counter[str], list[str]]:
    """How often each error was logged, and which were not expected."""
    counts: Counter[str] = Counter()
    unexpected = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)["event"]
        except (ValueError, KeyError, TypeError):
            event = line
        counts[event] += 1
        if not any(event.startswith(expected) for expected in EXPECTED_ERRORS) and len(unexpected) < 5:
            unexpected.append(line[:3000])
    return counts, unexpected


@contextmanager
def serving(log: Path) -> Any:
    """The server's process, and where it listens."""
    options = [word for pair in OPTIONS.items() for word in pair]
    command = [sys.executable, "-m", "reactor_trio", "serve", str(HERE / "soak_model.py"), *options]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=stderr)
    try:
        signal.alarm(int(READY_TIMEOUT))
        assert process.stdout is not None
        for line in process.stdout:
            if found := URL.search(line):
                break
        else:
            raise SystemExit(f"the server did not start:\n{log.read_text()}")
        signal.alarm(0)
        yield process, Address(found[1].decode(), int(found[2]))
    finally:
        process.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=10_000, help="(10000)")
    parser.add_argument("--seconds", type=float, default=600.0, help="in which they come (600)")
    parser.add_argument("--seed", type=int, default=1, help="(1)")
    parser.add_argument("--rss-bound", type=float, default=RSS_BOUND, help="KiB for each 1000 sessions (512)")
    parser.add_argument("--report", type=Path, help="where the result is written too")
    parser.add_argument("--samples", type=Path, help="where the samples are written, as CSV")
    options = parser.parse_args()
    # Else these would end this process past every `finally`, and leave the server behind.
    for signum in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(signum, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder, serving(log := Path(folder) / "log.jsonl") as served:
        process, server = served
        soak = Soak(server, process.pid)
        try:
            report = trio.run(run, soak, options.sessions, options.seconds, options.seed)
        except BaseException:
            sys.stderr.write(f"the server's log ends:\n{log.read_text(errors='replace')[-3000:]}\n")
            raise
        process.send_signal(signal.SIGTERM)
        try:
            if status := process.wait(10):
                soak.complain(f"the server ended with status {status}")
        except subprocess.TimeoutExpired:
            soak.complain("the server did not end within 10 s of SIGTERM, with no session left")
        text = report.judge(options.rss_bound)
        counts, unexpected = logged(log)
        for line in unexpected:
            soak.complain(f"logged: {line}")
    text += "\n\nLogged errors: " + ", ".join(f"{event} ({count})" for event, count in sorted(counts.items()))
    text += (
        "\n\n" + ("FAILED\n\n" + "\n\n".join(soak.complaints) if soak.complaints else "No complaint.") + "\n"
    )
    print(text)
    if options.samples is not None:
        rows = (
            f"{each.sessions},{each.clients},{each.rss},{each.threads},{each.fds}\n" for each in soak.samples
        )
        options.samples.write_text("sessions,clients,rss_kib,threads,fds\n" + "".join(rows))
    if options.report is not None:
        options.report.write_text(text)
    return 1 if soak.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
