"""All scenarios, one after the other, and what they found as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.load.attack import rights
from tools.load.attack.catalogue import SCENARIOS
from tools.load.attack.run import Effort, Finding, Trial, Workers, serving
from tools.load.attack.scenario import Scenario
from tools.load.report import Report, Ticker, counts

Data = Mapping[str, Any]  # of a finding, as it is written
_MB = 1_000_000


@dataclass
class Findings(Report):
    """A report whose figures are tables of their own."""

    form: str = ""  # whole, brief: the table of the scenarios alone

    def markdown(self) -> str:
        """The table of all attacks and that of the scenarios, or the latter alone."""
        found: list[Data] = self.data["findings"]
        if self.form:
            return summary(found, brief=self.form == "brief")
        return f"## {self.name}\n\n{details(found)}\n{summary(found)}"


def run(
    scenarios: Sequence[Scenario],
    effort: Effort,
    environment: Mapping[str, str],
    *,
    keep: Callable[[Report], None] = lambda report: None,
) -> Findings:
    """All attacks of all scenarios, each on a server of its own; `keep` is told after each."""
    report = Findings("Attack: what an adversary can do", data={"findings": []})
    total = sum(len(scenario.attacks) for scenario in scenarios)
    with Workers() as workers, Ticker("attack", total) as ticker:
        done = 0
        for scenario in scenarios:
            broken = []
            for number, attack in enumerate(scenario.attacks):
                finding = _one(scenario, number, workers, effort, environment)
                done += 1
                ticker.at(done)
                ticker.tell(f"{scenario.name}, {attack.name}: {'; '.join(finding.broken) or 'holds'}")
                report.data["findings"].append(finding.as_data())
                broken += [f"{attack.name}: {what}" for what in finding.broken]
                keep(report)
            report.promise(f"{scenario.name}: {scenario.promise}", not broken, "; ".join(broken))
    return report


def _one(scenario: Scenario, number: int, workers: Workers, effort: Effort, environment: Mapping[str, str]) -> Finding:
    if scenario is rights.SCENARIO:
        return rights.play(number, workers, effort, environment)
    with serving(scenario, environment) as (replica, folder):
        return Trial(scenario, number, replica, folder, workers, effort).run()


def chosen(names: Sequence[str]) -> list[Scenario]:
    """The scenarios of these names, all where there are none.

    Raises:
        ValueError: expected; there is no such scenario.
    """
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"No scenario {unknown[0]!r}. There are: {', '.join(known)}.")
    return [known[name] for name in names] if names else list(SCENARIOS)


def read(files: Sequence[Path]) -> list[Data]:
    """What earlier runs wrote, in the order of the scenarios; of an attack that was made twice, the later."""
    found: dict[tuple[str, str], Data] = {}
    for file in files:
        for each in json.loads(file.read_text(encoding="utf-8"))["data"]["findings"]:
            found[each["scenario"], each["attack"]] = each
    order = {
        (scenario.name, attack.name): at
        for at, (scenario, attack) in enumerate((s, a) for s in SCENARIOS for a in s.attacks)
    }
    return [found[key] for key in sorted(found, key=lambda key: order.get(key, len(order)))]


def details(found: Sequence[Data]) -> str:
    """A line for each attack."""
    columns = (
        "attack",
        "neighbour's p50, p99, calm",
        "under attack",
        "times",
        "errors, then and afterwards",
        "p50 beside as much CPU burnt",
        "MB before, peak, after",
        "attacker",
        "logged",
        "",
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for each in found:
        did = each["attacker"]
        lines.append(
            f"| {each['scenario']}: {each['attack']} | {_pair(each['calm'])} | {_pair(each['under'])} | {_times(each)} "
            f"| {_errors(each)} | {_ms(each['control']['p50']) if each['control'] else ''} | {_memory(each)} "
            f"| {did['cpu']:.0%} CPU, {did['calls']:,} calls, {did['connections']:,} connections; "
            f"{counts(did['endings'])} | {each['logged'] / 1000:,.0f} kB | {_held(each)} |"
        )
    return "\n".join(lines) + "\n"


def summary(found: Sequence[Data], before: Sequence[Data] = (), *, brief: bool = False) -> str:
    """A line for each scenario: what the worst of its attacks did, and did `before`, where that is known."""
    names = dict.fromkeys(each["scenario"] for each in (*before, *found))
    states = [before, found] if before else [found]
    columns = ["promise", "scenario", *(["before", "now"] if before else ["the worst of its attacks"])]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    # Those of earlier runs, in whatever order they come, stand as they are played.
    for scenario in (each for each in SCENARIOS if each.name in names):
        cells = [_cell([each for each in state if each["scenario"] == scenario.name], brief=brief) for state in states]
        lines.append(f"| {scenario.promise} | `{scenario.name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(found: Sequence[Data], *, brief: bool) -> str:
    if not found:
        return ""
    worst = max(found, key=_harm)
    held = sum(1 for each in found if not each["broken"])
    if "seconds" in worst["attacker"]:
        seconds = worst["attacker"]["seconds"]
        did = "went on for as long as was watched" if seconds is None else f"ended after {seconds:.1f} s"
    else:
        did = f"p50 {_ms(worst['calm']['p50'])} ms to {_median(worst)}"
        if (errors := _errors(worst)) != "none":
            did += f", {errors}"
        if logged := [each for each in worst["broken"] if each.startswith("logged")]:
            did += f", {logged[0]}"
    # Not always of the same attempt.
    grown, kept = (max(each["memory"][when] - each["memory"]["before"] for each in found) for when in ("peak", "after"))
    did += f"; memory at most +{grown / _MB:,.0f} MB, kept +{max(0, kept) / _MB:,.0f} MB"
    if brief:
        return f"{did}; {held} of {len(found)} held"
    return f"{worst['attack']}: {did}; {worst['logged'] / 1000:,.0f} kB logged; {held} of {len(found)} held"


def _harm(each: Data) -> tuple[Any, ...]:
    """What the worst of several attacks is told by: broken first, then by what a neighbour would complain of."""
    failed = sum(each["under"]["errors"].values()) + sum(each["after"]["errors"].values())
    seconds = each["attacker"].get("seconds", 0.0)
    went_on = seconds is None
    return bool(each["broken"]), went_on, seconds or 0.0, failed, each["ratio"] or 0.0, each["memory"]["peak"]


def _pair(phase: Data) -> str:
    return f"{_ms(phase['p50'])}, {_ms(phase['p99'])} ms"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f}"


def _times(each: Data) -> str:
    return "no answer" if each["ratio"] is None else f"{each['ratio']:,.1f} times"


def _median(each: Data) -> str:
    """The median under attack, and its ratio."""
    if each["ratio"] is None:
        return "no answer"
    return f"{_ms(each['under']['p50'])} ms ({each['ratio']:,.1f} times)"


def _errors(each: Data) -> str:
    told = [
        f"{counts(each[phase]['errors'])} of {each[phase]['sent']}{when}"
        for phase, when in (("under", ""), ("after", " afterwards"))
        if each[phase]["errors"]
    ]
    return ", ".join(told) or "none"


def _memory(each: Data) -> str:
    return ", ".join(f"{each['memory'][name] / _MB:,.0f}" for name in ("before", "peak", "after"))


def _held(each: Data) -> str:
    return f"**{'; '.join(each['broken'])}**" if each["broken"] else "holds"
