"""The transcript as text: readable, comparable, and the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio

from reactor_trio import ModelMessage, Output, ReactorModel, Video, event
from reactor_trio.protocol.binary import MediaFrame, UploadChunk, encode_media, encode_upload_chunk
from reactor_trio.testing import Network, Transcript, TranscriptEntry, open_session
from serving import ROOT

GOLDEN = Path(__file__).with_name("golden") / "transcript.txt"


class Said(ModelMessage):
    text: str


class Picture(Output):
    screen: Video


class Small(ReactorModel):
    fps = 24

    @event
    def say(self, text: str) -> Said:
        return Said(text=text)

    async def run(self) -> None:
        await self.connected.wait()
        for value in range(3):
            await self.emit(Picture(screen=np.full((8, 16, 3), value * 100, np.uint8)))
        await trio.sleep_forever()


async def scenario() -> Transcript:
    network = Network(delay=0.05, jitter=0.01, bandwidth=100_000, seed=7)
    async with open_session(Small, network=network) as client:
        await client.call("say", text="Grüße\u2028und mehr")
        await client.upload(bytes(3), name="photo.jpg")
        await client.send("shout")
        await client.transport.send([b"no frame"])
        await trio.sleep(1)
    return client.transcript


def entry(message: str | bytes, *, time: float = 0.0, direction: str = "<") -> TranscriptEntry:
    return TranscriptEntry(time, direction, message)


LINES = {
    '{"type": "set_prompt", "data": {"prompt": "x"}, "id": 7}': 'set_prompt #7 {"prompt":"x"}',
    '{"type": "reactor.ack", "data": {}, "reply_to": "a"}': "reactor.ack re #a {}",
    '{"type": "reset"}': "reset {}",
    "[1]": "unreadable '[1]'",
    "a\nb": r"unreadable 'a\nb'",
    encode_media(MediaFrame("main_video", 3, 0.125, "jpeg", b"12", width=640, height=480)): (
        "media main_video seq=3 pts=0.125 jpeg 640x480"
    ),
    encode_media(MediaFrame("voice", 0, 1234.5678912, "pcm_s16le", b"", rate=48000, channels=2)): (
        "media voice seq=0 pts=1234.567891 pcm_s16le 48000 Hz, 2 channels"
    ),
    encode_upload_chunk(UploadChunk("u1", 10, b"hello")): "chunk u1 offset=10 5 bytes",
    b"\x09": "unreadable 1 bytes sha256:2b4c342f",
}


@pytest.mark.parametrize("message", LINES, ids=lambda message: LINES[message].split()[0])
def test_a_message_is_one_line(message: str | bytes) -> None:
    assert entry(message).line(times=False) == f"< {LINES[message]}"


def test_a_line_begins_with_the_virtual_time_and_the_direction() -> None:
    line = entry('{"type": "reset"}', time=61.25, direction=">").line()
    assert line == "  61.250000 > reset {}"


def test_hashes_are_there_if_one_asks_for_them() -> None:
    frame = encode_media(MediaFrame("screen", 0, 0.0, "jpeg", b"pixels", width=2, height=1))
    assert entry(frame).line(times=False, hashes=True) == (
        "< media screen seq=0 pts=0.0 jpeg 2x1 6 bytes sha256:6ec9c2b0"
    )


async def test_the_welcome_is_shortened_to_names() -> None:
    async with open_session(Small) as client:
        assert client.transcript[0].line(times=False) == (
            '< reactor.welcome {"session_id":"session-1","model":"Small","events":["say"],'
            '"messages":["said"],"tracks":["screen"]}'
        )


async def test_a_transcript_is_a_sequence_of_entries() -> None:
    transcript = await scenario()
    assert isinstance(transcript[0], TranscriptEntry)
    assert isinstance(transcript[1:3], Transcript)
    assert len(transcript[1:3]) == 2
    assert [each.type for each in transcript.of_type("say", "said")] == ["say", "said"]
    assert {each.type for each in transcript.where(lambda each: each.direction == ">")} == {
        "say",
        "reactor.upload_start",
        "chunk",
        "shout",
        "unreadable",
    }
    assert len(transcript.of_type("media")) + len(transcript.without("media")) == len(transcript)
    assert "Grüße\u2028und" in str(transcript)


async def test_it_matches_its_golden_file() -> None:
    # Errors are left out, since their wording may be improved.
    (await scenario()).without("reactor.error").assert_matches(GOLDEN)


def test_it_reads_the_same_in_every_process() -> None:
    imports = "from reactor_trio.testing import run; from test_transcript import scenario"
    program = f"{imports}; print(run(scenario).render(hashes=True))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent,
            env={
                "PYTHONHASHSEED": seed,
                "PATH": "",
                "PYTHONPATH": str(ROOT),
                "PYTHONIOENCODING": "utf-8",
            },
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout.partition(b"   0.")[2]
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_a_difference_shows_the_lines_that_changed() -> None:
    one = Transcript([entry('{"type": "a"}'), entry('{"type": "b"}', time=1.0)])
    two = Transcript([entry('{"type": "a"}'), entry('{"type": "b"}', time=1.5)])
    assert one.diff(one) == one.diff(one.render()) == ""
    assert two.diff(one).splitlines()[-3:] == [
        "    0.000000 < a {}",
        "-   1.000000 < b {}",
        "+   1.500000 < b {}",
    ]
    assert two.diff(one, times=False) == ""
    assert Transcript().diff(one)
    assert one.diff("")


@pytest.fixture
def _no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REACTOR_UPDATE_GOLDEN", raising=False)


@pytest.mark.usefixtures("_no_update")
def test_a_missing_golden_file_fails_and_says_what_it_would_be(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"REACTOR_UPDATE_GOLDEN=1(.|\n)*< a \{\}"):
        Transcript([entry('{"type": "a"}')]).assert_matches(tmp_path / "none.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_no_update")
def test_a_golden_file_is_written_only_when_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = tmp_path / "new" / "golden.txt"
    one, two = Transcript([entry('{"type": "a"}')]), Transcript([entry('{"type": "b"}')])
    monkeypatch.setenv("REACTOR_UPDATE_GOLDEN", "1")
    one.assert_matches(golden)
    monkeypatch.setenv("REACTOR_UPDATE_GOLDEN", "0")
    one.assert_matches(golden)
    with pytest.raises(AssertionError, match=r"is not that of(.|\n)*-.*< a \{\}\n\+.*< b \{\}"):
        two.assert_matches(golden)
    golden.write_bytes(golden.read_bytes().replace(b"\n", b"\r\n"))
    one.assert_matches(os.fspath(golden))
    monkeypatch.setenv("REACTOR_UPDATE_GOLDEN", "yes")
    two.assert_matches(golden, times=False)
    assert golden.read_text() == "< b {}\n"
