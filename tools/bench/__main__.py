"""`python -m tools.bench`: measure Glimpse, print the table, keep the raw figures and the plot."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tools.bench import bench, machine, report
from tools.bench.networks import NETWORKS

_QUICK_NETWORKS = ("embedded", "mobilenet")


def main() -> int:
    """Run the benchmark; the table goes to standard output, progress to standard error."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="minutes instead of a quarter of an hour a network")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="default: all; with --quick the small ones")
    parser.add_argument("--runtimes", nargs="+", default=["auto"], help="values of GLIMPSE_RUNTIME")
    parser.add_argument("--kinds", nargs="+", choices=("jpeg", "raw"), default=["jpeg", "raw"], help="of photos")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    parser.add_argument("--plot", type=Path, help="draw the ratios here, as PNG or SVG")
    parser.add_argument("--record", type=Path, help="put the figures between the markers of this file")
    parser.add_argument("--report", type=Path, help="measure nothing; report what --json wrote there")
    chosen = parser.parse_args()

    result = json.loads(chosen.report.read_text("utf-8")) if chosen.report else _run(chosen)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = report.markdown(result)
    print(table)
    if chosen.plot:
        report.plot(result, chosen.plot)
    if chosen.record:
        report.record(report.short(result), chosen.record)
    return 0


def _run(chosen: argparse.Namespace) -> dict[str, Any]:
    effort = bench.QUICK if chosen.quick else bench.LONG
    networks = chosen.networks or (_QUICK_NETWORKS if chosen.quick else tuple(NETWORKS))
    begun, busy, ours = time.monotonic(), machine.busy_seconds(), machine.cpu_seconds(os.getpid())
    measured = []
    for name in networks:
        for runtime in chosen.runtimes:

            def tell(what: str, of: str = f"{name}, {runtime}") -> None:
                print(f"{time.monotonic() - begun:6.0f} s  {of}: {what}", file=sys.stderr, flush=True)

            measured.append(bench.measure(NETWORKS[name], runtime, effort, tell, chosen.kinds))
    seconds = (time.monotonic() - begun) * machine.cores()
    after = machine.busy_seconds()
    ours = machine.cpu_seconds(os.getpid()) - ours
    return {
        "machine": machine.description(),
        "effort": effort.name,
        "date": time.strftime("%Y-%m-%d"),
        "cores": machine.cores(),
        # What the machine did beside us; above a few percent the figures are not to be believed.
        "others": max(0.0, after["busy"] - busy["busy"] - ours) / seconds,
        "stolen": (after["stolen"] - busy["stolen"]) / seconds,
        "networks": measured,
    }


if __name__ == "__main__":
    sys.exit(main())
