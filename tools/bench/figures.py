"""What the measurements say: figures with their targets. Pure arithmetic on what `bench.py` kept.

A share of two rates or two CPU times is made within each round, from what was measured side by side; the figure is the
median of the rounds, and its spread is how far they lie apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tools.bench.loads import spread_of

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One answer."""

    subject: str  # network, runtime, images
    name: str
    value: float
    unit: Literal["%", "ms", "s", "x", "us", "images/s", "MiB", ""]
    spread: float | None = None  # (largest - smallest) / median of the rounds
    target: float | None = None
    better: Literal["higher", "lower"] = "higher"

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


def figures(result: Values) -> list[Figure]:
    """All figures of a run."""
    found: list[Figure] = []
    for network in result["networks"]:
        cores = result["cores"]
        subject = f"{network['network']}, {network['runtime']}"
        for kind, one in network["kinds"].items():
            photos = network["network"] != "embedded"
            found += _saturated(f"{subject}, {kind}", one["saturated"], network["sweep"], cores, _goal(kind, photos))
            found += _latency(f"{subject}, {kind}", one, photos=photos)
        if "small" in network:
            found += _small(subject, network["small"], cores)
        found += _starts(subject, network["starts"])
        if first := network.get("first_start"):
            beyond = first["ready"] - first["import"]
            found.append(Figure(subject, "first start, network converted: to ready", first["ready"], "s"))
            found.append(Figure(subject, "of it beyond the import of both frameworks", beyond, "s"))
        found += _memory(subject, network.get("overload") or {})
    return found


def _goal(kind: str, photos: bool) -> float | None:  # noqa: FBT001 - local
    # Of the embedded network the RPC is the cost; it has figures of its own.
    return {"jpeg": 0.95, "raw": 0.97}[kind] if photos else None


def _saturated(
    subject: str, rounds: Sequence[Values], sweep: Values, cores: int, goal: float | None
) -> Iterator[Figure]:
    limit = [1 / (_each(one["decode"], "wall") + _each(one["compute"], "wall")) for one in rounds]
    rate = [one["service"]["rate"] for one in rounds]
    net = [without_generator(one["service"], cores) for one in rounds]
    cpu = [one["service"]["server_cpu"] / one["service"]["images"] for one in rounds]
    alone = [_each(one["decode"], "cpu") + _each(one["compute"], "cpu") for one in rounds]
    served = [_each(one["decode"], "cpu") + as_batched(one["service"], sweep["sizes"]) for one in rounds]
    together = [_each(one["together"], "cpu") for one in rounds]

    def median(name: str, values: Sequence[float], unit: Any, goal: float | None = None) -> Figure:
        return Figure(subject, name, float(np.median(values)), unit, spread_of(values), goal)

    def share(name: str, parts: Sequence[float], wholes: Sequence[float], goal: float | None = None) -> Figure:
        return median(name, [part / whole for part, whole in zip(parts, wholes, strict=True)], "%", goal)

    yield median("decode alone", [1 / _each(one["decode"], "wall") for one in rounds], "images/s")
    yield median(
        f"network alone, batch {sweep['best']}", [1 / _each(one["compute"], "wall") for one in rounds], "images/s"
    )
    yield median("limit: 1 / (decode + compute)", limit, "images/s")
    yield median("service", rate, "images/s")
    yield median("service, without the generator's CPU time", net, "images/s")
    yield median("CPU of the service an image", [value * 1e6 for value in cpu], "us")
    yield median("CPU of decode + compute alone an image", [value * 1e6 for value in alone], "us")
    yield share("decode + compute, share of the service's CPU", alone, cpu, goal)
    yield share("the same at the batch sizes it really had", served, cpu)
    yield share("the same with decode and compute side by side", together, cpu)
    yield share("throughput without the generator, share of the limit", net, limit, goal)


def _latency(subject: str, one: Values, *, photos: bool) -> Iterator[Figure]:
    alone = [_lone_seconds(each["alone"]) for each in one["lone"]]
    service = [each["service"]["latency"]["p50"] for each in one["lone"]]
    over = [with_rpc - without for with_rpc, without in zip(service, alone, strict=True)]
    yield Figure(subject, "lone request, median", 1e3 * float(np.median(service)), "ms", spread_of(service))
    yield Figure(
        subject,
        "lone request above decode + compute, median",
        1e3 * float(np.median(over)),
        "ms",
        target=1.5,
        better="lower",
    )
    if echo := [each["echo"]["latency"]["p50"] for each in one["lone"] if "echo" in each]:
        yield Figure(
            subject, "of it a bare echo of the same bytes", 1e3 * float(np.median(echo)), "ms", spread_of(echo)
        )
    for share, opened in one["open"].items():
        times = opened["latency"]["p99"] / float(np.median(service)) if opened["latency"] else float("inf")
        target = 4.0 if float(share) == 0.8 and photos else None
        yield Figure(
            subject, f"p99 at {float(share):.0%} of maximum, open loop", times, "x", target=target, better="lower"
        )
    beside = one["beside_bulk"].get("lone")
    if beside and beside["latency"] and beside["batch_seconds"]:
        yield Figure(
            subject,
            "lone caller beside a stream, median in batch times",
            beside["latency"]["p50"] / beside["batch_seconds"],
            "x",
            target=2.0 if photos else None,
            better="lower",
        )


def _small(subject: str, rounds: Sequence[Values], cores: int) -> Iterator[Figure]:
    echo = [max(one["echo_aio"]["rate"], one["echo_sync"]["rate"]) for one in rounds]
    raw = [1 / _each(one["compute"], "wall") for one in rounds]
    possible = [1 / (1 / a + 1 / b) for a, b in zip(echo, raw, strict=True)]
    for name, values in (("echo", echo), ("network alone", raw), ("possible: 1 / (1/echo + 1/network)", possible)):
        yield Figure(subject, name, float(np.median(values)), "images/s", spread_of(values))
    for key, name, whole, goal in (
        ("single", "single-image calls, share of the possible", possible, 0.80),
        ("long", "32-image calls, share of the network alone", raw, 0.85),
        ("stream", "stream, share of the network alone", raw, 0.85),
    ):
        # The echo had the same generator beside it; the network alone had none.
        rates = [one[key]["rate"] if key == "single" else without_generator(one[key], cores) for one in rounds]
        shares = [rate / most for rate, most in zip(rates, whole, strict=True)]
        yield Figure(
            subject, f"{key}: images a second and core", float(np.median(rates)) / cores, "images/s", spread_of(rates)
        )
        yield Figure(subject, name, float(np.median(shares)), "%", spread_of(shares), goal)
        cpu = [1e6 * one[key]["server_cpu"] / one[key]["images"] for one in rounds]
        yield Figure(subject, f"{key}: CPU of the service an image", float(np.median(cpu)), "us", spread_of(cpu))


def _starts(subject: str, rounds: Sequence[Values]) -> Iterator[Figure]:
    if rounds:
        ready = [one["ready"] for one in rounds]
        beyond = [one["ready"] - one["import"] for one in rounds]
        yield Figure(subject, "start to ready", float(np.median(ready)), "s", spread_of(ready))
        yield Figure(
            subject, "of it beyond the framework's import", float(np.median(beyond)), "s", target=2.0, better="lower"
        )
        yield Figure(subject, "memory when ready", float(np.median([one["rss"] for one in rounds])) / 2**20, "MiB")


def _memory(subject: str, overload: Values) -> Iterator[Figure]:
    samples = overload.get("rss", [])
    if len(samples) >= 6:
        third = len(samples) // 3
        growth = float(np.mean(samples[-third:]) / np.mean(samples[third : 2 * third]))
        yield Figure(subject, "memory under overload, largest", max(samples) / 2**20, "MiB")
        yield Figure(
            subject, "last third of the overload against the middle one", growth, "x", target=1.02, better="lower"
        )


def without_generator(load: Values, cores: int) -> float:
    """Images a second if the generator's CPU time were the service's too; for a machine without an idle core."""
    spent = load["generator_cpu"] / load["images"] / cores
    return float(1 / (1 / load["rate"] - spent))


def as_batched(load: Values, sizes: Values) -> float:
    """CPU seconds of computing an image alone, in batches of the sizes that the service had."""
    total = sum(
        number * int(size) * sizes[size]["cpu"] / sizes[size]["images"] for size, number in load["batches"].items()
    )
    # The batches hold the images of the same load, padding not counted.
    return float(total / load["images"])


def _each(measured: Values, what: str) -> float:
    return float(measured[what] / measured["images"])


def _lone_seconds(alone: Values) -> float:
    return float(np.median(np.add(alone["decode"], alone["compute"])))
