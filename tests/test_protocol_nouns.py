"""Each noun of the wire is the same after encoding and decoding, by `decode` and `decode_server`."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reactor_trio.errors import FieldError, InvalidPayload, ProtocolError
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, encode_media, encode_upload_chunk
from reactor_trio.protocol.client_messages import (
    ConfigureTrack,
    Control,
    FrameShown,
    Invoke,
    Ping,
    RequestKeyFrame,
    UploadAbort,
    UploadStart,
    decode,
)
from reactor_trio.protocol.server_messages import (
    Ack,
    Error,
    Goodbye,
    ModelText,
    Pong,
    Queued,
    ServerMessage,
    Superseded,
    ToClient,
    UploadComplete,
    UploadReady,
    Welcome,
    decode_server,
)
from reactor_trio.protocol.slices import loads as loads_in_slices
from reactor_trio.protocol.text import MAX_SAFE_INTEGER

# All characters but lone surrogates, which UTF-8 cannot encode.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
given_ids = texts | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
ids = st.none() | given_ids
finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = finite | st.integers(-(2**63), 2**64 - 1)
counts = st.integers(0, MAX_SAFE_INTEGER)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=5)
model_names = texts.filter(lambda name: name and not name.startswith("reactor."))
upload_ids = texts.filter(bool)
tracks = texts.filter(bool)
settings = st.fixed_dictionaries(
    {},
    optional={
        "codec": st.none() | texts,
        "max_fps": st.none() | st.floats(0, 1000, exclude_min=True) | st.integers(1, 1000),
        "max_width": st.none() | st.integers(16, 16384),
        "paused": st.none() | st.booleans(),
    },
)
controls: st.SearchStrategy[Control] = st.one_of(
    st.builds(Ping, numbers, ids),
    st.builds(UploadStart, upload_ids, texts, texts, counts, ids),
    st.builds(UploadAbort, upload_ids, ids),
    st.builds(ConfigureTrack, tracks, settings, ids),
    st.builds(RequestKeyFrame, tracks, ids),
    st.builds(FrameShown, tracks, counts, ids),
)
faults = st.builds(FieldError, texts, texts)
errors = st.builds(
    Error,
    texts,
    texts,
    event=st.none() | texts,
    upload_id=st.none() | texts,
    errors=st.lists(faults, max_size=3).map(tuple),
    retry_after=st.none() | finite,
    reply_to=ids,
)
told: st.SearchStrategy[ToClient] = st.one_of(
    st.builds(Welcome, objects),
    st.builds(Queued, counts),
    st.builds(Ack, given_ids),
    st.builds(Superseded, given_ids),
    errors,
    st.builds(Pong, numbers, finite, ids),
    st.builds(UploadReady, texts),
    st.builds(UploadComplete, texts, texts, texts, counts, ids),
    st.builds(Goodbye, texts),
    st.builds(ModelText, model_names, objects.map(orjson.dumps), ids),
)


@given(st.builds(Invoke, model_names, objects, ids) | controls)
def test_a_clients_noun_survives_the_round_trip(noun: Invoke | Control) -> None:
    text = noun.encode()
    assert decode(text) == noun
    assert decode(text, loads_in_slices) == noun


@given(told)
def test_a_servers_noun_survives_the_round_trip(noun: ToClient) -> None:
    decoded = decode_server(noun.encode())
    if isinstance(noun, ModelText):
        assert decoded == ServerMessage(noun.type, orjson.loads(noun.body), noun.reply_to)
    else:
        assert decoded == noun


@given(told)
@example(Ack(7))
@example(Ack("7"))
@example(ModelText('"', b"{}", -7))
def test_a_servers_noun_is_written_as_any_json_library_would(noun: ToClient) -> None:
    message = json.loads(noun.encode())
    answers = {"reply_to"} if getattr(noun, "reply_to", None) is not None else set()
    assert list(message) == ["type", "data", *answers]
    assert noun.encode() == orjson.dumps(message).decode()


def test_binary_nouns_are_decoded_by_the_same_functions() -> None:
    frame = MediaFrame("v", 0, 1.5, "jpeg", b"\xff\xd8", width=2, height=1)
    chunk = UploadChunk("u", 5, b"bytes")
    for read in (decode, decode_server):
        assert read(encode_media(frame)) == frame
        assert read(encode_upload_chunk(chunk)) == chunk


@pytest.mark.parametrize("read", [decode, decode_server])
@given(st.text() | st.binary() | objects.map(json.dumps))
@example("")
@example(b"")
@example('{"type":"reactor.error","data":{"errors":[1,{"path":2}],"retry_after":"soon"}}')
@example('{"type":"reactor.ping","id":1}')
def test_nothing_raises_anything_but_a_protocol_error(read: Any, message: str | bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read(message)


@given(
    st.sampled_from([value for name, value in vars(names).items() if str(value).startswith("reactor.")]),
    st.dictionaries(
        st.sampled_from(["code", "message", "errors", "position", "reason", "t", "upload_id"]), values
    ),
    ids,
)
def test_a_server_text_of_any_form_is_read(
    type_: str, data: dict[str, Any], reply_to: int | str | None
) -> None:
    message = {"type": type_, "data": data} | ({} if reply_to is None else {"reply_to": reply_to})
    noun = decode_server(orjson.dumps(message).decode())
    assert getattr(noun, "reply_to", None) == reply_to, "or the caller would wait for ever"


@pytest.mark.parametrize(
    ("type_", "data", "reply_to"),
    [
        (names.ACK, {}, None),
        (names.QUEUED, {"position": "1"}, None),
        (names.QUEUED, {"position": 1}, 7),
        (names.PONG, {}, 7),
        (names.WELCOME, {}, 7),
        (names.GOODBYE, {}, None),
        (names.UPLOAD_COMPLETE, {"upload_id": "u"}, 7),
        ("reactor.of_a_later_server", {"x": 1}, 7),
    ],
)
def test_what_fits_no_noun_of_the_servers_stays_a_message(
    type_: str, data: dict[str, Any], reply_to: int | None
) -> None:
    message = {"type": type_, "data": data} | ({} if reply_to is None else {"reply_to": reply_to})
    assert decode_server(json.dumps(message)) == ServerMessage(type_, data, reply_to)


def test_an_error_that_is_not_well_formed_is_an_error_all_the_same() -> None:
    odd = {"message": 5, "event": 1, "errors": [{"path": 1}, "x"], "retry_after": "soon", "more": 1}
    text = json.dumps({"type": names.ERROR, "data": odd, "reply_to": 1})
    assert decode_server(text) == Error("None", "5", errors=(FieldError("1", ""),), reply_to=1)


def test_a_wrong_message_to_the_runtime_names_its_fields_and_its_id() -> None:
    text = '{"type":"reactor.upload_start","data":{"upload_id":"u","name":1},"id":"x"}'
    with pytest.raises(InvalidPayload) as caught:
        decode(text)
    assert [fault.path for fault in caught.value.errors] == ["name", "mime_type", "size"]
    assert (caught.value.event, caught.value.upload_id, caught.value.reply_to) == (
        "reactor.upload_start",
        "u",
        "x",
    )


# ---- weights


@given(told)
def test_the_weight_of_a_noun_is_about_the_bytes_of_its_text(noun: ToClient) -> None:
    size, weight = len(noun.encode().encode()), noun.weight
    assert weight - 128 <= size <= 6 * weight, "a character takes 6 bytes at most, where it is escaped"


@pytest.mark.parametrize(
    "noun",
    [
        ModelText("progress", b'{"text":"%b"}' % (b"x" * 100_000), 1),
        Error("invalid_payload", "m" * 1000, errors=(FieldError("p" * 200, "m" * 1000),) * 100, reply_to=1),
        UploadComplete("u" * 64, "n" * 255, "m" * 255, 2**53, "i" * 1024),
        Ack("i" * 1024),
        Welcome({"events": ["e" * 100] * 1000}),
    ],
)
def test_a_large_noun_weighs_what_its_text_does(noun: ToClient) -> None:
    assert noun.weight == pytest.approx(len(noun.encode()), abs=130, rel=0.01)
