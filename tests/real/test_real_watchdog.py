"""The watchdog on a machine that has no processor to spare, and in a process that is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving import environment

TIMEOUT = 120.0
SCRIPT = """
import gc, sys, time
import trio
from reactor_trio.compute.watchdog import Watchdog, watching
from reactor_trio.logs.setup import configure_logging

def compute(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

async def main():
    with watching(Watchdog()):
        print("ready", flush=True)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            compute(0.015)
            await trio.sleep(0.001)
        print("blocks", flush=True)
        if "sleep" in sys.argv:
            for _ in range(5):
                time.sleep(0.5)  # the line
                await trio.sleep(0.2)
        if "collect" in sys.argv:
            gc.freeze()
            many = [[each] for each in range(3_000_000)]
            for _ in range(3):
                await trio.sleep(0.2)
                gc.collect()

log = configure_logging("json")
trio.run(main)
log.close()
"""
HOG = "while True: pass"


@contextmanager
def running(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def busy_machine() -> Iterator[None]:
    hogs = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(8)]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()


def test_a_process_that_is_stopped_blames_no_line(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        for _ in range(4):
            time.sleep(0.15)
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.4)
            process.send_signal(signal.SIGCONT)
        _, logged = process.communicate(timeout=TIMEOUT)
    assert "the loop" not in logged, logged


@pytest.mark.usefixtures("busy_machine")
def test_on_a_busy_machine_no_line_is_blamed_but_the_one_that_blocks(tmp_path: Path) -> None:
    with running(tmp_path, "sleep") as process:
        _, logged = process.communicate(timeout=TIMEOUT)
    told = [line for line in logged.splitlines() if "the loop was blocked" in line]
    line = SCRIPT.splitlines().index("                time.sleep(0.5)  # the line") + 1
    assert len(told) == 1, logged
    assert f"script.py:{line}" in told[0]


def test_a_collection_is_told_apart_from_the_line_that_it_interrupts(tmp_path: Path) -> None:
    with running(tmp_path, "collect") as process:
        _, logged = process.communicate(timeout=TIMEOUT)
    assert "the garbage collector held the loop" in logged
