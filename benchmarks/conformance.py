"""The Autobahn test suite against our WebSocket seam.

    python benchmarks/conformance.py [--cases '*'] [--write docs/conformance.md]

The suite (`autobahntestsuite`, the last version) is a Python 2.7 program. This looks for such a Python
(`PYTHON27`, then the path, then pyenv), makes an environment for the suite under `.nox/conformance` and keeps
it, starts `conformance_echo.py` in this process, and lets the suite's fuzzing client loose on it. Status 0 if
no case failed, 1 if one did, 3 if there is no Python 2.7 here. Loopback only; it stops by itself.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import trio
from conformance_echo import HOST, serve

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".nox" / "conformance"
SUITE = "autobahntestsuite==0.8.2"
VIRTUALENV = "virtualenv==20.15.1"
"""The last one that makes environments for Python 2.7, which has no `venv`."""
INSTALL_TIMEOUT = 300
"""Seconds for one step of installing the suite."""
RUN_TIMEOUT = 1200
"""Seconds for all cases; they take less than one minute on two cores."""
NO_PYTHON = 3
AGENT = "reactor_trio"
GROUPS = {
    "1": "framing: text and binary, 0 to 65536 bytes, chopped",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8 handling",
    "7": "close handling",
    "9": "limits and performance: up to 16 MiB, fragmented, chopped",
    "10": "auto-fragmentation",
    "12": "compression (permessage-deflate), defaults",
    "13": "compression, other parameters",
}
FAILED = {"FAILED", "WRONG CODE", "UNCLEAN", "FAILED BY CLIENT"}

Result = Mapping[str, str]


# ---- the suite


def python27() -> str | None:
    """A Python 2.7 that starts; a pyenv shim may stand in the path and start nothing."""
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob("2.7*/bin/python2.7"))
    for candidate in (os.environ.get("PYTHON27"), shutil.which("python2.7"), shutil.which("python2"), *pyenv):
        if candidate is not None and _starts(candidate):
            return str(candidate)
    return None


def _starts(python: str | Path) -> bool:
    command = [str(python), "-c", "import sys; sys.exit(sys.version_info[:2] != (2, 7))"]
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install_suite(python: str) -> Path:
    """The suite's command, in an environment of its own; a second time there is nothing to do."""
    wstest = FOLDER / "env" / "bin" / "wstest"
    if wstest.exists():
        return wstest
    FOLDER.mkdir(parents=True, exist_ok=True)
    tool = str(FOLDER / "virtualenv")
    # A user's site-packages would change what is installed, and so would our own virtual environment.
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")}
    steps: list[list[str]] = [
        [python, "-m", "pip", "install", "--quiet", "--upgrade", "--target", tool, VIRTUALENV],
        [python, "-m", "virtualenv", "--quiet", str(FOLDER / "env")],
        [str(FOLDER / "env" / "bin" / "pip"), "install", "--quiet", SUITE],
    ]
    for step in steps:
        subprocess.run(
            step,
            env=env | {"PYTHONPATH": tool if "virtualenv" in step else "", "PYTHONNOUSERSITE": "1"},
            timeout=INSTALL_TIMEOUT,
            check=True,
        )
    return wstest


async def run_suite(wstest: Path, cases: list[str]) -> dict[str, Result]:
    """Run the fuzzing client against the echo; return its verdict on each case."""
    reports = FOLDER / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    spec = FOLDER / "spec.json"
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve)
        server = {"agent": AGENT, "url": f"ws://{HOST}:{port}/ws"}
        wanted = {"outdir": str(reports), "servers": [server], "cases": cases, "exclude-cases": []}
        spec.write_text(json.dumps(wanted | {"exclude-agent-cases": {}}))
        with trio.fail_after(RUN_TIMEOUT):
            await trio.run_process([str(wstest), "-m", "fuzzingclient", "-s", str(spec)], cwd=FOLDER)
        nursery.cancel_scope.cancel(reason="the suite is done")
    found: dict[str, dict[str, Result]] = json.loads((reports / "index.json").read_text())
    return found[AGENT]


# ---- the report


def order(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def failures(results: Mapping[str, Result]) -> list[str]:
    """The cases that failed, in order."""
    return [
        case
        for case in sorted(results, key=order)
        if {results[case]["behavior"], results[case]["behaviorClose"]} & FAILED
    ]


def table(results: Mapping[str, Result]) -> str:
    """A row for each group of cases."""
    verdicts = ["OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"]
    rows = ["| group | what | cases | OK | non-strict | informational | not offered | failed |"]
    rows.append("|---|---|---:|---:|---:|---:|---:|---:|")

    def row(group: str, what: str, has: Callable[[str], bool]) -> str:
        cases = [case for case in results if has(case)]
        counts = Counter(results[case]["behavior"] for case in cases)
        failed = sum(case in failures(results) for case in cases)
        numbers = [len(cases), *(counts[verdict] for verdict in verdicts), failed]
        return f"| {group} | {what} | {' | '.join(map(str, numbers))} |"

    for group, what in GROUPS.items():
        if any(case.startswith(f"{group}.") for case in results):
            rows.append(row(group, what, lambda case, group=group: case.startswith(f"{group}.")))  # type: ignore[misc]
    rows.append(row("", "all", lambda case: True))
    return "\n".join(rows)


def exceptions(results: Mapping[str, Result], verdicts: Iterable[str]) -> str:
    """Each case with one of these verdicts, in a line, with the close code it got."""
    return "\n".join(
        f"- {case}: {results[case]['behavior'].lower()}, close {results[case]['remoteCloseCode']}"
        for case in sorted(results, key=order)
        if results[case]["behavior"] in verdicts
    )


def write(path: Path, results: Mapping[str, Result]) -> None:
    """Replace the text between the document's two marks."""
    begin, end = "<!-- results -->\n", "<!-- end of results -->"
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(end)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("wsproto", "trio-websocket")
    )
    listed = exceptions(results, ("NON-STRICT", "INFORMATIONAL", *FAILED))
    path.write_text(
        f"{before}{begin}With {versions}, {SUITE}:\n\n{table(results)}\n\n"
        f"All that is neither OK nor a matter of compression:\n\n{listed}\n{end}{after}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="*", help="such as 1.*,6.4.* (*)")
    parser.add_argument("--write", type=Path, help="the document whose table is replaced")
    options = parser.parse_args()
    python = python27()
    if python is None:
        print(
            "No Python 2.7 here: the Autobahn test suite was NOT run. PYTHON27 may say where one is.",
            file=sys.stderr,
        )
        return NO_PYTHON
    results = trio.run(run_suite, install_suite(python), options.cases.split(","))
    print(table(results))
    if options.write is not None:
        write(options.write, results)
    failed = failures(results)
    print(f"{len(results)} cases run, {len(failed)} failed")
    for case in failed:
        print(f"failed: {case}: {dict(results[case])}")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
