"""A WebSocket client of bare bytes on a real, blocking socket: it can send bytes that no library would."""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80
TIMEOUT = 60.0
"""Seconds for one read or write: a machine may be busy."""
KEY = base64.b64encode(b"0123456789abcdef")


def frame(opcode: int, payload: bytes = b"", *, first: int | None = None, length: int | None = None) -> bytes:
    """A client's frame, masked with zeros; `first` and `length` forge its first byte and its length."""
    size = len(payload) if length is None else length
    head = bytes([FIN | opcode if first is None else first])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += bytes([0x80 | 126]) + struct.pack(">H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", size)
    return head + bytes(4) + payload


def command(type_: str, data: dict[str, Any] | None = None, id_: int | None = None) -> bytes:
    """The frame of a command."""
    message = {"type": type_, "data": data or {}}
    return frame(TEXT, json.dumps(message if id_ is None else message | {"id": id_}).encode())


class RawWebSocket:
    """A connection after its handshake."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.buffer = bytearray()

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, count: int = 1 << 16) -> bool:
        """Read once; returns False if the server has hung up."""
        data = self.socket.recv(count)
        self.buffer += data
        return bool(data)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Opcode and payload of each whole frame that has been read."""
        while (end := self._end()) is not None:
            start, end = end
            opcode, payload = self.buffer[0] & 0x0F, bytes(self.buffer[start:end])
            del self.buffer[:end]
            yield opcode, payload

    def _end(self) -> tuple[int, int] | None:
        if len(self.buffer) < 2:
            return None
        length, start = self.buffer[1] & 0x7F, 2
        if length > 125:
            start = 4 if length == 126 else 10
            if len(self.buffer) < start:
                return None
            length = int.from_bytes(self.buffer[2:start], "big")
        return (start, start + length) if len(self.buffer) >= start + length else None

    def next(self) -> tuple[int, bytes] | None:
        """The next frame; None if the server has hung up."""
        while True:
            for each in self.frames():
                return each
            if not self.read():
                return None

    def until(self, opcode: int) -> bytes:
        """The payload of the next frame with this opcode."""
        while (found := self.next()) is not None:
            if found[0] == opcode:
                return found[1]
        raise EOFError("the server has hung up")

    def call(self, type_: str, id_: int, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.send(command(type_, data, id_))
        while True:
            answer: dict[str, Any] = json.loads(self.until(TEXT))
            if answer.get("reply_to") == id_:
                return answer


def request(headers: bytes = b"") -> bytes:
    """A client's handshake."""
    return (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n" + headers + b"\r\n"
    )


@contextmanager
def connected_to(host: str, port: int, *, receive_buffer: int | None = None) -> Iterator[RawWebSocket]:
    """A connection after its handshake; `receive_buffer` (bytes) sizes the socket's receive buffer."""
    with socket.socket() as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(TIMEOUT)
        sock.connect((host, port))
        sock.sendall(request())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield RawWebSocket(sock)
