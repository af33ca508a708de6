"""Measure the peers, one after the other: `python -m tools.bench.peers --peers litserve,triton --json out.jsonl`.

Each is started in its own environment, asked by callers in a process of their own, and ended. A peer that cannot be
installed or started is reported with the reason; the others go on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.bench.peers import environment, measure
from tools.bench.peers.measure import Run
from tools.bench.peers.peers import CALLER, EXPORT, PEERS, find


def main() -> None:
    """Read the command line and measure."""
    arguments = _arguments()
    # `with` ends what was started, too, when we are told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    photos = measure.photos(arguments.photos)
    caller = environment.prepare("caller", CALLER)
    exporter = environment.prepare("export", EXPORT)
    for network in arguments.network.split(","):
        files = measure.network(network, photos, exporter)
        for run in _runs(arguments):
            for row in measure.rows(run, files=files, photos=photos, caller=caller):
                _tell(row)
                if arguments.json:
                    with arguments.json.open("a") as file:
                        file.write(json.dumps(row) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench.peers", description=__doc__)
    names = ",".join(peer.name for peer in PEERS)
    parser.add_argument("--peers", default=names, help=f"which, by commas (all: {names})")
    parser.add_argument("--network", default="mobilenet", help="mobilenet, resnet50 or both, by commas")
    parser.add_argument("--runtime", default="onnxruntime,openvino", help="onnxruntime, openvino or both, by commas")
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16"], help="that OpenVINO may compute in")
    parser.add_argument("--callers", default="32", help="callers at once, by commas: 32,1")
    parser.add_argument("--warm", type=float, default=3, help="seconds before the clock starts")
    parser.add_argument("--seconds", type=float, default=15, help="seconds that are measured")
    parser.add_argument("--max-batch", type=int, default=32)
    # To try others: every combination of them is measured.
    parser.add_argument("--workers", help="processes, by commas, instead of the peer's best")
    parser.add_argument("--threads", help="threads of each, by commas, instead of the peer's best")
    parser.add_argument("--wait-ms", help="waits for company, by commas, instead of the peer's best")
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files; made where it is left out")
    parser.add_argument("--json", type=Path, help="a file that gets a line for each measurement")
    return parser.parse_args()


def _runs(arguments: argparse.Namespace) -> Iterator[Run]:
    for name in arguments.peers.split(","):
        peer = find(name)
        for runtime, workers, threads, wait_ms in itertools.product(
            arguments.runtime.split(","),
            arguments.workers.split(",") if arguments.workers else [peer.workers],
            arguments.threads.split(",") if arguments.threads else [peer.threads],
            arguments.wait_ms.split(",") if arguments.wait_ms else [peer.wait_ms],
        ):
            if runtime not in peer.runtimes:
                print(f"{name} does not run {runtime}; left out.", file=sys.stderr)
                continue
            yield Run(
                peer=peer,
                runtime=runtime,
                precision=arguments.precision,
                callers=tuple(int(count) for count in arguments.callers.split(",")),
                warm=arguments.warm,
                seconds=arguments.seconds,
                max_batch=arguments.max_batch,
                workers=int(workers),
                threads=int(threads),
                wait_ms=float(wait_ms),
            )


def _tell(row: dict[str, Any]) -> None:
    title = (
        f"{row['peer']:9} {row['runtime']:11} {row['network']:9} "
        f"{row['workers']} x {row['threads']}, {row['wait_ms']:g} ms,"
    )
    if "not_started" in row:
        print(f"{title} not started: {row['not_started']}", flush=True)
        return
    print(
        f"{title} {row['callers']:3} callers: {row['images_per_second']:6.1f} images/s, p50 {row['p50_ms']} ms, "
        f"p99 {row['p99_ms']} ms, {row['images_per_server_cpu_second']:.1f} images a server's CPU second, "
        f"{row['pss_mib']} MiB, generator {row['generator_cpu_seconds']:.1f} CPU s, "
        f"{row['errors']} errors, {row['wrong_answers']} wrong",
        flush=True,
    )


if __name__ == "__main__":
    main()
