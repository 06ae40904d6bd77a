"""Framing: `FrameReader` and wsproto's engine together read any bytes as the engine alone does."""

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
from wsproto.frame_protocol import FrameProtocol

from reactor_trio.wire import framing as frames_module
from reactor_trio.wire.framing import MIN_FRAGMENTS, FrameReader, encode_frame, encode_pong, unmask
from reactor_trio.wire.transport import whole

MAX_MESSAGE_BYTES = 100_000
MASK = b"\x11\x22\x33\x44"


def frame(first: int, payload: bytes, *, mask: bytes | None = MASK) -> bytes:
    """A frame, valid or not."""
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
    """Collects the engine's events as whole messages, pings, and the close."""

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
    """The results of the reader, and of the engine, which is given the control frames."""
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
        if reader.fault is not None and not messages.closed:
            messages.found.append(("close", int(reader.fault.code)))
            break
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
    alone = by_engine(data, ConnectionType.SERVER)
    together = by_both(split(data, cuts), ConnectionType.SERVER)
    # The reader refuses a frame at the first two bytes; the engine waits for the payload of a close frame.
    # Only the reader refuses a frame that is too large.
    assert together == alone or together[:-1] == alone or together[-1] == ("close", 1009)


def test_split_at_every_byte() -> None:
    data = frame(0x81, "grüße".encode()) + frame(0x89, b"p") + frame(0x82, b"z" * 300) + frame(0x81, b"")
    expected = ["grüße", ("ping", b"p"), b"z" * 300, ""]
    assert by_both([bytes((byte,)) for byte in data], ConnectionType.SERVER) == expected
    for cut in range(len(data)):
        assert by_both([data[:cut], data[cut:]], ConnectionType.SERVER) == expected


def head(first: int, length: int, *, size: int | None = None) -> bytes:
    """A masked frame's header. Its extended length has `size` bytes: 0, 2 or 8; None for the shortest."""
    if size is None:
        size = 0 if length < 126 else 2 if length < 1 << 16 else 8
    short = {0: length, 2: 126, 8: 127}[size]
    return bytes((first, 0x80 | short)) + (length.to_bytes(size, "big") if size else b"")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (head(0x82, MAX_MESSAGE_BYTES + 1), 1009),
        (head(0x81, 1 << 32), 1009),
        (head(0x02, (1 << 63) - 1), 1009),
        (head(0x82, 1 << 63), 1002),
        (head(0x81, (1 << 64) - 1), 1002),
        (head(0x82, 0, size=2), 1002),
        (head(0x81, 125, size=2), 1002),
        (head(0x01, 5, size=8), 1002),
        (head(0x82, 65535, size=8), 1002),
        (head(0x89, 126), 1002),
        (head(0x88, 65536), 1002),
        (head(0x09, 0), 1002),
        (head(0x08, 2), 1002),
        (head(0xC1, 5), 1002),
        (head(0xA2, 5), 1002),
        (head(0x9A, 0), 1002),
        (head(0x83, 0), 1002),
        (head(0x07, 0), 1002),
        (head(0x8B, 0), 1002),
        (head(0x8F, 0), 1002),
        (head(0x80, 3), 1002),
        (head(0x00, 3), 1002),
        (b"\x82\x05", 1002),
        (b"\x81\x7f", 1002),
    ],
)
@pytest.mark.parametrize("before", [b"", frame(0x81, b"good")], ids=["first", "second"])
def test_a_frame_is_refused_at_its_header_and_nothing_of_it_is_collected(
    header: bytes, code: int, before: bytes
) -> None:
    for chunks in ([before + header], [bytes((byte,)) for byte in before + header]):
        reader = FrameReader(masked=True, max_message_bytes=MAX_MESSAGE_BYTES)
        found = []
        for chunk in chunks:
            reader.feed(chunk)
            while (item := reader.next()) is not None:
                found.append(item)
        assert found == (["good"] if before else [])
        assert reader.fault is not None
        assert reader.fault.code == code
        for _ in range(10):
            reader.feed(b"y" * 5000)
            assert reader.next() is None
        assert held(reader) == 0


def held(reader: FrameReader) -> int:
    """Number of bytes that a reader keeps."""
    return len(reader._buffer) + len(reader._partial) + len(reader._message)


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, MAX_MESSAGE_BYTES])
def test_the_lengths_at_the_edges_are_read(size: int) -> None:
    reader = FrameReader(masked=True, max_message_bytes=MAX_MESSAGE_BYTES)
    reader.feed(frame(0x82, bytes(size)))
    assert reader.next() == bytes(size)


def test_the_fragments_of_a_message_may_not_have_more_than_one_frame() -> None:
    reader = FrameReader(masked=True, max_message_bytes=1000)
    reader.feed(frame(0x02, bytes(600)) + frame(0x89, bytes(125)) + frame(0x00, bytes(400)))
    assert reader.next() == b""
    assert reader.next() == frame(0x89, bytes(125)), "a control frame is no part of the message"
    assert reader.next() == b""
    reader.feed(head(0x80, 1))
    assert reader.next() is None
    assert reader.fault is not None
    assert reader.fault.code == 1009
    assert held(reader) == 0


def test_the_number_of_fragments_is_bounded_and_counted_anew_for_each_message() -> None:
    reader = FrameReader(masked=True, max_message_bytes=1000)
    for _ in range(3):
        reader.feed(frame(0x01, b"") + frame(0x00, b"") * (MIN_FRAGMENTS - 2) + frame(0x80, b"end"))
        while isinstance(item := reader.next(), bytearray):
            assert item == b""
        assert item == "end"
    reader.feed(frame(0x01, b"") + frame(0x00, b"") * MIN_FRAGMENTS)
    while reader.next() is not None:
        pass
    assert reader.fault is not None
    assert reader.fault.code == 1008


def test_what_is_not_wanted_any_more_is_skipped_up_to_the_close() -> None:
    reader = FrameReader(masked=True, max_message_bytes=1000)
    close = frame(0x88, struct.pack(">H", 1000))
    reader.discards = True
    reader.feed(frame(0x81, b"\xff") + frame(0x82, bytes(500)) + close)
    assert [reader.next(), reader.next(), reader.next(), reader.next()] == [b"", b"", close, None]


def test_no_view_that_somebody_else_holds_gets_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []

    def unmask_and_hold(payload: Any, mask: Any) -> bytes:
        held.append((payload, mask, memoryview(payload), memoryview(reader._buffer)))
        return unmask(payload, mask)

    monkeypatch.setattr(frames_module, "unmask", unmask_and_hold)
    reader = FrameReader(masked=True, max_message_bytes=MAX_MESSAGE_BYTES)
    messages = [b"a" * 2000, b"b" * 10, "c" * 3000, b"d" * 70_000, "e" * 600]
    wire = b"".join(
        frame(0x81 if isinstance(each, str) else 0x82, each.encode() if isinstance(each, str) else each)
        for each in messages
    )
    wire += frame(0x02, bytes(1000)) + frame(0x00, bytes(1000)) + frame(0x80, bytes(1000))
    found = []
    for start in range(0, len(wire), 1777):
        reader.feed(wire[start : start + 1777])
        while (item := reader.next()) is not None:
            found += [item] if item else []
    assert found == [*messages, bytes(3000)]
    assert held


def test_what_comes_byte_by_byte_costs_no_more_than_its_bytes() -> None:
    """The test does not time the work, but counts the bytes that are copied while a frame is collected."""
    reader = FrameReader(masked=True, max_message_bytes=MAX_MESSAGE_BYTES)
    wire = frame(0x82, bytes(MAX_MESSAGE_BYTES)) + frame(0x81, b"next")
    for index in range(len(wire)):
        reader.feed(wire[index : index + 1])
        item = reader.next()
        if item is None:
            assert not reader._buffer[reader._at :] or len(reader._buffer) <= 14, (
                "no more than a header is moved twice"
            )
        elif isinstance(item, bytes):
            assert item == bytes(MAX_MESSAGE_BYTES)
        else:
            assert item == "next"
    assert held(reader) <= 10


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
    reader.feed(encode_pong(bytes(125)))
    pong = reader.next()
    assert isinstance(pong, bytearray)
    assert (pong[0], reader.payload_of(pong)) == (0x8A, bytes(125))
    assert reader.next() is None


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 70000])
def test_frames_are_the_bytes_that_wsproto_would_write(length: int) -> None:
    engine = FrameProtocol(client=False, extensions=[])
    payload = b"ab" * (length // 2) + b"c" * (length % 2)
    assert b"".join(encode_frame(payload)) == engine.send_data(payload)
    assert b"".join(encode_frame(payload.decode())) == engine.send_data(payload.decode())
