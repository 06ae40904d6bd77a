"""Tests of signals pass however their runner was started: under `nohup`, in the background, in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from serving import ROOT

TIMEOUT = 300.0
"""Seconds for the inner run."""
STARTED = """
trap '' INT HUP
exec 0<&-
exec env -u TERM HOME=/nonexistent LANG=C LC_ALL=C "$@"
"""
"""Runs a command as a background job or `nohup` does, with SIGINT and SIGHUP ignored.

The command has no standard input, home and terminal either.
"""


def test_how_a_runner_was_started_changes_no_outcome(tmp_path: Path) -> None:
    tests = [ROOT / "tests" / name for name in ("test_cli.py", "test_cli_call.py", "test_client_blocking.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "signal or interrupt"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), *map(str, tests)]
    done = subprocess.run(
        ["sh", "-c", STARTED, "sh", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
