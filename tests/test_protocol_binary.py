"""Binary messages: docs/design.md#binary-messages."""

from __future__ import annotations

import struct
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reactor_trio.errors import ProtocolError
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import (
    MEDIA,
    UPLOAD_CHUNK,
    MediaFrame,
    UploadChunk,
    decode_binary,
    encode_media,
    encode_upload_chunk,
    encode_video,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
counts = st.integers(0, 2**53)
sizes = st.none() | st.integers(1, 2**53)
payloads = st.binary(max_size=200)
known = {"track", "seq", "pts", "codec", "width", "height", "rate", "channels"}
frames = st.builds(
    MediaFrame,
    track=texts.filter(bool),
    seq=counts,
    pts=st.floats(allow_nan=False, allow_infinity=False),
    codec=texts.filter(bool),
    payload=payloads,
    width=sizes,
    height=sizes,
    rate=sizes,
    channels=sizes,
    extra=st.dictionaries(
        texts.filter(lambda name: name not in known), st.none() | texts | st.booleans(), max_size=3
    ),
)
chunks = st.builds(
    UploadChunk,
    upload_id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64),
    offset=counts,
    payload=payloads,
)

FRAME = {"track": "main_video", "seq": 0, "pts": 0.0, "codec": "jpeg"}
CHUNK = {"upload_id": "u", "offset": 0}


def message(kind: int, header: object, payload: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else orjson.dumps(header)
    return struct.pack(">BH", kind, len(encoded)) + encoded + payload


def fault_of(data: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        decode_binary(data)
    assert caught.value.code == names.BAD_MESSAGE
    return caught.value.message


@given(frames)
def test_a_frame_survives_the_round_trip(frame: MediaFrame) -> None:
    assert decode_binary(encode_media(frame)) == frame


@given(chunks)
def test_a_chunk_survives_the_round_trip(chunk: UploadChunk) -> None:
    assert decode_binary(encode_upload_chunk(chunk)) == chunk


def test_the_layout_is_the_one_on_the_wire() -> None:
    assert (
        encode_upload_chunk(UploadChunk("u", 5, b"\x00\xff"))
        == b'\x02\x00\x1c{"upload_id":"u","offset":5}\x00\xff'
    )
    frame = MediaFrame("v", 1, 0.5, "raw", b"rgb", width=1, height=1)
    header = b'{"track":"v","seq":1,"pts":0.5,"codec":"raw","width":1,"height":1}'
    assert encode_media(frame) == bytes([MEDIA, 0, len(header)]) + header + b"rgb"


def test_a_decoded_payload_is_a_view_of_the_message() -> None:
    for data in (message(MEDIA, FRAME, b"x" * 1000), message(UPLOAD_CHUNK, CHUNK, b"x" * 1000)):
        payload = decode_binary(data).payload
        assert isinstance(payload, memoryview)
        assert payload.obj is data
        assert payload.readonly


def test_a_payload_may_be_given_as_a_view() -> None:
    view = memoryview(b"0123456789")[2:5]
    assert encode_upload_chunk(UploadChunk("u", 0, view)).endswith(b"}234")


@given(st.binary())
@example(b"")
@example(b"\x01")
@example(b"\x01\x00\x00")
@example(b"\x02\xff\xff{}")
def test_no_bytes_raise_anything_but_a_protocol_error(data: bytes) -> None:
    assert fault_of(data)


header_values: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts | st.just([])
)


@given(
    st.sampled_from([MEDIA, UPLOAD_CHUNK]),
    st.dictionaries(st.sampled_from([*sorted(known), "upload_id", "offset", "more"]), header_values),
    payloads,
)
def test_no_header_raises_anything_but_a_protocol_error(
    kind: int, header: dict[str, Any], payload: bytes
) -> None:
    base: dict[str, Any] = FRAME if kind == MEDIA else CHUNK
    for merged in (header, base | header):
        try:
            decoded = decode_binary(message(kind, merged, payload))
        except ProtocolError as error:
            if error.code != names.BAD_MESSAGE:
                raise
        else:
            assert decoded.payload == payload


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "at least 3 bytes, not 0"),
        (b"\x01\x00", "at least 3 bytes, not 2"),
        (b"\x01\x00\x05{}", "longer than the message"),
        (message(0, FRAME), "unknown kind 0"),
        (message(3, CHUNK), "unknown kind 3"),
        (message(MEDIA, b""), "not JSON"),
        (message(MEDIA, b"\xff"), "not JSON"),
        (message(MEDIA, b"[" * 60_000), "not JSON"),
        (message(MEDIA, [FRAME]), "must be a JSON object"),
        (message(MEDIA, b'{"track":"v","seq":0,"pts":NaN,"codec":"raw"}'), "not JSON"),
        (message(MEDIA, b'{"track":"v","seq":0,"pts":1e999,"codec":"raw"}'), "not JSON"),
        (message(MEDIA, FRAME | {"pts": None}), "`pts`"),
        (message(MEDIA, FRAME | {"pts": True}), "`pts`"),
        (message(MEDIA, FRAME | {"seq": -1}), "`seq`"),
        (message(MEDIA, FRAME | {"seq": 1.0}), "`seq`"),
        (message(MEDIA, FRAME | {"seq": False}), "`seq`"),
        (message(MEDIA, FRAME | {"track": ""}), "`track`"),
        (message(MEDIA, FRAME | {"codec": 5}), "`codec`"),
        (message(MEDIA, FRAME | {"width": 0}), "`width`"),
        (message(MEDIA, FRAME | {"height": None}), "`height`"),
        (message(MEDIA, FRAME | {"rate": 44100.5}), "`rate`"),
        (message(MEDIA, FRAME | {"channels": "2"}), "`channels`"),
        (message(UPLOAD_CHUNK, {"offset": 0}), "`upload_id` must be a string"),
        (message(UPLOAD_CHUNK, CHUNK | {"upload_id": ""}), "`upload_id` must have 1 to 64"),
        (message(UPLOAD_CHUNK, CHUNK | {"upload_id": "u" * 65}), "`upload_id` must have 1 to 64"),
        (message(UPLOAD_CHUNK, {"upload_id": "u"}), "`offset`"),
        (message(UPLOAD_CHUNK, CHUNK | {"offset": -1}), "`offset`"),
        (message(UPLOAD_CHUNK, CHUNK | {"offset": 2**60}), "`offset`"),
    ],
)
def test_an_unreadable_message_is_told_what_is_wrong_with_it(data: bytes, reason: str) -> None:
    assert reason in fault_of(data)


def test_further_header_fields_are_kept_for_media_and_ignored_for_uploads() -> None:
    frame = decode_binary(message(MEDIA, FRAME | {"exposure": 3}))
    assert isinstance(frame, MediaFrame)
    assert frame.extra == {"exposure": 3}
    assert decode_binary(message(UPLOAD_CHUNK, CHUNK | {"more": 1})) == UploadChunk("u", 0, b"")


def test_the_known_fields_win_over_extra() -> None:
    frame = decode_binary(encode_media(MediaFrame("v", 4, 0.0, "raw", b"", extra={"seq": 9})))
    assert isinstance(frame, MediaFrame)
    assert frame.seq == 4


def test_a_header_that_does_not_fit_its_length_field_is_a_value_error() -> None:
    longest = 65535 - len(orjson.dumps({"upload_id": "", "offset": 0}))
    assert len(encode_upload_chunk(UploadChunk("u" * longest, 0, b""))) == 3 + 65535
    with pytest.raises(ValueError, match="65535"):
        encode_upload_chunk(UploadChunk("u" * (longest + 1), 0, b""))


@given(frames)
def test_a_frame_of_video_in_parts_is_the_same_message(frame: MediaFrame) -> None:
    video = attrs.evolve(frame, width=frame.width or 1, height=frame.height or 1, rate=None, channels=None)
    head, payload = encode_video(
        video.track,
        video.seq,
        video.pts,
        video.codec,
        video.payload,
        video.width or 0,
        video.height or 0,
        video.extra,
    )
    assert payload is video.payload, "it is not copied"
    assert head + payload == encode_media(video)
