"""The settings of each client for each track: codec, rate, size, pauses. Real sessions, in virtual time."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import trio

from reactor_trio import Audio, CommandError, Input, Output, ReactorModel, Video, event
from reactor_trio.client import Frame, connect
from reactor_trio.compute import pool
from reactor_trio.compute.executor import ThreadExecutor
from reactor_trio.compute.lanes import Lane, encoder_lane
from reactor_trio.link.encoding import NEW_STREAMS, NEW_STREAMS_AT_ONCE, RESUMES, RESUMES_AT_ONCE
from reactor_trio.link.thinning import Thinning
from reactor_trio.media.h264 import H264Decoder, H264Encoder
from reactor_trio.media.settings import MediaSettings
from reactor_trio.protocol import names
from reactor_trio.session.limits import Limits
from reactor_trio.testing import SessionClient, open_session, open_sessions
from serving import ROOT, serve
from slow_executor import SlowExecutor

WIDTH, HEIGHT, FPS = 64, 48, 30
H264 = MediaSettings(video_codec="h264")
PATIENT = Limits(send_timeout=1000, heartbeat=1000)
BLOCK = 0.02
"""Seconds of a block of audio."""


class Picture(Output):
    screen: Video


class Sound(Output):
    speaker: Audio = Audio(sample_rate=8000)


class Camera(Input):
    webcam: Video


def level(seq: int) -> int:
    """The brightness of the frame of this number; consecutive frames differ."""
    return 20 + (seq * 37) % 200


class Painter(ReactorModel):
    """Emits plain frames at its rate for ever, each as bright as `level` of its number."""

    fps = FPS
    buffer_size = 1
    size = (WIDTH, HEIGHT)

    async def run(self) -> None:
        await self.connected.wait()
        for seq in itertools.count():
            width, height = self.size
            await self.emit(Picture(screen=np.full((height, width, 3), level(seq), np.uint8)))

    @event
    def resize(self, width: int, height: int) -> None:
        self.size = (width, height)

    @event
    def flush(self) -> None:
        self.output.flush()

    @event
    def fail(self) -> None:
        raise RuntimeError("asked to")


class Musical(Painter):
    camera: Camera

    async def run(self) -> None:
        await self.connected.wait()
        while True:
            await self.emit(Sound(speaker=np.ones(800, np.int16)))


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[H264Encoder]:
    """The H.264 encoders that are made in this test."""
    made: list[H264Encoder] = []

    def make(encoder: H264Encoder) -> None:
        initialise(encoder)
        made.append(encoder)

    initialise = H264Encoder.__init__
    monkeypatch.setattr(H264Encoder, "__init__", make)
    return made


class Decoding:
    """Decodes the frames of a client in the order of their arrival, and checks the brightness of each."""

    def __init__(self, client: SessionClient, track: str = "screen") -> None:
        self.client = client
        self.track = track
        self._decoder = H264Decoder()

    async def frame(self) -> Frame:
        frame = await self.client.frame(self.track)
        pixels = self._decoder.decode(frame.payload) if frame.codec == "h264" else frame.array()
        assert pixels.shape == (frame.height, frame.width, 3)
        assert np.abs(pixels.astype(int) - level(frame.seq)).mean() < 4, f"{frame} shows something else"
        return frame

    async def frames(self, count: int) -> list[Frame]:
        return [await self.frame() for _ in range(count)]

    async def rest(self, seconds: float) -> list[Frame]:
        """All frames that have arrived already or arrive in this time."""
        frames = []
        with trio.move_on_after(seconds):
            while True:
                frames.append(await self.frame())
        return frames


def keys(frames: list[Frame]) -> list[bool]:
    return [frame.key for frame in frames]


async def fault_of(call: Any) -> list[tuple[str, str]]:
    with pytest.raises(CommandError) as caught:
        await call
    assert caught.value.code == names.INVALID_PAYLOAD
    return [(fault.path, fault.message) for fault in caught.value.errors]


# ---- H.264


async def test_who_joins_gets_a_key_frame_and_can_decode_all_that_follows() -> None:
    async with open_session(Painter, media=H264) as client:
        frames = await Decoding(client).frames(90)
    assert [frame.seq for frame in frames] == list(range(90))
    assert {frame.codec for frame in frames} == {"h264"}
    assert keys(frames) == [True] + [False] * 89
    assert "key" not in frames[1].extra, "it is only there when there is something to say"
    assert sum(len(frame.payload) for frame in frames[1:]) < sum(20 + frame.width for frame in frames)


async def test_frames_that_a_slow_network_costs_do_not_break_the_picture() -> None:
    async with open_session(Painter, media=H264, limits=PATIENT) as client:
        decoding = Decoding(client)
        await decoding.frames(10)
        client.network.stall()
        client.network.change("down", buffer_bytes=200)
        await trio.sleep(5)
        client.network.resume()
        frames = await decoding.frames(60)
        replaced = client.session.statistics().counts.frames["screen"].replaced
    missing = frames[-1].seq - 9 - len(frames)
    assert missing > 100
    assert replaced == missing
    assert not any(keys(frames)), "they were replaced before they were encoded: nothing was built on them"


def command(type_: str, **data: Any) -> str:
    return orjson.dumps({"type": type_, "data": data}).decode()


async def have_a_frame_wait(client: SessionClient) -> None:
    """Have an encoded frame wait behind answers that cannot be written, until `let_go` is called."""
    await client.configure_track("screen", paused=True)
    await trio.sleep(1)
    client.network.stall()
    client.network.change("down", buffer_bytes=1)
    await client.transport.send([command(names.PING, t=n) for n in range(3)])
    await trio.sleep(1)
    encoded = client.session.output.statistics().encoded
    await client.transport.send([command(names.CONFIGURE_TRACK, track="screen", paused=False)])
    await trio.sleep(1)
    assert client.session.output.statistics().encoded == encoded + 1


def let_go(client: SessionClient) -> None:
    client.network.change("down", buffer_bytes=1_000_000)
    client.network.resume()


async def test_after_a_frame_that_was_encoded_and_lost_comes_a_key_frame() -> None:
    async with open_session(Painter, media=H264, limits=PATIENT) as client:
        decoding = Decoding(client)
        await decoding.frames(3)
        await have_a_frame_wait(client)
        await client.transport.send([command("flush")])
        await trio.sleep(1)
        let_go(client)
        await decoding.rest(0.01)
        frames = await decoding.rest(2)
    assert len(frames) > 50


async def test_a_frame_that_waits_behind_a_slow_network_is_taken_back_by_a_pause() -> None:
    async with open_session(Painter, media=H264, limits=PATIENT) as client:
        decoding = Decoding(client)
        await decoding.frames(3)
        await have_a_frame_wait(client)
        await decoding.rest(0.01)
        await client.transport.send([command(names.CONFIGURE_TRACK, track="screen", paused=True)])
        await trio.sleep(1)
        let_go(client)
        assert await decoding.rest(3) == []
        await client.configure_track("screen", paused=False)
        assert keys(await decoding.frames(3)) == [True, False, False]


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
async def test_flushing_breaks_no_picture(codec: str) -> None:
    async with open_session(
        Painter, media=MediaSettings(video_codec=codec), executor=SlowExecutor(0.01)
    ) as client:  # type: ignore[arg-type]
        decoding = Decoding(client)
        await decoding.frames(5)
        for _ in range(20):
            await client.call("flush")
            await trio.sleep(0.011)
        frames = await decoding.rest(2)
    assert len(frames) > 50
    assert any(keys(frames[:30]))


async def test_a_key_frame_comes_at_once_when_it_is_asked_for() -> None:
    async with open_session(Painter, media=H264) as client:
        decoding = Decoding(client)
        await decoding.frames(40)
        await client.request_key_frame("screen")
        assert keys(await decoding.frames(30)) == [True] + [False] * 29


async def test_a_flood_of_requests_gets_two_key_frames_a_second_and_none_is_forgotten() -> None:
    async with open_session(Painter, media=H264) as client:
        decoding = Decoding(client)
        frames = []
        for _ in range(10 * FPS):
            frames.append(await decoding.frame())
            await client.request_key_frame("screen")
        last_request = trio.current_time()
        frames += await decoding.rest(2)
    times = [frame.pts for frame in frames if frame.key]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert min(gaps) >= 0.5 - 1e-6
    assert max(gaps) <= 0.5 + 2 / FPS
    received = [frame.received_at for frame in frames if frame.key]
    assert last_request < received[-1] <= last_request + 0.6


async def test_a_frame_of_another_size_is_a_key_frame_and_is_decoded() -> None:
    async with open_session(Painter, media=H264) as client:
        decoding = Decoding(client)
        await decoding.frames(3)
        await client.call("resize", width=33, height=17)
        frames = await decoding.frames(6)
    changed = [frame for frame in frames if (frame.width, frame.height) == (34, 18)]
    assert len(changed) >= 3
    assert keys(changed) == [True] + [False] * (len(changed) - 1)


class Noise(Painter):
    size = (320, 180)

    async def run(self) -> None:
        await self.connected.wait()
        pictures = [np.random.default_rng(n).integers(0, 256, (180, 320, 3), np.uint8) for n in range(5)]
        for picture in itertools.cycle(pictures):
            await self.emit(Picture(screen=picture))


@pytest.mark.parametrize("max_fps", [None, 10.0])
async def test_ten_seconds_of_noise_stay_within_the_bit_rate(max_fps: float | None) -> None:
    media = MediaSettings(video_codec="h264", min_video_bit_rate=1, max_video_bit_rate=400_000)
    rate = media.bit_rate(320, 180, max_fps or FPS)
    async with open_session(Noise, media=media) as client:
        await client.configure_track("screen", max_fps=max_fps)
        await trio.sleep(1)  # until no frame of the first stream, which had another rate, is left
        began = trio.current_time()
        frames = [await client.frame("screen") for _ in range(round(12 * (max_fps or FPS)))]
    frames = [frame for frame in frames if began <= frame.received_at < began + 10]
    bits = 8 * sum(len(frame.payload) for frame in frames)
    assert 6 * rate < bits < 10.6 * rate, "the buffer is half a second"


async def test_the_bit_rate_stays_within_its_bounds_when_the_model_gets_faster() -> None:
    class Faster(Noise):
        fps = 5

        @event
        def speed_up(self) -> None:
            self.output.fps = 60

    media = MediaSettings(video_codec="h264", min_video_bit_rate=1, max_video_bit_rate=200_000)
    async with open_session(Faster, media=media) as client:
        await trio.sleep(1)
        await client.call("speed_up")
        await trio.sleep(1)
        began, bits = trio.current_time(), 0
        while (frame := await client.frame("screen")).received_at < began + 5:
            bits += 8 * len(frame.payload) if frame.received_at >= began else 0
    assert bits < 5.6 * media.bit_rate(320, 180, 60)


@pytest.mark.parametrize(
    "wishes",
    [
        [{"max_width": 32}, {"max_width": 48}],
        [{"max_fps": 240}, {"max_fps": 20}],
        [{"codec": "jpeg"}, {"codec": "h264"}],
        [{"max_width": 16, "codec": "raw"}, {"max_width": None, "codec": "h264"}],
    ],
)
async def test_a_client_that_changes_its_mind_all_the_time_gets_few_new_streams(
    wishes: list[dict[str, Any]],
) -> None:
    async with open_session(Painter, media=H264, limits=Limits(max_events_per_second=0)) as client:
        screen = Decoding(client)
        await screen.frames(3)
        seen: list[Frame] = []
        for number in range(90):
            await client.configure_track("screen", **wishes[number % 2])
            seen += await screen.rest(1 / FPS)
        assert 60 < len(seen) < 100
        new = sum(frame.codec == "h264" and frame.key for frame in seen)
        assert new <= NEW_STREAMS_AT_ONCE + 3 * NEW_STREAMS + 1
        await trio.sleep(1 / NEW_STREAMS)
        await screen.rest(0.1)
        last = (await screen.frames(3))[-1]
        assert last.codec == wishes[1].get("codec", "h264")
        assert last.width == (wishes[1].get("max_width") or WIDTH)


async def test_a_frame_of_h264_is_not_decoded_alone_and_says_what_to_do() -> None:
    async with open_session(Painter, media=H264) as client:
        frame = await client.frame("screen")
    with pytest.raises(ValueError, match=r"'screen'.*reactor_trio\.media\.h264\.H264Decoder"):
        frame.array()


# ---- settings


async def test_the_codec_may_be_changed_in_mid_stream_and_back(encoders: list[H264Encoder]) -> None:
    async with open_session(Painter) as client:
        decoding = Decoding(client)
        assert client.welcome.tracks["screen"].codecs == ("jpeg", "h264", "raw")
        for codec in ("h264", "raw", "h264", "jpeg", "h264", None):
            await client.configure_track("screen", codec=codec)
            frames = await decoding.frames(8)
            mine = [frame for frame in frames if frame.codec == (codec or "jpeg")]
            assert len(mine) >= 6
            assert frames[-len(mine) :] == mine
            if codec == "h264":
                assert keys(mine) == [True] + [False] * (len(mine) - 1)
        assert not any(encoder.is_open for encoder in encoders), "left, it holds no memory"


async def test_the_servers_default_comes_first_in_the_welcome() -> None:
    media = MediaSettings(video_codec="raw")
    async with open_session(Musical, media=media) as client:
        tracks = {track["name"]: track for track in _welcome(client)["tracks"]}
    assert tracks["screen"]["codecs"] == ["raw", "jpeg", "h264"]
    assert tracks["speaker"] == {
        "name": "speaker",
        "kind": "audio",
        "direction": "out",
        "rate": 8000,
        "codecs": ["pcm_s16le"],
    }
    assert tracks["webcam"]["codecs"] == ["jpeg", "raw"]
    async with open_session(Painter, media=media) as client:
        assert (await Decoding(client).frame()).codec == "raw"


def _welcome(client: SessionClient) -> dict[str, Any]:
    return dict(orjson.loads(client.transcript[0].message)["data"])


async def test_jpeg_quality_is_the_servers() -> None:
    sizes = []
    for quality in (20, 95):
        media = MediaSettings(jpeg_quality=quality)
        async with open_session(Noise, media=media) as client:
            sizes.append(len((await client.frame("screen")).payload))
    assert sizes[0] < sizes[1] / 3


async def test_twenty_of_thirty_frames_are_even_and_not_fifteen() -> None:
    async with open_session(Painter) as client:
        decoding = Decoding(client)
        await client.configure_track("screen", max_fps=20)
        await decoding.frames(3)
        frames = await decoding.frames(60)
        gaps = [b.seq - a.seq for a, b in itertools.pairwise(frames)]
        assert set(gaps) == {1, 2}
        assert all(sum(pair) == 3 for pair in itertools.pairwise(gaps))
        await client.configure_track("screen", max_fps=None)
        await decoding.frames(3)
        assert {b.seq - a.seq for a, b in itertools.pairwise(await decoding.frames(30))} == {1}
        assert client.session.statistics().counts.frames["screen"].unwanted >= 30


@pytest.mark.parametrize(
    ("fps", "max_fps", "taken"),
    [(30, 20, 200), (30, 29, 290), (30, 30, 300), (30, 60, 300), (30, 1, 10), (25, 10, 100)],
)
def test_thinning_is_as_close_as_it_can_be(fps: int, max_fps: float, taken: int) -> None:
    thinning = Thinning(max_fps)
    times = [n / fps for n in range(10 * fps) if thinning.takes(n / fps)]
    assert abs(len(times) - taken) <= 1
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert max(gaps) - min(gaps) <= 1 / fps + 1e-6


def test_thinning_has_nothing_to_catch_up_after_a_gap() -> None:
    thinning = Thinning(10)
    times = [*np.arange(0, 1, 0.05), *np.arange(7, 8, 0.05)]
    taken = [time for time in times if thinning.takes(time)]
    assert sum(time >= 7 for time in taken) == 10


@pytest.mark.parametrize(
    ("codec", "size", "max_width", "sent"),
    [
        ("jpeg", (64, 48), 32, (32, 24)),
        ("raw", (64, 48), 32, (32, 24)),
        ("h264", (64, 48), 32, (32, 24)),
        ("jpeg", (63, 47), 33, (33, 25)),
        ("raw", (63, 47), 33, (33, 25)),
        ("h264", (63, 47), 33, (32, 24)),
        ("h264", (63, 47), None, (64, 48)),
        ("jpeg", (64, 48), 640, (64, 48)),
        ("h264", (64, 48), 640, (64, 48)),
        ("h264", (640, 2), 16, (16, 2)),
        ("jpeg", (640, 2), 16, (16, 1)),
    ],
)
async def test_frames_are_scaled_down_to_the_width_and_never_up(
    codec: str, size: tuple[int, int], max_width: int | None, sent: tuple[int, int]
) -> None:
    async with open_session(type("Sized", (Painter,), {"size": size})) as client:
        await client.configure_track("screen", codec=codec, max_width=max_width)
        frames = await Decoding(client).frames(4)
    assert (frames[-1].codec, (frames[-1].width, frames[-1].height)) == (codec, sent)


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
async def test_nothing_comes_while_a_track_is_paused_and_then_the_newest_at_once(codec: str) -> None:
    media = MediaSettings(video_codec=codec)  # type: ignore[arg-type]
    async with open_session(Painter, media=media, executor=SlowExecutor(0.01)) as client:
        decoding = Decoding(client)
        before = await decoding.frames(10)
        await client.configure_track("screen", paused=True)
        encoded = client.session.output.statistics().encoded
        late = await decoding.rest(10.05)
        assert all(frame.received_at <= before[-1].received_at + 0.05 for frame in late)
        assert client.session.output.statistics().encoded == encoded
        assert client.session.output.statistics().emitted > 300, "the model goes on"
        await client.configure_track("screen", paused=None)
        resumed = trio.current_time()
        frames = await decoding.frames(30)
    assert frames[0].received_at - resumed <= 0.011, "it does not wait for the next"
    assert frames[0].seq >= 10 + 10 * FPS - 2
    assert keys(frames) == ([True] + [False] * 29 if codec == "h264" else [True] * 30)


async def test_after_the_answer_to_a_pause_no_frame_is_on_its_way() -> None:
    async with open_session(Painter, executor=SlowExecutor(0.01)) as client:
        for n in range(20):
            await trio.sleep(0.5 + n / 300)
            await client.configure_track("screen", paused=True)
            await trio.sleep(0.2)
            answered = client.transcript[-1]
            assert answered.type == "reactor.ack"
            await client.configure_track("screen", paused=False)


async def test_a_picture_that_is_emitted_once_is_shown_when_the_pause_ends() -> None:
    class Once(Painter):
        async def run(self) -> None:
            await self.connected.wait()
            await trio.sleep(1)
            await self.emit(Picture(screen=np.full((HEIGHT, WIDTH, 3), level(0), np.uint8)))
            await trio.sleep_forever()

    async with open_session(Once, media=H264) as client:
        decoding = Decoding(client)
        await client.configure_track("screen", paused=True)
        assert await decoding.rest(5) == []
        await client.configure_track("screen", paused=False)
        assert keys(await decoding.rest(1)) == [True]


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
async def test_a_client_that_pauses_all_the_time_is_told_to_wait_and_gets_few_key_frames(codec: str) -> None:
    media = MediaSettings(video_codec=codec)  # type: ignore[arg-type]
    limits = Limits(max_events_per_second=0)
    async with open_session(Painter, media=media, limits=limits) as client:
        screen = Decoding(client)
        await screen.frames(3)
        seen: list[Frame] = []
        refused = []
        for _ in range(100):
            await client.configure_track("screen", paused=True)
            try:
                await client.configure_track("screen", paused=False)
            except CommandError as error:
                refused.append(error)
            seen += await screen.rest(1 / FPS)
        assert {error.code for error in refused} == {names.OVERLOADED}
        assert "try again in 0." in str(refused[-1])
        most = RESUMES_AT_ONCE + RESUMES * 100 / FPS + 1
        assert 100 - len(refused) <= most
        assert sum(frame.codec == "h264" and frame.key for frame in seen) <= most
        await trio.sleep(1 / RESUMES)
        await client.configure_track("screen", paused=False)
        assert await screen.frames(3)


async def test_a_paused_track_does_not_keep_a_session_from_finishing() -> None:
    class Short(Painter):
        async def run(self) -> None:
            await self.connected.wait()
            await trio.sleep(1)
            for _ in range(10):
                await self.emit(Picture(screen=np.zeros((HEIGHT, WIDTH, 3), np.uint8)))

    async with open_session(Short) as client:
        await client.configure_track("screen", paused=True)
        with trio.fail_after(5):
            assert (await client.ended()).reason == "finished"
        assert client.goodbye == "finished"


async def test_audio_can_be_paused_and_nothing_else() -> None:
    async with open_session(Musical) as client:
        await client.frame("speaker")
        await client.configure_track("speaker", paused=True)
        seen = len(client.transcript)
        await trio.sleep(3)
        assert len(client.transcript[seen:].of_type("media")) == 0
        await client.configure_track("speaker", paused=False)
        blocks = [await client.frame("speaker") for _ in range(100)][-50:]
        assert {round(b.pts - a.pts, 6) for a, b in itertools.pairwise(blocks)} == {BLOCK}
        faults = await fault_of(client.configure_track("speaker", codec="jpeg", max_fps=3, paused=True))
        assert [path for path, _ in faults] == ["codec", "max_fps"]
        await client.frame("speaker")
        assert [path for path, _ in await fault_of(client.request_key_frame("speaker"))] == ["track"]


async def test_what_cannot_be_had_is_said_at_its_path_and_changes_nothing() -> None:
    async with open_session(Musical) as client:
        assert await fault_of(client.configure_track("screen", codec="vp8", max_width=32)) == [
            ("codec", "must be one of jpeg, h264, raw, not the string 'vp8'")
        ]
        assert await fault_of(client.configure_track("canvas", paused=True)) == [
            ("track", "this model has no output track 'canvas'; it has: screen, speaker")
        ]
        for call in (client.configure_track("webcam", paused=True), client.request_key_frame("webcam")):
            [(path, _)] = await fault_of(call)
            assert path == "track"
        wrong = {"max_fps": 0, "max_width": 15, "paused": 1}
        faults = await fault_of(client.configure_track("screen", **wrong))  # type: ignore[arg-type]
        assert [path for path, _ in faults] == list(wrong)
    async with open_session(Painter) as client:
        await fault_of(client.configure_track("screen", codec="vp8", max_width=32))
        assert (await Decoding(client).frame()).width == WIDTH


async def test_without_an_id_there_is_no_answer_but_to_a_fault() -> None:
    async with open_session(Painter) as client:
        await trio.sleep(1)
        seen = len(client.transcript)
        good = '{"type": "reactor.configure_track", "data": {"track": "screen", "paused": true}}'
        wrong = '{"type": "reactor.configure_track", "data": {"track": "screen", "codec": "vp8"}}'
        await client.transport.send([good, wrong])
        await trio.sleep(1)
        answers = [
            each for each in client.transcript[seen:] if each.direction == "<" and each.type != "media"
        ]
        assert [each.type for each in answers] == ["reactor.error"]
        assert "reply_to" not in str(answers[0].message)


def test_the_options_of_the_command_are_what_clients_get(tmp_path: Path) -> None:
    options = ("--video-codec", "h264", "--max-video-bit-rate", "400000")
    with serve(ROOT / "examples" / "seed.py", tmp_path, *options) as server, connect(server.url) as client:
        assert client.welcome.tracks["main_video"].codecs == ("h264", "jpeg", "raw")
        frames = [client.frame() for _ in range(3)]
    assert [(frame.codec, frame.key) for frame in frames] == [("h264", n == 0) for n in range(3)]
    decoder = H264Decoder()
    for frame in frames:
        assert decoder.decode(frame.payload).shape == (frame.height, frame.width, 3)


# ---- one model, several clients


async def test_two_clients_of_one_model_take_its_picture_each_in_their_own_way() -> None:
    async with open_sessions(Painter, 2) as (small, large):
        await small.configure_track("screen", codec="h264", max_width=32, max_fps=10)
        await large.configure_track("screen", codec="raw")
        await trio.sleep(1)
        ours = await Decoding(small).frames(20)
        theirs = await Decoding(large).frames(40)
    assert {(frame.codec, frame.width) for frame in ours[5:]} == {("h264", 32)}
    assert {b.seq - a.seq for a, b in itertools.pairwise(ours[5:])} == {3}
    assert {(frame.codec, frame.width) for frame in theirs[5:]} == {("raw", WIDTH)}
    assert {b.seq - a.seq for a, b in itertools.pairwise(theirs[5:])} == {1}


# ---- the end


async def _leave(client: SessionClient) -> None:
    await client.aclose()


async def _cut(client: SessionClient) -> None:
    client.network.cut()


async def _drain(client: SessionClient) -> None:
    client.session.drain()


async def _break_model(client: SessionClient) -> None:
    client.session.model.broken.set()


async def _fall_silent(client: SessionClient) -> None:
    client.network.freeze()


class Breakable(Painter):
    async def run(self) -> None:
        self.broken = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run)
            await self.broken.wait()
            raise RuntimeError("asked to")


@pytest.mark.parametrize("ending", [_leave, _cut, _drain, _break_model, _fall_silent])
@pytest.mark.parametrize("codec", ["h264", "jpeg"])
async def test_however_a_session_ends_its_encoder_is_closed(
    ending: Any, codec: str, encoders: list[H264Encoder]
) -> None:
    executor = SlowExecutor(0.01)
    async with open_session(Breakable, media=H264, executor=executor) as client:
        await client.configure_track("screen", codec=codec)
        await Decoding(client).frames(4)
        assert any(encoder.is_open for encoder in encoders) == (codec == "h264")
        await ending(client)
        await client.ended()
        assert not any(encoder.is_open for encoder in encoders)


async def test_a_cancelled_session_closes_its_encoder(encoders: list[H264Encoder]) -> None:
    with trio.CancelScope() as scope:
        async with open_session(Painter, media=H264, executor=SlowExecutor(0.01)) as client:
            await Decoding(client).frames(4)
            assert any(encoder.is_open for encoder in encoders)
            scope.cancel(reason="the test says so")
            await trio.lowlevel.checkpoint()
    assert not any(encoder.is_open for encoder in encoders)


@pytest.mark.real_time
async def test_in_threads_each_stream_has_a_lane_and_it_ends_with_the_session(
    encoders: list[H264Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.2)
    executor = ThreadExecutor()
    seen = set[Lane]()
    with trio.fail_after(20):
        async with open_session(Painter, media=H264, executor=executor) as client:
            decoding = Decoding(client)
            for frame in await decoding.frames(10):
                assert frame.codec == "h264"
                seen.update(executor.lanes())
            assert any(encoder.is_open for encoder in encoders)
    assert not any(encoder.is_open for encoder in encoders)
    assert [lane for lane in seen if lane.name.startswith("encoder:")] == [encoder_lane("session-1/screen")]
    with trio.fail_after(20):
        while encoder_lane("session-1/screen") in executor.lanes():  # noqa: ASYNC110  no event to wait for
            await trio.sleep(0.01)
