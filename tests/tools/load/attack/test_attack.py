"""Each attack in small: that it is made, counted and reported. What it does to latencies is for `make load` to say.

One server stands for all scenarios of a kind, so each attacker comes from an address of its own: what a server holds
against one of them must not fall on the next.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.server.hostile.memory import needs_proc
from tools.load import __main__ as command
from tools.load.attack import costly, floods, rights
from tools.load.attack.catalogue import SCENARIOS
from tools.load.attack.command import read, summary
from tools.load.attack.run import Effort, Finding, Trial, Workers, serving
from tools.load.attack.scenario import MB, Attack, Scenario
from tools.load.replica import Replica

pytestmark = needs_proc
ROOT = Path(__file__).parents[4]
Running = tuple[Replica, Path]

_EFFORT = Effort(seconds=0.3, after=0.0, patience=20.0, scale=0.03, control=False)
_PLAYED = [*costly.SCENARIOS, *floods.SCENARIOS]
# By default one of many calls and one of many connections; those that are heavy take seconds of processor time.
_QUICK = {"unknown-methods", "connection-storm"}
_FIRST = [pytest.param(scenario, 0, marks=() if scenario.name in _QUICK else pytest.mark.ci) for scenario in _PLAYED]
_OTHERS = [(scenario, number) for scenario in _PLAYED for number in range(1, len(scenario.attacks))]
_hosts = itertools.count(10)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as running:
        yield running


class _Servers(dict[str, Running]):
    """A server for each kind of access, started when a scenario of that kind is played for the first time."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self._stack = stack

    def __missing__(self, access: str) -> Running:
        scenario = next(each for each in _PLAYED if each.access == access)
        return self.setdefault(access, self._stack.enter_context(serving(scenario, {})))


@pytest.fixture(scope="module")
def servers(workers: Workers) -> Iterator[dict[str, Running]]:
    with ExitStack() as stack:
        yield _Servers(stack)


def _name(value: object) -> str:
    return value.name if isinstance(value, Scenario) else ""


def _play(scenario: Scenario, number: int, servers: dict[str, Running], workers: Workers) -> Finding:
    replica, folder = servers[scenario.access]
    source = f"127.0.1.{next(_hosts)}"
    return Trial(scenario, number, replica, folder, workers, _EFFORT).run([source])


def _check(finding: Finding) -> None:
    assert finding.calm.sent > 0
    assert finding.calm.p50 is not None
    assert finding.under.sent + finding.after.sent > 0
    # It came to the server: a call that nobody saw would prove nothing.
    assert finding.attacker["connections"] > 0
    assert finding.attacker["ended"] > finding.attacker["began"]
    assert "connection: EADDRNOTAVAIL" not in finding.attacker["endings"]
    assert 0 < finding.memory["before"] <= finding.memory["peak"] < 6000 * MB
    assert not any(what.startswith(("the server has ended", "a defect")) for what in finding.broken), finding.broken
    json.dumps(finding.as_data(), allow_nan=False)


@pytest.mark.parametrize(("scenario", "number"), _FIRST, ids=_name)
def test_an_attack_is_made_and_its_neighbour_is_measured(
    scenario: Scenario, number: int, servers: dict[str, Running], workers: Workers
) -> None:
    _check(_play(scenario, number, servers, workers))


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "number"), _OTHERS, ids=_name)
def test_a_variation_is_made_and_its_neighbour_is_measured(
    scenario: Scenario, number: int, servers: dict[str, Running], workers: Workers
) -> None:
    _check(_play(scenario, number, servers, workers))


@pytest.mark.ci
@pytest.mark.parametrize("number", [3])
def test_a_removed_token_ends_calls_and_it_is_told_how_soon(workers: Workers, number: int) -> None:
    finding = rights.play(number, workers, Effort(seconds=0.3, after=0.0, control=False), {})
    assert finding.attacker["endings"] == {"UNAUTHENTICATED": 1}
    assert finding.attacker["seconds"] > 0
    assert finding.under.errors == {}
    assert finding.under.sent > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2, 4, 5])
def test_a_right_that_is_taken_is_watched_to_its_end(workers: Workers, number: int) -> None:
    finding = rights.play(number, workers, Effort(seconds=0.3, after=0.0, patience=2.0, control=False), {})
    assert finding.attacker["calls"] > 0
    ended = finding.attacker["seconds"] is not None
    assert ("went on" in finding.attacker["endings"]) != ended
    assert finding.under.errors == {}


def test_every_scenario_has_its_attack_and_three_variations() -> None:
    assert [scenario.name for scenario in _PLAYED if len(scenario.attacks) < 4] == []
    names = [(scenario.name, attack.name) for scenario in _PLAYED for attack in scenario.attacks]
    assert len(set(names)) == len(names)


def test_the_documents_name_every_scenario() -> None:
    for page in ("SECURITY.md", "tools/load/README.md"):
        table = (ROOT / page).read_text("utf-8").split("<!-- attack: begin -->")[1].split("<!-- attack: end -->")[0]
        named = re.findall(r"^\| [^|]+ \| `([a-z-]+)` \|", table, re.MULTILINE)
        assert named == [scenario.name for scenario in SCENARIOS], page


def test_numbers_are_scaled_and_nothing_else_is() -> None:
    attack = Attack("a", "calls", {"at_once": 100, "names": 0, "pause": 0.5, "connections": 3, "sent": "photo"})
    assert attack.scaled(0.03) == {"at_once": 3, "names": 0, "pause": 0.5, "connections": 1, "sent": "photo"}


@pytest.mark.ci
def test_the_command_writes_what_it_found_and_fails_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    arguments = f"attack --only unread-answers --seconds 0.3 --after 0 --scale 0.01 --no-control --json {found}"
    scenario = next(scenario for scenario in _PLAYED if scenario.name == "unread-answers")
    monkeypatch.setattr("tools.load.attack.command.SCENARIOS", [replace(scenario, attacks=scenario.attacks[:1])])
    monkeypatch.setattr("tools.load.attack.run.TIMES", 0.0)  # that no median can keep
    monkeypatch.setattr("sys.argv", ["load", *arguments.split()])
    assert command.main() == 1
    printed = capsys.readouterr()
    assert "| unread-answers: calls without a window |" in printed.out
    assert "Broken: unread-answers: " in printed.err
    assert len(read([found])) == 1

    monkeypatch.setattr("sys.argv", ["load", "attack", "--read", str(found), "--before", str(found)])
    assert command.main() == 0
    table = capsys.readouterr().out
    assert table == summary(read([found]), read([found]))
    assert table.count("0 of 1 held") == 2


@pytest.mark.ci
def test_a_scenario_that_there_is_not_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["load", "attack", "--only", "nothing-of-the-kind"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
