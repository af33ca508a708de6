"""`python -m tools.bench.gpu`: what the service keeps of the rate of a GPU, for raw pixels and for JPEG files.

Run it where there is one, with JAX, PyTorch or TensorFlow built for it. The device alone is the service's own runtime
object, given batches of uint8 pixels from the host's memory, at its best batch size. The load comes from several
processes, for one of Python's cannot keep a GPU busy. JPEG files are bound by whichever is slower, the cores that
decode or the device; both are told.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tools.bench import machine
from tools.bench.networks import NETWORKS
from tools.bench.service import Service
from tools.bench.worker import Worker

_RUNTIMES = ("jax", "torch", "tensorflow")
_BATCHES = 4  # that callers keep in flight together, so that one is always ready when another ends
_HEADS = (
    "network, runtime",
    "device",
    "precision",
    "batch",
    "device alone",
    "service, raw",
    "of it",
    "decode alone",
    "service, JPEG",
    "of the slower",
)
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every runtime that is installed; 1 where none of them computes on a GPU."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.gpu", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mobilenet", "resnet50"])
    parser.add_argument("--runtimes", nargs="+", choices=_RUNTIMES, help="default: those that are installed")
    # Random weights may not earn a reduced precision, which `auto` asks of them.
    parser.add_argument("--precision", choices=("bfloat16", "float32", "auto"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=128, help="the largest batch")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generators", type=int, default=max(1, machine.cores() // 4), help="processes of callers")
    parser.add_argument("--any-device", action="store_true", help="also without a GPU, to try this script")
    parser.add_argument("--json", type=Path, help="write what was measured here")
    chosen = parser.parse_args(arguments)

    runtimes = chosen.runtimes or [name for name in _RUNTIMES if find_spec(name) is not None]
    found = [
        one for name in chosen.networks for runtime in runtimes if (one := _measure(name, runtime, chosen)) is not None
    ]
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": machine.description(), "found": found}, indent=1) + "\n")
    if not found:
        print("No runtime computes on a GPU here, so there is nothing to measure.", file=sys.stderr)
        return 1
    print(table(found))
    return 0


def table(found: Sequence[dict[str, Any]]) -> str:
    """What was found, in Markdown; rates in images a second, medians of the rounds."""
    lines = [f"| {' | '.join(_HEADS)} |", "|---|---|---|" + "---:|" * (len(_HEADS) - 3)]
    for one in found:
        alone, decode = statistics.median(one["compute"]), statistics.median(one["decode"])
        raw, jpeg = statistics.median(one["raw"]), statistics.median(one["jpeg"])
        lines.append(
            f"| {one['network']}, {one['runtime']} | {one['device']} | {one['precision']} | {one['batch']} "
            f"| {alone:.0f} | {raw:.0f} | {raw / alone:.1%} | {decode:.0f} | {jpeg:.0f} "
            f"| {jpeg / min(alone, decode):.1%} |"
        )
    return "\n".join(lines)


def _measure(name: str, runtime: str, chosen: argparse.Namespace) -> dict[str, Any] | None:
    """One network on one runtime; None where that does not compute on a GPU."""
    network = NETWORKS[name]
    environment = {
        **_QUIET,
        **network.environment(),
        "GLIMPSE_RUNTIME": runtime,
        "GLIMPSE_PRECISION": chosen.precision,
        "GLIMPSE_MAX_BATCH_SIZE": str(chosen.batch),
        # What is in flight is what the callers below keep there, twice over.
        "GLIMPSE_MAX_IMAGES_IN_FLIGHT": str(2 * _BATCHES * chosen.batch),
    }
    with ExitStack() as stack:
        alone = stack.enter_context(Worker("tools.bench.alone", environment))
        made = alone.do("describe")
        if made["device"] == "cpu" and not chosen.any_device:
            _say(f"{name}, {runtime}: computes on the CPU here; left out")
            return None
        callers = [stack.enter_context(Worker("tools.bench.caller")) for _ in range(chosen.generators)]
        service = stack.enter_context(Service(environment))
        alone.do("images", kind="raw")
        rates = {size: _rate(alone.do("compute", batch=size, seconds=1.0)) for size in made["batch_sizes"]}
        best = max(rates, key=lambda size: rates[size])
        found: dict[str, Any] = {**made, "network": name, "batch": best, "sizes": rates}
        found |= {key: [] for key in ("compute", "decode", "raw", "jpeg")}
        height, width, _ = made["input_shape"]
        for number in range(chosen.rounds):
            _say(f"{name}, {runtime}: round {number + 1} of {chosen.rounds}")
            for kind in ("raw", "jpeg"):
                alone.do("images", kind=kind)
                if kind == "raw":
                    found["compute"].append(_rate(alone.do("compute", batch=best, seconds=chosen.seconds)))
                else:
                    found["decode"].append(_rate(alone.do("decode", seconds=chosen.seconds)))
                for caller in callers:
                    caller.do("connect", target=service.target, pid=service.pid)
                    caller.do("prepare", kind=kind, height=height, width=width)
                each = -(-_BATCHES * chosen.batch // len(callers))
                for caller in callers:
                    caller.begin("closed", callers=each, seconds=chosen.seconds)
                found[kind].append(sum(caller.end()["rate"] for caller in callers))
    return found


def _rate(measured: dict[str, float]) -> float:
    return measured["images"] / measured["wall"]


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
