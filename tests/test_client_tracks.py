"""Tracks as the Python client takes them, against a server that the test plays (`fake_transport.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from fake_transport import WELCOME, FakeTransport, Heard
from reactor_trio.client import Client, Frame, HandshakeFailed, TrackInfo
from reactor_trio.errors import CommandError, FieldError, TransportClosed
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, encode_media
from reactor_trio.protocol.server_messages import Error
from test_client import DEADLINE, frame_bytes, open_fake

BLOCK = 0.020
"""Seconds of a block of audio."""
STAGES = {"wait": 0.01, "handle": 0.02, "emit": 0.03, "pace": 0.04, "encode": 0.05}


def acknowledge(server: FakeTransport) -> None:
    """Have the server acknowledge every message that has an id."""

    def answer(heard: Heard | UploadChunk) -> None:
        if isinstance(heard, Heard) and heard.id is not None:
            server.say(names.ACK, {}, heard.id)

    server.answer = answer


def picture(seq: int, track: str = "main_video", **extra: Any) -> bytes:
    return encode_media(MediaFrame(track, seq, 0.0, "raw", b"", width=1, height=1, extra=extra))


async def first_frame(**extra: Any) -> Frame:
    async with open_fake() as (client, server):
        server.deliver(picture(0, **extra))
        return await client.frame()


# ---- tracks in the welcome


async def test_codecs_and_rates_are_in_the_welcome():
    tracks = [
        {"name": "main", "kind": "video", "direction": "out", "codecs": ["jpeg", "raw"]},
        {"name": "sound", "kind": "audio", "direction": "out", "codecs": ["pcm_s16le"], "rate": 24000},
    ]
    server = FakeTransport(greet=False)
    server.say(names.WELCOME, WELCOME | {"tracks": tracks})
    with trio.fail_after(DEADLINE):
        async with Client.over(server) as client:
            assert client.welcome.tracks["main"] == TrackInfo("main", "video", "out", ("jpeg", "raw"))
            assert client.welcome.tracks["sound"].rate == 24000


async def test_a_server_that_says_nothing_of_codecs_can_be_used():
    async with open_fake() as (client, _):
        assert client.welcome.tracks["main_video"] == TrackInfo("main_video", "video", "out", (), None)


async def test_codecs_that_are_no_list_fail_the_handshake():
    server = FakeTransport(greet=False)
    server.say(names.WELCOME, WELCOME | {"tracks": [WELCOME["tracks"][0] | {"codecs": 5}]})
    with trio.fail_after(DEADLINE), pytest.raises(HandshakeFailed, match="cannot be read"):
        async with Client.over(server):
            pass


# ---- configuring a track


async def test_only_what_is_given_is_configured():
    async with open_fake() as (client, server):
        acknowledge(server)
        await client.configure_track("main_video", max_fps=10, paused=True)
        await client.configure_track("main_video", codec=None)
        await client.configure_track("main_video")
        assert [(await server.hear()).data for _ in range(3)] == [
            {"track": "main_video", "max_fps": 10, "paused": True},
            {"track": "main_video", "codec": None},
            {"track": "main_video"},
        ]


async def test_a_configuration_holds_once_it_is_acknowledged_and_refusals_are_raised():
    async with open_fake() as (client, server):
        with trio.move_on_after(1) as scope:
            await client.configure_track("main_video", codec="raw")
        assert scope.cancelled_caught
        await server.hear()
        async with trio.open_nursery() as nursery:

            async def be_refused() -> None:
                with pytest.raises(CommandError, match="not one of") as caught:
                    await client.configure_track("main_video", codec="vp9")
                assert [fault.path for fault in caught.value.errors] == ["codec"]

            nursery.start_soon(be_refused)
            asked = await server.hear()
            assert asked.type == "reactor.configure_track"
            fault = FieldError("codec", "not one of jpeg, raw")
            error = Error("invalid_payload", str(fault), errors=(fault,), reply_to=asked.id)
            server.deliver(error.encode())


async def test_a_key_frame_is_asked_for():
    async with open_fake() as (client, server):
        acknowledge(server)
        await client.request_key_frame("main_video")
        asked = await server.hear()
        assert (asked.type, asked.data) == ("reactor.request_key_frame", {"track": "main_video"})


async def test_shown_waits_for_no_answer():
    async with open_fake() as (client, server):
        server.deliver(frame_bytes(7))
        await client.shown(await client.frame())
        told = await server.hear()
        assert told == Heard("reactor.frame_shown", {"track": "main_video", "seq": 7}, None)


async def test_nothing_can_be_asked_of_a_closed_connection():
    async with open_fake() as (client, server):
        server.deliver(frame_bytes(0))
        frame = await client.frame()
        await client.aclose()
        for ask in (
            lambda: client.configure_track("main_video", paused=True),
            lambda: client.request_key_frame("main_video"),
            lambda: client.shown(frame),
        ):
            with pytest.raises(TransportClosed):
                await ask()
        assert client.latency().count == 0


# ---- the header of a frame


async def test_a_frame_tells_what_stands_in_its_header():
    frame = await first_frame(applied=[1, "b"], timing=STAGES, metadata={"seed": 7}, key=True, later=5)
    assert frame.applied == (1, "b")
    assert frame.timing == STAGES
    assert frame.metadata == {"seed": 7}
    assert frame.key


async def test_a_frame_of_which_nothing_is_said_has_nothing():
    frame = await first_frame()
    assert (frame.applied, frame.timing, frame.metadata) == ((), {}, {})


@pytest.mark.parametrize("nonsense", [None, 5, "text", [None, {}, 1.5, True], {"wait": "long"}])
async def test_a_header_that_makes_no_sense_says_nothing(nonsense: Any):
    frame = await first_frame(applied=nonsense, timing=nonsense, metadata=nonsense)
    assert frame.applied == ()
    assert frame.timing == {}
    assert frame.metadata == (nonsense if isinstance(nonsense, dict) else {})


async def test_only_some_frames_of_h264_stand_alone():
    async with open_fake() as (client, server):
        for seq, extra in enumerate(({"key": True}, {}, {"key": 1})):
            server.deliver(encode_media(MediaFrame("main_video", seq, 0.0, "h264", b"", extra=extra)))
        server.deliver(frame_bytes(3))
        assert [(await client.frame()).key for _ in range(4)] == [True, False, False, True]


# ---- audio


async def test_audio_that_nobody_takes_keeps_the_last_second():
    rate, blocks = 24000, 200
    async with open_fake() as (client, server):
        for seq in range(blocks):
            samples = np.full((rate // 50, 2), seq, "<i2")
            server.deliver(
                encode_media(
                    MediaFrame(
                        "main_audio", seq, seq * BLOCK, "pcm_s16le", samples.tobytes(), rate=rate, channels=2
                    )
                )
            )
        server.hang_up(1000, "finished")
        await trio.testing.wait_all_tasks_blocked()
        kept = [frame async for frame in client.frames("main_audio")]
        assert kept[-1].seq == blocks - 1
        assert 1.0 <= len(kept) * BLOCK <= 1.5
        assert client.dropped_frames == blocks - len(kept)
        assert kept[-1].array().shape == (2, rate // 50)
        assert (kept[-1].array() == blocks - 1).all()
        assert (kept[-1].rate, kept[-1].pts) == (rate, (blocks - 1) * BLOCK)


async def test_frames_of_a_track_that_is_the_clients_own_are_dropped():
    async with open_fake() as (client, server):
        server.deliver(picture(0, "webcam"))
        server.deliver(picture(1))
        assert (await client.frame()).seq == 1
        with pytest.raises(ValueError, match="no track 'webcam'; the model sends main_video, main_audio"):
            await client.frame("webcam")


# ---- latency


async def test_a_picture_is_what_a_command_waits_for_where_there_is_one():
    async with open_fake() as (client, server):
        acknowledge(server)
        await client.call("set_prompt")
        sound = MediaFrame("main_audio", 0, 0.0, "pcm_s16le", b"", extra={"applied": [1], "timing": STAGES})
        server.deliver(encode_media(sound))
        await trio.sleep(1)
        assert client.latency().count == 0
        server.deliver(picture(0, applied=[1], timing=STAGES))
        await client.frame()
        latency = client.latency()
        assert latency.total is not None
        assert latency.total.last == pytest.approx(1)
        assert latency.network is not None
        assert latency.network.last == pytest.approx(1 - sum(STAGES.values()))


async def test_only_the_command_that_is_timed_is_split():
    async with open_fake() as (client, server):
        acknowledge(server)
        for seq in range(4):
            await client.call("set_prompt")
            if seq % 2:
                await trio.sleep(seq)
                server.deliver(picture(seq, applied=[seq, seq + 1], timing=STAGES))
                await client.frame()
        latency = client.latency()
        assert latency.count == 4
        assert latency.total is not None
        assert (latency.total.p50, latency.total.p95, latency.total.last) == (1, 3, 3)
        assert latency.network is not None
        assert latency.network.p50 == pytest.approx(1 - sum(STAGES.values()))
        assert latency.network.p95 == pytest.approx(3 - sum(STAGES.values()))


@pytest.mark.parametrize("timing", [{}, {"wait": 1.0}, {"total": 5.0}])
async def test_a_server_that_times_other_stages_still_has_a_total(timing: dict[str, float]):
    async with open_fake() as (client, server):
        acknowledge(server)
        await client.call("set_prompt")
        server.deliver(picture(0, applied=[1], timing=timing))
        await client.frame()
        latency = client.latency()
        assert (latency.count, latency.wait, latency.network) == (1, None, None)


async def test_a_frame_counts_once_however_often_it_comes_or_is_shown():
    async with open_fake() as (client, server):
        acknowledge(server)
        await client.call("set_prompt")
        server.deliver(picture(0, applied=[1, 1, 99], timing=STAGES))
        server.deliver(picture(1, "main_video", applied=[1]))
        frame, again = await client.frame(), await client.frame()
        for waited in (1, 2):
            await trio.sleep(1)
            await client.shown(frame)
            await client.shown(again)
            latency = client.latency()
            assert latency.total is not None
            assert (latency.count, latency.total.last) == (1, 1), waited
