"""The clients of `benchmarks/soak.py`: those that work, those that fail in one way or another, and strangers.

Each takes the server's address, its own secret and its own random numbers. It raises `Leak` for a value that
is not its own, `Misbehaved` for anything else that it did not expect.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import trio
from commands import TEXT, masked_text, take_frame
from floods import FLOODS, binary, frame
from soak_model import colour

from reactor_trio.client import Client, open_client
from reactor_trio.errors import CommandError, TransportClosed
from reactor_trio.protocol.binary import UploadChunk, encode_upload_chunk

SEND_TIMEOUT = 1.0
HEARTBEAT = 2.0
"""The server's, shorter than its defaults, so that it meets as many dead clients as possible; in seconds."""
COLOUR_TOLERANCE = 12


@dataclass(frozen=True)
class Address:
    """Where the server is."""

    host: str
    port: int

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}"


class Leak(AssertionError):
    """A client received data of another client."""


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
        # Messages that were not read must be the client's own, too.
        with trio.move_on_after(0.01), suppress(TransportClosed):
            async for message in client.messages():
                own(secret, message.data)


async def works(server: Address, secret: str, rng: random.Random) -> None:
    async with worker(server.url, secret) as client:
        for _ in range(rng.randint(1, 8)):
            await rng.choice(STEPS)(client, secret, rng)
            await trio.sleep(rng.expovariate(4))


async def leaves_in_the_middle(server: Address, secret: str, rng: random.Random) -> None:
    with trio.move_on_after(rng.uniform(0, 1)):
        async with worker(server.url, secret) as client:
            while True:
                await rng.choice(STEPS)(client, secret, rng)


async def ends(
    server: Address, secret: str, rng: random.Random, *, how: str, goodbye: str | None, code: int
) -> None:
    async with worker(server.url, secret) as client:
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


async def has_a_failing_hook(server: Address, secret: str, rng: random.Random) -> None:
    async with worker(server.url, secret) as client:
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
        """Read and check text messages until the server closes."""
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
    server: Address, secret: str, *, upgraded: bool = True, buffer: int | None = None
) -> AsyncGenerator[Raw]:
    inner = trio.socket.socket()
    if buffer is not None:
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    try:
        await inner.connect(server.address)
    except BaseException:
        inner.close()
        raise
    async with trio.SocketStream(inner) as stream:
        connection = Raw(stream, secret)
        if upgraded:
            await connection.upgrade()
        yield connection


async def resets(server: Address, secret: str, rng: random.Random) -> None:
    async with raw(server, secret) as connection:
        for value in range(rng.randrange(20)):
            await connection.say("steer", value=value)
        await trio.sleep(rng.uniform(0, 0.5))
        connection.reset()


async def talks_garbage(server: Address, secret: str, rng: random.Random) -> None:
    async with raw(server, secret) as connection:
        with suppress(trio.BrokenResourceError):
            for _ in range(rng.randint(1, 20)):
                await connection.write(rng.randbytes(rng.randint(1, 2000)))
                await trio.sleep(rng.uniform(0, 0.02))
            # Random bytes may be the beginning of a long frame. The half-close ends any.
            await connection.stream.send_eof()
        await connection.wait_for_the_end()


async def talks_nonsense(server: Address, secret: str, rng: random.Random) -> None:
    """Good frames, bad messages: 100 in a row end the session."""
    async with raw(server, secret) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(connection.wait_for_the_end)
        with suppress(trio.BrokenResourceError):
            for _ in range(120):
                await connection.write(masked_text(rng.choice([[], 7, "x", {"type": 3}, {"data": {}}])))


async def is_half_open(server: Address, secret: str, rng: random.Random) -> None:
    """It answers no ping: the server gives it up."""
    async with raw(server, secret) as connection:
        started = trio.current_time()
        await connection.wait_for_the_end()
        if trio.current_time() - started > 4 * HEARTBEAT + 5:
            raise Misbehaved(f"a dead client was kept for {trio.current_time() - started:.1f} s")


async def half_closes(server: Address, secret: str, rng: random.Random) -> None:
    async with raw(server, secret) as connection:
        await connection.say("steer", value=1)
        await connection.stream.send_eof()
        await connection.wait_for_the_end()


async def stalls(server: Address, secret: str, rng: random.Random) -> None:
    """It asks for much and reads nothing: the server cuts it off."""
    async with raw(server, secret, buffer=4096) as connection:
        await connection.say("flood", messages=2000)
        await trio.sleep(SEND_TIMEOUT + rng.uniform(1, 3))
        with suppress(trio.BrokenResourceError):
            await connection.write(masked_text({"type": "steer", "data": {"value": 1}}))


async def reads_slowly(server: Address, secret: str, rng: random.Random) -> None:
    """It asks for much, and reads all of it."""
    async with raw(server, secret) as connection:
        await connection.say("flood", 5, messages=60)
        async for message in connection.messages():
            await trio.sleep(0.002)
            if message.get("reply_to") == 5:
                break


async def cuts_an_upload(server: Address, secret: str, rng: random.Random) -> None:
    async with raw(server, secret) as connection:
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


async def floods(server: Address, secret: str, rng: random.Random) -> None:
    """Writes as fast as the server reads, for a moment, and reads the answers."""
    flood = FLOODS[rng.choice(list(FLOODS))]
    async with raw(server, secret) as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.wait_for_the_end)
            with suppress(trio.BrokenResourceError), trio.move_on_after(rng.uniform(0.1, 1)):
                await connection.write(flood.first)
                while True:
                    await connection.write(flood.block)
            nursery.cancel_scope.cancel(reason="it has had enough")
        connection.reset()


def masked_binary(payload: bytes) -> bytes:
    """A client's binary frame, under a mask of zeros."""
    return b"\x82\xfe" + struct.pack(">H", len(payload)) + bytes(4) + payload


# ---- messages that are small and costly, or large and meaningless


def jpeg_bomb(scans: int, side: int = 4680) -> bytes:
    """A grey progressive JPEG in which scan after scan says nothing."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body

    codes = bytes((1, *[0] * 15))
    blocks = (-(-side // 8)) ** 2
    data = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64))
    data += segment(0xC4, b"\0" + codes + b"\0\x10" + codes + b"\xe0")
    data += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    data += segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8))
    nothing = segment(0xDA, b"\1\1\0\1\x3f\0") + bytes(-(-blocks // 16384) * 2)
    return data + nothing * scans + b"\xff\xd9"


BOMBS = (jpeg_bomb(400), jpeg_bomb(4000, 8), jpeg_bomb(30, 2000), b"\xff\xd8" + b"\xff\xfe\0\2" * 12_000)
"""Of at most 60 KB: none of them is a sound picture."""


async def answer_to(connection: Raw, id_: int | None) -> dict[str, Any]:
    """The answer to a command, or without an `id` the next error that answers none."""
    async for message in connection.messages():
        if message.get("reply_to") == id_ and (id_ is not None or message["type"] == "reactor.error"):
            return message
    raise Misbehaved(f"the server closed before it answered {id_}")


async def refused(connection: Raw, id_: int | None, *codes: str) -> None:
    message = await answer_to(connection, id_)
    if message["type"] != "reactor.error" or message["data"]["code"] not in codes:
        raise Misbehaved(f"{message} is none of {codes}")


async def upload(connection: Raw, data: bytes) -> None:
    size = len(data)
    await connection.say(
        "reactor.upload_start", upload_id="u", name="a.jpg", mime_type="image/jpeg", size=size
    )
    for sent in range(0, size, 20_000):
        part = data[sent : sent + 20_000]
        await connection.write(masked_binary(encode_upload_chunk(UploadChunk("u", sent, part))))


async def sends_bombs(server: Address, secret: str, rng: random.Random) -> None:
    """Pictures that cost more than they weigh: as frames, and as a photo. It may leave at once."""
    async with raw(server, secret) as connection:
        for seq in range(rng.randint(1, 4)):
            await connection.write(
                binary(1, {"track": "webcam", "seq": seq, "pts": 0, "codec": "jpeg"}, rng.choice(BOMBS))
            )
            if rng.random() < 0.3:
                connection.reset()
                return
            await refused(connection, None, "bad_message")
        await upload(connection, rng.choice(BOMBS))
        await connection.say("take_photo", 7, photo={"upload_id": "u"})
        await refused(connection, 7, "bad_photo")


async def cheats_at_uploads(server: Address, secret: str, rng: random.Random) -> None:
    """Files of one byte that never come, and chunks that are all header."""
    async with raw(server, secret) as connection:
        await connection.say("reactor.upload_start", upload_id="u", name="a", mime_type="a/b", size=1)
        what = rng.choice(["empty", "header", "metadata"])
        if what == "empty":
            await connection.write(binary(2, {"upload_id": "u", "offset": 0}) * 2000)
            await refused(connection, None, "upload_rejected")
        elif what == "header":
            await connection.write(binary(2, {"upload_id": "u", "offset": 0, "x": "x" * 60_000}, b"x"))
            await refused(connection, None, "bad_message", "upload_rejected")
        else:
            header = {"track": "webcam", "seq": 0, "pts": 0, "codec": "jpeg", "metadata": {"x": "x" * 60_000}}
            await connection.write(binary(1, header, b"no picture") * 20)
            await refused(connection, None, "bad_message")


async def sends_monsters(server: Address, secret: str, rng: random.Random) -> None:
    """Commands of 1 MiB, payloads that are deep, and names that it has made up. Each is answered."""
    async with raw(server, secret) as connection:
        for number in range(7, 7 + rng.randint(1, 4)):
            made_up = f"made_up_{rng.getrandbits(64):x}"
            deep = '{"left":' * rng.randint(2, 30)
            event, data, code = rng.choice(
                [
                    ("plant", f'{{"tree":{deep}"bad"{"}" * deep.count("{")}}}', "invalid_payload"),
                    (
                        "steer",
                        "{{{}}}".format(",".join([f'"k{at}":0' for at in range(80_000)])),
                        "invalid_payload",
                    ),
                    (made_up, '{{"a":[{}]}}'.format(",".join(["{}"] * 340_000)), "unknown_event"),
                    (made_up, "{}", "unknown_event"),
                ]
            )
            if data == "{}":
                for _ in range(50):
                    await connection.say(f"made_up_{rng.getrandbits(64):x}")
            message = f'{{"type":"{event}","data":{data},"id":{number}}}'
            await connection.write(frame(TEXT, message.encode()))
            await refused(connection, number, code, "bad_message", "overloaded")


async def changes_its_mind(server: Address, secret: str, rng: random.Random) -> None:
    """Configures its track anew with every message, and asks for more than it can need."""
    async with raw(server, secret) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(connection.wait_for_the_end)
        wishes: list[dict[str, Any]] = [
            {"max_width": 16},
            {"max_width": None, "max_fps": 5},
            {"codec": "raw"},
            {"codec": None},
            {"codec": "h264"},
            {"paused": True},
            {"paused": False},
        ]
        await connection.say("reactor.configure_track", track="main_video", codec="h264")
        await trio.sleep(0.3)  # so that there is a stream to be begun anew
        for _ in range(rng.randint(20, 150)):
            await connection.say("reactor.configure_track", track="main_video", **rng.choice(wishes))
            await connection.say("reactor.request_key_frame", track="main_video")
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel(reason="it has had enough")


KINDS: dict[Callable[..., Awaitable[None]], int] = {
    works: 38,
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
    floods: 4,
    sends_bombs: 3,
    cheats_at_uploads: 2,
    sends_monsters: 2,
    changes_its_mind: 1,
}
"""How often each kind of client comes; the numbers add up to 100."""


# ---- strangers


async def connects_and_leaves(server: Address, secret: str, rng: random.Random) -> None:
    async with raw(server, secret, upgraded=False) as connection:
        await trio.sleep(rng.uniform(0, 0.2))
        if rng.random() < 0.5:
            connection.reset()


async def sends_a_slow_head(server: Address, secret: str, rng: random.Random) -> None:
    async with raw(server, secret, upgraded=False) as connection, trio.open_nursery() as nursery:

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


async def sends_a_garbage_head(server: Address, secret: str, rng: random.Random) -> None:
    async with raw(server, secret, upgraded=False) as connection:
        with suppress(trio.BrokenResourceError):
            await connection.write(rng.randbytes(rng.randint(1, 40_000)))
            await connection.stream.send_eof()
            while await connection.stream.receive_some(65536):
                pass


async def leaves_in_the_handshake(server: Address, secret: str, rng: random.Random) -> None:
    async with raw(server, secret, upgraded=False) as connection:
        head = (
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        )
        await connection.write(head[: rng.randrange(1, len(head))])
        connection.reset()


async def fetches(server: Address, secret: str, rng: random.Random) -> None:
    path, status = rng.choice([("/health", 200), ("/", 200), ("/schema", 200), ("/ws", 426), ("/x", 404)])
    head, _ = await get(server, path)
    if not head.startswith(f"HTTP/1.1 {status} ".encode()):
        raise Misbehaved(f"{path} gave {head[:40]!r}")


STRANGERS: dict[Callable[..., Awaitable[None]], int] = {
    connects_and_leaves: 25,
    sends_a_slow_head: 10,
    sends_a_garbage_head: 20,
    leaves_in_the_handshake: 20,
    fetches: 25,
}


async def get(server: Address, path: str) -> tuple[bytes, bytes]:
    async with raw(server, "", upgraded=False) as connection:
        await connection.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        data = b""
        while more := await connection.stream.receive_some(65536):
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body
