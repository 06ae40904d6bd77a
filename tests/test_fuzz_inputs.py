"""A client that sends random media: each frame is read by the model, dropped, or refused with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor_trio import Audio, BufferClosed, Input, InputFrame, Output, ReactorModel, ReadMode, Video
from reactor_trio.media.jpeg import encode_jpeg
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MEDIA
from reactor_trio.session.limits import Limits
from reactor_trio.testing import InlineExecutor, open_session
from slow_executor import SlowExecutor

LIMITS = Limits(max_bad_messages=1000, max_input_bytes=4096)
JPEG = encode_jpeg(np.zeros((16, 16, 3), np.uint8))
LARGE = encode_jpeg(np.zeros((64, 64, 3), np.uint8))
"""12 KiB when it is decoded, which is more than `max_input_bytes`."""


class Camera(Input):
    webcam: Video
    mic: Audio = Audio(sample_rate=8000)


class Picture(Output):
    screen: Video


class Reader(ReactorModel):
    """Reads all frames of every track."""

    input: Camera
    seen: list[InputFrame]

    async def run(self) -> None:
        self.seen = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, self.input.webcam)
            nursery.start_soon(self._read, self.input.mic)

    async def _read(self, track: Any) -> None:
        while True:
            self.seen.extend(await track.read(1, ReadMode.FIFO))


ODD = st.one_of(
    st.none(), st.integers(-2, 5), st.just(2**53 + 1), st.floats(), st.text(max_size=2), st.just([1])
)
HEADERS = st.fixed_dictionaries(
    {
        "track": st.sampled_from(["webcam", "mic", "screen", "nowhere"]) | ODD,
        "seq": st.integers(0, 9) | ODD,
        "pts": st.floats(-1, 10) | ODD,
        "codec": st.sampled_from(["jpeg", "raw", "pcm_s16le", "h264"]) | ODD,
    },
    optional={
        "width": st.integers(1, 4) | ODD,
        "height": st.integers(1, 4) | ODD,
        "rate": st.just(8000) | ODD,
        "channels": st.integers(1, 9) | ODD,
        "metadata": st.dictionaries(st.text(max_size=2), st.integers(-(2**53), 2**53), max_size=2) | ODD,
    },
)
PAYLOADS = st.one_of(
    st.just(JPEG),
    st.just(LARGE),
    st.binary(max_size=64),
    st.integers(0, len(JPEG)).map(lambda end: JPEG[:end]),
    st.tuples(st.integers(0, len(JPEG) - 1), st.integers(0, 255)).map(
        lambda change: JPEG[: change[0]] + bytes([change[1]]) + JPEG[change[0] + 1 :]
    ),
)
# Most frames with a random header are refused for it: the headers of these frames are valid.
SOUND = st.sampled_from(
    [
        ({"track": "webcam", "seq": 1, "pts": 0, "codec": "jpeg"}, None),
        ({"track": "webcam", "seq": 1, "pts": 0, "codec": "raw", "width": 2, "height": 2}, b"\x01" * 12),
        (
            {"track": "mic", "seq": 1, "pts": 0, "codec": "pcm_s16le", "rate": 8000, "channels": 2},
            b"\x01" * 8,
        ),
    ]
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    header, payload = draw(SOUND) if draw(st.booleans()) else (draw(HEADERS), None)
    encoded = orjson.dumps(header)
    return (
        bytes([MEDIA])
        + len(encoded).to_bytes(2, "big")
        + encoded
        + (draw(PAYLOADS) if payload is None else payload)
    )


BATCHES = st.lists(
    st.tuples(st.lists(messages(), max_size=4), st.sampled_from([0.0, 0.001, 0.1])), max_size=6
)


@settings(max_examples=150, deadline=None)
@given(BATCHES, st.booleans())
async def test_every_frame_is_read_or_refused(batches: list[tuple[list[bytes], float]], slow: bool) -> None:
    executor = SlowExecutor(0.01) if slow else InlineExecutor()
    async with open_session(Reader, limits=LIMITS, executor=executor) as client:
        model: Any = client.session.model
        for batch, pause in batches:
            await client.transport.send(batch)
            await trio.sleep(pause)
        await trio.sleep(1)
        await client.ping()  # the session still answers
        counts = client.session.statistics().counts
        dropped = sum(track.dropped for track in counts.inputs.values())
        refused = 0
        with trio.move_on_after(0.1):
            async for message in client.messages():
                assert (message.type, message.data["code"]) == (names.ERROR, names.BAD_MESSAGE)
                refused += 1
        assert len(model.seen) + dropped + refused == sum(len(batch) for batch, _ in batches)
        assert counts.bad_messages == refused
        for frame in model.seen:
            assert frame.size
            assert frame.dtype in (np.uint8, np.int16)
        assert client.session.ending is None
        inputs = model.input
    for track in (inputs.webcam, inputs.mic):
        try:
            track.try_read()
        except BufferClosed:
            continue
        raise AssertionError("a track is still open")
