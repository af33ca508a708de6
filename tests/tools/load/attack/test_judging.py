from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.load.attack.command import chosen, read, summary
from tools.load.attack.neighbour import ANSWERED, UNANSWERED
from tools.load.attack.run import Finding, Phase, judge, phase
from tools.load.attack.scenario import MB, Scenario

CALM = Phase(40, 0.010, 0.020, {})
SCENARIO = Scenario("a-scenario", "nothing happens", [], grown=150, kept=50, logged=1000)
GOOD = Finding(
    "heavy-images",
    "an attack",
    "127.0.0.1",
    calm=CALM,
    under=Phase(40, 0.030, 0.050, {}),
    after=CALM,
    control=None,
    memory={"before": 200 * MB, "peak": 350 * MB, "after": 250 * MB},
    attacker={"began": 1.0, "ended": 2.0, "cpu": 0.5, "calls": 10, "connections": 1, "endings": {"OK": 10}},
    logged=1000,
)


def judged(**changed: object) -> list[str]:
    finding = replace(GOOD, broken=[], **changed)  # type: ignore[arg-type]
    judge(finding, SCENARIO)
    return finding.broken


def test_what_stays_within_every_bound_holds() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"under": Phase(40, 0.031, 0.05, {})}, "its median is 3.1 times the calm one"),
        ({"under": Phase(40, None, None, {"CANCELLED": 40})}, "its median is without an answer"),
        ({"under": Phase(40, 0.01, 0.02, {"CANCELLED": 1})}, "the neighbour met 1 CANCELLED"),
        ({"after": Phase(40, 0.01, 0.02, {UNANSWERED: 2})}, "the neighbour met 2 no answer"),
        ({"memory": {"before": 0, "peak": 151 * MB, "after": 0}}, "memory grew by 151 MB, more than 150"),
        ({"memory": {"before": 0, "peak": 100 * MB, "after": 51 * MB}}, "of memory 51 MB were kept, more than 50"),
        ({"logged": 1001}, "logged were 1,001 bytes, more than 1,000"),
    ],
)
def test_each_bound_that_is_crossed_is_told(changed: dict[str, object], told: str) -> None:
    assert told in judged(**changed)


def test_a_phase_has_the_calls_that_were_sent_in_it_and_waits_count() -> None:
    records = [
        (0.9, 1.0, ANSWERED),
        (1.0, 0.01, ANSWERED),
        (1.1, 10.0, UNANSWERED),
        (1.2, 0.02, ANSWERED),
        (1.3, 0.001, "CANCELLED"),
        (2.0, 1.0, ANSWERED),
    ]
    assert phase(records, 1.0, 2.0) == Phase(4, p50=0.02, p99=10.0, errors={UNANSWERED: 1, "CANCELLED": 1})
    assert phase(records, 3.0, 4.0) == Phase(0, None, None, {})


def test_a_table_shows_the_worst_attempt_and_of_two_runs_the_later(tmp_path: Path) -> None:
    bad = replace(GOOD, attack="another", under=Phase(40, 1.0, 2.0, {"CANCELLED": 7}), broken=["x"])
    for name, findings in (("first", [bad, GOOD]), ("second", [replace(bad, broken=[], under=CALM)])):
        data = {"data": {"findings": [each.as_data() for each in findings]}}
        (tmp_path / name).write_text(json.dumps(data), "utf-8")
    first, both = read([tmp_path / "first"]), read([tmp_path / "first", tmp_path / "second"])
    line = summary(both, first, brief=True).splitlines()[2]
    assert line.startswith(
        "| cost is what is admitted: no caller within the limits starves another | `heavy-images` | "
    )
    before, now = line.strip("|").split("|")[2:]
    assert (
        before.strip()
        == "p50 10 ms to 1,000 ms (100.0 times), 7 CANCELLED of 40; memory at most +150 MB, kept +50 MB; 1 of 2 held"
    )
    assert now.strip() == "p50 10 ms to 30 ms (3.0 times); memory at most +150 MB, kept +50 MB; 2 of 2 held"


def test_scenarios_are_chosen_by_name() -> None:
    assert [scenario.name for scenario in chosen(["reset-flood", "heavy-images"])] == ["reset-flood", "heavy-images"]
    with pytest.raises(ValueError, match="No scenario 'nothing'"):
        chosen(["nothing"])
