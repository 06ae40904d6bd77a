"""Commands and frames that wait are weighed by the memory that they take, not only counted."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import trio

from reactor_trio import Audio, Input, ReactorModel, UploadedFile, event
from reactor_trio.errors import CommandError, ProtocolError
from reactor_trio.protocol.binary import (
    MediaFrame,
    UploadChunk,
    decode_binary,
    encode_media,
    encode_upload_chunk,
)
from reactor_trio.protocol.client_messages import Invoke, decode
from reactor_trio.protocol.text import MAX_ID_LENGTH
from reactor_trio.protocol.weight import SMALL, weight_of, weight_of_bytes
from reactor_trio.session.limits import Limits
from reactor_trio.testing import open_session

if TYPE_CHECKING:
    from reactor_trio.testing import SessionClient

BYTES = 100_000
"""`max_queued_event_bytes` of these tests."""


class Busy(ReactorModel):
    @event
    async def work(self, seconds: float) -> None:
        await trio.sleep(seconds)

    @event
    def give(self, value: Any) -> None: ...

    @event(dedupe=True)
    def newest(self, value: Any) -> None:
        self.value = value

    @event
    def use(self, file: UploadedFile, value: Any) -> None: ...


def command(id_: int | str, value: Any, name: str = "give") -> str:
    return json.dumps({"type": name, "data": {"value": value}, "id": id_})


async def give(client: SessionClient, id_: int | str, value: Any, name: str = "give") -> None:
    await client.transport.send([command(id_, value, name)])
    await trio.sleep(0.1)


def of_weight(id_: str, weight: int) -> str:
    """A value with which a command has this weight."""
    value = "x" * (weight // 2)
    return value + "x" * (weight - weight_of(command(id_, value)))


async def assert_that_nothing_waits(client: SessionClient) -> None:
    """Two commands that take the whole limit find room, and the smallest one beside them does not."""
    await client.send("work", seconds=10)
    await trio.sleep(0.1)
    await give(client, "half", of_weight("half", BYTES // 2))
    await give(client, "rest", of_weight("rest", BYTES - BYTES // 2))
    assert not {"half", "rest"} & set(refused(client))
    await give(client, "more", 1)
    assert f"take {BYTES} of {BYTES} bytes" in refused(client)["more"]
    await trio.sleep(10)


def refused(client: SessionClient) -> dict[int | str, str]:
    """Code and text of the errors, by the id that they answer."""
    messages = [json.loads(entry.message) for entry in client.transcript if isinstance(entry.message, str)]
    errors = [each for each in messages if each["type"] == "reactor.error"]
    return {each["reply_to"]: f"{each['data']['code']}: {each['data']['message']}" for each in errors}


@pytest.mark.parametrize(
    "item",
    [
        "{}",
        "[]",
        "0",
        "123456",
        "1.5",
        '"abc"',
        '{"a":1}',
        '{"a":{},"b":[0]}',
        '"\\ud83d\\ude00' + "x" * 200 + '"',
    ],
)
def test_the_weight_of_a_large_text_bounds_what_it_takes(item: str) -> None:
    text = f"[{','.join([item] * (200_000 // len(item)))}]"
    tracemalloc.start()
    try:
        values = orjson.loads(text)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert values
    assert 0.8 * taken < weight_of(text) < 9 * taken + len(text)
    assert weight_of_bytes(text.encode()) == weight_of(text)


def test_a_small_text_weighs_its_length() -> None:
    assert weight_of("{" * SMALL) == SMALL
    assert weight_of("{" * (SMALL + 1)) > SMALL + 1


async def test_commands_that_wait_are_bounded_in_bytes() -> None:
    async with open_session(Busy, limits=Limits(max_queued_event_bytes=BYTES)) as client:
        await client.send("work", seconds=10)
        await trio.sleep(0.1)
        for id_ in range(4):
            await give(client, id_, "x" * 30_000)
        assert list(refused(client)) == [3]
        assert refused(client)[3].startswith("overloaded: the commands that wait take 9")
        await give(client, 4, 1)
        assert list(refused(client)) == [3], "a small one still fits"
        await trio.sleep(20)
        await assert_that_nothing_waits(client)


async def test_one_command_alone_may_always_wait() -> None:
    async with open_session(Busy, limits=Limits(max_queued_event_bytes=BYTES)) as client:
        await client.send("work", seconds=10)
        await trio.sleep(0.1)
        await give(client, 1, [{}] * 100_000)
        await give(client, 2, 1)
        assert list(refused(client)) == [2]
        await trio.sleep(20)
        await assert_that_nothing_waits(client)


async def test_a_newer_command_takes_the_room_of_the_one_that_it_replaces() -> None:
    async with open_session(Busy, limits=Limits(max_queued_event_bytes=BYTES, max_defer=1000)) as client:
        await client.send("work", seconds=10)
        await trio.sleep(0.1)
        for id_ in range(5):
            await give(client, id_, f"{id_}" * 80_000, "newest")
        assert refused(client) == {}
        await give(client, "beside it", of_weight("beside it", 20_000))
        assert refused(client)["beside it"].startswith("overloaded: the commands that wait take 8")
        await trio.sleep(20)
        assert client.session.model.value == "4" * 80_000
        await assert_that_nothing_waits(client)


async def test_commands_aside_for_an_upload_are_weighed_too() -> None:
    start = {"upload_id": "u", "name": "n", "mime_type": "a/b", "size": 1}
    async with open_session(Busy, limits=Limits(max_queued_event_bytes=BYTES)) as client:
        await client.transport.send([json.dumps({"type": "reactor.upload_start", "data": start})])
        for id_ in range(4):
            data = {"file": {"upload_id": "u"}, "value": "x" * 40_000}
            await client.transport.send([json.dumps({"type": "use", "data": data, "id": id_})])
        await trio.sleep(1)
        assert list(refused(client)) == [2, 3]
        await client.transport.send([encode_upload_chunk(UploadChunk("u", 0, b"x"))])
        await trio.sleep(1)
        await assert_that_nothing_waits(client)
        await client.transport.send(
            [json.dumps({"type": "reactor.upload_start", "data": start | {"upload_id": "v"}})]
        )
        with pytest.raises(CommandError, match="unresolved"):
            await client.call("use", file={"upload_id": "v"}, value=1)
        await assert_that_nothing_waits(client)


# ---- frames


class Microphone(Input):
    voice: Audio = Audio(sample_rate=16000)


class Listener(ReactorModel):
    input: Microphone


def sound(seq: int, metadata: Any) -> bytes:
    extra = {"metadata": metadata}
    return encode_media(
        MediaFrame("voice", seq, 0.0, "pcm_s16le", bytes(200), rate=16000, channels=1, extra=extra)
    )


async def test_the_metadata_of_frames_that_wait_is_weighed() -> None:
    heavy = {"values": [{} for _ in range(10_000)]}
    weight = len(sound(0, heavy))
    async with open_session(Listener, limits=Limits(max_input_bytes=5_000_000)) as client:
        for seq in range(100):
            await client.transport.send([sound(seq, heavy)])
        await trio.sleep(1)
        track = client.session.model.input.voice
        most = track.available
        assert 1 <= most <= 5_000_000 // (10 * weight) + 5
        assert track.dropped == 100 - track.available
        for seq in range(100, 300):
            await client.transport.send([sound(seq, {"seq": seq})])
        await trio.sleep(1)
        assert track.available == 128
        frames = track.try_read(128)
        assert frames is not None
        assert [frame.metadata["seq"] for frame in frames] == list(range(172, 300))
        for seq in range(300, 400):
            await client.transport.send([sound(seq, heavy)])
        await trio.sleep(1)
        assert track.available == most, "what was read weighs nothing any more"


def test_a_frame_weighs_its_header() -> None:
    light, heavy = decode_binary(sound(0, {"a": 1})), decode_binary(sound(0, [{}] * 1000))
    assert isinstance(light, MediaFrame)
    assert isinstance(heavy, MediaFrame)
    assert heavy.weight > 100_000 > 2000 > light.weight


# ---- ids


def test_an_id_is_kept_and_sent_back_so_it_is_not_long() -> None:
    assert decode(json.dumps({"type": "a", "id": "x" * MAX_ID_LENGTH})) == Invoke(
        "a", {}, "x" * MAX_ID_LENGTH
    )
    with pytest.raises(ProtocolError, match="at most 1024 characters") as refused_:
        decode(json.dumps({"type": "a", "id": "x" * (MAX_ID_LENGTH + 1)}))
    assert refused_.value.reply_to is None
