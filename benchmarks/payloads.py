"""The cost of a megabyte of each kind: to read and structure it, and for other clients.

    python benchmarks/payloads.py [--seconds 5] [--only rows] [--bound 25]

The first two columns are the processor's time of decoding and of structuring in this process, without the
garbage collector. For the others a client sends such a message again and again, as fast as the server reads,
while another one sends a command every 10 ms: see `benchmarks/floods.py`, whose clients these are. The exit
status is 1 if the p99 of a command is over `--bound` milliseconds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import floods
from commands import Server
from floods import Flood, frame
from payload_model import Payloads

from reactor_trio.errors import ProtocolError
from reactor_trio.protocol.text import read_client_text

HERE = Path(__file__).parent
SIZE = (1 << 20) - 100


def message(event: str, item: str, *, opening: str = "[", closing: str = "]", last: str = "") -> str:
    """A message of `SIZE` characters at most, with as many of an item as fit."""
    head, tail = f'{{"type":"{event}","data":{{"x":{opening}', f"{closing}}}}}"
    count = (SIZE - len(head) - len(tail) - len(last)) // (len(item) + 1)
    return head + ",".join([item] * count) + last + tail


def chain(depth: int, leaf: str) -> str:
    return '{"v":' * depth + leaf + "}" * depth


def keys(value: str) -> str:
    return ",".join(f'"k{number:05}":{value}' for number in range(SIZE // 14))


KINDS: dict[str, str] = {
    "integers": message("integers", "300"),
    "integers, all wrong": message("integers", "null"),
    "lists of integers": message("lists", "[1]"),
    "empty lists": message("lists", "[]"),
    "a dict of strings": f'{{"type":"strings","data":{{"x":{{{keys(chr(34) * 2)}}}}}}}',
    "rows": message("rows", '{"x":0,"y":0}'),
    "rows, the last one wrong": message("rows", '{"x":0,"y":0}', last=",{}"),
    "rows, all wrong": message("rows", '{"x":0,"z":0}'),
    "shapes": message("shapes", '{"kind":"rect","w":1}'),
    "shapes, the last one wrong": message("shapes", '{"kind":"rect","w":1}', last=",{}"),
    "classes that are alike": message("alike", '{"size":0.5}'),
    "classes that are alike, all wrong": message("alike", '{"size":"a"}'),
    "trees": message("trees", chain(90, "1")),
    "trees, all wrong": message("trees", chain(90, '"a"')),
    "anything: empty objects": message("anything", "{}"),
    "anything: empty lists": message("anything", "[]"),
    "anything: objects": message("anything", '{"":0}'),
    "anything: deep": message("anything", "[" * 90 + "]" * 90),
    "too deep": message("anything", "[" * 900 + "]" * 900),
    "unknown fields": f'{{"type":"reset","data":{{{keys("0")}}}}}',
    "an unknown command": message("nothing", "{}"),
    "a text with a pattern": message("named", "a" * 500, opening='"', closing='"').replace(",", "."),
    "a message to the runtime": f'{{"type":"reactor.ping","data":{{{keys("0")}}}}}',
    "no JSON": "[" * SIZE,
}
"""By name: the text of one message."""


def cost(text: str) -> tuple[float, float]:
    """Milliseconds of the processor to decode and to structure; the best of three."""
    gc.disable()
    best = [float("inf")] * 2
    for _ in range(3):
        began = decoded = time.thread_time()
        try:
            type_, data, _ = read_client_text(text)
            decoded = time.thread_time()
            spec = Payloads.__declarations__.events.get(type_)
            if spec is not None:
                spec.structure(data, {})
        except ProtocolError:
            decoded = time.thread_time() if decoded == began else decoded
        took = 1000 * (decoded - began), 1000 * (time.thread_time() - decoded)
        best = [min(*pair) for pair in zip(best, took, strict=True)]
    return best[0], best[1]


ROLES: dict[str, Callable[..., object]] = floods.ROLES


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each kind (5)")
    parser.add_argument("--only", help="kinds whose name has this in it")
    parser.add_argument("--bound", type=float, default=25.0, help="milliseconds of p99 (25)")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    options = parser.parse_args()
    floods.FLOODS.clear()
    floods.FLOODS.update({name: Flood(frame(1, text.encode())) for name, text in KINDS.items()})
    if options.role is not None:
        role, address, *arguments = json.loads(options.role)
        print(json.dumps(ROLES[role](tuple(address), *arguments)))
        return 0
    cores = sorted(os.sched_getaffinity(0))
    serve = [sys.executable, "-m", "reactor_trio", "serve", str(HERE / "payload_model.py:Payloads")]
    server = Server("reactor_trio", [*serve, "--port", "0", "--log-level", "error"])
    late = []
    with server.running():
        assert server.process is not None
        if len(cores) > 1:
            os.sched_setaffinity(server.process.pid, cores[:1])
            os.sched_setaffinity(0, cores[1:])
        print(
            "| 1 MiB of | decode, ms | structure | p50 beside it | p99 | max | MB written | cut off | core |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for name in (None, *[name for name in KINDS if (options.only or "") in name]):
            row, p99 = floods.run(server, name, options.seconds, script=__file__)
            costs = cost(KINDS[name]) if name is not None else (0.0, 0.0)
            label, _, rest = row.removeprefix("| ").partition(" |")
            print(f"| {label} | {costs[0]:.1f} | {costs[1]:.1f} |{rest}", flush=True)
            if p99 > options.bound:
                late.append(f"{name or 'nothing'}: a command's p99 is {p99:.1f} ms")
    print("\n" + ("\n".join(late) or f"No command's p99 is over {options.bound:g} ms."))
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
