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

from tools.bench import machine
from tools.bench.peers import environment, measure, report, turns
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
    known = _known(arguments.json)
    print(json.dumps(machine.description()), file=sys.stderr, flush=True)
    for network in arguments.network.split(","):
        files = measure.network(network, arguments.precision, photos, exporter)
        if arguments.together:
            runs = list(_runs(arguments))
            told = {"files": files, "photos": photos, "caller": caller, "rounds": arguments.rounds}
            for row in turns.rows(runs, callers=int(arguments.callers), **told):
                _keep(row, known, arguments.json)
            continue
        for turn in range(1, arguments.rounds + 1):
            for run in _runs(arguments):
                asked = {"network": network, "round": turn, **run.row()}
                if any(asked.items() <= row.items() for row in known):
                    continue
                for row in measure.rows(run, files=files, photos=photos, caller=caller):
                    row["round"] = turn
                    _keep(row, known, arguments.json)
    print(report.table(known))


def _keep(row: dict[str, Any], known: list[dict[str, Any]], to: Path | None) -> None:
    _tell(row)
    known.append(row)
    if to:
        with to.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _known(file: Path | None) -> list[dict[str, Any]]:
    """What has been measured before a run was interrupted."""
    if file is None or not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench.peers", description=__doc__)
    names = ",".join(peer.name for peer in PEERS)
    parser.add_argument("--peers", default=names, help=f"which, by commas (all: {names})")
    parser.add_argument("--network", default="mobilenet", help="mobilenet, resnet50, efficientnet_lite0, by commas")
    parser.add_argument("--runtime", default="onnxruntime,openvino", help="onnxruntime, openvino or both, by commas")
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16", "int8"], help="of OpenVINO's network")
    parser.add_argument("--callers", default="32", help="callers at once, by commas: 32,1")
    parser.add_argument("--warm", type=float, default=3, help="seconds before the clock starts")
    parser.add_argument("--seconds", type=float, default=15, help="seconds that are measured")
    parser.add_argument("--rounds", type=int, default=1, help="how often all of them are measured, in turns")
    parser.add_argument("--together", action="store_true", help="run all at once, each loaded for --seconds in turn")
    # To try others: every combination of them is measured.
    parser.add_argument("--workers", help="processes, by commas, instead of the peer's best")
    parser.add_argument("--threads", help="threads of each, by commas, instead of the peer's best")
    parser.add_argument("--wait-ms", help="waits for company, by commas, instead of the peer's best")
    parser.add_argument("--max-batch", help="images of a batch, by commas, instead of the peer's best")
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files; made where it is left out")
    parser.add_argument("--json", type=Path, help="gets a line for each measurement; those it has are left out")
    return parser.parse_args()


def _runs(arguments: argparse.Namespace) -> Iterator[Run]:
    for name in arguments.peers.split(","):
        peer = find(name)
        for runtime, workers, threads, wait_ms, max_batch in itertools.product(
            arguments.runtime.split(","),
            arguments.workers.split(",") if arguments.workers else [peer.workers],
            arguments.threads.split(",") if arguments.threads else [peer.threads],
            arguments.wait_ms.split(",") if arguments.wait_ms else [peer.wait_ms],
            arguments.max_batch.split(",") if arguments.max_batch else [peer.max_batch],
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
                max_batch=int(max_batch),
                workers=int(workers),
                threads=int(threads),
                wait_ms=float(wait_ms),
            )


def _tell(row: dict[str, Any]) -> None:
    title = (
        f"{row['round']} {row['peer']:9} {row['runtime']:11} {row['network']:9} "
        f"{row['workers']} x {row['threads']}, {row['wait_ms']:g} ms, {row['max_batch']},"
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
