"""Signals of an operator: the process ends, and names the work that it did not wait for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from reactor_trio.client import connect
from reactor_trio.errors import CommandError, TransportClosed
from serving import default_signals

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")

DEADLINE = 60.0
"""Seconds within which each process has ended, on a busy machine too."""

MODEL = """
import multiprocessing, sys, threading, time
import trio
from reactor_trio import ReactorModel, event

if "exit_at_import" in sys.argv[-1]:
    sys.exit("no such card")
if "import_for_ever" in sys.argv[-1]:
    print("loading", flush=True)
    time.sleep(3600)


def say(text):
    print(text, flush=True)


class M(ReactorModel):
    def load(self, config):
        say("loading")
        how = config.get("how")
        if how == "sleep":
            time.sleep(3600)
        if how == "exit":
            sys.exit("no CUDA device")
        if how == "exit3":
            sys.exit(3)
        if how == "panic":
            raise Panic("the weights are torn")
        if how == "thread":
            threading.Thread(target=time.sleep, args=(3600,), name="loader", daemon=False).start()
        if how == "child":
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
            child.start()
            child.terminate()
            child.join()
            say(f"the child ended with {child.exitcode}")

    @event
    def lock(self):
        held = threading.Lock()
        held.acquire()
        say("at it")
        held.acquire()

    @event
    async def thread(self):
        say("at it")
        await trio.to_thread.run_sync(time.sleep, 3600)

    @event(in_thread=True)
    def in_thread(self):
        say("at it")
        time.sleep(3600)

    @event
    async def shielded(self):
        say("at it")
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    @event
    def interrupts(self):
        raise KeyboardInterrupt

    @event
    def panics(self):
        raise Panic("index out of bounds")

    @event
    def ping(self):
        pass

    @event
    async def swallows(self):
        say("at it")
        while True:
            try:
                await trio.sleep_forever()
            except BaseException:
                pass


class Panic(BaseException):
    pass


class OnLoop(M):
    async def load(self, config):
        say("loading")
        time.sleep(3600)


class Second(M):
    copies = 0

    def __copy__(self):
        Second.copies += 1
        if Second.copies == 2:
            raise Panic("no copies")
        return Second()


class Patient(M):
    async def load(self, config):
        say("loading")
        await trio.sleep_forever()
"""


class Process:
    """The process of a server, and its output, line by line."""

    def __init__(self, popen: subprocess.Popen[str], errors: Path) -> None:
        self.popen = popen
        self._errors = errors

    def line(self, part: str) -> str:
        """Wait for a line of standard output that contains `part`."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if part in line:
                return line
        raise AssertionError(f"it ended without {part!r}: {self.errors()}")

    def errors(self) -> str:
        return self._errors.read_text()

    def error_line(self, part: str) -> None:
        """Wait for a line of standard error that contains `part`."""
        waited = threading.Event()
        for _ in range(int(DEADLINE / 0.02)):
            if part in self.errors():
                return
            waited.wait(0.02)
        raise AssertionError(f"{part!r} was not said: {self.errors()}")

    def url(self) -> str:
        match = re.search(r"http://(\S+)/ ", self.line("is served at"))
        assert match is not None
        return f"ws://{match[1]}"

    def end(self) -> int:
        """Wait until the process has ended; returns its exit status."""
        self.popen.communicate(timeout=DEADLINE)
        assert self.popen.returncode is not None
        return self.popen.returncode


@contextmanager
def started(
    tmp_path: Path, model: str, *options: str, signals: Callable[[], object] = lambda: None
) -> Iterator[Process]:
    """Start a server; `signals` runs in the child before the server, to set signal handlers."""
    (tmp_path / "model.py").write_text(MODEL)
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "reactor_trio", "serve", f"model.py:{model}", "--port", "0", *options]
    errors = tmp_path / "stderr.txt"

    def in_child() -> None:
        default_signals()
        signals()

    with errors.open("w") as stderr:
        popen = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            preexec_fn=in_child,
            start_new_session=True,
        )

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)  # with the model's own children

    killer = threading.Timer(DEADLINE, kill)
    killer.start()
    try:
        yield Process(popen, errors)
    finally:
        killer.cancel()
        kill()
        popen.communicate()


@contextmanager
def at_it(process: Process, command: str) -> Iterator[None]:
    """A client whose command has begun."""
    with connect(process.url()) as client:
        client.send(command)
        process.line("at it")
        yield


# ---- work that does not end


def test_a_line_that_blocks_the_loop_is_named_and_not_waited_for(tmp_path: Path) -> None:
    with started(tmp_path, "M", "--drain-timeout", "0.2") as process, at_it(process, "lock"):
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == 1
        assert re.search(r"Stopped without waiting for: M\.lock at .*model\.py:\d+", process.errors())


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("lock", r"M\.lock at .*model\.py:\d+, which blocks the loop"),
        ("thread", r"M\.thread at .*model\.py:\d+"),
        ("in_thread", r"M\.in_thread in lane handlers"),
        ("shielded", r"M\.shielded at .*model\.py:\d+"),
        ("swallows", r"M\.swallows at .*model\.py:\d+"),
    ],
)
def test_a_third_signal_ends_whatever_goes_on(tmp_path: Path, command: str, named: str) -> None:
    with started(tmp_path, "M") as process, at_it(process, command):
        process.popen.send_signal(signal.SIGTERM)
        process.error_line("draining")
        process.popen.send_signal(signal.SIGINT)
        process.error_line("cancelling")
        process.popen.send_signal(signal.SIGHUP)
        assert process.end() == 1
        assert re.search(f"Stopped without waiting for: .*{named}", process.errors())


def test_a_thread_that_is_no_daemon_does_not_keep_the_process(tmp_path: Path) -> None:
    with started(tmp_path, "M", "--set", "how=thread") as process:
        process.url()
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == 1
        assert process.errors().endswith("Stopped without waiting for: thread loader\n")


# ---- while the model is loading


@pytest.mark.parametrize("model", ["M", "OnLoop", "Patient"])
@pytest.mark.parametrize("disposition", [signal.SIG_DFL, signal.SIG_IGN])
def test_ctrl_c_while_the_model_loads_ends_with_130(
    tmp_path: Path, model: str, disposition: signal.Handlers
) -> None:
    def signals() -> None:
        signal.signal(signal.SIGINT, disposition)

    with started(tmp_path, model, "--set", "how=sleep", signals=signals) as process:
        process.line("loading")
        process.popen.send_signal(signal.SIGINT)
        assert process.end() == 130
        assert "Traceback" not in process.errors()


def test_ctrl_c_while_the_models_file_is_imported_ends_with_130(tmp_path: Path) -> None:
    with started(tmp_path, "M", "--set", "how=import_for_ever") as process:
        process.line("loading")
        process.popen.send_signal(signal.SIGINT)
        assert process.end() == 130
        assert process.errors() == ""


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [("exit", 1, "no CUDA device\n"), ("exit3", 3, ""), ("exit_at_import", 1, "no such card\n")],
)
def test_a_model_may_end_the_process_as_any_program_does(
    tmp_path: Path, how: str, status: int, said: str
) -> None:
    with started(tmp_path, "M", "--set", f"how={how}") as process:
        assert process.end() == status
        assert process.errors() == said


def test_what_is_no_exception_in_load_has_its_traceback(tmp_path: Path) -> None:
    with started(tmp_path, "M", "--set", "how=panic") as process:
        assert process.end() == 1
        assert process.errors().endswith("Panic: the weights are torn\n")
        assert "ExceptionGroup" not in process.errors()


# ---- other signals


def test_a_terminal_that_closes_drains_as_sigterm_does(tmp_path: Path) -> None:
    with started(tmp_path, "M") as process:
        process.url()
        process.popen.send_signal(signal.SIGPIPE)  # ends nothing
        process.popen.send_signal(signal.SIGHUP)
        assert process.end() == 0
        assert "draining" in process.errors()


def test_under_nohup_a_terminal_that_closes_does_nothing(tmp_path: Path) -> None:
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with started(tmp_path, "M", signals=nohup) as process:
        url = process.url()
        process.popen.send_signal(signal.SIGHUP)
        with connect(url):
            pass
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == 0


def test_a_signal_to_a_child_of_the_models_is_not_the_servers(tmp_path: Path) -> None:
    with started(tmp_path, "M", "--set", "how=child") as process:
        process.line("the child ended with -15")
        with connect(process.url()):
            pass
        assert "draining" not in process.errors()
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == 0


# ---- errors that are no `Exception`


def test_a_panic_or_an_interrupt_that_a_handler_raises_ends_nothing(tmp_path: Path) -> None:
    with started(tmp_path, "M") as process:
        url = process.url()
        with connect(url) as bystander, connect(url) as client:
            for command in ("panics", "interrupts"):
                with pytest.raises(CommandError, match="internal_error"):
                    client.call(command)
                client.call("ping")
            bystander.call("ping")
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == 0
        assert "Panic: index out of bounds" in process.errors()


def test_a_session_that_could_not_begin_gives_its_place_back(tmp_path: Path) -> None:
    with started(tmp_path, "Second", "--max-sessions", "1", "--max-waiting", "0") as process:
        url = process.url()
        with connect(url) as client:
            client.call("ping")
        process.error_line("session ended")
        with pytest.raises(TransportClosed) as closed, connect(url) as client:
            client.call("ping")
        assert closed.value.code == 1011
        process.error_line("Panic: no copies")
        process.error_line("reason=model_error")
        with connect(url) as client:
            client.call("ping")
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == 0
