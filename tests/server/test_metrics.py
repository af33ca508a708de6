"""What Prometheus sees."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from collections.abc import Callable

import grpc
import pytest

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


def test_promtool_finds_nothing_to_complain_of(server: RunningServer, stub: ImageClassifierStub) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    stub.DescribeModel(pb.DescribeModelRequest(), timeout=TIMEOUT)
    with urllib.request.urlopen(server.metrics_url, timeout=TIMEOUT) as response:  # noqa: S310 - our own server
        text = response.read()
    check = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")
