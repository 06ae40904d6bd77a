"""A soak: sessions that come, work and go at random, with faults, while the server's size is watched.

    python benchmarks/soak.py [--sessions 10000] [--seconds 600] [--seed 1] [--report FILE]

The server is `python -m reactor_trio serve benchmarks/soak_model.py`, a process of its own; the load is this
process. All sessions are drawn beforehand from the seed: when each comes, what it is (see `KINDS`) and what
it does. Beside them come strangers, who never get as far as a session (`STRANGERS`).

Every client has a secret that it tells the model, and everything that the model says carries it: replies,
messages, errors, the digest of a file, the colour of a frame. One that is not the client's own is a leak.

Once a second the server's resident memory, threads and file descriptors are read from /proc. Printed are
their slopes by least squares over the second half of the run, per 1000 sessions that ended; then the server
is left alone, and what it still holds is compared with what it held before the load. The exit status is 1
if a slope is over its bound, a value leaked, a client met what it should not, a session did not end, a
`@disconnected` is missing, the server logged a failure of its own, or it did not stop on SIGTERM.

Linux only (/proc), loopback only, bounded in count and time; it takes its server with it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trio
from commands import TEXT, masked_text, take_frame
from soak_model import colour

from reactor_trio.client import Client, open_client
from reactor_trio.errors import CommandError, TransportClosed
from reactor_trio.protocol.binary import UploadChunk, encode_upload_chunk

HERE = Path(__file__).parent
URL = re.compile(rb"ws://([\w.]+):(\d+)")
READY_TIMEOUT = 60.0
"""How long the server may take to print its URL, in seconds."""
SEND_TIMEOUT = 1.0
HEARTBEAT = 2.0
"""The server's, shorter than its defaults, so that it meets as many dead clients as possible; in seconds."""
OPTIONS = {
    "--port": "0",
    "--log-level": "error",
    "--log-format": "json",
    "--send-timeout": str(SEND_TIMEOUT),
    "--heartbeat": str(HEARTBEAT),
    "--close-timeout": "1",
    "--max-queued-bytes": str(256 * 1024),
    "--spool-bytes": "65536",
}
CLIENT_TIMEOUT = 60.0
"""What one client may take at most, in seconds."""
MOST_AT_ONCE = 300
"""Clients at a time; who comes later waits, and is counted as late."""
SETTLE_TIMEOUT = 40.0
"""How long the last sessions may take to end, in seconds: a head that comes slowly has 10 s."""
IDLE_SECONDS = 11.0
"""How long the server is left alone before it is weighed: Trio keeps idle threads for 10 s."""
WARM_SESSIONS = 40
"""Sessions before the first weighing: imports, thread stacks, caches."""
STRANGER_SHARE = 0.2
"""Strangers for each session."""
RSS_BOUND = 512.0
"""KiB for each 1000 sessions that resident memory may grow by; three standard errors come on top."""
THREAD_BOUND = 0.2
FD_BOUND = 0.2
"""The same in pieces."""
SURPLUS_FDS = 2
SURPLUS_THREADS = 2
SURPLUS_OBJECTS = 500
"""By how many the idle server may exceed what it held before the load: a thread or two may not have gone, and
caches have filled. Objects are those that the garbage collector knows; a session has hundreds.
"""
EXPECTED_ERRORS = ("run() failed", "handler failed", "@disconnected failed")
"""What the model's failures are logged as; whatever else is logged as an error is the runtime's."""
COLOUR_TOLERANCE = 12


class Leak(AssertionError):
    """A client saw what is not its own."""


class Misbehaved(AssertionError):
    """The server did something other than it should."""


# ---- one client, by the Python client


def own(secret: str, data: Any) -> None:
    if (seen := data.get("secret", secret)) != secret:
        raise Leak(f"{secret} saw {seen}")


async def asked(client: Client, secret: str, event: str, /, **fields: Any) -> Any:
    answer = await client.call(event, **fields)
    if answer is None or "secret" not in answer.data:
        raise Misbehaved(f"{event} was answered by {answer}")
    own(secret, answer.data)
    return answer.data


async def do_steer(client: Client, secret: str, rng: random.Random) -> None:
    values = [rng.randrange(1 << 30) for _ in range(rng.randint(1, 12))]
    for value in values:
        await client.send("steer", value=value)
    state = await asked(client, secret, "get_state")
    if state["value"] != values[-1]:
        raise Misbehaved(f"steered to {values[-1]}, found {state['value']}")


async def do_compute(client: Client, secret: str, rng: random.Random) -> None:
    await asked(client, secret, rng.choice(["compute_state", "blocking_state"]))


async def do_refused(client: Client, secret: str, rng: random.Random) -> None:
    event, code = rng.choice(
        [
            ("refuse", "not_today"),
            ("fail", "internal_error"),
            ("fail_compute", "internal_error"),
            ("steer", "invalid_payload"),
            ("nonsense", "unknown_event"),
        ]
    )
    try:
        await client.call(event)
    except CommandError as error:
        if error.code != code:
            raise Misbehaved(f"{event} was refused by {error.code}") from error
        if code == "not_today" and error.message != secret:
            raise Leak(f"{secret} was refused as {error.message}") from error
    else:
        raise Misbehaved(f"{event} was accepted")


async def do_frames(client: Client, secret: str, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 3)):
        pixels = (await client.frame()).array()
        if np.abs(pixels.reshape(-1, 3).astype(int) - colour(secret)).max() > COLOUR_TOLERANCE:
            raise Leak(f"{secret} saw a frame of colour {pixels[0, 0]}, not {colour(secret)}")
    own(secret, (await client.receive("tick")).data)


async def do_upload(client: Client, secret: str, rng: random.Random) -> None:
    data = (secret.encode() * 20_000)[: rng.choice([0, 100, 10_000, 70_000, 300_000])]
    handle = await client.upload(data, name=f"{secret}.bin", mime_type="application/octet-stream")
    taken = await asked(client, secret, "take_file", file=handle)
    if taken["sha256"] != hashlib.sha256(data).hexdigest():
        raise Leak(f"the file of {secret} came back as another")


async def do_ping(client: Client, secret: str, rng: random.Random) -> None:
    await client.ping()


STEPS = (do_steer, do_steer, do_compute, do_refused, do_frames, do_upload, do_ping)


@asynccontextmanager
async def worker(address: str, secret: str) -> AsyncGenerator[Client]:
    async with open_client(address) as client:
        await asked(client, secret, "claim", secret=secret)
        yield client
        # What nobody has read must be its own as well.
        with trio.move_on_after(0.01), suppress(TransportClosed):
            async for message in client.messages():
                own(secret, message.data)


async def works(soak: Soak, secret: str, rng: random.Random) -> None:
    async with worker(soak.url, secret) as client:
        for _ in range(rng.randint(1, 8)):
            await rng.choice(STEPS)(client, secret, rng)
            await trio.sleep(rng.expovariate(4))


async def leaves_in_the_middle(soak: Soak, secret: str, rng: random.Random) -> None:
    with trio.move_on_after(rng.uniform(0, 1)):
        async with worker(soak.url, secret) as client:
            while True:
                await rng.choice(STEPS)(client, secret, rng)


async def ends(
    soak: Soak, secret: str, rng: random.Random, *, how: str, goodbye: str | None, code: int
) -> None:
    async with worker(soak.url, secret) as client:
        await rng.choice(STEPS)(client, secret, rng)
        with suppress(TransportClosed):
            await client.call("end", how=how)
        errors = []
        with suppress(TransportClosed):
            async for message in client.messages():
                own(secret, message.data)
                errors += [message.data["code"]] if message.type == "reactor.error" else []
        closed = client.closed
        wanted = ["model_error"] if how == "fail" else []
        if closed is None or closed.code != code or client.goodbye != goodbye or errors != wanted:
            raise Misbehaved(f"{how}: closed by {closed}, goodbye {client.goodbye}, errors {errors}")


async def has_a_failing_hook(soak: Soak, secret: str, rng: random.Random) -> None:
    async with worker(soak.url, secret) as client:
        await client.call("fail_hook")
        await rng.choice(STEPS)(client, secret, rng)


# ---- one client, by hand


class Raw:
    """A socket that speaks as much of RFC 6455 as it likes."""

    def __init__(self, stream: trio.SocketStream, secret: str) -> None:
        self.stream = stream
        self.secret = secret
        self.buffer = bytearray()
        self.welcomed = False

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def say(self, type_: str, id_: int | None = None, /, **data: Any) -> None:
        await self.write(masked_text({"type": type_, "data": data} | ({} if id_ is None else {"id": id_})))

    async def messages(self) -> AsyncGenerator[dict[str, Any]]:
        """Text messages until the server closes; what they carry is checked."""
        while True:
            while (frame := take_frame(self.buffer)) is not None:
                opcode, payload, _ = frame
                if opcode == TEXT:
                    message = json.loads(payload)
                    own(self.secret, message["data"])
                    yield message
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            self.buffer += data

    async def wait_for(self, type_: str) -> None:
        async for message in self.messages():
            if message["type"] == type_:
                return
        raise Misbehaved(f"the server closed before {type_}")

    async def wait_for_the_end(self) -> None:
        async for _ in self.messages():
            pass

    async def upgrade(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        await self.write(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            if not (data := await self.stream.receive_some(65536)):
                raise Misbehaved("the server closed instead of upgrading")
            self.buffer += data
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Misbehaved(f"no upgrade: {head!r}")
        self.buffer[:] = rest
        await self.wait_for("reactor.welcome")
        await self.say("claim", 1, secret=self.secret)
        await self.wait_for("state")

    def reset(self) -> None:
        """Close so that the peer gets a reset."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


@asynccontextmanager
async def raw(
    soak: Soak, secret: str, *, upgraded: bool = True, buffer: int | None = None
) -> AsyncGenerator[Raw]:
    inner = trio.socket.socket()
    if buffer is not None:
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    try:
        await inner.connect(soak.address)
    except BaseException:
        inner.close()
        raise
    async with trio.SocketStream(inner) as stream:
        connection = Raw(stream, secret)
        if upgraded:
            await connection.upgrade()
        yield connection


async def resets(soak: Soak, secret: str, rng: random.Random) -> None:
    async with raw(soak, secret) as connection:
        for value in range(rng.randrange(20)):
            await connection.say("steer", value=value)
        await trio.sleep(rng.uniform(0, 0.5))
        connection.reset()


async def talks_garbage(soak: Soak, secret: str, rng: random.Random) -> None:
    async with raw(soak, secret) as connection:
        with suppress(trio.BrokenResourceError):
            for _ in range(rng.randint(1, 20)):
                await connection.write(rng.randbytes(rng.randint(1, 2000)))
                await trio.sleep(rng.uniform(0, 0.02))
            # Random bytes may be the beginning of a long frame. The half-close ends any.
            await connection.stream.send_eof()
        await connection.wait_for_the_end()


async def talks_nonsense(soak: Soak, secret: str, rng: random.Random) -> None:
    """Good frames, bad messages: 100 in a row end the session."""
    async with raw(soak, secret) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(connection.wait_for_the_end)
        with suppress(trio.BrokenResourceError):
            for _ in range(120):
                await connection.write(masked_text(rng.choice([[], 7, "x", {"type": 3}, {"data": {}}])))


async def is_half_open(soak: Soak, secret: str, rng: random.Random) -> None:
    """It answers no ping: the server gives it up."""
    async with raw(soak, secret) as connection:
        started = trio.current_time()
        await connection.wait_for_the_end()
        if trio.current_time() - started > 4 * HEARTBEAT + 5:
            raise Misbehaved(f"a dead client was kept for {trio.current_time() - started:.1f} s")


async def half_closes(soak: Soak, secret: str, rng: random.Random) -> None:
    async with raw(soak, secret) as connection:
        await connection.say("steer", value=1)
        await connection.stream.send_eof()
        await connection.wait_for_the_end()


async def stalls(soak: Soak, secret: str, rng: random.Random) -> None:
    """It asks for much and reads nothing: the server cuts it off."""
    async with raw(soak, secret, buffer=4096) as connection:
        await connection.say("flood", messages=2000)
        await trio.sleep(SEND_TIMEOUT + rng.uniform(1, 3))
        with suppress(trio.BrokenResourceError):
            await connection.write(masked_text({"type": "steer", "data": {"value": 1}}))


async def reads_slowly(soak: Soak, secret: str, rng: random.Random) -> None:
    """It asks for much, and reads all of it."""
    async with raw(soak, secret) as connection:
        await connection.say("flood", 5, messages=60)
        async for message in connection.messages():
            await trio.sleep(0.002)
            if message.get("reply_to") == 5:
                break


async def cuts_an_upload(soak: Soak, secret: str, rng: random.Random) -> None:
    async with raw(soak, secret) as connection:
        size = rng.choice([50_000, 200_000, 1_000_000])
        await connection.say("reactor.upload_start", 2, upload_id="u", name="a", mime_type="a/b", size=size)
        await connection.say("take_file", 3, file={"upload_id": "u"})
        sent, until = 0, rng.randrange(size)
        while sent < until:
            data = bytes(min(20_000, until - sent))
            await connection.write(masked_binary(encode_upload_chunk(UploadChunk("u", sent, data))))
            sent += len(data)
        if rng.random() < 0.5:
            connection.reset()


def masked_binary(payload: bytes) -> bytes:
    """A client's binary frame, under a mask of zeros."""
    return b"\x82\xfe" + struct.pack(">H", len(payload)) + bytes(4) + payload


KINDS: dict[Callable[..., Awaitable[None]], int] = {
    works: 50,
    leaves_in_the_middle: 10,
    partial(ends, how="fail", goodbye=None, code=1011): 5,
    partial(ends, how="finish", goodbye="finished", code=1000): 4,
    has_a_failing_hook: 3,
    resets: 8,
    talks_garbage: 5,
    talks_nonsense: 2,
    is_half_open: 3,
    half_closes: 3,
    stalls: 2,
    reads_slowly: 1,
    cuts_an_upload: 4,
}
"""What comes how often; the numbers add up to 100."""


# ---- strangers


async def connects_and_leaves(soak: Soak, secret: str, rng: random.Random) -> None:
    async with raw(soak, secret, upgraded=False) as connection:
        await trio.sleep(rng.uniform(0, 0.2))
        if rng.random() < 0.5:
            connection.reset()


async def sends_a_slow_head(soak: Soak, secret: str, rng: random.Random) -> None:
    async with raw(soak, secret, upgraded=False) as connection, trio.open_nursery() as nursery:

        async def answered() -> None:
            data = b""
            with suppress(trio.BrokenResourceError):
                while more := await connection.stream.receive_some(4096):
                    data += more
            if data and not data.startswith(b"HTTP/1.1 408 "):
                raise Misbehaved(f"a slow head got {data[:40]!r}")
            nursery.cancel_scope.cancel(reason="the server has closed")

        nursery.start_soon(answered)
        gives_up = trio.current_time() + rng.choice([1, 2, 30])
        await connection.write(b"GET /ws HTTP/1.1\r\n")
        while trio.current_time() < gives_up:
            with suppress(trio.BrokenResourceError):
                await connection.write(b"X: y\r\n")
            await trio.sleep(0.5)
        nursery.cancel_scope.cancel(reason="it gives up")


async def sends_a_garbage_head(soak: Soak, secret: str, rng: random.Random) -> None:
    async with raw(soak, secret, upgraded=False) as connection:
        with suppress(trio.BrokenResourceError):
            await connection.write(rng.randbytes(rng.randint(1, 40_000)))
            await connection.stream.send_eof()
            while await connection.stream.receive_some(65536):
                pass


async def leaves_in_the_handshake(soak: Soak, secret: str, rng: random.Random) -> None:
    async with raw(soak, secret, upgraded=False) as connection:
        head = (
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        )
        await connection.write(head[: rng.randrange(1, len(head))])
        connection.reset()


async def fetches(soak: Soak, secret: str, rng: random.Random) -> None:
    path, status = rng.choice([("/health", 200), ("/", 200), ("/schema", 200), ("/ws", 426), ("/x", 404)])
    head, _ = await get(soak, path)
    if not head.startswith(f"HTTP/1.1 {status} ".encode()):
        raise Misbehaved(f"{path} gave {head[:40]!r}")


STRANGERS: dict[Callable[..., Awaitable[None]], int] = {
    connects_and_leaves: 25,
    sends_a_slow_head: 10,
    sends_a_garbage_head: 20,
    leaves_in_the_handshake: 20,
    fetches: 25,
}


async def get(soak: Soak, path: str) -> tuple[bytes, bytes]:
    async with raw(soak, "", upgraded=False) as connection:
        await connection.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        data = b""
        while more := await connection.stream.receive_some(65536):
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


# ---- the server's size


@dataclass
class Sample:
    """The server at a moment: resident KiB, threads, descriptors; and how many sessions had ended."""

    sessions: int
    rss: float
    threads: int
    fds: int


def weigh(pid: int, sessions: int) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    rss, threads = (
        int(line.split()[1]) for line in status.splitlines() if line.startswith(("VmRSS:", "Threads:"))
    )
    return Sample(sessions, rss, threads, len(list(Path(f"/proc/{pid}/fd").iterdir())))


def slope(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """Least squares: growth for each 1000 sessions, and its standard error."""
    x = np.array([sample.sessions for sample in samples]) / 1000
    y = np.array([getattr(sample, name) for sample in samples], float)
    if len(x) < 3 or np.ptp(x) == 0:
        return float("nan"), float("nan")
    deviation = x - x.mean()
    found = (deviation @ y) / (deviation @ deviation)
    rest = y - y.mean() - found * deviation
    return float(found), float(np.sqrt(rest @ rest / (len(x) - 2) / (deviation @ deviation)))


# ---- the run


@dataclass
class Soak:
    """One run: where the server is, and what happened so far."""

    address: tuple[str, int]
    pid: int
    counts: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    leaks: int = 0
    late: float = 0.0
    ended: int = 0
    most: int = 0
    now: int = 0
    samples: list[Sample] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"ws://{self.address[0]}:{self.address[1]}"

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
    """Who comes when."""
    rng = random.Random(seed)
    strangers = int(sessions * STRANGER_SHARE)
    kinds = rng.choices(list(KINDS), list(KINDS.values()), k=sessions)
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
            await arrival.kind(soak, secret, rng)
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
        await trio.sleep(min(1.0, seconds / 120))
        sample = weigh(soak.pid, soak.ended)
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
            _, body = await get(soak, "/health")
            if json.loads(body)["sessions"] == 0:
                return
            await trio.sleep(0.2)
    soak.complain(f"sessions that do not end: {body.decode()}")


async def weigh_idle(soak: Soak) -> tuple[Sample, dict[str, Any]]:
    """The server as it is when nobody is there, and what it counts."""
    await settle(soak)
    async with open_client(soak.url) as client:
        answer = await client.call("get_counts")
        assert answer is not None
    await settle(soak)
    await trio.sleep(IDLE_SECONDS)
    return weigh(soak.pid, soak.ended), dict(answer.data)


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


# ---- what came of it


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
        """The table; what is wrong is added to the complaints."""
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
                f"{unit} | {bound:g}{unit} + 3 standard errors |"
            )
            if not grows <= bound + 3 * error:
                soak.complain(f"{title} grow by {grows:.2f}{unit} per 1000 sessions")
        for name, surplus in (("fds", SURPLUS_FDS), ("threads", SURPLUS_THREADS)):
            if getattr(self.after, name) > getattr(self.before, name) + surplus:
                soak.complain(
                    f"{name}: {getattr(self.before, name)} before, {getattr(self.after, name)} after"
                )
        if self.counted["objects"] > self.counted_before["objects"] + SURPLUS_OBJECTS:
            soak.complain(
                f"objects: {self.counted_before['objects']} before, {self.counted['objects']} after"
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
    """How often each error was logged, and what was not expected."""
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
        yield process, (found[1].decode(), int(found[2]))
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
        process, address = served
        soak = Soak(address, process.pid)
        report = trio.run(run, soak, options.sessions, options.seconds, options.seed)
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
        rows = (f"{each.sessions},{each.rss},{each.threads},{each.fds}\n" for each in soak.samples)
        options.samples.write_text("sessions,rss_kib,threads,fds\n" + "".join(rows))
    if options.report is not None:
        options.report.write_text(text)
    return 1 if soak.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
