"""`python -m tools.bench.path`: what the way of an image costs around the device, by process and by part.

The service runs with a simulated device, which takes the time of an H100 and no core, once for each number of workers.
All of them run at once and are loaded in turn, so that their ratio is of the same minute of the machine. CPU time is
the kernel's count for each thread of the service; that of the callers, who share the cores, is counted apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.models import bundle
from glimpse.models.bundle import ClassLabel
from glimpse.models.published import recipes
from tools.bench import machine
from tools.bench.networks import FOLDER
from tools.bench.service import Service
from tools.bench.worker import ROOT, Worker

INSIDE = Path(__file__).parent / "inside"
_SIZE = 224
_IN_FLIGHT = 1024  # images that the service takes; more than all callers have
_TARGET = 1.15  # CPU time of an image with several workers, over that with one process
_MANY_CORES = 16
# Name, kind of the images, images a request, callers a process.
LOADS = (("raw", "raw", 1, 48), ("raw, 32 a call", "raw", 32, 6), ("JPEG", "jpeg", 1, 32))
# Beginnings of the names of threads; the main thread has the event loop.
_THREADS = {
    "decode": "decode",
    "batcher": "compose",
    "workers": "hand over",  # the engine's, which reads what workers hand over
    "grpc": "gRPC and event loop",
    "event_eng": "gRPC and event loop",
}


class PathError(RuntimeError):
    """The service is not what was to be measured."""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of a service: by (process, thread), and of the processes without their threads that have ended."""

    threads: Mapping[tuple[int, int], float]
    names: Mapping[tuple[int, int], tuple[str, str]]  # kind of the process, part

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Now, of a process and its descendants."""
        threads: dict[tuple[int, int], float] = {}
        names: dict[tuple[int, int], tuple[str, str]] = {}
        tree = machine.tree(pid)
        kinds = {each: kind(machine.command(each)) for each in tree}
        if "worker" in kinds.values():
            kinds[pid] = "supervisor"
        for each in tree:
            try:
                found = machine.threads(each)
            except OSError:  # it has ended meanwhile
                continue
            for thread, (name, seconds) in found.items():
                threads[each, thread] = seconds
                names[each, thread] = kinds[each], thread_part(name, main=thread == each)
        return cls(threads, names)

    def since(self, before: Usage) -> dict[tuple[int, str, str], float]:
        """CPU seconds from then until now, by process, its kind and the part."""
        spent: dict[tuple[int, str, str], float] = defaultdict(float)
        for key, seconds in self.threads.items():
            spent[key[0], *self.names[key]] += seconds - before.threads.get(key, 0.0)
        return spent


def kind(command: Sequence[str]) -> str:
    """What a process of the service is, by its command line."""
    modules = " ".join(command)
    for name in ("worker_process", "engine_process"):
        if f"glimpse.server.{name}" in modules:
            return name.partition("_")[0]
    return "server" if "glimpse.server" in command else "other"


def thread_part(name: str, *, main: bool) -> str:
    """What a thread does, by its name."""
    if main:
        return "event loop"
    return next((part for begin, part in _THREADS.items() if name.startswith(begin)), "other")


@dataclass
class Side:
    """The service with so many workers, and what was measured of it, round by round, by load."""

    name: str
    workers: int
    service: Service
    samples: Path
    rounds: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.path", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    most = max(2, machine.cores() // 2)
    parser.add_argument("--workers", nargs="+", type=int, default=list(range(1, min(most, 4) + 1)))
    parser.add_argument("--loads", nargs="+", choices=[name for name, *_ in LOADS], help="default: all")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--generators", type=int, default=max(1, machine.cores() // 2), help="processes of callers")
    parser.add_argument("--before", type=Path, help="a checkout that the first rows are of")
    parser.add_argument("--before-workers", nargs="+", type=int, default=[1], help="of that checkout; default: 1")
    parser.add_argument("--parts", action="store_true", help="sample the event loops, which costs about 2%%")
    parser.add_argument("--json", type=Path, help="write what was measured here")
    chosen = parser.parse_args(arguments)

    result = measure(chosen)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    return 0


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all numbers of workers."""
    environment = {
        "GLIMPSE_RUNTIME": "simulated",
        "GLIMPSE_WEIGHTS": str(make_bundle(FOLDER / "simulated")),
        "GLIMPSE_MAX_IMAGES_IN_FLIGHT": str(_IN_FLIGHT),
    }
    with ExitStack() as stack:
        samples = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        callers = [stack.enter_context(Worker("tools.bench.caller")) for _ in range(chosen.generators)]
        sides = []
        wanted: list[tuple[str, int, Path]] = []
        if chosen.before:
            root = chosen.before.resolve()
            wanted = [(f"{workers} before", workers, root) for workers in chosen.before_workers]
        wanted += [(str(workers), workers, ROOT) for workers in chosen.workers]
        for name, workers, root in wanted:
            folder = samples / name
            folder.mkdir()
            own = {**environment, "GLIMPSE_WORKERS": str(workers)}
            own |= {"BENCH_SAMPLES": str(folder)} if chosen.parts else {}
            service = stack.enter_context(Service(own, root=root, packages=(INSIDE,)))
            found = sum(kind(machine.command(pid)) == "worker" for pid in machine.tree(service.pid))
            if found != (workers if workers > 1 else 0):
                raise PathError(f"The service was to have {workers} workers and has {found} worker processes.")
            sides.append(Side(name, workers, service, folder))
        loads = [load for load in LOADS if not chosen.loads or load[0] in chosen.loads]
        for name, images, each, number in loads:
            for caller in callers:
                caller.do("prepare", kind=images, height=_SIZE, width=_SIZE, each=each)
            for turn in range(chosen.rounds + 1):
                for side in sides if turn % 2 else reversed(sides):
                    _say(f"{name}, {side.name} workers: round {turn} of {chosen.rounds}")
                    found_now = _load(side, callers, number, chosen.seconds if turn else 1.0)
                    if turn:  # the first is only to warm up
                        side.rounds.setdefault(name, []).append(found_now)
        return {
            "machine": machine.description(),
            "date": time.strftime("%Y-%m-%d"),
            "cores": machine.cores(),
            "sides": [{"name": side.name, "workers": side.workers, "loads": side.rounds} for side in sides],
        }


def _load(side: Side, callers: Sequence[Worker], number: int, seconds: float) -> dict[str, Any]:
    service = side.service
    for caller in callers:
        caller.do("connect", target=service.target, pid=service.pid)
    sampled = _samples(side.samples)
    before, begun, busy = Usage.of(service.pid), time.monotonic(), machine.busy_seconds()
    for caller in callers:
        caller.begin("closed", callers=number, seconds=seconds)
    made = [caller.end() for caller in callers]
    spent = Usage.of(service.pid).since(before)
    wall, after = time.monotonic() - begun, machine.busy_seconds()
    images = sum(one["images"] for one in made)
    if not images:
        raise PathError(f"Not one image was answered: {[one['errors'] for one in made]}")
    processes: dict[str, float] = defaultdict(float)
    parts: dict[str, float] = defaultdict(float)
    for (pid, kind_, part), cpu in spent.items():
        processes[kind_] += cpu
        for share_of, share in _shares(part, sampled.get(pid), _samples(side.samples).get(pid)).items():
            parts[share_of] += cpu * share
    return {
        "rate": sum(one["rate"] for one in made),
        "images": images,
        "cpu": sum(spent.values()) / images,
        "generator_cpu": sum(one["generator_cpu"] for one in made) / images,
        "service_cores": sum(spent.values()) / wall,
        "machine_cores": (after["busy"] - busy["busy"]) / wall,
        "processes": {name: cpu / images for name, cpu in processes.items()},
        "parts": {name: cpu / images for name, cpu in parts.items()},
        "errors": dict(sum((Counter(one["errors"]) for one in made), Counter())),
    }


def _samples(folder: Path) -> dict[int, dict[str, float]]:
    """CPU seconds of event loops by part so far, by process."""
    found = {}
    for file in folder.glob("*.json"):
        try:
            found[int(file.stem)] = dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError:  # it is being written
            continue
    return found


def _shares(part: str, before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> dict[str, float]:
    """How the CPU time of a part is shared out: that of an event loop by what its samples found it doing."""
    if part != "event loop" or after is None:
        return {part: 1.0}
    new = {name: seconds - (before or {}).get(name, 0.0) for name, seconds in after.items()}
    total = sum(new.values())
    return {name: seconds / total for name, seconds in new.items()} if total else {part: 1.0}


def make_bundle(folder: Path) -> Path:
    """A bundle for the simulated device: what ResNet-50 sees and names, and a file of weights that nobody reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / bundle.WEIGHTS).write_bytes(b"")
    bundle.write(
        folder,
        name="resnet50",
        version="1",
        architecture="resnet50",
        variant="torchvision",
        input_shape=(_SIZE, _SIZE, 3),
        labels=[ClassLabel(f"class {i}") for i in range(1000)],
        recipe=recipes.torch(_SIZE, 256),
        temperature=1.0,
        metrics={},
    )
    return folder


def table(result: dict[str, Any]) -> str:
    """What was measured, in Markdown: medians of the rounds; ratios are of the same round."""
    lines = [f"- {name}: {value}" for name, value in result["machine"].items()]
    first = result["sides"][0]
    for name in first["loads"]:
        lines += ["", f"### {name}", "", *_processes(result, name), "", *_parts(result, name)]
        lines += ["", *_arithmetic(result, name)]
    return "\n".join(lines)


def _processes(result: dict[str, Any], name: str) -> list[str]:
    kinds = sorted({kind for side in result["sides"] for one in side["loads"][name] for kind in one["processes"]})
    heads = ["workers", "images/s", "CPU us/image", *kinds, "against the first", "spread", "callers us/image"]
    heads += ["cores: service", "all"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---:|" * len(heads)]
    base = [one["cpu"] for one in result["sides"][0]["loads"][name]]
    for side in result["sides"]:
        rounds = side["loads"][name]
        cpus = [one["cpu"] for one in rounds]
        ratios = np.divide(cpus, base)
        of_kinds = " | ".join(_us([one["processes"].get(kind, 0.0) for one in rounds]) for kind in kinds)
        lines.append(
            f"| {side['name']} | {np.median([one['rate'] for one in rounds]):.0f} | {_us(cpus)} | {of_kinds} "
            f"| {np.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} "
            f"| {_us([one['generator_cpu'] for one in rounds])} "
            f"| {np.median([one['service_cores'] for one in rounds]):.2f} "
            f"| {np.median([one['machine_cores'] for one in rounds]):.2f} |"
        )
    return lines


def _parts(result: dict[str, Any], name: str) -> list[str]:
    parts = sorted({part for side in result["sides"] for one in side["loads"][name] for part in one["parts"]})
    lines = [f"| workers, CPU us/image | {' | '.join(parts)} |", "|---|" + "---:|" * len(parts)]
    for side in result["sides"]:
        rounds = side["loads"][name]
        shown = " | ".join(_us([one["parts"].get(part, 0.0) for one in rounds]) for part in parts)
        lines.append(f"| {side['name']} | {shown} |")
    return lines


def _arithmetic(result: dict[str, Any], name: str) -> list[str]:
    """What the CPU time of an image comes to on many cores, if it stays what it is."""
    lines = []
    for side in result["sides"]:
        rounds = side["loads"][name]
        cpu = float(np.median([one["cpu"] for one in rounds]))
        caller = float(np.median([one["generator_cpu"] for one in rounds]))
        engine = float(np.median([one["processes"].get("engine", 0.0) for one in rounds]))
        if side["workers"] == 1:
            continue
        bound = f"; one engine, if it uses one core: {1 / engine:,.0f}" if engine else ""
        ratio = float(np.median(np.divide([one["cpu"] for one in rounds], _base(result, name))))
        met = "met" if ratio <= _TARGET else "missed"
        lines.append(
            f"{side['workers']} workers: {ratio:.3f} times one process's CPU time (at most {_TARGET}: {met}). On "
            f"{_MANY_CORES} cores that is {_MANY_CORES / cpu:,.0f} images/s with callers elsewhere and "
            f"{_MANY_CORES / (cpu + caller):,.0f} with them on the same cores{bound}."
        )
    return lines


def _base(result: dict[str, Any], name: str) -> list[float]:
    return [one["cpu"] for one in result["sides"][0]["loads"][name]]


def _us(values: Sequence[float]) -> str:
    return f"{1e6 * np.median(values):.0f}"


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
