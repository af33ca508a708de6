"""What Prometheus sees."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from collections.abc import Callable

import grpc
import prometheus_client
import pytest

from glimpse.server.domain import ModelIdentity
from glimpse.server.metrics import Metrics
from glimpse.server.stages import STAGES
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT
from tests.server.hostile.conftest import eventually

STAGE_COUNT = 'glimpse_stage_seconds_count{{model="se_resnet20_cifar10",stage="{}",version="1"}}'


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name, 0.0)}


def test_a_request_is_counted_in_every_stage(
    stub: ImageClassifierStub, picture: Callable[[int], pb.Image], scrape: Callable[[], dict[str, float]]
) -> None:
    before = scrape()
    stub.Classify(pb.ClassifyRequest(images=[picture(1), pb.Image(encoded=b"x")]), timeout=TIMEOUT)
    more = grown(before, scrape())
    assert more['glimpse_images_total{outcome="classified"}'] == 1
    assert more['glimpse_images_total{outcome="refused"}'] == 1
    assert more['glimpse_images_refused_total{reason="NOT_AN_IMAGE"}'] == 1
    counted = {stage: more[STAGE_COUNT.format(stage)] for stage in STAGES}
    assert counted == {stage: 1 if stage in ("pre_stem", "queue", "compute") else 2 for stage in STAGES}
    assert more["glimpse_batch_size_count"] == 1
    handled = [value for name, value in more.items() if name.startswith("grpc_server_handled_total{")]
    assert handled == [1]


def test_a_refused_request_is_counted_by_reason_and_code(
    stub: ImageClassifierStub, scrape: Callable[[], dict[str, float]]
) -> None:
    before = scrape()
    with pytest.raises(grpc.RpcError):
        stub.Classify(pb.ClassifyRequest(), timeout=TIMEOUT)

    def handled() -> list[float]:
        return [
            value
            for name, value in grown(before, scrape()).items()
            if name.startswith("grpc_server_handled_total{") and 'grpc_code="INVALID_ARGUMENT"' in name
        ]

    # A call is counted when it has ended, a moment after its caller has its status.
    assert eventually(handled, bool) == [1]
    assert grown(before, scrape())['glimpse_requests_rejected_total{reason="NO_IMAGES"}'] == 1


def test_each_request_of_a_stream_is_counted_as_answered_or_refused(
    stub: ImageClassifierStub, picture: Callable[[int], pb.Image], scrape: Callable[[], dict[str, float]]
) -> None:
    """The call of a stream is counted once, however many requests it brings."""
    before = scrape()
    requests = [
        *(pb.ClassifyStreamRequest(id=str(i), request=pb.ClassifyRequest(images=[picture(i)])) for i in range(2)),
        pb.ClassifyStreamRequest(id="empty", request=pb.ClassifyRequest()),
    ]
    assert len(list(stub.ClassifyStream(iter(requests), timeout=TIMEOUT))) == 3
    stub.Classify(pb.ClassifyRequest(images=[picture(1)]), timeout=TIMEOUT)
    more = grown(before, scrape())
    assert more["glimpse_requests_answered_total"] == 3
    assert more['glimpse_requests_rejected_total{reason="NO_IMAGES"}'] == 1


def test_an_idle_server_has_nothing_in_flight(scrape: Callable[[], dict[str, float]]) -> None:
    now = scrape()
    assert (now["glimpse_images_in_flight"], now["glimpse_queue_depth"], now["glimpse_ready"]) == (0, 0, 1)


def test_series_of_a_version_end_some_minutes_after_it_is_gone() -> None:
    now = 0.0
    metrics = Metrics(lambda: now)

    def series() -> list[str]:
        text = prometheus_client.generate_latest(metrics.registry).decode()
        return [line for line in text.splitlines() if 'model="cats"' in line]

    metrics.models.loaded(ModelIdentity("cats", "0", "d"), "openvino", "float32")
    metrics.of("cats", "0").gave_up_decoding(0.1)
    kept = len(series())
    for version in range(1, 100):
        now += 60.0
        identity = ModelIdentity("cats", str(version), "d")
        metrics.models.loaded(identity, "openvino", "float32")
        metrics.of("cats", str(version)).gave_up_decoding(0.1)
        metrics.models.compared(identity, "bfloat16", 1.0)
        metrics.models.closed(ModelIdentity("cats", str(version - 1), "d"), "openvino", "float32")
    assert [line for line in series() if 'version="98"' in line]  # its last counts can still be scraped
    assert len(series()) < 10 * kept


def test_a_version_that_answers_again_keeps_its_series() -> None:
    now = 0.0
    metrics = Metrics(lambda: now)
    identity = ModelIdentity("cats", "1", "d")
    metrics.models.loaded(identity, "openvino", "float32")
    metrics.of("cats", "1").gave_up_decoding(0.1)
    metrics.models.closed(identity, "openvino", "float32")
    now = 299.0
    metrics.models.loaded(identity, "openvino", "float32")
    now = 1000.0
    metrics.models.loaded(ModelIdentity("dogs", "1", "d"), "openvino", "float32")
    text = prometheus_client.generate_latest(metrics.registry).decode()
    assert 'glimpse_stage_seconds_count{model="cats",stage="decode_wait",version="1"} 1.0' in text


def test_a_version_that_is_loaded_again_keeps_its_series_meanwhile() -> None:
    """What is told of its batches is asked for before it answers, and other models come and go in between."""
    now = 0.0
    metrics = Metrics(lambda: now)
    identity = ModelIdentity("cats", "1", "d")
    metrics.models.loaded(identity, "openvino", "float32")
    metrics.models.closed(identity, "openvino", "float32")
    now = 1000.0
    told = metrics.of("cats", "1")
    metrics.models.loaded(ModelIdentity("dogs", "1", "d"), "openvino", "float32")
    metrics.models.loaded(identity, "openvino", "float32")
    told.gave_up_decoding(0.1)
    text = prometheus_client.generate_latest(metrics.registry).decode()
    assert 'glimpse_stage_seconds_count{model="cats",stage="decode_wait",version="1"} 1.0' in text


def test_a_model_that_was_loaded_again_from_equal_files_is_still_told() -> None:
    """The one that goes has the labels of the one that answers."""
    metrics = Metrics()
    identity = ModelIdentity("cats", "1", "d")
    for _ in range(2):
        metrics.models.loaded(identity, "openvino", "float32")
    metrics.models.closed(identity, "openvino", "float32")
    assert b'glimpse_model_info{model="cats"' in prometheus_client.generate_latest(metrics.registry)
    metrics.models.closed(identity, "openvino", "float32")
    assert b'glimpse_model_info{model="cats"' not in prometheus_client.generate_latest(metrics.registry)


def test_promtool_finds_nothing_to_complain_of(server: RunningServer, stub: ImageClassifierStub) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    stub.DescribeModel(pb.DescribeModelRequest(), timeout=TIMEOUT)
    with urllib.request.urlopen(server.metrics_url, timeout=TIMEOUT) as response:  # noqa: S310 - our own server
        text = response.read()
    check = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")
