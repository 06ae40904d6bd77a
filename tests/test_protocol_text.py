"""Text messages and the runtime's own: docs/design.md#text-messages and docs/design.md#errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reactor_trio.errors import FieldError, InvalidPayload, ProtocolError
from reactor_trio.protocol import names
from reactor_trio.protocol.client_messages import (
    ConfigureTrack,
    Control,
    FrameShown,
    Ping,
    RequestKeyFrame,
    UploadAbort,
    UploadStart,
    read_control,
)
from reactor_trio.protocol.server_messages import (
    Ack,
    Error,
    Goodbye,
    ModelText,
    Pong,
    Queued,
    Superseded,
    ToClient,
    UploadComplete,
    UploadReady,
    Welcome,
)
from reactor_trio.protocol.text import (
    MAX_SAFE_INTEGER,
    Id,
    encode_client_text,
    encode_server_text,
    read_client_text,
    read_server_text,
)

# All characters but lone surrogates, which UTF-8 cannot encode.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ids = st.none() | texts | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=5)


def fault_of(text: str) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        read_client_text(text)
    assert type(caught.value) is ProtocolError
    assert caught.value.code == names.BAD_MESSAGE
    return caught.value


@contextmanager
def bad_message_allowed() -> Iterator[None]:
    try:
        yield
    except ProtocolError as error:
        if error.code != names.BAD_MESSAGE or not error.message:
            raise


@given(texts.filter(bool), objects, ids)
def test_a_client_message_survives_the_round_trip(type_: str, data: dict[str, Any], id_: Id | None) -> None:
    assert read_client_text(encode_client_text(type_, data, id_)) == (type_, data, id_)


@given(texts.filter(bool), objects, ids)
def test_a_server_message_survives_the_round_trip(type_: str, data: dict[str, Any], id_: Id | None) -> None:
    assert read_server_text(encode_server_text(type_, data, id_)) == (type_, data, id_)


@given(texts.filter(bool), objects, ids)
def test_a_message_written_with_another_json_library_and_white_space_is_read(
    type_: str, data: dict[str, Any], id_: Id | None
) -> None:
    message = {"data": data, "type": type_, **({} if id_ is None else {"id": id_})}
    assert read_client_text(json.dumps(message, indent=1)) == (type_, data, id_)


@given(texts.filter(bool), objects)
def test_data_that_is_encoded_already_is_taken_as_it_is(type_: str, data: dict[str, Any]) -> None:
    assert ModelText(type_, orjson.dumps(data), 7).encode() == encode_server_text(type_, data, 7)


@given(st.text())
@example("")
@example("[" * 100_000)
@example('{"a":' * 100_000)
@example('{"type": "a", "data": {"x": ' + "[" * 1000 + "]" * 1000 + "}}")
@example('"\ud800"')
@example("9" * 5000)
def test_no_text_raises_anything_but_a_protocol_error(text: str) -> None:
    for read in (read_client_text, read_server_text):
        with bad_message_allowed():
            type_, _, _ = read(text)
            assert type_


@given(st.dictionaries(st.sampled_from(["type", "data", "id", "reply_to", "more"]), values))
def test_no_object_raises_anything_but_a_protocol_error(message: dict[str, Any]) -> None:
    with bad_message_allowed():
        decoded = read_client_text(json.dumps(message))
        assert decoded == (message["type"], message.get("data", {}), message.get("id"))


def test_data_may_be_left_out() -> None:
    assert read_client_text('{"type":"reset"}') == ("reset", {}, None)


def test_unknown_keys_beside_the_known_are_ignored() -> None:
    assert read_client_text('{"type":"a","trace":{"b":1},"id":""}') == ("a", {}, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("   ", "not JSON"),
        ("{", "not JSON"),
        ('{"type":"a"} x', "not JSON"),
        ('{"type":"a","data":{"x":NaN}}', "not JSON"),
        ('{"type":"a","data":{"x":1e999}}', "not JSON"),
        ('{"type":"\\ud800"}', "not JSON"),
        ('{"type":"\ud800"}', "not JSON"),
        ("[" * 100_000, "nested more than 100 levels deep"),
        ("null", "must be a JSON object, not null"),
        ("[]", "must be a JSON object, not an array"),
        ('"a"', "must be a JSON object, not a string"),
        ("true", "must be a JSON object, not a boolean"),
        ("{}", "`type` is missing"),
        ('{"type":""}', "`type` must not be empty"),
        ('{"type":null}', "`type` must be a string, not null"),
        ('{"type":5}', "`type` must be a string, not a number"),
        ('{"type":"a","data":null}', "`data` must be an object, not null"),
        ('{"type":"a","data":[]}', "`data` must be an object, not an array"),
        ('{"type":"a","id":null}', "not null"),
        ('{"type":"a","id":true}', "not a boolean"),
        ('{"type":"a","id":1.0}', "not a number"),
        ('{"type":"a","id":9007199254740993}', "beyond"),
        ('{"type":"a","id":123456789012345678901234567890}', "not a number"),
        ('{"type":"a","id":{}}', "not an object"),
    ],
)
def test_a_bad_message_is_told_what_is_wrong_with_it(text: str, reason: str) -> None:
    error = fault_of(text)
    assert reason in error.message
    assert error.reply_to is None


@pytest.mark.parametrize(
    "text",
    [
        '{"id":7}',
        '{"type":1,"id":7}',
        '{"id":7,"type":"a","data":1}',
        '{"id":7,"type":"a","data":{"x":1,"x":1}}',
    ],
)
def test_a_bad_message_is_answered_under_its_id_where_that_could_be_read(text: str) -> None:
    assert fault_of(text).reply_to == 7


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"a","type":"b"}',
        '{"type":"a","data":{"x":1,"x":2}}',
        '{"type":"a","data":{"x":[{"y":1,"y" : 2}]}}',
        '{"type":"a","data":{"x":":","x":"\\":"}}',
        '{"type":"a","data":{"x":1,"\\u0078":2}}',
    ],
)
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    assert "twice" in fault_of(text).message


def nested(levels: int, opening: str, closing: str) -> str:
    """A message of this many levels of nesting; the message itself and its data are two of them."""
    inner = opening * (levels - 2) + "1" + closing * (levels - 2)
    return f'{{"id":7,"type":"a","data":{{"x":{inner}}}}}'


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"k":', "}"), ('[{"k":', "}]")])
def test_a_message_is_nested_100_levels_deep_at_most(opening: str, closing: str) -> None:
    both = len(closing)
    assert read_client_text(nested(98 // both + 2, opening, closing))[2] == 7
    for levels in (98 // both + 3, 1000 // both):
        error = fault_of(nested(levels, opening, closing))
        assert (error.message, error.reply_to) == ("nested more than 100 levels deep", 7)
    # These messages are nested so deep that not even the id can be read.
    for text in (nested(10_000, opening, closing), opening * 350_000, nested(200_000, opening, closing)):
        assert fault_of(text).message == "nested more than 100 levels deep"


def test_a_message_that_is_wide_is_not_deep() -> None:
    rows = ",".join(["[[],[{}]]"] * 1000)
    assert len(read_client_text(f'{{"type":"a","data":{{"x":[{rows}]}}}}')[1]["x"]) == 1000


@pytest.mark.parametrize("type_", ["reactor.ping", "reactor.upload_start", "reactor.configure_track"])
def test_an_answer_to_the_wildest_message_is_short(type_: str) -> None:
    data = {f"f{number}": 1 for number in range(60_000)} | {"k" * 1_000_000: 1}
    with pytest.raises(InvalidPayload) as caught:
        read_control(type_, data, 1)
    assert len(caught.value.errors) == 100
    assert "more)" in caught.value.message
    assert len(Error.of(caught.value).encode()) < 10_000


def test_a_type_of_a_megabyte_is_cut_off_in_the_answer() -> None:
    with pytest.raises(ProtocolError) as caught:
        read_control("reactor." + "x" * 1_000_000, {}, 1)
    assert len(Error.of(caught.value).encode()) < 1000
    long = ProtocolError("unknown_event", "m" * 100_000, event="e" * 100_000, upload_id="u" * 100_000)
    assert len(Error.of(long).encode()) < 2000
    wide = InvalidPayload([FieldError("p" * 100_000, "m" * 100_000)] * 1000)
    assert len(wide.errors) == 100
    assert len(Error.of(wide).encode()) < 200_000


# Few different keys, so that keys repeat; the strings have the characters that could mislead a count of keys.
confusing = st.text(st.sampled_from('":\\ ,{a'), max_size=6)
pairs = st.lists(st.tuples(st.sampled_from(["a", "b:", '"', "\\", '\\":']), confusing), max_size=3)


@given(st.lists(pairs, max_size=3))
def test_duplicate_keys_are_refused_exactly_where_they_are(rows: list[list[tuple[str, str]]]) -> None:
    written = [",".join(f"{json.dumps(k)} : {json.dumps(v)}" for k, v in row) for row in rows]
    text = '{"type":"a","data":{"rows":[' + ",".join(f"{{{row}}}" for row in written) + "]}}"
    if any(len(dict(row)) < len(row) for row in rows):
        assert "twice" in fault_of(text).message
    else:
        assert read_client_text(text)[1] == {"rows": [dict(row) for row in rows]}


@pytest.mark.parametrize("value", [2**70, {1: 2}, object()])
def test_data_that_json_cannot_carry_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        encode_server_text("a", {"x": value})
    with pytest.raises(TypeError):
        encode_client_text("a", {"x": value})


def test_half_a_surrogate_pair_is_the_servers_to_replace_and_a_clients_mistake() -> None:
    assert read_server_text(encode_server_text("a", {"x": "\ud800"})) == ("a", {"x": "\ufffd"}, None)
    with pytest.raises(TypeError):
        encode_client_text("a", {"x": "\ud800"})


# ---- the runtime's own messages


def test_each_noun_of_the_servers_writes_its_message() -> None:
    upload = {"upload_id": "u", "name": "n", "mime_type": "image/png", "size": 4}
    written: dict[ToClient, tuple[str, dict[str, Any], Id | None]] = {
        Ack(1): (names.ACK, {}, 1),
        Superseded("x"): (names.SUPERSEDED, {}, "x"),
        Pong(1.5, 2.5, 3): (names.PONG, {"t": 1.5, "server_time": 2.5}, 3),
        Queued(1): (names.QUEUED, {"position": 1}, None),
        UploadReady("u"): (names.UPLOAD_READY, {"upload_id": "u"}, None),
        UploadComplete("u", "n", "image/png", 4, 5): (names.UPLOAD_COMPLETE, upload, 5),
        Goodbye("finished"): (names.GOODBYE, {"reason": "finished"}, None),
        ModelText("progress", b'{"step":1}'): ("progress", {"step": 1}, None),
        Error("overloaded", "full"): (names.ERROR, {"code": "overloaded", "message": "full"}, None),
    }
    for noun, message in written.items():
        assert read_server_text(noun.encode()) == message
    assert read_server_text(Welcome({"protocol": 1}).encode()) == (names.WELCOME, {"protocol": 1}, None)


def test_an_error_carries_all_that_it_knows() -> None:
    faults = [FieldError("boxes[2].width", "missing"), FieldError("x", "must be a number")]
    error = InvalidPayload(faults, event="draw", upload_id="u", reply_to=0)
    data = {
        "code": "invalid_payload",
        "message": "boxes[2].width: missing (and 1 more)",
        "event": "draw",
        "upload_id": "u",
        "errors": [
            {"path": "boxes[2].width", "message": "missing"},
            {"path": "x", "message": "must be a number"},
        ],
    }
    assert read_server_text(Error.of(error).encode()) == (names.ERROR, data, 0)


def test_an_error_leaves_out_what_it_does_not_know() -> None:
    text = Error.of(ProtocolError("bad_message", "what?")).encode()
    assert json.loads(text) == {"type": names.ERROR, "data": {"code": "bad_message", "message": "what?"}}


START = {"upload_id": "u", "name": "../a\x00", "mime_type": "", "size": 0}
TRACK = {"track": "v"}
EVERYTHING = {"codec": "h264", "max_fps": 12.5, "max_width": 640, "paused": True}
DEFAULTS = dict.fromkeys(EVERYTHING)


def all_settings(value: object) -> dict[str, object]:
    return TRACK | dict.fromkeys(EVERYTHING, value)


@pytest.mark.parametrize(
    ("type_", "data", "parsed"),
    [
        (names.PING, {"t": 12}, Ping(12)),
        (names.UPLOAD_START, START, UploadStart("u", "../a\x00", "", 0)),
        (names.UPLOAD_ABORT, {"upload_id": "u" * 64}, UploadAbort("u" * 64)),
        (names.CONFIGURE_TRACK, TRACK, ConfigureTrack("v", {})),
        (names.CONFIGURE_TRACK, TRACK | EVERYTHING, ConfigureTrack("v", EVERYTHING)),
        (names.CONFIGURE_TRACK, TRACK | DEFAULTS, ConfigureTrack("v", DEFAULTS)),
        (
            names.CONFIGURE_TRACK,
            TRACK | {"max_fps": 1000, "max_width": 16},
            ConfigureTrack("v", {"max_fps": 1000, "max_width": 16}),
        ),
        (names.REQUEST_KEY_FRAME, TRACK, RequestKeyFrame("v")),
        (names.FRAME_SHOWN, TRACK | {"seq": 0}, FrameShown("v", 0)),
    ],
)
def test_control_messages_are_read(type_: str, data: dict[str, Any], parsed: Control) -> None:
    assert read_control(type_, data, None) == parsed
    assert read_control(type_, data, 9) == attrs.evolve(parsed, id=9)


@pytest.mark.parametrize(
    ("type_", "data", "paths", "upload_id"),
    [
        (names.PING, {}, ["t"], None),
        (names.PING, {"t": True, "upload_id": "u"}, ["t", "upload_id"], None),
        (names.UPLOAD_ABORT, {"upload_id": 1}, ["upload_id"], None),
        (names.UPLOAD_ABORT, {"upload_id": "u", "why": 1}, ["why"], "u"),
        (names.UPLOAD_START, {}, ["upload_id", "name", "mime_type", "size"], None),
        (names.UPLOAD_START, START | {"upload_id": ""}, ["upload_id"], None),
        (names.UPLOAD_START, START | {"upload_id": "u" * 65}, ["upload_id"], None),
        (names.UPLOAD_START, START | {"size": -1}, ["size"], "u"),
        (names.UPLOAD_START, START | {"size": 1.0}, ["size"], "u"),
        (names.UPLOAD_START, START | {"size": True}, ["size"], "u"),
        (names.UPLOAD_START, START | {"size": 2**60}, ["size"], "u"),
        (names.UPLOAD_START, START | {"name": None, "mime_type": "m" * 256}, ["name", "mime_type"], "u"),
        (names.UPLOAD_START, START | {"name": "n" * 256}, ["name"], "u"),
        (names.CONFIGURE_TRACK, {}, ["track"], None),
        (names.CONFIGURE_TRACK, {"track": ""}, ["track"], None),
        (names.CONFIGURE_TRACK, {"track": 1, "fps": 3}, ["track", "fps"], None),
        (names.CONFIGURE_TRACK, all_settings("5"), ["max_fps", "max_width", "paused"], None),
        (names.CONFIGURE_TRACK, all_settings(True), ["codec", "max_fps", "max_width"], None),
        (names.CONFIGURE_TRACK, all_settings(0), list(EVERYTHING), None),
        (names.CONFIGURE_TRACK, TRACK | {"max_fps": 1000.5}, ["max_fps"], None),
        (names.CONFIGURE_TRACK, TRACK | {"max_width": 640.0}, ["max_width"], None),
        (names.CONFIGURE_TRACK, TRACK | {"max_width": 15}, ["max_width"], None),
        (names.CONFIGURE_TRACK, TRACK | {"max_width": 16385}, ["max_width"], None),
        (names.REQUEST_KEY_FRAME, {}, ["track"], None),
        (names.REQUEST_KEY_FRAME, {"track": None, "codec": "h264"}, ["track", "codec"], None),
        (names.FRAME_SHOWN, {}, ["track", "seq"], None),
        (names.FRAME_SHOWN, TRACK | {"seq": -1}, ["seq"], None),
        (names.FRAME_SHOWN, TRACK | {"seq": 1.0, "id": 1}, ["seq", "id"], None),
    ],
)
def test_wrong_control_data_is_listed_by_path(
    type_: str, data: dict[str, Any], paths: list[str], upload_id: str | None
) -> None:
    with pytest.raises(InvalidPayload) as caught:
        read_control(type_, data, 9)
    assert [fault.path for fault in caught.value.errors] == paths
    assert (caught.value.upload_id, caught.value.reply_to) == (upload_id, 9)


@pytest.mark.parametrize("type_", ["reactor.welcome", "reactor.", "reactor.upload_starts"])
def test_what_is_not_a_clients_to_send_is_an_unknown_event(type_: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_control(type_, {}, 9)
    assert (caught.value.code, caught.value.event, caught.value.reply_to) == (names.UNKNOWN_EVENT, type_, 9)


CONTROLS = [
    names.PING,
    names.UPLOAD_START,
    names.UPLOAD_ABORT,
    names.CONFIGURE_TRACK,
    names.REQUEST_KEY_FRAME,
    names.FRAME_SHOWN,
]


@given(st.sampled_from(CONTROLS), objects, ids)
def test_no_control_data_raises_anything_but_a_protocol_error(
    type_: str, data: dict[str, Any], id_: Id | None
) -> None:
    with pytest.raises(InvalidPayload) as caught:
        read_control(type_, data, id_)
    assert caught.value.reply_to == id_
