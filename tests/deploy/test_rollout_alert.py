"""A shadow whose colours are wrong, from a real photo to the alert."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.deploy.tools import DEPLOY, parse, run, tool
from tests.server.conftest import metrics_of
from tests.server.photos import add_with_wrong_colours, parts
from tests.server.repositories import add, repository_of

pytestmark = pytest.mark.slow

RULES = DEPLOY / "components" / "monitoring" / "rules.yaml"
TIMEOUT = 120.0  # seconds; until a call is called hung
_SERIES = re.compile(r"glimpse_rollout_(compared_images_total|min_agreement)\{")


@pytest.fixture(scope="module", params=["as before", "BGR for RGB"])
def scraped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[float]]]:
    """What a server says of its shadow before and after a hundred photos: the series, and their two values."""
    root = tmp_path_factory.mktemp("models")
    add(root, 1)
    (add if request.param == "as before" else add_with_wrong_colours)(root, 2)
    (root / "cifar" / "aliases.toml").write_text("stable = 1\n")
    (root / "cifar" / "rollout.toml").write_text("[shadow]\nversion = 2\nshare = 1.0\n")
    server = RunningServer(environment={"GLIMPSE_MODELS": str(root), "GLIMPSE_ADMIN": "*"}, model={})
    try:
        server.wait_for("serving", seconds=900)
        found = {name: [value] for name, value in series(server).items()}
        photos = parts()
        with grpc.insecure_channel(server.target) as channel, repository_of(server) as models:
            stub, compared = ImageClassifierStub(channel), 0
            while compared < 100:
                stub.Classify(pb.ClassifyRequest(images=[pb.Image(encoded=next(photos))]), timeout=TIMEOUT)
                (told,) = models.List(pb.ModelRepositoryListRequest(), timeout=TIMEOUT).rollouts
                compared = told.compared_images
        for name, value in series(server).items():
            found[name].append(value)
        yield found
    finally:
        server.close()


def series(server: RunningServer) -> dict[str, float]:
    return {
        name.replace("{", '{job="glimpse",', 1): value
        for name, value in metrics_of(server).items()
        if _SERIES.match(name)
    }


def test_the_alert_fires_for_a_shadow_with_wrong_colours_and_for_no_other(
    scraped: dict[str, list[float]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Prometheus evaluates the rule over what the server has said, as if ten minutes lay between its two scrapes."""
    wrong = "BGR" in request.node.name
    assert {len(values) for values in scraped.values()} == {2}
    assert len(scraped) == 3
    tests: dict[str, Any] = {
        "rule_files": ["rules.yaml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": f"{before}x10 {after}x20"} for name, (before, after) in scraped.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": 'ALERTS{alertname="GlimpseVersionsDisagree"}',
                        "eval_time": "18m",
                        "exp_samples": [
                            {
                                "labels": 'ALERTS{alertname="GlimpseVersionsDisagree", alertstate="firing", '
                                'model="cifar", rollout="shadow", severity="warning", version="2"}',
                                "value": 1,
                            }
                        ]
                        * wrong,
                    }
                ],
            }
        ],
    }
    (resource,) = parse(RULES.read_text())
    (tmp_path / "rules.yaml").write_text(json.dumps(resource["spec"]))
    (tmp_path / "tests.yaml").write_text(json.dumps(tests))
    ended = run(tool("promtool"), "test", "rules", "tests.yaml", folder=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
