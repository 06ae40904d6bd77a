"""The viewers of `benchmarks/frames.py`: raw sockets that read frames as cheaply as Python can.

Of each frame only the head is looked at (`seq`, `codec`) and the time at which its last byte was read. The
first one of every viewer is kept whole and checked: it must be a picture of the right codec and size.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import simplejpeg

Address = tuple[str, int]

FPS = 30
TIMEOUT = 15.0
"""How long the handshake of a viewer, or its first frame, may take, in seconds."""
PHASE = 0.382 / FPS
"""Seconds between two connects: a fraction of a frame that spreads the viewers' ticks evenly over it."""
BINARY, CLOSE, PING = 2, 8, 9
MEDIA = 1
SCRATCH = memoryview(bytearray(1 << 18))


@dataclass(frozen=True)
class Wanted:
    """The codec and size that every frame must have."""

    codec: str
    width: int
    height: int


@dataclass
class Arrivals:
    """The frames of one viewer: the number and the time (seconds) of each, in order."""

    seqs: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    bytes: int = 0


class Viewer:
    """One connection. `receive` reads once and notes the frames that came to their end."""

    def __init__(self, number: int, address: Address, wanted: Wanted) -> None:
        self.number = number
        self.wanted = wanted
        self.arrivals = Arrivals()
        self.checked = False
        """Whether a good frame has been seen."""
        self._head = bytearray()
        self._left = 0
        self._kept: bytearray | None = None
        self._seq = -1
        self.socket = socket.create_connection(address, timeout=TIMEOUT)
        try:
            self._handshake(address)
        except BaseException:
            self.socket.close()
            raise

    def fail(self, what: str) -> RuntimeError:
        return RuntimeError(f"viewer {self.number}: {what}")

    def close(self) -> None:
        # 1000, masked with zeros: politely, so that neither server logs a lost client.
        with contextlib.suppress(OSError):
            self.socket.sendall(b"\x88\x82\0\0\0\0" + struct.pack(">H", 1000))
        self.socket.close()

    def receive(self) -> None:
        """Read once. Raises `RuntimeError` for whatever does not belong here."""
        count = self.socket.recv_into(SCRATCH)
        if not count:
            raise self.fail("the server closed the connection")
        self._take(SCRATCH[:count])

    def _take(self, data: memoryview) -> None:
        while data:
            if not self._left:
                data = self._take_head(data)
                continue
            part = data[: self._left]
            if self._kept is not None:
                self._kept += part
            self._left -= len(part)
            data = data[len(part) :]
            if not self._left:
                self._finished()

    def _take_head(self, data: memoryview) -> memoryview:
        """Byte for byte no more than the head needs; the rest of `data` is returned."""
        missing = self._needed() - len(self._head)
        self._head += data[:missing]
        if len(self._head) == self._needed():
            self._begin()
        return data[missing:]

    def _needed(self) -> int:
        """Bytes of the head, as far as it is known: WebSocket's, and behind it the frame's own."""
        head = self._head
        if len(head) < 2:
            return 2
        start = _start(head)
        if head[0] & 0x0F != BINARY:
            return start if len(head) < start else start + _length(head)
        if len(head) < start + 3:
            return start + 3
        return start + 3 + int.from_bytes(head[start + 1 : start + 3], "big")

    def _begin(self) -> None:
        head, self._head = self._head, bytearray()
        start = _start(head)
        opcode = head[0] & 0x0F
        if opcode == PING:
            # Masked with zeros: the payload stays as it is.
            self.socket.sendall(bytes((0x8A, 0x80 | (len(head) - start))) + bytes(4) + head[start:])
        elif opcode == CLOSE:
            raise self.fail(f"the server said goodbye: {bytes(head[start:])!r}")
        elif opcode == BINARY:
            self._begin_frame(head, start)

    def _begin_frame(self, head: bytearray, start: int) -> None:
        if head[start] != MEDIA:
            raise self.fail(f"no media: {bytes(head)!r}")
        header = json.loads(head[start + 3 :])
        self._seq = header["seq"]
        self._left = start + _length(head) - len(head)
        if self._left <= 0:
            raise self.fail(f"a frame without a picture: {header}")
        if header["codec"] != self.wanted.codec:
            if self.checked:
                raise self.fail(f"not {self.wanted.codec}: {header}")
            self._seq = -1  # it was under way before the server knew what we want
        elif not self.checked:
            if (header["width"], header["height"]) != (self.wanted.width, self.wanted.height):
                raise self.fail(f"not {self.wanted}: {header}")
            self._kept = bytearray()
        self.arrivals.bytes += self._left

    def _finished(self) -> None:
        if self._seq < 0:
            return
        if self._kept is not None:
            self._check(bytes(self._kept))
            self._kept, self.checked = None, True
        arrivals = self.arrivals
        if arrivals.seqs and self._seq <= arrivals.seqs[-1]:
            raise self.fail(f"frame {self._seq} after frame {arrivals.seqs[-1]}")
        arrivals.seqs.append(self._seq)
        arrivals.times.append(time.perf_counter())

    def _check(self, payload: bytes) -> None:
        wanted = self.wanted
        if wanted.codec == "jpeg":
            pixels = simplejpeg.decode_jpeg(payload)  # raises ValueError for what is none
            good = pixels.shape == (wanted.height, wanted.width, 3) and pixels.std() > 10
        elif wanted.codec == "raw":
            good = len(payload) == wanted.height * wanted.width * 3
        else:  # H.264, Annex B
            good = payload[:3] == b"\0\0\1" or payload[:4] == b"\0\0\0\1"
        if not good:
            raise self.fail(f"the first frame is not {wanted}: {payload[:16]!r}...")

    def _handshake(self, address: Address) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = bytearray()
        while (end := head.find(b"\r\n\r\n")) < 0:
            count = self.socket.recv_into(SCRATCH)
            if not count:
                raise self.fail(f"no WebSocket: {bytes(head)!r}")
            head += SCRATCH[:count]
        status, *_ = bytes(head).split(b"\r\n", 1)
        if b" 101 " not in status or b"permessage-deflate" in head[:end].lower():
            raise self.fail(f"no plain WebSocket: {bytes(head[:end])!r}")
        self._take(memoryview(bytes(head[end + 4 :])))


def _start(head: bytearray) -> int:
    """Bytes of WebSocket's own head (RFC 6455, section 5.2; a server masks nothing)."""
    return {126: 4, 127: 10}.get(head[1], 2)


def _length(head: bytearray) -> int:
    return head[1] if head[1] < 126 else int.from_bytes(head[2 : _start(head)], "big")


class Audience:
    """So many viewers, read in one loop."""

    def __init__(self, address: Address, wanted: Wanted, greeting: bytes = b"") -> None:
        self._address = address
        self._wanted = wanted
        self._greeting = greeting
        self._selector = selectors.DefaultSelector()
        self.viewers: list[Viewer] = []

    def connect(self, count: int) -> None:
        """Connect one after the other, and read meanwhile. Raises `OSError` or `RuntimeError`."""
        begin = time.perf_counter()
        for number in range(count):
            self.read_until(begin + number * PHASE)
            viewer = Viewer(number, self._address, self._wanted)
            self.viewers.append(viewer)
            self._selector.register(viewer.socket, selectors.EVENT_READ, viewer)
            if self._greeting:
                viewer.socket.sendall(self._greeting)

    def wait_for_pictures(self) -> None:
        """Read until every viewer has seen a good frame; raises `RuntimeError` for the one that did not."""
        give_up = time.perf_counter() + TIMEOUT
        while blind := [viewer for viewer in self.viewers if not viewer.checked]:
            if time.perf_counter() > give_up:
                raise blind[0].fail(f"no frame in {TIMEOUT:g} s")
            self.read_until(time.perf_counter() + 0.1)

    def read_until(self, until: float) -> None:
        """Read whatever comes until then, a time of `time.perf_counter`."""
        while (left := until - time.perf_counter()) > 0:
            for key, _ in self._selector.select(left):
                key.data.receive()

    def start_over(self) -> None:
        """Begin to count anew."""
        for viewer in self.viewers:
            viewer.arrivals = Arrivals()

    def close(self) -> None:
        self._selector.close()
        for viewer in self.viewers:
            viewer.close()


@contextlib.contextmanager
def watching(address: Address, wanted: Wanted, count: int, greeting: bytes = b"") -> Iterator[Audience]:
    """Connect so many viewers, and wait for the first good frame of each; closed at the end."""
    with contextlib.closing(Audience(address, wanted, greeting)) as audience:
        audience.connect(count)
        audience.wait_for_pictures()
        if len(audience.viewers) != count:
            raise RuntimeError(f"{len(audience.viewers)} of {count} viewers")
        yield audience
