"""Programs that serve a model themselves, or with an ASGI server: each is a Python process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serving import PROCESS_TIMEOUT, default_signals, environment


class Program:
    """A process that has printed the address at which it serves."""

    def __init__(self, process: subprocess.Popen[str], authority: str) -> None:
        self.process = process
        self.authority = authority

    def fetch(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.authority}{path}", timeout=PROCESS_TIMEOUT) as answer:
            return str(answer.read().decode())

    def ended(self) -> str:
        """Wait until the process has ended; returns the rest of its output."""
        output, _ = self.process.communicate(timeout=PROCESS_TIMEOUT)
        return output


@contextmanager
def running(arguments: list[str], folder: Path) -> Iterator[Program]:
    """Start a Python process; the first URL of its standard output or error has its address."""
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join([str(folder), variables["PYTHONPATH"]])
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=variables,
        preexec_fn=default_signals,
        start_new_session=True,  # hypercorn has a child, which is killed with it
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = threading.Timer(PROCESS_TIMEOUT, os.killpg, (process.pid, signal.SIGKILL))
    deadline.start()
    said = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if url := re.search(r"http://([\d.]+:\d+)", line):
                yield Program(process, url[1])
                break
        else:
            raise AssertionError(f"it has ended:\n{said}")
    finally:
        deadline.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
