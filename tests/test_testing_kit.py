"""The test kit itself: virtual time that costs nothing, and runs that are the same byte for byte."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from trio._core import _run as trio_run

from reactor_trio import ReactorModel, event
from reactor_trio.media.settings import MediaSettings
from reactor_trio.session.limits import Limits
from reactor_trio.testing import (
    InlineExecutor,
    TranscriptEntry,
    deterministic_scheduling,
    load_host,
    open_session,
    open_sessions,
    run,
)
from serving import ROOT

VIRTUAL_MINUTE = 60.0
REAL_SECOND = 1.0
ATTEMPTS = 5


async def _seed_minute() -> list[TranscriptEntry]:
    from test_seed_page import MyModel

    async with open_session(MyModel) as client:
        for second in range(int(VIRTUAL_MINUTE)):
            await client.send("set_prompt", prompt=f"prompt {second}")
            await client.send("get_current_prompt")
            await trio.sleep(1)
        await client.upload(bytes(300_000), name="photo.jpg")
        return client.transcript


def digest() -> str:
    """SHA-256 of everything that crossed the wire in a virtual minute of the seed page's model."""
    sha = hashlib.sha256()
    for entry in run(_seed_minute, seed=5):
        message = entry.message if isinstance(entry.message, bytes) else entry.message.encode()
        sha.update(f"{entry.time!r} {entry.direction} {len(message)} ".encode() + message)
    return sha.hexdigest()


def test_a_virtual_minute_at_30_frames_a_second_takes_less_than_a_real_second() -> None:
    run(_seed_minute)  # the first run imports modules and fills caches
    times: list[float] = []
    # The best CPU time of several runs: on a busy machine CPU time gets longer, too.
    while len(times) < ATTEMPTS and min(times, default=REAL_SECOND) >= REAL_SECOND:
        began = time.process_time()
        transcript = run(_seed_minute)
        times.append(time.process_time() - began)
    progress = [entry for entry in transcript if '"progress"' in str(entry.message)[:30]]
    frames = [entry for entry in transcript if isinstance(entry.message, bytes) and entry.direction == "<"]
    assert len(frames) == pytest.approx(1800, abs=5)
    assert len(progress) == pytest.approx(1800, abs=10)
    assert transcript[-1].time >= VIRTUAL_MINUTE
    assert min(times) < REAL_SECOND


def test_transcripts_are_byte_identical_from_run_to_run() -> None:
    assert digest() == digest()


def test_transcripts_are_byte_identical_from_process_to_process() -> None:
    """The processes have different hash seeds, so no order may depend on a set."""
    program = "import test_testing_kit; print(test_testing_kit.digest())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent,
            env={"PYTHONHASHSEED": hash_seed, "PATH": "", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.splitlines()[-1]
        for hash_seed in ("1", "2")
    }
    assert digests == {digest()}


def test_trio_still_has_the_two_names_that_determinism_needs() -> None:
    assert isinstance(trio_run._ALLOW_DETERMINISTIC_SCHEDULING, bool)
    before = trio_run._r.getstate()
    with deterministic_scheduling(seed=1):
        assert trio_run._ALLOW_DETERMINISTIC_SCHEDULING is True
    assert trio_run._r.getstate() == before


def test_the_seed_decides_the_order_of_ready_tasks() -> None:
    async def order() -> list[int]:
        seen: list[int] = []

        async def note(number: int) -> None:
            for _ in range(20):
                await trio.lowlevel.checkpoint()
                seen.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(note, number)
        return seen

    assert run(order, seed=1) == run(order, seed=1)
    assert run(order, seed=1) != run(order, seed=2)


async def test_open_session_works_under_pytest_trios_clock() -> None:
    class Napping(ReactorModel):
        @event
        async def nap(self) -> None:
            await trio.sleep(3600)

    with trio.fail_after(7200):
        async with open_session(Napping) as client:
            await client.call("nap")
            assert trio.current_time() >= 3600


async def test_an_error_of_the_test_leaves_as_it_is() -> None:
    with pytest.raises(LookupError, match="the test's own"):
        async with open_session(ReactorModel):
            raise LookupError("the test's own")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"limits": Limits()}, "limits"),
        ({"executor": InlineExecutor(), "config": {}}, "config, executor"),
        ({"media": MediaSettings()}, "media"),
    ],
)
async def test_what_a_host_would_ignore_is_a_mistake(given: dict[str, Any], named: str) -> None:
    host = await load_host(ReactorModel)
    with pytest.raises(TypeError, match=f"^{named}: the host has its own"):
        async with open_session(host, **given):
            raise AssertionError("it was opened")
    with pytest.raises(TypeError, match=f"^{named}: the host has its own"):
        async with open_sessions(host, 2, **given):
            raise AssertionError("they were opened")
