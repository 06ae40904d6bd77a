"""Input tracks end to end: the model reads the frames that a client publishes."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
import trio

from reactor_trio import (
    Audio,
    BufferClosed,
    Input,
    InputFrame,
    ModelMessage,
    Output,
    ReactorModel,
    ReadMode,
    Video,
    disconnected,
    event,
)
from reactor_trio.compute.executor import ThreadExecutor
from reactor_trio.compute.lanes import DECODE
from reactor_trio.errors import TransportClosed
from reactor_trio.link import decoding
from reactor_trio.media.jpeg import encode_jpeg
from reactor_trio.protocol.binary import MediaFrame, encode_media
from reactor_trio.session.limits import Limits
from reactor_trio.testing import (
    DeviceCost,
    Link,
    Network,
    SessionClient,
    open_session,
    open_sessions,
)
from slow_executor import SlowExecutor

TEST_TIMEOUT = 20.0


class Camera(Input):
    webcam: Video
    mic: Audio = Audio(sample_rate=16_000)


class Picture(Output):
    screen: Video


class Seen(ModelMessage):
    seqs: list[int]


def shade(value: int, height: int = 16, width: int = 32) -> np.ndarray[Any, Any]:
    return np.full((height, width, 3), value, np.uint8)


class Inverter(ReactorModel):
    """Shows the negative of each frame of its webcam."""

    input: Camera
    fps = 1000

    async def run(self) -> None:
        while True:
            (frame,) = await self.input.webcam.read()
            await self.emit(Picture(screen=255 - frame))


class Watcher(ReactorModel):
    """Reads frames when a test sends `read`."""

    input: Camera

    @event
    async def read(self, n: int = 1, fifo: bool = False) -> Seen:
        mode = ReadMode.FIFO if fifo else ReadMode.LATEST
        return Seen(seqs=[frame.seq for frame in await self.input.webcam.read(n, mode)])


def watched(client: SessionClient) -> Any:
    return client.session.model.input  # type: ignore[attr-defined]


async def settled() -> None:
    """Wait until all frames that were sent have arrived and have been decoded."""
    await trio.sleep(0.01)


async def test_colours_are_inverted_from_end_to_end() -> None:
    async with open_session(Inverter) as client:
        for value in (0, 100, 255):
            await client.publish("webcam", shade(value))
            frame = await client.frame("screen")
            assert abs(float(frame.array().mean()) - (255 - value)) <= 2
            assert (frame.width, frame.height) == (32, 16)


async def test_a_device_that_takes_its_time_sees_the_newest_frame() -> None:
    class Slow(ReactorModel):
        input: Camera

        async def run(self) -> None:
            while True:
                (frame,) = await self.input.webcam.read()
                await self.compute(int)
                seen.append((frame.seq, round(trio.current_time() - began, 3)))

    seen: list[tuple[int, float]] = []
    async with open_session(Slow, executor=DeviceCost(0.1)) as client:
        began = trio.current_time()
        for value in range(20):
            await client.publish("webcam", shade(value))
            await trio.sleep(0.03)
        await trio.sleep(1)
        assert watched(client).webcam.dropped == 0
    assert seen[:3] == [(0, 0.1), (3, 0.2), (6, 0.3)]
    assert seen[-1][0] == 19


async def test_a_frame_tells_when_it_was_taken_and_what_the_client_said_of_it() -> None:
    async with open_session(Watcher) as client:
        await client.publish("webcam", shade(7), metadata={"face": [1, 2.5]})
        await trio.sleep(0.25)
        await client.publish("webcam", np.full((16, 32, 3), 0.5), quality=100)
        await client.publish("webcam", shade(7), pts=-3)
        await settled()
        first, second, third = watched(client).webcam.try_read(3)
    assert (first.seq, first.pts, first.metadata) == (0, 0.0, {"face": [1, 2.5]})
    assert (second.seq, round(second.pts, 6), second.metadata) == (1, 0.25, {})
    assert (third.seq, third.pts) == (2, -3.0)
    assert isinstance(first, InputFrame)
    assert first.shape == (16, 32, 3)
    assert first.dtype == np.uint8
    assert abs(float(second.mean()) - 127.5) <= 2


async def test_sound_arrives_sample_by_sample() -> None:
    left, right = np.arange(320, dtype=np.int16), -np.arange(320, dtype=np.int16)
    async with open_session(Watcher) as client:
        for _ in range(50):
            await client.publish("mic", np.stack([left, right]))
        await client.publish("mic", np.array([0.0, 1.0, -1.0, 0.5]))
        await settled()
        track = watched(client).mic
        assert (track.available, track.dropped) == (51, 0)
        *stereo, mono = track.try_read(51, ReadMode.FIFO)
    assert [block.seq for block in stereo] == list(range(50))
    assert stereo[0].dtype == np.int16
    np.testing.assert_array_equal(stereo[49], [left, right])
    np.testing.assert_array_equal(mono, [[0, 32767, -32767, 16384]])


async def test_every_frame_of_a_steady_stream_can_be_read() -> None:
    async with open_session(Watcher) as client:
        for value in range(200):
            await client.publish("webcam", shade(value))
            if value % 100 == 99:
                reply = await client.call("read", n=100, fifo=True)
                assert reply is not None
                assert reply.data["seqs"] == list(range(value - 99, value + 1))


async def test_the_ring_keeps_the_newest_128_frames() -> None:
    async with open_session(Watcher) as client:
        for value in range(130):
            await client.publish("mic", np.full(160, value, np.int16))
        await settled()
        track = watched(client).mic
        assert (track.available, track.dropped) == (128, 2)
        assert [frame.seq for frame in track.try_read(2, ReadMode.FIFO)] == [2, 3]
        assert [frame.seq for frame in track.try_read()] == [129]
        assert (track.available, track.try_read(), track.dropped) == (0, None, 2)
        counted = client.session.statistics().counts.inputs["mic"]
        assert (counted.received, counted.dropped) == (130, 2)


async def test_the_ring_is_bounded_in_bytes() -> None:
    size = shade(0).nbytes
    async with open_session(Watcher, limits=Limits(max_input_bytes=3 * size)) as client:
        for value in range(5):
            await client.publish("webcam", shade(value))
            await settled()
        track = watched(client).webcam
        assert (track.available, track.dropped) == (3, 2)
        with pytest.raises(ValueError, match=r"webcam.*4 frames.*max_input_bytes"):
            track.try_read(4)
        await client.publish("webcam", shade(0, 32, 64))
        error = await client.receive("reactor.error")
        assert "webcam" in error.data["message"]
        assert "64 x 32 pixels; 1536 pixels are allowed" in error.data["message"]
        assert track.available == 3


async def test_a_decoder_that_is_behind_drops_the_oldest() -> None:
    picture = encode_jpeg(shade(1))
    async with open_session(Watcher, executor=SlowExecutor(1.0, DECODE, one_at_a_time=True)) as client:
        await client.transport.send([media("webcam", seq, picture) for seq in range(10)])
        await trio.sleep(30)
        track = watched(client).webcam
        seqs = [frame.seq for frame in track.try_read(track.available, ReadMode.FIFO)]
        assert seqs[-4:] == [6, 7, 8, 9]
        assert track.dropped == 10 - len(seqs) >= 5


class TwoCameras(Input):
    left: Video
    right: Video


class Stereo(ReactorModel):
    input: TwoCameras


async def test_a_session_with_many_tracks_has_one_place_in_front_of_the_decoder() -> None:
    picture, executor = encode_jpeg(shade(1)), SlowExecutor(1.0, DECODE, one_at_a_time=True)
    async with open_sessions(Stereo, 2, executor=executor) as (greedy, other):
        both = [media(track, seq, picture) for seq in range(4) for track in ("left", "right")]
        await greedy.transport.send(both)
        await trio.sleep(0.5)
        await other.transport.send([media("left", 0, picture)])
        await trio.sleep(1.6)
        assert watched(other).left.available == 1
        await trio.sleep(10)
        assert watched(greedy).left.available == watched(greedy).right.available == 4
    assert executor.most == 2


def media(track: str, seq: int, payload: bytes, codec: str = "jpeg", **header: Any) -> bytes:
    fields = {name: header.pop(name, None) for name in ("width", "height", "rate", "channels")}
    return encode_media(MediaFrame(track, seq, 0.0, codec, payload, **fields, extra=header))


BROKEN = [
    (media("nowhere", 1, b""), ["no input track 'nowhere'", "webcam, mic"]),
    (media("screen", 1, b""), ["'screen' is an output", "webcam, mic"]),
    (media("webcam", 7, b"no picture"), ["'webcam', frame 7", "not a JPEG"]),
    (media("webcam", 7, encode_jpeg(shade(0))[:-12]), ["'webcam', frame 7", "broken JPEG"]),
    (media("webcam", 7, b"", "h264"), ["'webcam', frame 7", "jpeg or raw", "'h264'"]),
    (media("webcam", 7, b"\0" * 4, "pcm_s16le", rate=16000, channels=1), ["jpeg or raw", "'pcm_s16le'"]),
    (media("webcam", 7, b"\0" * 12, "raw"), ["'webcam', frame 7", "`width` and `height`"]),
    (media("webcam", 7, b"\0" * 11, "raw", width=2, height=2), ["12 bytes, not 11"]),
    (media("webcam", 7, b"\0" * 60000, "raw", width=20000, height=1), ["at most 16384"]),
    (media("webcam", 7, b"\0" * 12, "raw", width=2, height=2, metadata=[1]), ["`metadata`"]),
    (media("mic", 8, b"\0" * 4, "pcm_s16le", rate=48000, channels=1), ["'mic', frame 8", "16000", "48000"]),
    (media("mic", 8, b"\0" * 4, "pcm_s16le", channels=1), ["'mic', frame 8", "16000", "None"]),
    (media("mic", 8, b"\0" * 18, "pcm_s16le", rate=16000, channels=9), ["1 to 8, not 9"]),
    (media("mic", 8, b"\0" * 4, "pcm_s16le", rate=16000), ["1 to 8, not None"]),
    (media("mic", 8, b"\0" * 6, "pcm_s16le", rate=16000, channels=2), ["6 bytes", "2 channels"]),
    (media("mic", 8, b"", "pcm_s16le", rate=16000, channels=2), ["0 bytes"]),
    (media("mic", 8, encode_jpeg(shade(0))), ["'mic', frame 8", "pcm_s16le", "'jpeg'"]),
]


@pytest.mark.parametrize(("message", "told"), BROKEN)
async def test_a_broken_frame_is_answered_and_harms_nothing(message: bytes, told: list[str]) -> None:
    async with open_session(Inverter) as client:
        await client.transport.send([message])
        error = await client.receive("reactor.error")
        assert error.data["code"] == "bad_message"
        assert error.reply_to is None
        for words in told:
            assert words in error.data["message"]
        await client.publish("webcam", shade(255))
        assert (await client.frame("screen")).array().max() <= 2


@pytest.mark.parametrize("message", [BROKEN[0][0], BROKEN[2][0]], ids=["at once", "when decoded"])
async def test_a_client_that_sends_only_broken_frames_is_closed(message: bytes) -> None:
    async with open_session(Watcher, limits=Limits(max_bad_messages=10)) as client:
        # A good frame follows nine broken ones: the count begins anew.
        for _ in range(9):
            await client.transport.send([message])
            await settled()
        await client.publish("webcam", shade(0))
        await settled()
        for _ in range(9):
            await client.transport.send([message])
            await settled()
        assert client.session.ending is None
        await client.transport.send([message])
        assert (await client.ended()).reason == "too_many_errors"


async def test_raw_pixels_are_taken_as_they_are() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    async with open_session(Watcher) as client:
        await client.transport.send([media("webcam", 3, pixels.tobytes(), "raw", width=7, height=5)])
        await settled()
        (frame,) = watched(client).webcam.try_read()
        frame[0, 0] = 0  # the model may write: the frame has memory of its own
        np.testing.assert_array_equal(frame[1:], pixels[1:])


async def test_several_sessions_do_not_see_each_others_frames() -> None:
    async with open_sessions(Watcher, 2) as (one, two):
        await one.publish("webcam", shade(1))
        await settled()
        assert (watched(one).webcam.available, watched(two).webcam.available) == (1, 0)


async def test_reads_end_with_the_client_and_that_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[str] = []

    class Model(ReactorModel):
        camera: Camera

        async def run(self) -> None:
            try:
                await self.camera.webcam.read(100)
            except BufferClosed as closed:
                ends.append(str(closed))
                raise

        @event
        async def wait(self) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(self.camera.mic.read)

        @disconnected
        async def on_disconnect(self) -> None:
            with pytest.raises(BufferClosed):
                self.camera.webcam.try_read()  # although a frame is left
            with pytest.raises(BufferClosed):
                await self.camera.webcam.read()
            ends.append("disconnected")

    async with open_session(Model) as client:
        await client.send("wait")
        await client.publish("webcam", shade(0))
        await settled()
        session = client.session
    assert session.ending is not None
    assert session.ending.reason == "client_closed"
    assert ends == ["input track 'webcam': the client is gone", "disconnected"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_worker_thread_may_read_without_waiting() -> None:
    class Threaded(ReactorModel):
        input: Camera

        def look(self) -> list[int]:
            frames = self.input.webcam.try_read(2, ReadMode.FIFO)
            return [] if frames is None else [frame.seq for frame in frames]

        @event(in_thread=True)
        def go(self) -> Seen:
            return Seen(seqs=self.look())

    async with open_session(Threaded) as client:
        empty = await client.call("go")
        for _ in range(3):
            await client.publish("webcam", shade(0))
        await settled()
        full = await client.call("go")
    assert empty is not None
    assert full is not None
    assert (empty.data["seqs"], full.data["seqs"]) == ([], [0, 1])


# ---- `publish` of the client


async def test_publish_refuses_what_the_server_would() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (400, 400, 3), np.uint8)
    async with open_session(Watcher, limits=Limits(max_message_bytes=64 * 1024)) as client:
        for track, frame, words in [
            ("screen", shade(0), "no input track 'screen'; the model takes webcam, mic"),
            ("webcam", shade(0)[0], r"'webcam'.*\(32, 3\)"),
            ("webcam", shade(0)[None], "'webcam' was given a batch"),
            ("webcam", shade(0).astype(np.int32), "int32"),
            ("webcam", noise, r"'webcam'.*takes at most 65536 \(max_message_bytes\)"),
            ("mic", np.zeros((160, 2), np.int16), r"'mic'.*\(160, 2\)"),
            ("mic", np.zeros(160, np.uint8), "'mic'.*uint8"),
            ("mic", np.zeros((2, 40_000), np.int16), "shorter blocks"),
        ]:
            with pytest.raises(ValueError, match=words):
                await client.publish(track, frame)
        with pytest.raises(ValueError, match="pts"):
            await client.publish("webcam", shade(0), pts=math.nan)
        with pytest.raises(TypeError, match="payload"):
            await client.publish("webcam", shade(0), metadata=[1])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="quality"):
            await client.publish("webcam", shade(0), quality=0)
        await client.publish("webcam", noise, quality=10)
        await settled()
        assert client.session.ending is None
        assert watched(client).webcam.available == 1


async def test_a_slow_network_makes_publish_wait_and_commands_go_between() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)
    bandwidth = len(encode_jpeg(noise))  # one frame a second
    published: list[int] = []
    async with open_session(
        Watcher, network=Network(up=Link(bandwidth=bandwidth, buffer_bytes=bandwidth))
    ) as client:

        async def stream() -> None:
            for _ in range(20):
                await client.publish("webcam", noise)
                published.append(watched(client).webcam.available)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream)
            await trio.sleep(5)
            assert await client.ping() < 4, "a command does not wait for all frames"
            assert len(published) < 12
    assert max(number - there for number, there in enumerate(published)) <= 3, "frames do not pile up"


async def test_publish_ends_with_the_connection() -> None:
    async with open_session(Watcher) as client:
        await client.aclose()
        with pytest.raises(TransportClosed):
            await client.publish("webcam", shade(0))


@pytest.mark.real_time
async def test_a_session_that_leaves_does_not_wait_for_a_frame_that_is_being_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In real time, since a real thread decodes; it is busy until the test sets `go_on`."""
    token, began, go_on = trio.lowlevel.current_trio_token(), trio.Event(), threading.Event()

    def decode(frame: MediaFrame, max_bytes: int) -> None:
        token.run_sync_soon(began.set)
        assert go_on.wait(TEST_TIMEOUT)

    monkeypatch.setattr(decoding, "decode_frame", decode)
    with trio.fail_after(TEST_TIMEOUT):
        async with open_session(Watcher, executor=ThreadExecutor()) as client:
            for seq in range(3):
                await client.publish("webcam", shade(seq))
            await began.wait()
            await client.aclose()
            assert (await client.ended()).reason == "client_closed"
            assert not go_on.is_set()
    go_on.set()
