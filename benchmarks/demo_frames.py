"""How many frames a second the demo model paints, alone and with the way to JPEG.

    python benchmarks/demo_frames.py [--size 512] [--frames 24] [--runs 7] [--threads 1]

Everything runs in one worker thread, as it does in the runtime, and one frame after the other: the runtime
encodes one frame while the next is painted, so it may be a little faster. Printed is the median of the runs,
and the best one, since on a shared machine the others measure the neighbours. `--threads` is the number of
PyTorch's own threads; the demo sets 1.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial

import torch

from reactor_trio.demo.network import Network, scene_of
from reactor_trio.demo.styles import STYLES
from reactor_trio.media.jpeg import encode_jpeg
from reactor_trio.media.video import inspect_video, rgb_frames

Paint = Callable[[float], torch.Tensor]


def encode(frame: torch.Tensor) -> int:
    """Encode a frame as `emit` and the send task do; return its size in bytes."""
    layout = inspect_video(frame, track="main_video")
    return sum(len(encode_jpeg(pixels)) for pixels in rgb_frames(frame, layout))


def rate(paint: Callable[[float], object], frames: int, runs: int) -> tuple[float, float]:
    """Median and best of the runs, in frames a second."""
    paint(0.0)
    rates = []
    for _ in range(runs):
        began = time.perf_counter()
        for number in range(frames):
            paint(number / 24)
        rates.append(frames / (time.perf_counter() - began))
    return statistics.median(rates), max(rates)


def measure(network: Network, options: argparse.Namespace) -> None:
    print(f"{options.size} x {options.size}, {options.threads} thread(s), frames/s: median (best)")
    print(f"{'style':10}{'network and style':>22}{'with RGB and JPEG':>22}{'bytes':>10}")
    for style in STYLES:
        scene = scene_of("a sunny meadow", style)
        paint = partial(network.paint, scene)

        def paint_and_encode(seconds: float, paint: Paint = paint) -> int:
            return encode(paint(seconds))

        alone = rate(paint, options.frames, options.runs)
        total = rate(paint_and_encode, options.frames, options.runs)
        size = paint_and_encode(0.0)
        print(f"{style:10}{alone[0]:14.1f} ({alone[1]:5.1f}){total[0]:14.1f} ({total[1]:5.1f}){size:10}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Frames a second of the demo model.")
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--frames", type=int, default=24, help="frames in a run")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    worker = threading.Thread(target=measure, args=(Network(options.size, options.size), options))
    worker.start()
    worker.join()


if __name__ == "__main__":
    main()
