"""Framing: the fast path and the engine together say what the engine alone says."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from reactor_trio.server.frames import FrameReader, encode_frame, unmask
from reactor_trio.session.transport import whole

MAX_MESSAGE_BYTES = 100_000
MASK = b"\x11\x22\x33\x44"


def frame(first: int, payload: bytes, *, mask: bytes | None = MASK) -> bytes:
    """Any frame, also one that no one should send."""
    bit, length = (0x80, len(payload)) if mask is not None else (0, len(payload))
    if length < 126:
        head = bytes((first, bit | length))
    elif length < 1 << 16:
        head = bytes((first, bit | 126)) + struct.pack(">H", length)
    else:
        head = bytes((first, bit | 127)) + struct.pack(">Q", length)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


class Messages:
    """Puts the engine's events together: whole messages, pings, and the close."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.parts: list[Any] = []
        self.closed = False

    def take(self, engine: Connection) -> None:
        for event in engine.events():
            match event:
                case TextMessage() | BytesMessage():
                    self.parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
                    if event.message_finished:
                        self.found.append(type(self.parts[0])().join(self.parts))
                        self.parts = []
                case Ping():
                    self.found.append(("ping", bytes(event.payload)))
                case CloseConnection():
                    self.found.append(("close", int(event.code)))
                    self.closed = True


def by_engine(data: bytes, kind: ConnectionType) -> list[Any]:
    engine, messages = Connection(kind), Messages()
    engine.receive_data(data)
    messages.take(engine)
    return messages.found


def by_both(chunks: list[bytes], kind: ConnectionType) -> list[Any]:
    engine, messages = Connection(kind), Messages()
    reader = FrameReader(masked=kind is ConnectionType.SERVER, max_message_bytes=MAX_MESSAGE_BYTES)
    for chunk in chunks:
        reader.feed(chunk)
        while not messages.closed and (item := reader.next()) is not None:
            if isinstance(item, bytearray):
                engine.receive_data(bytes(item))
                messages.take(engine)
            else:
                messages.found.append(item)
    return messages.found


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


payloads = st.one_of(
    st.binary(max_size=200),
    st.binary(min_size=120, max_size=130),
    st.just(b"x" * 70_000),
    st.just(b"\xff\xfe"),
)
texts = st.one_of(st.text(max_size=50).map(str.encode), payloads)
frames = st.one_of(
    st.tuples(st.just(0x81), texts),
    st.tuples(st.just(0x82), payloads),
    st.tuples(st.sampled_from([0x01, 0x02, 0x00, 0x80]), st.binary(max_size=20)),
    st.tuples(st.sampled_from([0x89, 0x8A]), st.binary(max_size=125)),
    st.tuples(
        st.just(0x88),
        st.sampled_from([b"", struct.pack(">H", 1000), b"\x03", struct.pack(">H", 1000) + b"bye"]),
    ),
    st.tuples(st.sampled_from([0xC1, 0x83, 0x09, 0x8B]), st.binary(max_size=5)),
)


@settings(max_examples=300)
@given(
    parts=st.lists(frames, max_size=8),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    masks=st.lists(st.sampled_from([MASK, MASK, MASK, b"\0\0\0\0", None]), min_size=8, max_size=8),
    is_server=st.booleans(),
)
def test_any_frames_in_any_pieces_are_what_the_engine_says(
    parts: list[tuple[int, bytes]], cuts: list[int], masks: list[bytes | None], is_server: bool
) -> None:
    kind = ConnectionType.SERVER if is_server else ConnectionType.CLIENT
    usual = (lambda mask: mask) if is_server else (lambda mask: None if mask == MASK else mask)
    pieces = zip(parts, masks, strict=False)
    data = b"".join(frame(first, body, mask=usual(mask)) for (first, body), mask in pieces)
    assert by_both(split(data, cuts), kind) == by_engine(data, kind)


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_noise_is_what_the_engine_says(data: bytes, cuts: list[int]) -> None:
    # The engine may complain as soon as it has seen enough; here it waits for the frame to be whole.
    together = by_both(split(data, cuts), ConnectionType.SERVER)
    alone = by_engine(data, ConnectionType.SERVER)
    assert together == alone or (alone[: len(together)] == together and alone[-1][0] == "close")


def test_split_at_every_byte() -> None:
    data = frame(0x81, "grüße".encode()) + frame(0x89, b"p") + frame(0x82, b"z" * 300) + frame(0x81, b"")
    expected = ["grüße", ("ping", b"p"), b"z" * 300, ""]
    assert by_both([bytes((byte,)) for byte in data], ConnectionType.SERVER) == expected
    for cut in range(len(data)):
        assert by_both([data[:cut], data[cut:]], ConnectionType.SERVER) == expected


def test_a_frame_that_is_too_large_is_not_collected() -> None:
    reader = FrameReader(masked=True, max_message_bytes=1000)
    reader.feed(frame(0x82, b"x" * 2000)[:20])
    assert isinstance(reader.next(), bytearray), "the engine gets it from its first bytes on"
    reader.feed(b"y" * 5000)
    assert isinstance(reader.next(), bytearray)
    assert not reader._buffer


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 125, 511, 512, 513, 514, 515, 516, 100_003])
def test_unmasking_is_its_own_inverse(length: int) -> None:
    payload = bytes(index * 7 % 256 for index in range(length))
    masked = unmask(payload, MASK)
    assert masked == bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))
    assert unmask(bytearray(masked), bytearray(MASK)) == payload


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_what_is_encoded_is_read_back(length: int) -> None:
    reader = FrameReader(masked=False, max_message_bytes=100_000)
    in_parts = (b"y" * (length // 3), memoryview(b"y" * (length - length // 3)))
    for message in ("x" * length, b"y" * length, in_parts):
        reader.feed(b"".join(encode_frame(message)))
        assert reader.next() == whole(message)
    assert reader.next() is None
