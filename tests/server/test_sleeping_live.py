"""A server whose models sleep while others need their memory: real calls, real networks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of
from tests.server.repositories import Callers, add, anonymous, repository_of, serving_from, states, threads, wait_for
from tests.variations import with_two_workers_too

SERVICE = "glimpse.v1.ImageClassifier"
LIMIT = 56_000_000  # bytes, in which two of the small models fit
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is known of memory")


def models(root: Path, *names: str, more: str = "") -> Path:
    for name in names:
        folder = add(root, 1, name)
        (folder.parent / "model.toml").write_text(f"required = false\n{more}")
    return root


def asked(picture: Callable[[int], pb.Image], name: str) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(images=[picture(0)], model=pb.ModelSelector(name=name))


def memory_of(server: RunningServer) -> float:
    return sum(value for name, value in metrics_of(server).items() if name.startswith("glimpse_model_memory_bytes{"))


@with_two_workers_too
def test_three_models_answer_with_memory_for_two(
    start_server: Callable[..., RunningServer], tmp_path: Path, picture: Callable[[int], pb.Image]
) -> None:
    root = models(tmp_path, "a", "b", "c")
    ours = serving_from(start_server, root, GLIMPSE_MODELS_MEMORY_BYTES=str(LIMIT))
    with grpc.insecure_channel(ours.target) as channel, repository_of(ours) as admin:
        stub, health = ImageClassifierStub(channel), HealthStub(channel)
        (asleep,) = (key for key, state in states(admin).items() if state == "sleeping")
        sleeper = asleep.removesuffix("/1")
        described = stub.DescribeModel(pb.DescribeModelRequest(model=pb.ModelSelector(name=sleeper)), timeout=TIMEOUT)
        assert described.model.name == sleeper
        assert len(described.classes) == 10
        request = health_pb2.HealthCheckRequest(service=f"{SERVICE}/{sleeper}")
        assert health.Check(request, timeout=TIMEOUT).status == health_pb2.HealthCheckResponse.SERVING
        answers = set()
        for name in ("a", "b", "c") * 2:
            answer = stub.Classify(asked(picture, name), timeout=TIMEOUT)
            assert answer.model.name == name
            answers.add(answer.results[0].predictions[0].probability)
            assert memory_of(ours) <= LIMIT
        assert len(answers) == 1
        assert metrics_of(ours)[f'glimpse_model_wake_ups_total{{model="{sleeper}",outcome="woken"}}'] >= 1
        assert metrics_of(ours)["glimpse_models_memory_limit_bytes"] == LIMIT


@pytest.mark.ci
@with_two_workers_too
def test_callers_of_all_models_are_answered_while_they_take_turns_to_sleep(
    start_server: Callable[..., RunningServer], tmp_path: Path, picture: Callable[[int], pb.Image]
) -> None:
    root = models(tmp_path, "a", "b", "c")
    ours = serving_from(start_server, root, GLIMPSE_MODELS_MEMORY_BYTES=str(LIMIT))
    first, second, third = (Callers(ours.target, asked(picture, name), single=1, streams=0) for name in ("a", "b", "c"))
    with first, second, third:
        for _ in range(2):
            for each in (first, second, third):
                each.answered(1)
                assert memory_of(ours) <= LIMIT
    assert [*first.failed, *second.failed, *third.failed] == []


@pytest.mark.ci
@with_two_workers_too
def test_models_that_sleep_give_back_memory_and_threads(
    start_server: Callable[..., RunningServer], tmp_path: Path, picture: Callable[[int], pb.Image]
) -> None:
    names = [f"m{number}" for number in range(6)]
    root = models(tmp_path, *names, more="sleep_after = 1.0\n")
    ours = serving_from(start_server, root)
    with grpc.insecure_channel(ours.target) as channel, repository_of(ours) as admin:
        stub = ImageClassifierStub(channel)
        for name in names:
            stub.Classify(asked(picture, name), timeout=TIMEOUT)
        awake = sum(state == "ready" for state in states(admin).values())
        before, of_models, begun = anonymous(ours), memory_of(ours), threads(ours)
        wait_for(admin, {f"{name}/1": "sleeping" for name in names})
        assert memory_of(ours) == 0
        assert before - anonymous(ours) > of_models / 3
        assert begun - threads(ours) >= 2 * awake  # of each at least two batcher threads
