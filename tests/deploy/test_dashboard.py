"""The dashboard and the alerts over a real server at work, by a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from deploy.components.monitoring import dashboard
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.deploy.prometheus import Prometheus
from tests.deploy.tools import DEPLOY, one, parse
from tests.server.repositories import add, damage

LABELS = {"job": "glimpse", "namespace": "glimpse", "pod": "glimpse-0"}
CHOSEN = {"$__rate_interval": "1m", "$namespace": "glimpse", "$pod": "glimpse-0|glimpse-1"}
RULES = DEPLOY / "components" / "monitoring" / "rules.yaml"
# Alerts whose expression has no answer here, threshold or not.
WITHOUT_DATA = {
    "GlimpseMixedModels": "counts what some replicas serve and others do not, and there is one",
    "GlimpseNotServing": "asks whether something is absent, and it is there",
    "GlimpseMemoryNearLimit": "reads what the kubelet and kube-state-metrics say",
}
TIMEOUT = 60.0  # seconds; until a call is called hung
HUNG = 120.0  # seconds; until data that does not come is called missing


def shown() -> dict[str, str]:
    """Panel and legend -> expression, with what Grafana would put into it."""
    found = {}
    for panel in json.loads(dashboard.FILE.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in CHOSEN.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            found[f"{panel['title']}: {target['legendFormat']}"] = expression
    return found


def test_the_dashboard_is_what_its_script_makes() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run python deploy/components/monitoring/dashboard.py"


def test_no_two_panels_overlap_and_none_is_wider_than_the_page() -> None:
    panels = json.loads(dashboard.FILE.read_text())["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (each["gridPos"] for each in panels):
        fields = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not fields & taken
        assert max(x for x, _ in fields) < 24
        taken |= fields


@pytest.mark.slow
def test_the_config_map_holds_the_dashboard_where_grafana_looks_for_it() -> None:
    made = one("monitoring", "ConfigMap")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["data"] == {"glimpse.json": dashboard.text()}


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    """What the operator hands to Prometheus."""
    (resource,) = parse(RULES.read_text())
    inside: dict[str, Any] = resource["spec"]
    return inside


@pytest.fixture(scope="module")
def busy(cat_photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that is made to do all that the dashboard shows, again and again, until the tests have ended.

    Its model has a version that answers, one that is its shadow, and one that cannot be loaded.
    """
    root = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        add(root, version)
    damage(add(root, 3))
    (root / "cifar" / "aliases.toml").write_text("stable = 1\n")
    (root / "cifar" / "rollout.toml").write_text("[shadow]\nversion = 2\nshare = 1\n")
    running = RunningServer(
        "--host=::",
        "--max-images-in-flight=16",
        "--max-images-per-request=12",
        "--drift",
        "--feedback=*",
        environment={"GLIMPSE_MODELS": str(root)},
        model={},
    )
    try:
        target = running.target
        # Whoever calls here comes from another address, and so is another party.
        elsewhere = target.replace("127.0.0.1", "[::1]")
        with (
            grpc.insecure_channel(target) as channel,
            grpc.insecure_channel(elsewhere) as other_channel,
            ThreadPoolExecutor(20) as callers,
        ):
            stub, other, over = ImageClassifierStub(channel), ImageClassifierStub(other_channel), threading.Event()
            with pytest.raises(grpc.RpcError) as loading:
                stub.DescribeModel(pb.DescribeModelRequest(), timeout=TIMEOUT)
            assert loading.value.code() is grpc.StatusCode.UNAVAILABLE
            running.wait_for("serving")
            work = callers.submit(keep_busy, stub, other, cat_photo.read_bytes(), callers, over)
            try:
                yield running
            finally:
                over.set()
                work.result(TIMEOUT)
    finally:
        running.close()


def keep_busy(
    stub: ImageClassifierStub,
    other: ImageClassifierStub,
    photo: bytes,
    callers: ThreadPoolExecutor,
    over: threading.Event,
) -> None:
    """Good images, bad ones, refused requests, callers who leave or have no time, a stream; one round after another."""
    image = pb.Image(encoded=photo)

    def classify(*images: pb.Image, timeout: float = TIMEOUT, by: ImageClassifierStub = stub) -> grpc.StatusCode:
        try:
            by.Classify(pb.ClassifyRequest(images=images), timeout=timeout)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def leave(after: float) -> None:
        call = stub.Classify.future(pb.ClassifyRequest(images=[image] * 12), timeout=TIMEOUT)
        time.sleep(after)
        call.cancel()

    def judge(place: int) -> None:
        """Say that what an image shows is the class in that place of its answer, if there is one."""
        with contextlib.suppress(grpc.RpcError):  # no room
            answer = stub.Classify(pb.ClassifyRequest(images=[image]), timeout=TIMEOUT)
            label = answer.results[0].predictions[place].label
            told = pb.TrueClass(request_id=answer.request_id, true_class=label)
            stub.Feedback(pb.FeedbackRequest(images=[told]), timeout=TIMEOUT)

    while not over.is_set():
        for place in (0, 1):
            judge(place)
        # Decoders may still be at work for those who have left.
        mixed = classify(image, pb.Image(encoded=b"no photo"), pb.Image(encoded=photo[:500]))
        assert mixed in {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert classify() is grpc.StatusCode.INVALID_ARGUMENT
        # More at once than may be in flight: too much for one party's share, and no room for another's.
        crowd = [callers.submit(classify, *[image] * 12, by=by) for by in (stub, other) * 3]
        assert {each.result() for each in crowd} <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        # However fast or slow this machine is, one of these ends amid the work on its images.
        for moment in (0.002 * 1.5**n for n in range(14)):
            classify(*[image] * 12, timeout=moment)
            leave(moment)
            if over.is_set():
                return
        pieces = (pb.ClassifyStreamRequest(id=str(n), request=pb.ClassifyRequest(images=[image] * 4)) for n in range(4))
        assert len(list(stub.ClassifyStream(pieces, timeout=TIMEOUT))) == 4
        over.wait(0.2)


@pytest.fixture(scope="module")
def prometheus(
    busy: RunningServer, rules: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    target = busy.metrics_url.removeprefix("http://").removesuffix("/metrics")
    folder = tmp_path_factory.mktemp("prometheus")
    with Prometheus(folder, target=target, labels=LABELS, rules=rules) as running:
        yield running


def missing(asked: dict[str, str], has_data: Callable[[str], bool]) -> dict[str, str]:
    """Those that have no data, however often they are asked."""
    end = time.monotonic() + HUNG
    left = dict(asked)
    while left and time.monotonic() < end:
        left = {name: expression for name, expression in left.items() if not has_data(expression)}
        time.sleep(0.5)
    return left


@pytest.mark.slow
def test_every_query_of_the_dashboard_has_data_when_the_server_is_at_work(prometheus: Prometheus) -> None:
    asked = shown()
    assert len(asked) > 40
    assert missing(asked, lambda expression: bool(prometheus.values(expression))) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "label", "values"),
    [
        ("glimpse_images_total", "outcome", {"classified", "refused", "expired", "cancelled"}),
        ("glimpse_requests_rejected_total", "reason", {"NO_IMAGES", "QUEUE_FULL", "SHARE_FULL"}),
        ("glimpse_images_refused_total", "reason", {"NOT_AN_IMAGE", "TRUNCATED_IMAGE"}),
        ("grpc_server_handled_total", "grpc_method", {"Classify", "ClassifyStream"}),
        ("grpc_server_handled_total", "grpc_code", {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "CANCELLED"}),
    ],
)
def test_the_load_is_one_in_which_everything_happens(
    prometheus: Prometheus, metric: str, label: str, values: set[str]
) -> None:
    asked = {value: f'increase({metric}{{{label}="{value}"}}[5m]) > 0' for value in values}
    assert missing(asked, lambda expression: bool(prometheus.values(expression))) == {}


@pytest.mark.slow
def test_every_alert_can_be_measured_on_a_server_at_work(prometheus: Prometheus, rules: dict[str, Any]) -> None:
    asked = {rule["alert"]: measured(rule["expr"]) for group in rules["groups"] for rule in group["rules"]}
    assert asked.keys() >= WITHOUT_DATA.keys()
    assert all(not prometheus.values(asked.pop(name)) for name in WITHOUT_DATA), "an exception that is none any more"
    assert missing(asked, lambda expression: bool(prometheus.values(expression))) == {}


@pytest.mark.slow
def test_prometheus_takes_all_that_the_server_says_and_evaluates_every_rule(
    prometheus: Prometheus, rules: dict[str, Any]
) -> None:
    def evaluated(_: str) -> bool:
        (group,) = prometheus.ask("rules")["groups"]
        return all(each["health"] == "ok" for each in group["rules"])

    assert missing({"rules": "all"}, evaluated) == {}
    (target,) = prometheus.ask("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    # Two that should not fire while a healthy server is refused more than it may take.
    firing = {each["labels"]["alertname"] for each in prometheus.ask("alerts")["alerts"] if each["state"] == "firing"}
    assert firing & {"GlimpseNotServing", "GlimpseDefects", "GlimpseBatchesFailing", "GlimpseStuck"} == set()


def measured(expression: str) -> str:
    """What an alert compares, without what it compares with."""
    without, found = re.subn(r"(?m)\s*(?:==|>|<)\s*[\d.]+$", "", expression)
    assert found or expression.startswith("absent("), expression
    return without
