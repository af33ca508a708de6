"""The alert rules, by the tool of those who evaluate them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from glimpse.server.metrics.metrics import Metrics
from tests.deploy.tools import DEPLOY, parse, run, tool

pytestmark = pytest.mark.slow

CASES = Path(__file__).parent / "alerts.yaml"
RULES = DEPLOY / "components" / "monitoring" / "rules.yaml"
# Made by Prometheus, by the process collector, which gives nothing where there is no /proc, and by the cluster.
NOT_OURS = {
    "up",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
    "container_memory_working_set_bytes",
    "kube_pod_container_resource_limits",
}


@pytest.fixture(scope="module")
def specification() -> dict[str, Any]:
    """What the operator hands to Prometheus."""
    (resource,) = parse(RULES.read_text())
    inside: dict[str, Any] = resource["spec"]
    return inside


@pytest.fixture(scope="module")
def rules(specification: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for group in specification["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def folder(specification: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as Prometheus reads them, and their cases beside them."""
    made = tmp_path_factory.mktemp("rules")
    (made / "rules.yaml").write_text(json.dumps(specification))  # JSON is YAML
    shutil.copy(CASES, made)
    return made


def test_promtool_finds_nothing_wrong_with_the_rules(folder: Path) -> None:
    check = run(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml", folder=folder)
    assert check.returncode == 0, check.stdout + check.stderr


def test_each_alert_fires_when_it_should_and_only_then(folder: Path) -> None:
    test = run(tool("promtool"), "test", "rules", CASES.name, folder=folder)
    assert test.returncode == 0, test.stdout + test.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(
    rules: list[dict[str, Any]],
) -> None:
    (cases,) = parse(CASES.read_text())
    tested = [each for case in cases["tests"] for each in case["alert_rule_test"]]
    names = {rule["alert"] for rule in rules}
    assert {each["alertname"] for each in tested if each.get("exp_alerts")} == names
    assert {each["alertname"] for each in tested if not each.get("exp_alerts")} == names


def test_the_alerts_read_metrics_that_there_are(rules: list[dict[str, Any]]) -> None:
    there = NOT_OURS.union(*(_exposed(each.name, each.type) for each in Metrics().registry.collect()))
    for rule in rules:
        read = set(re.findall(r"\b(up|(?:glimpse|grpc|process|container|kube)_[a-z_]+)\{", rule["expr"]))
        assert read, rule["alert"]
        assert read <= there, rule["alert"]


def _exposed(name: str, kind: str) -> set[str]:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(kind, [""])
    return {name + suffix for suffix in suffixes}


def test_the_runbook_has_a_section_for_each_alert_and_for_no_other(rules: list[dict[str, Any]]) -> None:
    sections = re.findall(r"^### (Glimpse\w+)$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules]
