"""WebSocket framing (RFC 6455, section 5.2): bytes to whole messages, and messages to bytes. Pure.

wsproto takes 16 us to read a small frame and masks in pure Python (docs/performance.md#bulk), so that a
client that sends a few hundred KB/s of empty frames would keep a core busy. Therefore this module reads and
writes the frames, and the engine is given only close frames.

The time taken is linear in the number of bytes, however they are cut into reads. A frame is refused as soon
as its header shows that it must be: no payload of a frame that is too large is collected.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import TYPE_CHECKING, Final

import attrs
import numpy as np

from reactor_trio.protocol.names import CloseCode

if TYPE_CHECKING:
    from codecs import IncrementalDecoder

    from reactor_trio.wire.transport import Outgoing, Parts

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A  # FIN and the opcode, no extension bits
_DATA: Final = frozenset((TEXT, BINARY))
_FIN, _RESERVED, _CONTROL = 0x80, 0x70, 0x08
_LAST_DATA, _LAST_CONTROL = 0x02, 0x0A
MAX_CONTROL_BYTES = 125
_SMALL: Final = 512
"""Bytes up to which a payload is unmasked as one integer; for longer ones numpy is faster."""
FRAGMENT_BYTES = 16
"""Bytes that the fragments of a message must have on average: each costs as much as a small message."""
MIN_FRAGMENTS = 1024
"""Fragments that any message may have, so that a short one may be cut into single bytes."""


def encode_frame(message: Outgoing) -> Parts:
    """Header and payload of an unmasked, unfragmented data frame, as a server sends it.

    The payload is not copied: it stays in the parts in which it was given. wsproto composes the same bytes
    with four copies of the payload.
    """
    if isinstance(message, str):
        payload = message.encode()
        return _header(TEXT, len(payload)), payload
    if isinstance(message, tuple):
        return _header(BINARY, sum(map(len, message))), *message
    return _header(BINARY, len(message)), message


def encode_pong(payload: bytes) -> bytes:
    """An unmasked pong, as a server sends it; `payload` is that of the ping, at most 125 bytes."""
    return bytes((PONG, len(payload))) + payload


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return bytes((first, 126)) + length.to_bytes(2, "big")
    return bytes((first, 127)) + length.to_bytes(8, "big")


def unmask(payload: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
    """The payload XOR the repeated four bytes of the mask (RFC 6455, section 5.3): masks and unmasks."""
    length = len(payload)
    if length <= _SMALL:
        key = (bytes(mask) * (length // 4 + 1))[:length]
        return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
    whole = length & ~3
    words = np.frombuffer(payload, np.uint32, whole // 4) ^ np.frombuffer(mask, np.uint32, 1)
    if whole == length:
        return words.tobytes()
    return words.tobytes() + bytes(a ^ b for a, b in zip(payload[whole:], mask, strict=False))


@attrs.frozen
class Fault:
    """A breach of the rules by the peer; the connection is to be closed with this code and reason."""

    code: CloseCode
    reason: str


class FrameReader:
    """Takes bytes as they arrive, and gives whole messages, and control frames with their headers.

    `masked` says whether the peer is a client. A message has at most `max_message_bytes` bytes, and as many
    fragments as `FRAGMENT_BYTES` and `MIN_FRAGMENTS` allow.
    """

    # The buffer that `next` reads is never resized, only replaced: a view of it may be alive elsewhere (the
    # watchdog looks at the local variables of a slow step), and a `bytearray` with a view refuses to be
    # resized. The bytes of a frame that is not whole yet grow in another `bytearray`, `_partial`, of which no
    # view is taken before it becomes the buffer.

    def __init__(self, *, masked: bool, max_message_bytes: int) -> None:
        self._mask_bit = 0x80 if masked else 0
        self._mask_bytes = 4 if masked else 0
        self._max_message_bytes = max_message_bytes
        self._max_fragments = max(MIN_FRAGMENTS, max_message_bytes // FRAGMENT_BYTES)
        self._buffer: bytes | bytearray = b""
        self._at = 0
        """Where the next frame begins in the buffer; the bytes before it have been given out."""
        self._partial = bytearray()
        """The bytes of a frame that is not whole yet; the buffer is empty then."""
        self._wanted = 2
        """Bytes that the next frame has at least, as far as is known: with fewer it cannot be whole."""
        self._room = max_message_bytes
        """Bytes that the rest of the message under way may have."""
        # The message in fragments that is under way: its opcode (0 if there is none), the payloads so far.
        self._opcode = 0
        self._message = bytearray()
        self._fragments = 0
        self._utf8: IncrementalDecoder | None = None
        self.fault: Fault | None = None
        """The peer's first breach of the rules; no more frames are read after it."""
        self.discards = False
        """Whether data frames are skipped, at next to no cost: after this side's close."""

    def feed(self, data: bytes | bytearray) -> None:
        """Take bytes that arrived. Does nothing after a `fault`."""
        if self.fault is not None:
            return
        if self._partial:
            self._partial += data
        elif self._at == len(self._buffer):
            self._buffer, self._at = bytes(data), 0
        else:
            self._partial += self._buffer[self._at :]
            self._partial += data
            self._buffer, self._at = b"", 0

    def next(self) -> str | bytes | bytearray | None:
        """Read one frame. Returns None if more bytes are needed, and always after a `fault`.

        A `str` or `bytes` is a whole message. A `bytearray` is a control frame, header included; an empty one
        stands for a frame that completes no message, after which the caller calls again. So no call takes
        longer than one frame does.
        """
        buffer, at = self._buffer, self._at
        have = len(buffer) - at
        if have < self._wanted:
            if len(self._partial) < self._wanted:
                if not have:  # all of the buffer was given out: free it
                    self._buffer, self._at = b"", 0
                return None
            buffer = self._buffer = self._partial
            self._partial = bytearray()
            at = self._at = 0
            have = len(buffer)
        first, second = buffer[at], buffer[at + 1]
        length = second & 0x7F
        is_plain = first in _DATA and not self._opcode
        if second & 0x80 != self._mask_bit or not is_plain:
            problem = self._problem(first, second)
            if problem:
                self._refuse(CloseCode.PROTOCOL_ERROR, problem)
                return None
        start = at + 2 + self._mask_bytes
        if length > MAX_CONTROL_BYTES:
            extra = 2 if length == 126 else 8
            if have < 2 + extra:
                self._wanted = 2 + extra
                return None
            length = int.from_bytes(buffer[at + 2 : at + 2 + extra], "big")
            if length < (126 if extra == 2 else 1 << 16) or length >> 63:
                self._refuse(CloseCode.PROTOCOL_ERROR, "a length that is not written the shortest way")
                return None
            start += extra
        if length > self._room and not first & _CONTROL:
            reason = f"a message may have {self._max_message_bytes} bytes"
            self._refuse(CloseCode.MESSAGE_TOO_BIG, reason)
            return None
        end = start + length
        if have < end - at:
            self._wanted = end - at
            return None
        self._at, self._wanted = end, 2
        if first & _CONTROL:
            return bytearray(buffer[at:end])
        if self.discards:
            return bytearray()
        payload = self._payload(buffer, start, end)
        if not is_plain:
            return self._take_fragment(first, payload)
        return self._decoded(payload) if first == TEXT else payload

    def _payload(self, buffer: bytes | bytearray, start: int, end: int) -> bytes:
        payload = buffer[start:end] if end - start <= _SMALL else memoryview(buffer)[start:end]
        return unmask(payload, buffer[start - 4 : start]) if self._mask_bytes else bytes(payload)

    def payload_of(self, control: bytearray) -> bytes:
        """The payload of a control frame that `next` gave."""
        return self._payload(control, 2 + self._mask_bytes, len(control))

    def _problem(self, first: int, second: int) -> str:
        """The breach of the rules that the first two bytes of a frame show, or "" (RFC 6455, 5.1 to 5.5)."""
        opcode = first & 0x0F
        if second & 0x80 != self._mask_bit:
            return "a client masks its frames" if self._mask_bit else "a server does not mask its frames"
        if first & _RESERVED:
            return "reserved bits"
        if opcode & _CONTROL:
            if opcode > _LAST_CONTROL:
                return "an unknown opcode"
            if not first & _FIN:
                return "a control frame in fragments"
            return "a control frame of more than 125 bytes" if second & 0x7F > MAX_CONTROL_BYTES else ""
        if opcode > _LAST_DATA:
            return "an unknown opcode"
        if opcode and self._opcode:
            return "a message within another"
        return "" if opcode or self._opcode else "nothing to continue"

    def _take_fragment(self, first: int, payload: bytes) -> str | bytes | bytearray | None:
        if first & 0x0F:
            self._opcode = first & 0x0F
            self._utf8 = getincrementaldecoder("utf-8")() if self._opcode == TEXT & 0x0F else None
        self._fragments += 1
        if self._fragments > self._max_fragments:
            self._refuse(CloseCode.POLICY_VIOLATION, f"more than {self._max_fragments} fragments")
            return None
        is_last = bool(first & _FIN)
        self._message += payload
        self._room -= len(payload)
        if self._utf8 is not None:
            try:  # a faulty text is refused at once, not when the message is whole
                self._utf8.decode(payload, is_last)
            except UnicodeDecodeError:
                self._refuse(CloseCode.INVALID_DATA, "invalid UTF-8")
                return None
        if not is_last:
            return bytearray()
        message, is_text = bytes(self._message), self._utf8 is not None
        self._message, self._room, self._fragments = bytearray(), self._max_message_bytes, 0
        self._opcode, self._utf8 = 0, None
        return self._decoded(message) if is_text else message

    def _decoded(self, payload: bytes) -> str | None:
        try:
            return payload.decode()
        except UnicodeDecodeError:
            self._refuse(CloseCode.INVALID_DATA, "invalid UTF-8")
            return None

    def _refuse(self, code: CloseCode, reason: str) -> None:
        self.fault = Fault(code, reason)
        self._buffer, self._at, self._partial, self._message = b"", 0, bytearray(), bytearray()
