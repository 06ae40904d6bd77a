"""The client against a server that the test plays (`fake_transport.py`), in virtual time."""

from __future__ import annotations

import dataclasses
import enum
import io
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import pytest
import trio
import trio.testing

from fake_transport import WELCOME, FakeTransport, Heard
from reactor_trio.client import Client, HandshakeFailed, Superseded, UploadHandle
from reactor_trio.client.connection import CLOSE_TIMEOUT, HEARTBEAT
from reactor_trio.client.inbox import Inbox
from reactor_trio.client.payloads import payload
from reactor_trio.errors import CommandError, FieldError, TransportClosed, TransportStalled
from reactor_trio.media.jpeg import encode_jpeg
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, encode_media
from reactor_trio.testing import InlineExecutor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

DEADLINE = 60.0 * 60
"""Virtual seconds; only a deadlock takes this long."""


@asynccontextmanager
async def open_fake(**options: Any) -> AsyncGenerator[tuple[Client, FakeTransport]]:
    server = FakeTransport()
    ids = iter(f"u{number}" for number in range(1, 1000))
    options = {"executor": InlineExecutor(), "random_id": lambda: next(ids), **options}
    with trio.fail_after(DEADLINE):
        async with Client.over(server, **options) as client:
            yield client, server


def frame_bytes(
    seq: int, track: str = "main_video", codec: str = "raw", data: bytes = b"", **sizes: int
) -> bytes:
    return encode_media(MediaFrame(track, seq, seq / 30, codec, data, **sizes))


# ---- the welcome


async def test_the_welcome_is_typed():
    async with open_fake() as (client, _):
        welcome = client.welcome
        assert welcome.protocol == 1
        assert welcome.session_id == "s1"
        assert welcome.model.name == "painter"
        assert list(welcome.events) == ["set_prompt", "reset"]
        assert welcome.events["set_prompt"].dedupe
        assert welcome.tracks["webcam"].direction == "in"
        assert welcome.limits.upload_chunk_bytes == 1000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": 2}, "protocol 2"),
        ({"limits": {}}, "cannot be read"),
        ({"tracks": None}, "cannot be read"),
    ],
)
async def test_a_welcome_that_cannot_be_read_fails_the_handshake(change: dict[str, Any], said: str):
    server = FakeTransport(greet=False)
    server.say(names.WELCOME, WELCOME | change)
    with trio.fail_after(DEADLINE), pytest.raises(HandshakeFailed, match=said):
        async with Client.over(server):
            pass


async def test_a_welcome_with_fields_of_a_later_server_can_be_read():
    server = FakeTransport(greet=False)
    limits = WELCOME["limits"] | {"max_tracks": 7}
    server.say(names.WELCOME, WELCOME | {"limits": limits, "news": 1})
    with trio.fail_after(DEADLINE):
        async with Client.over(server) as client:
            assert client.welcome.limits.max_message_bytes == 4096


async def test_a_server_without_a_welcome_fails_the_handshake():
    with trio.fail_after(DEADLINE), pytest.raises(HandshakeFailed, match=r"no reactor\.welcome"):
        async with Client.over(FakeTransport(greet=False)):
            pass


async def test_a_server_that_closes_instead_of_welcoming():
    server = FakeTransport(greet=False)
    server.hang_up(1013, "try again later")
    with trio.fail_after(DEADLINE), pytest.raises(TransportClosed, match="1013 try again later"):
        async with Client.over(server):
            pass


# ---- commands and their answers


async def test_send_asks_for_no_answer():
    async with open_fake() as (client, server):
        await client.send("set_prompt", prompt="rain")
        assert await server.hear() == Heard("set_prompt", {"prompt": "rain"}, None)


async def test_call_returns_the_typed_reply():
    async with open_fake() as (client, server):

        def reply(message: Any) -> None:
            server.say("current_prompt", {"prompt": "rain"}, message.id)

        server.answer = reply
        answer = await client.call("get_prompt")
        assert answer is not None
        assert answer.type == "current_prompt"
        assert answer.data == {"prompt": "rain"}


async def test_an_acknowledged_call_returns_none():
    async with open_fake() as (client, server):
        server.answer = lambda message: server.say(names.ACK, {}, message.id)
        assert await client.call("reset") is None


async def test_answers_find_their_calls_in_any_order():
    async with open_fake() as (client, server):
        results: dict[str, Any] = {}

        async def call(prompt: str) -> None:
            answer = await client.call("set_prompt", prompt=prompt)
            assert answer is not None
            results[prompt] = answer.data["prompt"]

        async with trio.open_nursery() as nursery:
            for prompt in ("a", "b", "c"):
                nursery.start_soon(call, prompt)
            heard = [await server.hear() for _ in range(3)]
            for message in reversed(heard):
                server.say("prompt", message.data, message.id)
        assert results == {"a": "a", "b": "b", "c": "c"}


async def test_a_refused_call_raises_with_every_field_error():
    async with open_fake() as (client, server):
        server.answer = lambda message: server.refuse(
            "invalid_payload",
            "prompt: too short",
            event="set_prompt",
            errors=(FieldError("prompt", "too short"), FieldError("boxes[2].width", "missing")),
            reply_to=message.id,
        )
        with pytest.raises(CommandError) as caught:
            await client.call("set_prompt", prompt="")
        assert caught.value.code == "invalid_payload"
        assert caught.value.event == "set_prompt"
        assert [error.path for error in caught.value.errors] == ["prompt", "boxes[2].width"]


async def test_a_superseded_call_raises_its_own_error():
    async with open_fake() as (client, server):
        server.answer = lambda message: server.say(names.SUPERSEDED, {}, message.id)
        with pytest.raises(Superseded) as caught:
            await client.call("set_prompt", prompt="x")
        assert (caught.value.code, caught.value.event) == ("superseded", "set_prompt")


@pytest.mark.parametrize("code", ["No-Such-Thing", "a" * 65, ""])
async def test_another_servers_odd_error_code_still_reaches_the_caller(code: str):
    async with open_fake() as (client, server):
        server.answer = lambda message: server.refuse(code, "sorry", reply_to=message.id)
        with pytest.raises(CommandError, match=f"unknown: {code}: sorry"):
            await client.call("reset")


async def test_an_error_of_another_form_still_reaches_the_caller():
    async with open_fake() as (client, server):
        data = {"code": 5, "errors": ["x", {"path": 1}], "retry_after": "soon", "event": []}
        server.answer = lambda message: server.say(names.ERROR, data, message.id)
        with pytest.raises(CommandError, match="unknown: 5") as caught:
            await client.call("reset")
        assert (caught.value.event, caught.value.retry_after) == (None, None)


async def test_a_call_ends_when_the_connection_does():
    async with open_fake() as (client, server):
        server.answer = lambda message: server.hang_up(1011, "model failed")
        with pytest.raises(TransportClosed) as caught:
            await client.call("reset")
        assert caught.value.code == 1011
        assert client.closed is not None
        assert client.closed.reason == "model failed"
        with pytest.raises(TransportClosed):
            await client.send("reset")


async def test_the_late_answer_of_a_cancelled_call_is_dropped():
    async with open_fake() as (client, server):
        with trio.move_on_after(1) as scope:
            await client.call("reset")
        assert scope.cancelled_caught
        late = await server.hear()
        server.say("result", {"late": True}, late.id)
        server.say("progress", {"step": 1})
        assert (await client.receive()).type == "progress"


async def test_a_caller_that_is_cancelled_cuts_no_message_in_half():
    async with open_fake() as (client, server):
        server.accepting = trio.Event()
        with trio.move_on_after(1):
            await client.call("set_prompt", prompt="first")
        server.accepting.set()
        await client.send("reset")
        assert [(await server.hear()).type for _ in range(2)] == ["set_prompt", "reset"]


async def test_a_server_that_accepts_nothing_makes_send_wait():
    async with open_fake() as (client, server):
        server.accepting = trio.Event()
        sent = 0
        with trio.move_on_after(1) as scope:
            while sent < 1000:
                await client.send("set_prompt", prompt=str(sent))
                sent += 1
        assert scope.cancelled_caught
        assert sent < 200
        server.accepting.set()
        assert [(await server.hear()).data["prompt"] for _ in range(sent)] == [
            str(each) for each in range(sent)
        ]


async def test_a_command_that_the_server_would_hang_up_for_is_not_sent():
    async with open_fake() as (client, server):
        with pytest.raises(ValueError, match="at most 4096"):
            await client.send("set_prompt", prompt="ä" * 3000)
        await client.send("reset")
        assert (await server.hear()).type == "reset"


async def test_ping_measures_the_round_trip():
    async with open_fake() as (client, server):

        async def pong() -> None:
            message = await server.hear()
            await trio.sleep(0.25)
            server.say(names.PONG, {"t": message.data["t"], "server_time": 0.0}, message.id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pong)
            assert await client.ping() == pytest.approx(0.25)


# ---- payloads


class Style(enum.Enum):
    OIL = "oil"


@attrs.frozen
class Box:
    width: int


@dataclasses.dataclass
class Camera:
    zoom: float
    box: Box


def test_a_payload_is_made_plain():
    handle = UploadHandle("u1", "a.png", "image/png", 3)
    data = {
        "style": Style.OIL,
        "camera": Camera(np.float32(1.5), Box(np.int64(3))),
        "images": [handle, {"nested": (handle,)}],
        "weights": np.array([[1, 2]]),
    }
    assert payload(data, {"flag": np.True_, "none": None}) == {
        "style": "oil",
        "camera": {"zoom": 1.5, "box": {"width": 3}},
        "images": [{"upload_id": "u1"}, {"nested": [{"upload_id": "u1"}]}],
        "weights": [[1, 2]],
        "flag": True,
        "none": None,
    }


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ({"a": {"b": [1, math.nan]}}, ValueError, r"a\.b\[1\]: JSON has no nan"),
        ({"a": b"bytes"}, TypeError, "a: JSON has no bytes; upload"),
        ({"a": {1: 2}}, TypeError, "a: the keys"),
        ({"x": 1}, TypeError, "given twice: x"),
        ([1], TypeError, "not list"),
        ({"a": object()}, TypeError, "a: JSON has no object"),
    ],
)
def test_what_json_cannot_carry_is_refused_with_its_path(data: Any, error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        payload(data, {"x": 1})


def test_an_attrs_instance_is_a_payload():
    assert payload(Box(3), {}) == {"width": 3}


# ---- messages


async def test_receive_by_type_leaves_the_others_in_order():
    async with open_fake() as (client, server):
        for step in (1, 2):
            server.say("progress", {"step": step})
            server.say("caption", {"text": str(step)})
        assert (await client.receive("caption")).data == {"text": "1"}
        assert [(await client.receive()).data for _ in range(3)] == [{"step": 1}, {"step": 2}, {"text": "2"}]


async def test_waiting_readers_get_what_they_asked_for():
    async with open_fake() as (client, server):
        got: list[str] = []

        async def read(type_: str) -> None:
            got.append((await client.receive(type_)).type)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "b")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read, "a")
            await trio.testing.wait_all_tasks_blocked()
            server.say("a")
            await trio.testing.wait_all_tasks_blocked()
            assert got == ["a"]
            server.say("b")


async def test_a_cancelled_receive_loses_no_message():
    async with open_fake() as (client, server):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.receive)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        server.say("a")
        assert (await client.receive()).type == "a"


async def test_a_receive_cancelled_in_the_step_of_a_message_loses_none():
    inbox: Inbox[int] = Inbox(4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.take)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        inbox.put(1)
    with trio.fail_after(1):
        assert await inbox.take() == 1


async def test_an_error_that_answers_nothing_is_a_message():
    async with open_fake() as (client, server):
        server.refuse("unknown_event", "no event 'x'", event="x")
        message = await client.receive(names.ERROR)
        assert message.data["code"] == "unknown_event"


async def test_messages_end_with_the_connection():
    async with open_fake() as (client, server):
        server.say("a")
        server.say(names.GOODBYE, {"reason": "finished"})
        server.hang_up(1000, "finished")
        assert [message.type async for message in client.messages()] == ["a"]
        assert client.goodbye == "finished"
        with pytest.raises(TransportClosed, match="1000 finished"):
            await client.receive()


async def test_the_oldest_message_makes_room_and_answers_still_arrive():
    async with open_fake(max_messages=3) as (client, server):

        def flood(message: Any) -> None:
            for step in range(10):
                server.say("progress", {"step": step})
            server.say(names.ACK, {}, message.id)

        server.answer = flood
        await client.call("reset")
        assert client.dropped_messages == 7
        assert [(await client.receive()).data["step"] for _ in range(3)] == [7, 8, 9]


async def test_an_unreadable_message_is_skipped(caplog: pytest.LogCaptureFixture):
    async with open_fake() as (client, server):
        server.deliver("not JSON")
        server.deliver(b"\x09nothing")
        server.say("a")
        assert (await client.receive()).type == "a"
    assert len(caplog.records) == 2


# ---- frames


async def test_frames_decode_to_pixels():
    pixels = np.full((8, 16, 3), 200, np.uint8)
    async with open_fake() as (client, server):
        server.deliver(frame_bytes(0, data=pixels.tobytes(), width=16, height=8))
        server.deliver(frame_bytes(1, codec="jpeg", data=encode_jpeg(pixels), width=16, height=8))
        raw, jpeg = await client.frame(), await client.frame("main_video")
        assert (raw.array() == pixels).all()
        assert jpeg.array().shape == (8, 16, 3)
        assert abs(int(jpeg.array().mean()) - 200) < 3
        assert jpeg.data[:2] == b"\xff\xd8"
        assert (jpeg.seq, jpeg.received_at) == (1, trio.current_time())


async def test_audio_decodes_to_channels_of_samples():
    samples = np.array([[1, 2, 3], [-1, -2, -3]], np.int16)
    async with open_fake() as (client, server):
        data = samples.T.astype("<i2").tobytes()
        server.deliver(frame_bytes(0, "main_audio", "pcm_s16le", data, rate=48000, channels=2))
        frame = await client.frame("main_audio")
        assert (frame.array() == samples).all()


async def test_an_unknown_codec_is_said_so():
    async with open_fake() as (client, server):
        server.deliver(frame_bytes(0, codec="vp9"))
        with pytest.raises(ValueError, match="unknown codec 'vp9'"):
            (await client.frame()).array()


async def test_the_newest_frames_win():
    async with open_fake(max_frames=2) as (client, server):
        for seq in range(5):
            server.deliver(frame_bytes(seq))
        server.hang_up(1000, "finished")
        await trio.testing.wait_all_tasks_blocked()
        assert client.dropped_frames == 3
        assert [frame.seq async for frame in client.frames()] == [3, 4]


async def test_leaving_the_loop_over_frames_leaves_nothing_behind():
    async with open_fake() as (client, server):
        for seq in range(3):
            server.deliver(frame_bytes(seq))
        async for frame in client.frames():
            assert frame.seq == 0
            break
        assert (await client.frame()).seq == 1


async def test_a_track_that_is_not_there_is_told_with_the_choices():
    async with open_fake() as (client, _):
        with pytest.raises(ValueError, match="no track 'webcam'; the model sends main_video, main_audio"):
            client.frames("webcam")


async def test_two_video_tracks_must_be_told_apart():
    server = FakeTransport(greet=False)
    tracks = [{"name": name, "kind": "video", "direction": "out"} for name in ("left", "right")]
    server.say(names.WELCOME, WELCOME | {"tracks": tracks})
    with trio.fail_after(DEADLINE):
        async with Client.over(server) as client:
            with pytest.raises(ValueError, match="say which track; the model sends left, right"):
                await client.frame()


# ---- uploads


class UploadServer:
    """Plays a server that takes uploads: it joins the chunks and confirms each complete upload."""

    def __init__(self, server: FakeTransport) -> None:
        self._server = server
        self.starts: dict[str, Heard] = {}
        self.files: dict[str, bytes] = {}
        self.log: list[str] = []
        server.answer = self.take

    def take(self, message: Heard | UploadChunk) -> None:
        if isinstance(message, UploadChunk):
            self.log.append(message.upload_id)
            assert message.offset == len(self.files[message.upload_id])
            self.files[message.upload_id] += bytes(message.payload)
            self._complete(message.upload_id)
        elif message.type == names.UPLOAD_START:
            self.starts[message.data["upload_id"]] = message
            self.files[message.data["upload_id"]] = b""
            self._server.say(names.UPLOAD_READY, {"upload_id": message.data["upload_id"]})
            self._complete(message.data["upload_id"])
        else:
            self.log.append(message.type)

    def _complete(self, upload_id: str) -> None:
        start = self.starts[upload_id]
        if len(self.files[upload_id]) == start.data["size"]:
            self._server.say(names.UPLOAD_COMPLETE, start.data, start.id)


async def test_an_upload_arrives_in_chunks(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(bytes(range(256)) * 10)
    async with open_fake() as (client, server):
        uploads = UploadServer(server)
        steps: list[tuple[int, int]] = []
        handle = await client.upload(path, on_progress=lambda sent, total: steps.append((sent, total)))
        assert handle == UploadHandle("u1", "picture.png", "image/png", 2560)
        assert uploads.files["u1"] == path.read_bytes()
        assert steps == [(1000, 2560), (2000, 2560), (2560, 2560)]
        await client.send("set_image", image=handle)
        while (message := await server.hear_any()) is not None:
            if isinstance(message, Heard) and message.type == "set_image":
                assert message.data == {"image": {"upload_id": "u1"}}
                break


@pytest.mark.parametrize(
    ("source", "options", "name", "mime_type"),
    [
        (b"x" * 10, {}, "upload", "application/octet-stream"),
        (memoryview(b"x" * 10), {"name": "a.jpg"}, "a.jpg", "image/jpeg"),
        (io.BytesIO(b"x" * 10), {"name": "a.jpg", "mime_type": "image/x-own"}, "a.jpg", "image/x-own"),
        (bytearray(), {}, "upload", "application/octet-stream"),
    ],
)
async def test_what_may_be_uploaded(source: Any, options: dict[str, str], name: str, mime_type: str):
    async with open_fake() as (client, server):
        uploads = UploadServer(server)
        handle = await client.upload(source, **options)
        assert (handle.name, handle.mime_type) == (name, mime_type)
        assert len(uploads.files["u1"]) == handle.size


async def test_an_open_file_is_sent_from_where_it_stands_and_left_open():
    async with open_fake() as (client, server):
        uploads = UploadServer(server)
        file = io.BytesIO(b"head" + b"body" * 500)
        file.read(4)
        await client.upload(file)
        assert uploads.files["u1"] == b"body" * 500
        assert not file.closed


async def test_a_command_never_waits_for_more_than_one_chunk():
    async with open_fake() as (client, server):
        server.accepting = trio.Event()
        uploads = UploadServer(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.upload, b"a" * 5000)
            nursery.start_soon(client.upload, b"b" * 5000)
            await trio.testing.wait_all_tasks_blocked()
            await client.send("reset")
            server.accepting.set()
        assert uploads.log.index("reset") <= 1
        # The two uploads take turns.
        chunks = [each for each in uploads.log if each != "reset"]
        assert chunks == ["u1", "u2"] * 5 or chunks == ["u2", "u1"] * 5


async def test_a_refused_upload_stops_at_once():
    async with open_fake() as (client, server):

        def refuse(message: Any) -> None:
            if isinstance(message, Heard):
                server.refuse("upload_too_large", "too large", upload_id="u1", reply_to=message.id)
                server.accepting = trio.Event()  # the server takes nothing more

        server.answer = refuse
        with pytest.raises(CommandError) as caught:
            await client.upload(b"x" * 100_000)
        assert (caught.value.code, caught.value.upload_id) == ("upload_too_large", "u1")
        server.accepting.set()
        await client.send("reset")
        rest = []
        while not (rest and rest[-1] == "reset"):
            message = await server.hear_any()
            rest.append(message.type if isinstance(message, Heard) else "chunk")
        # One chunk was written with the start, and the send task held another one already.
        assert rest.count("chunk") <= 2
        assert names.UPLOAD_ABORT not in rest


async def test_a_cancelled_upload_is_given_up():
    async with open_fake() as (client, server):
        server.answer = lambda message: None
        with trio.move_on_after(1) as scope:
            await client.upload(b"x" * 1500)
        assert scope.cancelled_caught
        heard = [await server.hear_any() for _ in range(4)]
        assert isinstance(heard[-1], Heard)
        assert (heard[-1].type, heard[-1].data) == (names.UPLOAD_ABORT, {"upload_id": "u1"})
        # The server, which has the whole upload already, has none to give up: the client drops this error.
        server.refuse("upload_rejected", "no such upload under way", upload_id="u1")
        server.say("a")
        assert (await client.receive()).type == "a"


async def test_a_file_that_becomes_shorter_is_given_up():
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(100) if self.tell() < 300 else b""

    async with open_fake() as (client, server):
        server.answer = lambda message: None
        with pytest.raises(OSError, match="became shorter"):
            await client.upload(Shrinking(b"x" * 1000), name="log.txt")
        heard = [await server.hear_any() for _ in range(5)]
        assert isinstance(heard[-1], Heard)
        assert heard[-1].type == names.UPLOAD_ABORT


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("no/such/file", FileNotFoundError, "no/such/file"),
        ("/dev/null", OSError, "not a regular file"),
        (".", OSError, "not a regular file"),
        (io.StringIO("text"), TypeError, "binary mode"),
        (object(), ValueError, "cannot find the size"),
    ],
)
async def test_what_cannot_be_uploaded(source: Any, error: type[Exception], said: str):
    async with open_fake() as (client, server):
        server.answer = lambda message: None
        with pytest.raises(error, match=said):
            await client.upload(source)


async def test_an_upload_ends_with_the_connection():
    async with open_fake() as (client, server):
        server.accepting = trio.Event()
        async with trio.open_nursery() as nursery:

            async def upload() -> None:
                with pytest.raises(TransportClosed):
                    await client.upload(b"x" * 100_000)

            nursery.start_soon(upload)
            await trio.testing.wait_all_tasks_blocked()
            server.hang_up()


# ---- closing


async def test_leaving_writes_what_waits_and_closes_politely():
    async with open_fake() as (client, server):
        await client.send("reset")
    assert [message.type for message in server.heard] == ["reset"]  # type: ignore[union-attr]
    assert server.closed_with == (1000, "")
    assert not server.aborted
    assert client.closed is not None
    assert client.closed.code == 1000


async def test_closing_with_a_code_of_ones_own():
    async with open_fake() as (client, server):
        await client.aclose(4001, "bored")
        await client.aclose()
        with pytest.raises(TransportClosed):
            await client.send("reset")
    assert server.closed_with == (4001, "bored")


async def test_leaving_a_server_that_does_not_answer_the_close_takes_three_seconds():
    async with open_fake() as (_, server):
        server.closes_politely = False
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(CLOSE_TIMEOUT)
    assert server.aborted


async def test_leaving_a_server_that_accepts_nothing_takes_three_seconds():
    async with open_fake() as (client, server):
        server.accepting = trio.Event()
        await client.send("reset")
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(CLOSE_TIMEOUT)
    assert server.aborted


async def test_a_cancelled_body_still_closes_politely():
    with trio.move_on_after(1) as scope:
        async with open_fake() as (client, server):
            await client.receive()
    assert scope.cancelled_caught
    assert server.closed_with == (1000, "")


@pytest.mark.parametrize(
    "error", [ValueError("mine"), ExceptionGroup("mine", [KeyError()]), KeyboardInterrupt()]
)
async def test_an_error_of_the_body_comes_out_as_it_is(error: BaseException):
    with pytest.raises(type(error)) as caught:
        async with open_fake():
            raise error
    # Trio makes a new group with the same members.
    assert getattr(caught.value, "exceptions", caught.value) == getattr(error, "exceptions", error)


async def _lose() -> None:
    async with open_fake() as (client, server):
        server.hang_up()
        await client.receive()


async def test_a_lost_connection_comes_out_as_one_error():
    with pytest.raises(TransportClosed):
        await _lose()


async def test_a_stalled_server_is_named_as_the_cause():
    async with open_fake() as (client, server):

        async def stall(messages: object) -> None:
            server.hang_up()
            raise TransportStalled(1006, "accepted nothing")

        server.send = stall  # type: ignore[method-assign]
        with pytest.raises(TransportStalled):
            await client.call("reset")


async def test_a_silent_server_is_pinged_and_then_lost():
    async with open_fake() as (client, server):
        await trio.sleep(10.5 * HEARTBEAT)
        assert server.pings >= 5
        assert client.closed is None
        server.pongs = False
        with pytest.raises(TransportClosed, match="not a byte"):
            await client.receive()
        assert server.aborted


async def test_a_server_that_talks_is_not_pinged():
    async with open_fake() as (_, server):
        for _ in range(100):
            await trio.sleep(HEARTBEAT / 2)
            server.say("progress")
        assert server.pings == 0
