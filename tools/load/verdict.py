"""What the loads of an overload come to: shares of the maximum, prices, promises. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.bench import machine
from tools.load.report import Report, counts

_FULL = frozenset({"QUEUE_FULL", "SHARE_FULL"})
# By gRPC, beyond what the event loop can even refuse (server/ports.py), and by the flood guard, which closes the
# connections of an address that has used up its allowance while the server is overloaded (server/floods/guard.py).
_FLOODED = frozenset({"CANCELLED", "UNAVAILABLE"})
_LATE = frozenset({"DEADLINE_EXCEEDED"})
_GROWN = 1.05  # last third of the overload against the middle one
_WASTED = 0.02  # of the computed images, too late for their callers
_APART = 0.1  # of the half that each of two equals should have

Load = dict[str, Any]


def discounted(load: Load, cores: int) -> float:
    """Images a second if the generator's CPU time were the server's too: it takes it from the same cores."""
    left = 1 - load["generator_cpu"] / load["seconds"] / cores
    return float(load["rate"] / max(left, 0.05))


def refusal_cpu(load: Load, most: Load) -> float:
    """CPU seconds of the server for a refusal: what is left over the answered images at their price elsewhere.

    0 where nothing was refused, or nothing is left over.
    """
    refused = sum(load["refused"].values())
    each = most["server_cpu"] / most["images"]
    return max(0.0, load["server_cpu"] - each * load["images"]) / refused if refused else 0.0


def judge(found: Mapping[str, Any], report: Report, *, each: int, least: float) -> None:
    """Figures and promises from what was measured, with `each` images a request and `least` for the goodput."""
    cores = machine.cores()
    most, insisting, poured = found["maximum"]["load"], found["insisting"], found["open"]
    fairness, deadlines = found["fairness"], found["deadlines"]
    named = {
        "the maximum": most,
        "the maximum, again at the end": found["again"],
        "shipped client, as many": insisting["once"],
        "shipped client, ten times as many": insisting["many"],
        "open loop": poured,
        "polite, alone": fairness["alone"],
        "polite, beside a greedy one": fairness["beside"],
        "greedy, beside a polite one": fairness["greedy"],
        "one of two greedy ones": fairness["first"],
        "the other": fairness["second"],
        "deadlines around the wait": deadlines["hasty"],
    }
    for name, load in named.items():
        report.figures[name] = told(load)
    per = {name: load["server_cpu"] / max(1, load["images"]) for name, load in named.items() if "server_cpu" in load}
    report.figures["server's CPU an answered image, us"] = ", ".join(f"{k}: {1e6 * v:.0f}" for k, v in per.items())
    report.figures["server's CPU a refusal in the open loop, us"] = f"{1e6 * refusal_cpu(poured, most):.0f}"
    offered = poured["requests"] * each / poured["sending"]
    report.figures["offered in the open loop"] = (
        f"{offered:.0f} images/s of {poured['asked']:.0f} asked for: {offered / most['rate']:.1f} times the maximum"
    )
    allowed = dict.fromkeys(named, _FULL) | {"deadlines around the wait": _FULL | _LATE, "the maximum": _FULL}
    allowed["open loop"] = _FULL | _FLOODED
    strange = {
        f"{name}: {reason}": number
        for name, load in named.items()
        for reason, number in load["refused"].items()
        if reason not in allowed[name]
    }
    report.promise(
        "who is turned away is told that there is no room, or in a flood sent away at once",
        not strange,
        counts(strange),
    )
    report.promise(
        "a polite client is never refused", not fairness["beside"]["refused"], counts(fairness["beside"]["refused"])
    )
    lost = {name: load["requests"] - load["answered"] - sum(load["refused"].values()) for name, load in named.items()}
    report.promise("every request has an end", not any(lost.values()), counts(lost))
    _goodput(found, least, cores, report)
    _deadlines(deadlines, report)


def _goodput(found: Mapping[str, Any], least: float, cores: int, report: Report) -> None:
    insisting, poured = found["insisting"], found["open"]
    # The better of the two, so that a noisy beginning does not make the rest look good.
    most = max(found["maximum"]["load"], found["again"], key=lambda load: float(load["rate"]))
    for name, load, base in (
        ("ten times the callers with the shipped client", insisting["many"], insisting["once"]),
        ("an open loop", poured, most),
    ):
        share, net = load["rate"] / base["rate"], discounted(load, cores) / discounted(base, cores)
        report.promise(
            f"{name}: goodput is at least {least:.0%} of the maximum, the generator's CPU time discounted",
            net >= least,
            f"{net:.0%}; as measured, on the same cores {share:.0%}",
        )
    rss = poured["rss"]
    third = len(rss) // 3
    if third:
        last, middle = (sum(part) / len(part) for part in (rss[-third:], rss[third : 2 * third]))
        report.promise("memory is flat in the open loop", last <= _GROWN * middle, f"{last / middle:.3f}")
    first, second = (found["fairness"][name]["rate"] for name in ("first", "second"))
    share = first / (first + second) if first + second else 0.0
    report.promise("two greedy clients get the same", abs(share - 0.5) <= _APART / 2, f"{share:.0%}")
    memory = found["memory"]
    report.figures["resident memory before and after, MB"] = (
        f"{memory['before'] / 1e6:.0f}, {memory['after'] / 1e6:.0f}; most in the open loop "
        f"{max(rss, default=0) / 1e6:.0f}"
    )


def _deadlines(found: Mapping[str, Any], report: Report) -> None:
    answered = found["hasty"]["images"] + found["filler"]["images"]
    late = found["computed"] - answered
    report.figures["deadlines, images by outcome"] = (
        f"around {found['around']:.3f} s: {counts(found['outcomes'])}; left the queue: {counts(found['dropped'])}"
    )
    report.promise(
        f"at most {_WASTED:.0%} of the computed images come too late",
        late <= _WASTED * found["computed"],
        f"{late:,} of {found['computed']:,}",
    )


def told(load: Load) -> str:
    """A load in a line."""
    latency = load["latency"]
    times = f", p50 {1e3 * latency['p50']:.1f} ms, p99 {1e3 * latency['p99']:.1f} ms" if latency else ""
    late = f", sent late by p99 {1e3 * load['late']['p99']:.0f} ms" if load["late"] else ""
    server = f", server {load['server_cpu']:.1f}" if "server_cpu" in load else ""
    return (
        f"{load['rate']:.0f} images/s{times}; refused: {counts(load['refused'])}{late}; "
        f"CPU s: generator {load['generator_cpu']:.1f}{server} in {load['seconds']:.1f} s"
    )
