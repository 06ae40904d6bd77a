"""Frames to many viewers, side by side: reactor_trio against a JPEG socket written by hand.

    python benchmarks/frames.py [--seconds 5] [--rounds 2] [--viewers 1,10,50] [--sizes 512x512,1280x720]
    python benchmarks/frames.py --codec raw --sizes 128x130 --viewers 100     50 KB frames, nothing to encode
    python benchmarks/frames.py --codec h264                                  reactor_trio alone
    python benchmarks/frames.py --copied                                      frames that `emit` has to copy

Every viewer has a session of its own, which sends 30 frames a second of a moving picture (about 50 KB as a
JPEG of 512 x 512). `frames_model.py` does it on reactor_trio: `emit` takes the frame, the pacer lets it go
at its time, it is encoded when the previous one has been written, and of the frames that cannot be sent the
newest wins. On the one core that it has here, the runtime encodes 512 x 512 on the loop and 1280 x 720 in a
worker thread. `frames_fastapi.py` does the same by hand: FastAPI on uvicorn with uvloop, a
task a connection with a plan of its own, JPEG in `asyncio.to_thread`, one `send_bytes` a frame; what it has
no time for it skips. The frames are the same, so are the JPEG (quality 85, 4:2:0, simplejpeg), the header
and the socket; neither compresses the stream. By hand there is no welcome, no command and no limit.

Neither server copies a frame. By hand nothing sees to it that nobody writes to a frame while it is encoded;
our model has made its prepared frames read-only, as docs/authoring.md tells the author of such a model to do,
so `emit` takes them as they are. A model that paints each frame anew hands in arrays that it may write to
again, and `emit` copies those: `--copied` is that model, against the same server by hand.

Both servers are processes of their own, pinned to one core with all their threads, and measured in turns
(A B A B ...); the viewers are this process, on another core. One core a server is little: at 2.5 ms a frame
it encodes 13 viewers of 1280 x 720 at most. More viewers show how each gets worse.

    frames/s    that a viewer got, of 30
    lost        frames left out, told by gaps in `seq`
    late        a frame after its time, which is that of the earliest frame within the same second plus
                k/30, so a constant delay does not count and one hiccup does not count for ever
    late > 33   share of the frames that came later than that by more than one frame time
    CPU         of the server, in percent of one core; for one viewer; and for one frame (with its encoding)
    busy        this process: near 100 % it was the bottleneck, and the other numbers mean little

Then the search: the largest number of viewers of whom at least 99 % of all frames arrive and less than 1 %
are late by more than one frame time. The run fails if a server dies, a viewer is missing or cut off, or the
first frame of one is no picture of the right size. On a shared machine compare CPU, not the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from commands import HERE, Server, masked_text, pin
from frames_load import FPS, Arrivals, Wanted, watching

WARM_UP = 1.0
"""Seconds after the last viewer's first frame that do not count."""
PERIOD = 1 / FPS
ENOUGH = 0.99
TOO_LATE = 0.01
SEARCH_SECONDS = 2.0
SEARCH_LIMIT = 512
SEARCH_STEP = 0.06
"""The search ends when it knows the number to this part of itself."""


# ---- one cell


@dataclass(frozen=True)
class Cell:
    """The result of one server with one number of viewers."""

    viewers: int
    rate: float
    """Frames a second and viewer."""
    lost: float
    """Share of the frames that were left out."""
    lateness: np.ndarray = field(repr=False)
    """Of each frame, in seconds."""
    cpu: float
    """Of the server, in cores."""
    busy: float
    """Of this process, in cores."""
    frame_bytes: float

    @property
    def late(self) -> float:
        """Share of the frames that were late by more than one frame time."""
        return float(np.mean(self.lateness > PERIOD)) if self.lateness.size else 1.0

    @property
    def frame_cpu(self) -> float:
        """Seconds of CPU for one frame."""
        return self.cpu / (self.rate * self.viewers)

    @property
    def is_good(self) -> bool:
        return self.rate >= ENOUGH * FPS and self.late < TOO_LATE


def lateness(arrivals: Arrivals) -> np.ndarray:
    """Seconds of each frame after its time; see the module's docstring."""
    seqs, times = np.array(arrivals.seqs, int), np.array(arrivals.times)
    if not seqs.size:
        return times
    offsets = times - seqs * PERIOD
    seconds = (seqs - seqs[0]) // FPS
    earliest = np.full(seconds[-1] + 1, np.inf)
    np.minimum.at(earliest, seconds, offsets)
    return offsets - earliest[seconds]


def cpu_seconds(server: Server) -> float:
    """All that its process has used so far. Raises `RuntimeError` if it is dead."""
    assert server.process is not None
    if (status := server.process.poll()) is not None:
        raise RuntimeError(f"the server ended with status {status}")
    # The clock of another process, as clock_getcpuclockid(3) makes it. /proc counts in steps of 10 ms.
    return time.clock_gettime((~server.process.pid << 3) | 2)


def measure(server: Server, wanted: Wanted, viewers: int, seconds: float, greeting: bytes) -> Cell:
    """So many viewers for so many seconds. Raises `RuntimeError` for anything that is not as it should be."""
    try:
        with watching(server.address, wanted, viewers, greeting) as audience:
            audience.read_until(time.perf_counter() + WARM_UP)
            audience.start_over()
            used, own, began = cpu_seconds(server), time.process_time(), time.perf_counter()
            audience.read_until(began + seconds)
            elapsed = time.perf_counter() - began
            used, own = cpu_seconds(server) - used, time.process_time() - own
            got = [viewer.arrivals for viewer in audience.viewers]
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"{server.name}, {viewers} viewers: {error}") from error
    frames = sum(len(arrivals.seqs) for arrivals in got)
    span = sum(arrivals.seqs[-1] - arrivals.seqs[0] + 1 for arrivals in got if arrivals.seqs)
    return Cell(
        viewers=viewers,
        rate=frames / elapsed / viewers,
        lost=1 - frames / span if span else 1.0,
        lateness=np.concatenate([lateness(arrivals) for arrivals in got]),
        cpu=used / elapsed,
        busy=own / elapsed,
        frame_bytes=sum(arrivals.bytes for arrivals in got) / max(frames, 1),
    )


# ---- the search


def most_viewers(try_out: Callable[[int], Cell], start: int) -> int:
    """The largest number of viewers that `try_out` finds good: from a guess up or down, then by bisection."""
    good, bad = 0, 0
    count = start
    while count <= SEARCH_LIMIT:
        # Twice: one hiccup of the machine would spoil the rest of the search.
        if try_out(count).is_good or try_out(count).is_good:
            good = count
        else:
            bad = count
        if bad and bad - good <= max(1, SEARCH_STEP * good):
            break
        if not bad:
            count = max(good + 1, good * 5 // 4)
        elif not good:
            count = bad * 4 // 5
        else:
            count = (good + bad) // 2
    return good


def guess(cells: Iterable[Cell]) -> int:
    """How many viewers would keep one core busy, computed from the busiest good cell."""
    best = max((cell for cell in cells if cell.is_good), key=lambda cell: cell.viewers, default=None)
    return 1 if best is None else max(1, min(SEARCH_LIMIT, int(best.viewers / best.cpu)))


# ---- the servers


def contestants(wanted: Wanted, *, copied: bool) -> list[Server]:
    """The servers for one size of picture and codec; there is no H.264 by hand."""
    size = ["--set", f"width={wanted.width}", "--set", f"height={wanted.height}"]
    model = str(HERE.relative_to(HERE.parent) / "frames_model.py:Moving")
    serve = [sys.executable, "-m", "reactor_trio", "serve", model, "--port", "0", "--log-level", "warning"]
    serve += [*size, "--set", f"copied={str(copied).lower()}"]
    if wanted.codec == "h264":
        return [Server("reactor_trio", [*serve, "--video-codec", "h264"])]
    by_hand = [sys.executable, str(HERE / "frames_fastapi.py"), str(wanted.width), str(wanted.height)]
    return [
        Server("reactor_trio", serve),
        Server("FastAPI", [*by_hand, "--codec", wanted.codec]),
    ]


def greeting_for(server: Server, codec: str) -> bytes:
    """The messages by which a viewer chooses the codec; reactor_trio's default is JPEG."""
    if codec != "raw" or server.name != "reactor_trio":
        return b""
    return masked_text({"type": "reactor.configure_track", "data": {"track": "main_video", "codec": codec}})


# ---- the report

HEAD = (
    f"{'viewers':>7}  {'server':<13}{'frames/s':>9}{'lost':>8}{'late p50':>10}{'p99':>9}{'late > 33':>11}"
    f"{'CPU':>7}{'a viewer':>10}{'a frame':>10}{'busy':>7}"
)


def row(name: str, cells: Sequence[Cell]) -> str:
    """One line: the median of the rounds, and the lateness of all their frames."""
    late = np.concatenate([cell.lateness for cell in cells])
    p50, p99 = np.percentile(late, [50, 99]) * 1e3 if late.size else (np.nan, np.nan)

    def median(value: Callable[[Cell], float]) -> float:
        return statistics.median(map(value, cells))

    cpu = median(lambda cell: cell.cpu)
    return (
        f"{cells[0].viewers:>7}  {name:<13}{median(lambda cell: cell.rate):>9.2f}"
        f"{median(lambda cell: cell.lost):>8.1%}{p50:>7.1f} ms{p99:>6.1f} ms{np.mean(late > PERIOD):>11.2%}"
        f"{cpu:>7.0%}{cpu / cells[0].viewers:>10.2%}{median(lambda cell: cell.frame_cpu) * 1e3:>7.2f} ms"
        f"{max(cell.busy for cell in cells):>7.0%}"
    )


def ratio(cells: Sequence[Sequence[Cell]]) -> str:
    """CPU of a frame, theirs to ours. Pair by pair: neighbours in time met the same machine."""
    pairs = zip(*cells, strict=True)
    ratios = [theirs.frame_cpu / ours.frame_cpu for ours, theirs in pairs]
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{'':>9}by hand a frame costs {statistics.median(ratios):.2f} of ours{spread}"


def bench(wanted: Wanted, options: argparse.Namespace) -> None:
    """All that is measured with one size of picture."""
    with contextlib.ExitStack() as stack:
        pin(0)
        servers = contestants(wanted, copied=options.copied)
        for server in servers:
            stack.enter_context(server.running())
        pin(1)
        trials = {
            server.name: partial(measure, server, wanted, greeting=greeting_for(server, wanted.codec))
            for server in servers
        }
        print(f"\n{wanted.width} x {wanted.height}, {wanted.codec}\n{HEAD}\n{'-' * len(HEAD)}", flush=True)
        cells = [table(trials, viewers, options) for viewers in options.viewers]
        if not options.no_search:
            search(trials, {name: guess(cell for row in cells for cell in row[name]) for name in trials})


def table(
    trials: dict[str, Callable[..., Cell]], viewers: int, options: argparse.Namespace
) -> dict[str, list[Cell]]:
    """Measure and print one number of viewers; returns the cells of each server."""
    cells: dict[str, list[Cell]] = {name: [] for name in trials}
    for _ in range(options.rounds):
        for name, trial in trials.items():
            cells[name].append(trial(viewers, options.seconds))
    for name in trials:
        print(row(name, cells[name]))
    if len(trials) > 1:
        print(ratio(list(cells.values())))
    kilobytes = ", ".join(f"{name} {found[0].frame_bytes / 1e3:.0f} KB" for name, found in cells.items())
    print(f"{'':>9}a frame: {kilobytes}", flush=True)
    return cells


def search(trials: dict[str, Callable[..., Cell]], start: dict[str, int]) -> None:
    """How many viewers each server can have, and the ratio."""
    found: dict[str, int] = {}
    for name, trial in trials.items():

        def try_out(viewers: int, name: str = name, trial: Callable[..., Cell] = trial) -> Cell:
            cell = trial(viewers, SEARCH_SECONDS)
            verdict = "good" if cell.is_good else "too many"
            print(f"search: {name}: {viewers}: {verdict}: {row(name, [cell])}", file=sys.stderr)
            return cell

        found[name] = most_viewers(try_out, start[name])
    said = ", ".join(f"{name} {count}" for name, count in found.items())
    print(f"viewers at {FPS} frames/s on one core: {said}", end="")
    ours, *theirs = found.values()
    print(f"; ratio {ours / theirs[0]:.2f}" if theirs and theirs[0] else "", flush=True)


def sizes(text: str) -> list[tuple[int, int]]:
    """`512x512,1280x720`."""
    return [(int(width), int(height)) for width, height in (size.split("x") for size in text.split(","))]


def numbers(text: str) -> list[int]:
    found = [int(number) for number in text.split(",")]
    if min(found) < 1:
        raise ValueError(text)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each cell (5)")
    parser.add_argument("--rounds", type=int, default=2, help="(2)")
    parser.add_argument("--viewers", type=numbers, default=[1, 10, 50], help="(1,10,50)")
    parser.add_argument("--sizes", type=sizes, default=[(512, 512), (1280, 720)], help="(512x512,1280x720)")
    parser.add_argument("--codec", choices=["jpeg", "raw", "h264"], default="jpeg", help="(jpeg)")
    parser.add_argument("--copied", action="store_true", help="frames that `emit` has to copy")
    parser.add_argument("--no-search", action="store_true", help="the table alone")
    options = parser.parse_args()
    # Else SIGTERM would end this process past every `finally`, and leave the servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    gc.disable()
    for width, height in options.sizes:
        bench(Wanted(options.codec, width, height), options)


if __name__ == "__main__":
    main()
