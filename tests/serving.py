"""A model behind a real port: `python -m reactor_trio serve` in a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[1]
PROCESS_TIMEOUT = 60.0
"""Seconds for a process to finish its work."""
DOCUMENTED_URL = "ws://127.0.0.1:8080"
"""The address at which docstrings and documents serve a model."""

_READY = re.compile(r" is served at http://(?P<authority>\S+)/ ")


def default_signals() -> None:
    """Give signals their default effect in a child process, however the tests were started.

    A shell without job control starts background jobs with SIGINT ignored, and `nohup` with SIGHUP ignored.
    """
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


@attrs.frozen
class Done:
    """What a command printed, and its exit status."""

    status: int
    output: str
    errors: str


@attrs.frozen
class Served:
    """A server that is ready."""

    url: str
    folder: Path
    """The folder in which `run` runs a command."""

    def run(self, command: str) -> Done:
        """Run a documented command line, with this server in place of the documented one."""
        words = shlex.split(command.replace(DOCUMENTED_URL, self.url))
        assert words[:3] == ["python", "-m", "reactor_trio"], command
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=self.folder,
            env=environment(),
            timeout=PROCESS_TIMEOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def serve(model: Path | str, folder: Path, *options: str) -> Iterator[Served]:
    """Serve a model's file; at the end the process is stopped, and must exit with 0 and log no traceback.

    The process runs in `folder`, and its standard error goes to a file there.
    """
    errors = folder / "stderr.txt"
    command = [sys.executable, "-m", "reactor_trio", "serve", str(model), "--port", "0", *options]
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        yield Served(f"ws://{_wait_until_ready(process, errors)}", folder)
        process.terminate()
        process.communicate(timeout=PROCESS_TIMEOUT)
        assert process.returncode == 0, errors.read_text()
        assert "Traceback" not in errors.read_text(), errors.read_text()
    finally:
        process.kill()
        process.communicate()


def _wait_until_ready(process: subprocess.Popen[str], errors: Path) -> str:
    """Host and port, as the ready line says them."""
    assert process.stdout is not None
    deadline = threading.Timer(PROCESS_TIMEOUT, process.kill)
    deadline.start()
    try:
        # The model may print too while it loads.
        for line in process.stdout:
            if ready := _READY.search(line):
                return ready["authority"]
    finally:
        deadline.cancel()
    raise AssertionError(f"the server ended before it was ready:\n{errors.read_text()}")


def environment() -> dict[str, str]:
    """The environment without `REACTOR_` variables, which are settings; the source tree can be imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
