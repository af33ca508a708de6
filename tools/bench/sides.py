"""`python -m tools.bench.sides`: several variants of the service side by side, each in turn for a moment.

On a machine whose speed changes by the minute, a figure of before and one of after say little. Here all variants run at
once, one of them loaded at a time, in an order that turns round; each is compared with the first within a turn.

    python -m tools.bench.sides . ../before            # two checkouts
    python -m tools.bench.sides . .,GLIMPSE_DECODE_THREADS=1   # two settings
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench import machine
from tools.bench.networks import NETWORKS
from tools.bench.service import Service
from tools.bench.worker import Worker


@dataclass
class Side:
    """One variant and what was measured of it, turn by turn."""

    name: str
    service: Service
    rates: list[float] = field(default_factory=list)  # images a second
    latencies: list[float] = field(default_factory=list)  # seconds, median of a turn
    loop: list[float] = field(default_factory=list)  # CPU seconds an image, of the thread with the event loop
    whole: list[float] = field(default_factory=list)  # of the process


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.sides", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="+", metavar="FOLDER[,NAME=VALUE]...", help="a checkout, and settings")
    parser.add_argument("--network", choices=NETWORKS, default="embedded")
    parser.add_argument("--kind", choices=("raw", "jpeg"), default="raw")
    parser.add_argument("--load", choices=("closed", "lone", "stream", "opened"), default="closed")
    parser.add_argument("--callers", type=int, default=48, help="of the closed loop")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second, of the open loop")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    parser.add_argument("--turns", type=int, default=8)
    chosen = parser.parse_args(arguments)

    network = NETWORKS[chosen.network]
    size = 224 if network.photos else 32
    with ExitStack() as stack:
        caller = stack.enter_context(Worker("tools.bench.caller"))
        sides = []
        for variant in chosen.variants:
            folder, *variables = variant.split(",")
            environment = {**network.environment(), **dict(each.split("=", 1) for each in variables)}
            service = Service(environment, root=Path(folder).resolve())
            sides.append(Side(variant, stack.enter_context(service)))
        caller.do("prepare", kind=chosen.kind, height=size, width=size)
        for turn in range(chosen.turns + 1):
            for side in sides if turn % 2 else reversed(sides):
                _load(side, caller, chosen, counts=turn > 0)
    print(table(sides))
    return 0


def _load(side: Side, caller: Worker, chosen: argparse.Namespace, *, counts: bool) -> None:
    """A turn of one side; the first is only to warm up."""
    jobs: dict[str, dict[str, Any]] = {
        "closed": {"callers": chosen.callers, "seconds": chosen.seconds},
        "lone": {"requests": 50},
        "stream": {"streams": 1, "seconds": chosen.seconds},
        "opened": {"rate": chosen.rate, "seconds": chosen.seconds, "seed": len(side.rates)},
    }
    caller.do("connect", target=side.service.target, pid=side.service.pid)
    pid = side.service.pid
    before = machine.threads(pid)
    made = caller.do(chosen.load, **jobs[chosen.load])
    used = {thread: seconds - before.get(thread, ("", 0.0))[1] for thread, (_, seconds) in machine.threads(pid).items()}
    if counts:
        side.rates.append(made["rate"])
        side.latencies.append(made["latency"]["p50"])
        side.loop.append(used[pid] / made["images"])
        side.whole.append(sum(used.values()) / made["images"])


def table(sides: Sequence[Side]) -> str:
    """Medians of the turns; the ratio is of the CPU time of an image, to the first side's in the same turn."""
    lines = [
        "| variant | images/s | p50 ms | CPU us/image | of it the event loop | CPU against the first |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for side in sides:
        ratio = np.median(np.divide(side.whole, sides[0].whole))
        lines.append(
            f"| {side.name} | {np.median(side.rates):.1f} | {1e3 * np.median(side.latencies):.1f} "
            f"| {1e6 * np.median(side.whole):.0f} | {1e6 * np.median(side.loop):.0f} | {ratio:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
