"""`python -m tools.load soak|chaos|overload|attack`: run one, print its figures, exit 1 where a promise fails."""

from __future__ import annotations

import argparse
import signal
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tools.bench.networks import NETWORKS
from tools.load import chaos, overload, soak
from tools.load.attack import command as attack
from tools.load.attack.run import Effort as AttackEffort
from tools.load.replica import Replica
from tools.load.report import Report


def main() -> int:
    """Figures go to standard output, progress to standard error."""
    parser = argparse.ArgumentParser(prog="python -m tools.load", description=__doc__)
    runs = parser.add_subparsers(dest="run", required=True)

    one = runs.add_parser("soak", help="requests of every kind against one server: nothing leaks, all is counted")
    one.add_argument("--requests", type=int, default=soak.Effort.requests)
    one.add_argument("--stations", type=int, default=soak.Effort.stations, help="quiet moments at which to look")
    one.add_argument("--pause", type=float, default=soak.Effort.pause, help="seconds of each")
    one.add_argument("--grown", type=float, default=soak.Effort.grown, help="MB by which memory may grow")
    one.add_argument("--seed", type=int, default=soak.Effort.seed)
    one.add_argument("--target", help="a server that runs already, instead of one of its own")
    one.add_argument("--metrics", help="its metrics, as a URL; with --target")

    two = runs.add_parser("chaos", help="two replicas that are ended again and again: nobody notices")
    two.add_argument("--requests", type=int, default=chaos.Effort.requests)
    two.add_argument("--terms", type=int, default=chaos.Effort.terms, help="SIGTERMs")
    two.add_argument("--kills", type=int, default=chaos.Effort.kills, help="SIGKILLs")
    two.add_argument(
        "--worker-kills", type=int, help="SIGKILLs of single workers; default: 50 where --workers is 2 or more"
    )
    two.add_argument("--engine-kills", type=int, help="SIGKILLs of engines; default: 10 where --workers is 2 or more")
    two.add_argument("--callers", type=int, default=chaos.Effort.callers)
    two.add_argument("--seed", type=int, default=chaos.Effort.seed)
    two.add_argument(
        "--until",
        choices=("serving", "answering"),
        help="when the next is ended: once the last one serves, or once callers have come back to it; "
        "default: serving, with --no-retries answering",
    )
    two.add_argument(
        "--no-retries", action="store_true", help="callers that balance by health and never retry; SIGTERMs alone"
    )

    three = runs.add_parser("overload", help="ten times what it can do: it goes on doing what it can")
    three.add_argument("--seconds", type=float, default=overload.Effort.seconds, help="of each load")
    three.add_argument("--times", type=float, default=overload.Effort.times, help="the maximum")
    three.add_argument("--each", type=int, default=overload.Effort.each, help="images a request")
    three.add_argument("--generators", type=int, default=overload.Effort.generators, help="processes of the open loop")
    three.add_argument("--goodput", type=float, default=overload.Effort.goodput, help="least share of the maximum")
    three.add_argument("--photos", choices=("raw", "jpeg"), default=overload.Effort.photos)

    # The others compare labels, and random weights are sure of none.
    three.add_argument("--model", choices=NETWORKS, default="embedded", help="a network of the benchmark")

    four = _attack_parser(runs)
    for each in (one, two, three, four):
        each.add_argument("--json", type=Path, help="write figures, promises and raw data here")
        each.add_argument("--workers", type=int, help="processes that take calls; default: as the server decides")
        each.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    chosen = parser.parse_args()
    if chosen.run == "soak" and bool(chosen.target) != bool(chosen.metrics):
        parser.error("--target and --metrics come together.")
    if chosen.run == "attack":
        try:
            attack.chosen(chosen.only)
        except ValueError as error:
            parser.error(str(error))

    if chosen.run == "attack" and (chosen.read or chosen.before):
        found, before = attack.read(chosen.read or ()), attack.read(chosen.before or ())
        print(attack.summary(found, before, brief=chosen.markdown == "brief"), end="")
        return 0
    report = _RUNS[chosen.run](chosen)
    print(report.markdown())
    if chosen.json:
        report.write(chosen.json)
    for promise in report.broken:
        print(f"Broken: {promise.text}. Found: {promise.found}", file=sys.stderr)
    return 1 if report.broken else 0


def _attack_parser(runs: Any) -> argparse.ArgumentParser:
    four: argparse.ArgumentParser = runs.add_parser(
        "attack", help="what an adversary can do, and how their neighbour fares meanwhile"
    )
    four.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these scenarios")
    four.add_argument("--seconds", type=float, default=AttackEffort.seconds, help="of each phase")
    four.add_argument("--after", type=float, default=AttackEffort.after, help="seconds until the last look at memory")
    four.add_argument("--scale", type=float, default=AttackEffort.scale, help="of all numbers of the attacks")
    four.add_argument("--swap", action="store_true", help="exchange IPv4 and IPv6 of attacker and neighbour")
    four.add_argument("--no-control", action="store_true", help="do not burn as much CPU for comparison")
    four.add_argument(
        "--markdown",
        nargs="?",
        const="whole",
        choices=("whole", "brief"),
        default="",
        help="the table of the scenarios alone",
    )
    four.add_argument("--read", type=Path, nargs="+", metavar="FILE", help="what --json wrote, instead of attacks")
    four.add_argument("--before", type=Path, nargs="+", metavar="FILE", help="the same of an earlier state, beside it")
    return four


def _environment(chosen: argparse.Namespace) -> dict[str, str]:
    environment = NETWORKS[getattr(chosen, "model", "embedded")].environment()
    if chosen.workers is not None:
        environment["GLIMPSE_WORKERS"] = str(chosen.workers)
    for setting in chosen.set:
        name, _, value = setting.partition("=")
        environment[f"GLIMPSE_{name.upper().replace('-', '_').removeprefix('GLIMPSE_')}"] = value
    return environment


def _soak(chosen: argparse.Namespace) -> Report:
    effort = soak.Effort(
        requests=chosen.requests, stations=chosen.stations, pause=chosen.pause, grown=chosen.grown, seed=chosen.seed
    )
    if chosen.target:
        return soak.run(soak.Subject(chosen.target, lambda: _scrape(chosen.metrics), None), effort)
    with Replica(environment=_environment(chosen)) as replica:
        report = soak.run(soak.Subject(replica.target, replica.metrics, replica.pid), effort)
        faults = replica.faults()
        report.promise("the server logs no defect", not faults, "; ".join(faults[:3]))
        return report


def _chaos(chosen: argparse.Namespace) -> Report:
    effort = chaos.Effort(
        requests=chosen.requests,
        terms=chosen.terms,
        kills=0 if chosen.no_retries else chosen.kills,
        worker_kills=_part_kills(chosen, chosen.worker_kills, 50),
        engine_kills=_part_kills(chosen, chosen.engine_kills, 10),
        callers=chosen.callers,
        seed=chosen.seed,
        retries=not chosen.no_retries,
        until=chosen.until or ("answering" if chosen.no_retries else "serving"),
    )
    return chaos.run(effort, _environment(chosen))


def _part_kills(chosen: argparse.Namespace, given: int | None, usual: int) -> int:
    """SIGKILLs of single processes of a server that has several."""
    several = (chosen.workers or 1) > 1 and not chosen.no_retries
    return (usual if given is None else given) if several else 0


def _overload(chosen: argparse.Namespace) -> Report:
    effort = overload.Effort(
        seconds=chosen.seconds,
        times=chosen.times,
        each=chosen.each,
        generators=chosen.generators,
        goodput=chosen.goodput,
        photos=chosen.photos,
    )
    with Replica(environment=_environment(chosen)) as replica:
        return overload.run(replica, effort)


def _attack(chosen: argparse.Namespace) -> Report:
    effort = AttackEffort(
        seconds=chosen.seconds,
        after=chosen.after,
        scale=chosen.scale,
        swap=chosen.swap,
        control=not chosen.no_control,
    )

    def keep(report: Report) -> None:
        # It takes half an hour, and what was found is not lost with it.
        if chosen.json:
            report.write(chosen.json)

    report = attack.run(attack.chosen(chosen.only), effort, _environment(chosen), keep=keep)
    report.form = chosen.markdown
    return report


_RUNS: dict[str, Callable[[argparse.Namespace], Report]] = {
    "soak": _soak,
    "chaos": _chaos,
    "overload": _overload,
    "attack": _attack,
}


def _scrape(url: str) -> Mapping[str, float]:
    """A server's metrics now: name with labels -> value; of all models and versions together."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - the user's own URL
        text = answer.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key not in {"model", "version"}}
            name = sample.name + "".join(f",{key}={value}" for key, value in sorted(labels.items()))
            found[name] = found.get(name, 0.0) + sample.value
    return found


if __name__ == "__main__":
    # Whoever ends a run ends its servers with it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
