"""The autoscalers and the alert about queues agree on how long an image may wait.

A replica that works to its full rate R with L images in flight has each of them for L / R seconds (Little's law), and
no stage of an image takes longer than all of them together.
"""

from __future__ import annotations

import re

import pytest

from tests.deploy.tools import DEPLOY, ROOT

# A HorizontalPodAutoscaler, and KEDA makes one, leaves the replicas as they are up to this share above its target.
_TOLERANCE = 0.1
_TARGETS = {
    "components/autoscale/autoscaler.yaml": r'averageValue: "(\d+)"',
    "components/autoscale-keda/scaled-object.yaml": r'threshold: "(\d+)"',
    "helm/glimpse/values.yaml": r"imagesInFlight: (\d+)",
}


def _number(text: str, pattern: str) -> float:
    (found,) = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    return float(found)


@pytest.fixture(params=_TARGETS)
def target(request: pytest.FixtureRequest) -> float:
    """The images in flight for each replica that an autoscaler aims at."""
    return _number((DEPLOY / request.param).read_text("utf-8"), _TARGETS[request.param])


@pytest.fixture(scope="module")
def rate() -> float:
    """Images a second of one replica of the overlay: the default model and photos, as measured on two cores."""
    assert re.search(r'limits:\s+cpu: "2"', (DEPLOY / "overlays" / "cpu" / "resources.yaml").read_text("utf-8"))
    figures = (ROOT / "tools" / "bench" / "README.md").read_text("utf-8")
    assert "- CPU: AMD EPYC, 2 cores" in figures
    (table,) = re.findall(r"^\| \| (embedded, openvino, raw.*?)\n\n", figures, re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    (service,) = [row[1:] for row in rows if row[0] == "service"]
    return float(service[rows[0].index("default, openvino, jpeg")].split()[0])


def test_no_alert_about_queues_fires_where_the_autoscaler_is_content(target: float, rate: float) -> None:
    rules = (DEPLOY / "components" / "monitoring" / "rules.yaml").read_text("utf-8")
    seconds = _number(rules, r"alert: GlimpseQueueing\s+expr: \|[^>]*> ([\d.]+)\s")
    assert target * (1 + _TOLERANCE) / rate <= seconds


def test_the_target_keeps_both_cores_busy(target: float) -> None:
    """A photo in each decoder, a batch of two that is computed on each core, and the next ones."""
    assert target >= 2 + 2 * 2 + 2 * 2


def test_what_is_said_about_the_target_is_how_it_is_set(target: float, rate: float) -> None:
    said = (DEPLOY / "README.md").read_text("utf-8")
    seconds = _number(said, r"set ([\d.]+) times its images a second")
    assert f"{target:.0f} images in flight for each replica suit {rate:.0f} images a second" in " ".join(said.split())
    assert target == pytest.approx(seconds * rate, rel=0.05)
