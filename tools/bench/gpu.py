"""`python -m tools.bench.gpu`: what the service keeps of the rate of a GPU, for raw pixels and for JPEG files.

Run it where there is one, with JAX, PyTorch or TensorFlow built for it. This process imports none of them, so it takes
nothing of the card; each part runs in processes of its own, and the device alone has ended before the service starts,
so that no two of them share the card's memory. What is compiled is kept in GLIMPSE_CACHE: the start of the service is a
warm start. A part that fails or takes too long is recorded, and the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glimpse.server.machine import gpus
from tools.bench import gpu_table, machine
from tools.bench.networks import NETWORKS
from tools.bench.path import Usage
from tools.bench.service import Service
from tools.bench.worker import ROOT, Worker

_RUNTIMES = ("jax", "torch", "tensorflow")
_PLAIN = ("resnet50",)  # of which there is a plain PyTorch, see `tools.bench.plain_torch`
_BATCHES = 4  # that callers keep in flight together, so that one is always ready when another ends
# The same of large calls: there are few of them, which the kernel deals out to the workers unevenly, and a worker takes
# as long to receive one as the device to compute it.
_BATCHES_OF_CALLS = 8
_BATCHES_AGAIN = 1  # where the first try failed
_TOGETHER = 32  # images in a large call
_MOST_WORKERS = 16  # that the service starts by itself
_CONNECTIONS = 8  # for each core: the kernel chooses a worker for each at random, and all are to have about as many
_TALKS = {"GLIMPSE_LOG_LEVEL": "all"}
_NOISE = ("_cygrpc", "get_cache_key", "get_compile_options")  # in lines of libraries
_SHOWN = 160  # characters of a line; JAX lists all variables
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


class _Run:
    """One run of the benchmark: what was found, what failed, and the time that is left."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.failed: dict[str, str] = {}
        self.result: dict[str, Any] = {"failed": self.failed}
        self._begun = time.monotonic()
        self._end = time.monotonic() + chosen.budget

    def part(self, name: str, do: Callable[[], Any]) -> Any:
        """What `do` returns; None where it failed or took too long, which is recorded."""
        seconds = min(self.chosen.part, self._end - time.monotonic())
        _say(name)
        if seconds <= 0:
            self.failed[name] = "left out: the time of the whole run is over"
            self.write()
            return None
        begun = time.monotonic()
        try:
            with _at_most(seconds):
                found = do()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other parts are worth their time
            self.failed[name] = f"{type(error).__name__}: {error}"[-2000:]
            _say(f"{name} failed after {time.monotonic() - begun:.0f} s: {self.failed[name][:300]}")
            found = None
        self.write()
        return found

    def write(self) -> None:
        """Write what there is so far: whatever becomes of the rest, it is kept."""
        self.result["seconds"] = time.monotonic() - self._begun
        if self.chosen.json:
            self.chosen.json.write_text(json.dumps(self.result, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every runtime that is installed; 1 where nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.gpu", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet50"])
    parser.add_argument("--runtimes", nargs="+", choices=_RUNTIMES, help="default: those that are installed")
    # Random weights may not earn a reduced precision, which `auto` asks of them.
    parser.add_argument("--precision", choices=("bfloat16", "float32", "auto"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=0, help="the largest batch; 0: by measured rates, up to 256")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--budget", type=float, default=345.0, help="seconds for all of it")
    parser.add_argument("--part", type=float, default=120.0, help="seconds for each part")
    parser.add_argument("--generators", type=int, default=max(1, 3 * machine.cores() // 8), help="processes of callers")
    parser.add_argument("--decoders", type=int, default=machine.cores(), help="processes that decode alone")
    parser.add_argument("--workers", nargs="+", type=int, default=[0], help="worker processes to try, each in turn")
    parser.add_argument("--alone", nargs="*", default=[], choices=_RUNTIMES, help="of these, measure the start alone")
    parser.add_argument("--any-device", action="store_true", help="also without a GPU, to try this script")
    parser.add_argument("--quick", action="store_true", help="tiny and on any device: only whether it works")
    parser.add_argument("--json", type=Path, help="write what was measured here")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.any_device, chosen.batch, chosen.seconds = True, min(chosen.batch or 2, 2), min(chosen.seconds, 0.5)
        chosen.generators, chosen.decoders = 1, min(chosen.decoders, 2)

    cards = gpus.visible()
    if not cards and not chosen.any_device:
        print("There is no GPU here, so there is nothing to measure. --any-device measures the CPU.", file=sys.stderr)
        return 1
    run = _Run(chosen)
    runtimes = chosen.runtimes or [name for name in _RUNTIMES if find_spec(name) is not None]
    result = run.result
    found: list[dict[str, Any]] = []
    result |= {"machine": machine.description(), "gpus": cards, "found": found}
    for name in chosen.networks:
        if run.part(f"{name}: bundle", partial(_make, name)) is None:
            continue
        for runtime in runtimes:
            one: dict[str, Any] = {"network": name, "runtime": runtime}
            found.append(one)
            if runtime == "torch" and name in _PLAIN:
                one["plain"] = run.part(f"{name}: plain PyTorch", partial(_plain, name, chosen))
            _measure(one, run)
    result["decode"] = run.part("decoding alone", lambda: _decode(chosen))
    run.write()
    print(gpu_table.table(result))
    return 0 if any(one.get("device_alone") for one in found) else 1


def _measure(one: dict[str, Any], run: _Run) -> None:
    """One network on one runtime; what is found goes into `one` as it is found."""
    chosen, name = run.chosen, f"{one['network']}, {one['runtime']}"
    environment = {
        **_QUIET,
        **_cache(),
        **NETWORKS[one["network"]].environment(),
        "GLIMPSE_RUNTIME": one["runtime"],
        "GLIMPSE_PRECISION": chosen.precision,
        "GLIMPSE_MAX_BATCH_SIZE": str(chosen.batch),
    }
    run.part(f"{name}: device alone", lambda: _alone(one, environment, chosen))
    if not one.get("device_alone"):
        return
    services = one["services"] = {}
    if one["runtime"] in chosen.alone:
        services[0] = {"warm_start": run.part(f"{name}: warm start", lambda: _warm_start(environment)["seconds"])}
        return
    for workers in chosen.workers:
        found = services[workers] = {}
        _serve(found, one, environment | {"GLIMPSE_WORKERS": str(workers)}, run)


def _serve(found: dict[str, Any], one: dict[str, Any], environment: dict[str, str], run: _Run) -> None:
    """The service with one number of workers under each load; what is measured goes into `found`."""
    workers = environment["GLIMPSE_WORKERS"]
    name = f"{one['network']}, {one['runtime']}" + ("" if workers == "0" else f", {workers} workers")
    # As its users start it: what callers may have in flight is memory that is taken at the start.
    found["warm_start"] = run.part(f"{name}: warm start", lambda: _warm_start(environment)["seconds"])
    # Once more, slower for what it says.
    found["steps"] = run.part(f"{name}: steps of a start", partial(_warm_start, {**environment, **_TALKS}))
    # What is in flight is what the callers below keep there, twice over, also where each worker has a part of the limit
    # and the kernel leads many connections to one of them.
    in_flight = 2 * _BATCHES * max(one["batch"], _TOGETHER) * min(_MOST_WORKERS, machine.cores())
    environment |= {"GLIMPSE_MAX_IMAGES_IN_FLIGHT": str(in_flight), "GLIMPSE_MAX_BYTES_IN_FLIGHT": str(1 << 30)}
    with ExitStack() as stack:
        service = run.part(f"{name}: start", lambda: stack.enter_context(_started(environment)))
        if service is None:
            return
        found["start"] = {"seconds": service.start_seconds, "log": service.log}
        for kind, images, each, batches in (
            ("raw", "raw", 1, _BATCHES),
            ("large", "raw", _TOGETHER, _BATCHES_OF_CALLS),
            ("jpeg", "jpeg", 1, _BATCHES),
        ):
            load = partial(_load, service, one, images, each, chosen=run.chosen)
            found[kind] = run.part(f"{name}: service, {kind}", partial(load, batches))
            if found[kind] is None:  # with so few callers that nothing can be too much for the service
                found[kind] = run.part(f"{name}: service, {kind}, fewer callers", partial(load, _BATCHES_AGAIN))


def _warm_start(environment: Mapping[str, str]) -> dict[str, Any]:
    """The seconds of a start until it serves, and what its log says of it."""
    with contextlib.closing(_started(environment)) as service:
        log = [(when, what[:_SHOWN]) for when, what in service.log if not any(word in what for word in _NOISE)]
        return {"seconds": service.start_seconds, "log": log}


def _alone(one: dict[str, Any], environment: dict[str, str], chosen: argparse.Namespace) -> None:
    with Worker("tools.bench.alone", environment) as alone:
        begun = time.monotonic()
        one |= alone.do("describe")
        one["first_start"] = time.monotonic() - begun
        if one["device"] == "cpu" and not chosen.any_device:
            raise RuntimeError(f"{one['runtime']} computes on the CPU here: is it built for the GPU?")
        alone.do("images", kind="raw")
        seconds = chosen.seconds / 4
        rates = {size: _rate(alone.do("compute", batch=size, seconds=seconds)) for size in one["batch_sizes"]}
        best = max(rates, key=lambda size: rates[size])
        rates[best] = _rate(alone.do("compute", batch=best, seconds=chosen.seconds))
        one["batch"], one["device_alone"] = best, rates


def _plain(network: str, chosen: argparse.Namespace) -> dict[str, Any]:
    sizes = (chosen.batch,) if chosen.quick else (32, 128, 256)
    with Worker("tools.bench.plain_torch") as plain:
        made = plain.do("describe", network=network, precision=chosen.precision)
        seconds = chosen.seconds / 2
        return {**made, "rates": {size: _rate(plain.do("compute", batch=size, seconds=seconds)) for size in sizes}}


def _decode(chosen: argparse.Namespace) -> float:
    """Images a second that as many processes decode as there are cores."""
    with ExitStack() as stack:
        decoders = [stack.enter_context(Worker("tools.bench.decoder")) for _ in range(chosen.decoders)]
        for decoder in decoders:
            decoder.begin("ready")
        for decoder in decoders:
            decoder.end()
        for decoder in decoders:
            decoder.begin("decode", seconds=chosen.seconds)
        return sum(_rate(decoder.end()) for decoder in decoders)


def _started(environment: Mapping[str, str]) -> Service:
    """The service, once it serves; where that takes too long, it is ended."""
    service = Service.__new__(Service)
    try:
        Service.__init__(service, environment)
    except TimeoutError:
        service.close()
        raise
    return service


def _load(
    service: Service, one: dict[str, Any], images: str, each: int, batches: int, *, chosen: argparse.Namespace
) -> dict[str, Any]:
    """Images a second that the service answers with so many batches in flight, and where the time went."""
    height, width, _ = one["input_shape"]
    with ExitStack() as stack:
        callers = [stack.enter_context(Worker("tools.bench.caller")) for _ in range(chosen.generators)]
        connections = max(4, _CONNECTIONS * machine.cores() // len(callers))
        for caller in callers:
            caller.begin("connect", target=service.target, pid=service.pid, connections=connections)
        for caller in callers:
            caller.end()
            caller.begin("prepare", kind=images, height=height, width=width, each=each)
        for caller in callers:
            caller.end()
        together = max(len(callers), -(-batches * one["batch"] // each))
        before, told, begun = Usage.of(service.pid), service.metrics(), time.monotonic()
        for caller in callers:
            caller.begin("closed", callers=-(-together // len(callers)), seconds=chosen.seconds)
        found = [caller.end() for caller in callers]
        spent, wall = Usage.of(service.pid).since(before), time.monotonic() - begun
        usage = _usage(spent, (told, service.metrics()), found, wall)
    if errors := [caller["errors"] for caller in found if caller["errors"]]:
        raise RuntimeError(f"calls failed: {errors}")
    # A caller's rate counts what it gets an answer to, an image each.
    return {"rate": sum(float(caller["rate"]) for caller in found), "batches_in_flight": batches, **usage}


def _usage(
    spent: Mapping[tuple[int, str, str], float],
    metrics: tuple[Mapping[str, float], Mapping[str, float]],
    found: Sequence[dict[str, Any]],
    wall: float,
) -> dict[str, Any]:
    """Where the time of a load went: CPU microseconds an image by process and part, cores in use, images a batch."""
    images = sum(one["images"] for one in found)
    parts: dict[str, float] = defaultdict(float)
    busiest: dict[str, float] = defaultdict(float)
    cores: dict[int, float] = defaultdict(float)
    for (pid, kind, part), seconds in spent.items():
        parts[f"{kind}: {part}"] += 1e6 * seconds / images
        cores[pid] += seconds / wall
        busiest[kind] = max(busiest[kind], cores[pid])
    before, after = metrics
    sums = {name: after[name] - before.get(name, 0.0) for name in after if name.startswith("glimpse_batch_size_")}
    batches = sums.get("glimpse_batch_size_count", 0.0)
    return {
        "cpu_us": {name: round(value, 1) for name, value in sorted(parts.items()) if value >= 0.1},
        "generator_cpu_us": round(1e6 * sum(one["generator_cpu"] for one in found) / images, 1),
        "generator_cores": [round(one["generator_cpu"] / one["seconds"], 2) for one in found],
        "busiest_cores": {kind: round(value, 2) for kind, value in busiest.items()},
        "service_cores": round(sum(spent.values()) / wall, 2),
        "images_per_batch": round(sums["glimpse_batch_size_sum"] / batches, 1) if batches else None,
        "latency": found[0]["latency"],
    }


def _make(network: str) -> bool:
    """Make the bundle of a network in a process of its own, on the CPU: Keras takes memory of a card that it sees."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", **_QUIET}
    code = f"from tools.bench.networks import NETWORKS; NETWORKS[{network!r}].environment()"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **hidden},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"the bundle could not be made: {ended.stderr[-1000:]}")
    return True


def _cache() -> dict[str, str]:
    """Where all parts keep what they compile."""
    folder = os.environ.get("GLIMPSE_CACHE") or str(ROOT / ".cache" / "bench" / "gpu")
    return {"GLIMPSE_CACHE": folder}


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread once the time is over; the processes of the part then end with it."""

    def over(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _rate(measured: dict[str, float]) -> float:
    return measured["images"] / measured["wall"]


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
