"""The common case of WebSocket framing, without the engine: whole data frames (RFC 6455, section 5.2).

Almost every frame is a whole text or binary message. wsproto takes 16 us to read a small one and masks
in pure Python (PERFORMANCE: 0.3 to 0.6 GB/s). So such frames are read and written here, and everything else
(control frames, fragments, whatever is wrong) goes to the engine, one whole frame at a time: it
never holds a part of one, so the two never disagree about where a frame begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from reactor_trio.session.transport import Outgoing, Parts

TEXT, BINARY = 0x81, 0x82  # FIN and the opcode, no extension bits
_CONTINUATION, _FIN = 0x00, 0x80
_SMALL: Final = 512
"""Bytes up to which a payload is unmasked as one integer; numpy is faster from there on."""


def encode_frame(message: Outgoing) -> Parts:
    """Header and payload of an unmasked, unfragmented data frame, as a server sends it.

    The payload stays in the parts that it came in. wsproto builds the same bytes with four copies of it.
    """
    if isinstance(message, str):
        payload = message.encode()
        return _header(TEXT, len(payload)), payload
    if isinstance(message, tuple):
        return _header(BINARY, sum(map(len, message))), *message
    return _header(BINARY, len(message)), message


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return bytes((first, 126)) + length.to_bytes(2, "big")
    return bytes((first, 127)) + length.to_bytes(8, "big")


def unmask(payload: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
    """XOR with the repeated four bytes of the mask (RFC 6455, section 5.3); its own inverse."""
    length = len(payload)
    if length <= _SMALL:
        key = (bytes(mask) * (length // 4 + 1))[:length]
        return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
    whole = length & ~3
    words = np.frombuffer(payload, np.uint32, whole // 4) ^ np.frombuffer(mask, np.uint32, 1)
    if whole == length:
        return words.tobytes()
    return words.tobytes() + bytes(a ^ b for a, b in zip(payload[whole:], mask, strict=False))


class FrameReader:
    """Takes bytes as they arrive; gives whole messages, and to the engine what is not one.

    `masked` says whether the peer is a client. A frame that is larger than `max_message_bytes` is not
    collected: from its header on everything goes to the engine, which refuses it.
    """

    def __init__(self, *, masked: bool, max_message_bytes: int) -> None:
        self._mask_bit = 0x80 if masked else 0
        self._mask_bytes = 4 if masked else 0
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._wanted = 2
        """Bytes without which the frame at the front of the buffer is not whole: no use in looking again."""
        self._is_fragmented = False
        self._passes_on = False

    def feed(self, data: bytes | bytearray) -> None:
        """Bytes that arrived."""
        self._buffer += data

    def next(self) -> str | bytes | bytearray | None:
        """The next whole message, or a `bytearray` for the engine; None until more bytes arrive."""
        buffer = self._buffer
        if len(buffer) < self._wanted or not buffer:
            return None
        if self._passes_on:
            return self._take(len(buffer))
        first, header, length = self._measure()
        end = header + length
        if length > self._max_message_bytes:
            self._passes_on, self._wanted = True, 0
            return self._take(len(buffer))
        if len(buffer) < end:
            self._wanted = end
            return None
        self._wanted = 2
        is_plain = buffer[1] & 0x80 == self._mask_bit and not self._is_fragmented
        if is_plain and first in (TEXT, BINARY):
            return self._message(first, header, end)
        self._follow_fragments(first)
        return self._take(end)

    def _measure(self) -> tuple[int, int, int]:
        """First byte, header bytes, payload bytes; the payload is 0 while the header is not whole."""
        buffer = self._buffer
        length = buffer[1] & 0x7F
        extra = 2 if length == 126 else 8 if length == 127 else 0
        # By the frame's own mask bit: the engine, which refuses a wrong one, gets it whole.
        header = 2 + extra + (4 if buffer[1] & 0x80 else 0)
        if extra:
            length = int.from_bytes(buffer[2 : 2 + extra], "big") if len(buffer) >= header else 0
        return buffer[0], header, length

    def _message(self, first: int, header: int, end: int) -> str | bytes | bytearray:
        buffer = self._buffer
        with memoryview(buffer) as view:
            if self._mask_bytes:
                payload = unmask(view[header:end], buffer[header - 4 : header])
            else:
                payload = bytes(view[header:end])
        if first == TEXT:
            try:
                message: str | bytes = payload.decode()
            except UnicodeDecodeError:
                return self._take(end)  # the engine says 1007
        else:
            message = payload
        del buffer[:end]
        return message

    def _follow_fragments(self, first: int) -> None:
        if first & 0x0F in (1, 2) and not first & _FIN:
            self._is_fragmented = True
        elif first & 0x0F == _CONTINUATION and first & _FIN:
            self._is_fragmented = False

    def _take(self, count: int) -> bytearray:
        taken = self._buffer[:count]
        del self._buffer[:count]
        return taken
