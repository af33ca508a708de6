"""What Prometheus sees."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import prometheus_client
import pytest

from glimpse.models.decoding.refusals import Kind
from glimpse.server.domain import BatchReport, ModelIdentity
from glimpse.server.errors import Reason
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.metrics.stages import STAGES
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


def test_each_model_has_its_own_images_batches_and_queue() -> None:
    metrics = Metrics()
    cats, dogs = metrics.of("cats", "1"), metrics.of("dogs", "7")
    cats.image("classified", 3)
    dogs.image_refused(Reason.NOT_AN_IMAGE)
    dogs.batch(BatchReport(2, 4, 0.1, (0.0, 0.0), ok=True))
    cats.batch(BatchReport(1, 1, 0.1, (0.0,), ok=False))
    cats.expired(5)
    dogs.halved()
    metrics._queue_depth.set_function(lambda: [("cats", "1", 2), ("cats", "1", 3), ("dogs", "7", 0)])
    found = metrics.registry.get_sample_value
    ours = [{"model": "cats", "version": "1"}, {"model": "dogs", "version": "7"}]

    def values(name: str, **more: str) -> list[float | None]:
        return [found(name, {**each, **more}) for each in ours]

    assert values("glimpse_images_total", outcome="classified") == [3, 0]
    assert values("glimpse_images_total", outcome="refused") == [0, 1]
    assert values("glimpse_batch_size_sum") == [1, 2]
    assert values("glimpse_batch_padding_images_total") == [0, 2]
    assert values("glimpse_batches_total", outcome="failed") == [1, 0]
    assert values("glimpse_queue_dropped_images_total", cause="expired") == [5, 0]
    assert values("glimpse_batches_halved_total") == [0, 1]
    assert values("glimpse_queue_depth") == [5, 0]


def test_what_is_counted_for_a_model_is_put_together_once() -> None:
    """Threads that load models and the event loop may ask at the same moment."""
    metrics = Metrics()
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: metrics.of("cats", "1"), range(500)))
    assert len({id(each) for each in found}) == 1


def test_methods_that_nobody_has_called_have_no_series() -> None:
    """Else an HTTP port alone would bring hundreds of lines of zeros."""
    metrics = Metrics()
    for name in ("Classify", "Predict"):
        method = metrics.rpcs.of("unary", "http", name)
    method.began()
    method.ended("OK", 0.1)
    text = prometheus_client.generate_latest(metrics.registry).decode()
    assert "Classify" not in text
    assert 'grpc_server_started_total{grpc_method="Predict"' in text
    assert 'grpc_server_handling_seconds_count{grpc_method="Predict"' in text


@pytest.mark.parametrize("labelling", [True, False])
def test_samples_and_feedback_are_told_only_where_there_are_any(*, labelling: bool) -> None:
    metrics = Metrics(labelling=labelling)
    metrics.labelling.kept("random")
    text = prometheus_client.generate_latest(metrics.registry).decode()
    assert ("glimpse_samples" in text) == ("glimpse_feedback" in text) == labelling


def test_images_have_only_the_reasons_that_an_image_can_have() -> None:
    text = prometheus_client.generate_latest(Metrics().registry).decode()
    told = set(re.findall(r'glimpse_images_refused_total\{reason="(\w+)"\}', text))
    assert told == {each.value for each in Kind} | {"RAW_PIXELS_MISMATCH"}


def test_promtool_finds_nothing_to_complain_of(server: RunningServer, stub: ImageClassifierStub) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    stub.DescribeModel(pb.DescribeModelRequest(), timeout=TIMEOUT)
    with urllib.request.urlopen(server.metrics_url, timeout=TIMEOUT) as response:  # noqa: S310 - our own server
        text = response.read()
    check = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")


def _requests(metrics: Metrics, name: str) -> dict[tuple[str, str], float]:
    """The values of a metric of requests that are not 0, by model and reason."""
    samples = (each for metric in metrics.registry.collect() for each in metric.samples if each.name == name)
    return {(each.labels["model"], each.labels.get("reason", "")): each.value for each in samples if each.value}


def test_only_names_of_served_models_make_series_of_requests() -> None:
    """A caller may send any name."""
    now = 0.0
    metrics = Metrics(clock=lambda: now)
    identity, other = ModelIdentity("cifar", "1", "sha256:0"), ModelIdentity("cifar", "2", "sha256:1")
    for each in (identity, other):
        metrics.of(each.name, each.version).answered([])
        metrics.models.loaded(each, "openvino", "float32")
    for name in ("cifar", "cifar", "dog", "", "cifar\n"):
        metrics.request_rejected(Reason.QUEUE_FULL, name)
    metrics.request_rejected(Reason.TOKEN_MISSING)
    assert _requests(metrics, "glimpse_requests_answered_total") == {("cifar", ""): 2}
    assert _requests(metrics, "glimpse_requests_rejected_total") == {
        ("cifar", "QUEUE_FULL"): 2,
        ("", "QUEUE_FULL"): 3,
        ("", "TOKEN_MISSING"): 1,
    }
    for gone, left in ((identity, {"", "cifar"}), (other, {""})):
        metrics.models.closed(gone, "openvino", "float32")
        now += 301.0
        metrics.models.loading("any", "1")
        metrics.models._forget_gone()
        names = {
            each.labels["model"]
            for metric in metrics.registry.collect()
            for each in metric.samples
            if each.name.startswith("glimpse_requests") and each.name.endswith("_total")
        }
        assert names == left
    metrics.request_rejected(Reason.QUEUE_FULL, "cifar")
    assert _requests(metrics, "glimpse_requests_rejected_total")["", "QUEUE_FULL"] == 4


def test_requests_count_for_the_model_that_they_ask_for(
    stub: ImageClassifierStub, picture: Callable[[int], pb.Image], scrape: Callable[[], dict[str, float]]
) -> None:
    """By its own name, whether they name it or none; a name that is not served is none."""
    before, name = scrape(), "se_resnet20_cifar10"
    stub.Classify(pb.ClassifyRequest(images=[picture(1)]), timeout=TIMEOUT)
    for model in ("", name, "unknown"):
        with pytest.raises(grpc.RpcError):
            stub.Classify(pb.ClassifyRequest(model=pb.ModelSelector(name=model)), timeout=TIMEOUT)
    more = grown(before, scrape())
    assert more[f'glimpse_requests_answered_total{{model="{name}"}}'] == 1
    assert more[f'glimpse_requests_rejected_total{{model="{name}",reason="NO_IMAGES"}}'] == 2
    unknown = {
        key for key, value in more.items() if value and key.startswith('glimpse_requests_rejected_total{model=""')
    }
    assert len(unknown) == 1
