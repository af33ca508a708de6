"""A real server whose runtime hangs: it says so everywhere, and takes it back when the runtime does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of, rich_status
from tests.server.repositories import add

SERVICE = "glimpse.v1.ImageClassifier"


def test_a_runtime_that_hangs_flips_liveness_and_readiness_until_it_comes_back(
    start_server: Callable[..., RunningServer], picture: Callable[[int], pb.Image], tmp_path: Path
) -> None:
    hang = tmp_path / "hang"
    running = start_server("--stuck-seconds=3", environment={"HANG_WHILE": str(hang)}, module="tests.server.hanging")
    running.wait_for("serving")
    request = pb.ClassifyRequest(images=[picture(1)])
    with grpc.insecure_channel(running.target) as channel:
        health, stub = HealthStub(channel), ImageClassifierStub(channel)

        def statuses() -> list[str]:
            return [
                health_pb2.HealthCheckResponse.ServingStatus.Name(
                    health.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT).status
                )
                for name in ("", SERVICE)
            ]

        assert stub.Classify(request, timeout=TIMEOUT).results[0].predictions
        assert statuses() == ["SERVING", "SERVING"]
        hang.touch()
        hung = stub.Classify.future(request, timeout=TIMEOUT)
        detail = running.wait_for("stuck", seconds=TIMEOUT)["detail"]
        assert "A batch of 1 image has been computing for" in detail
        assert "calls are refused, and the health checks fail" in detail
        assert statuses() == ["NOT_SERVING", "NOT_SERVING"]
        assert metrics_of(running)["glimpse_ready"] == 0
        for call in (hung, stub.Classify.future(request, timeout=TIMEOUT)):
            with pytest.raises(grpc.RpcError) as refused:
                call.result()
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert rich_status(refused.value)[1].reason == "RUNTIME_STUCK"
        hang.unlink()
        running.wait_for("no longer stuck", seconds=TIMEOUT)
        while statuses() != ["SERVING", "SERVING"]:
            threading.Event().wait(0.05)
        assert metrics_of(running)["glimpse_ready"] == 1
        assert stub.Classify(request, timeout=TIMEOUT).results[0].predictions
    running.terminate()
    assert running.exit_code() == 0


def test_a_model_that_hangs_keeps_no_other_one_from_answering(
    start_server: Callable[..., RunningServer], picture: Callable[[int], pb.Image], tmp_path: Path
) -> None:
    """Its batch had the whole device when it began to hang."""
    root, hang = tmp_path / "models", tmp_path / "hang"
    for name, text in {"first": "required = false\n", "second": ""}.items():
        (add(root, 1, name).parent / "model.toml").write_text(text)
    running = start_server(
        "--stuck-seconds=2",
        environment={"HANG_WHILE": str(hang), "GLIMPSE_MODELS": str(root)},
        module="tests.server.hanging",
        model={},
    )
    running.wait_for("serving")
    with grpc.insecure_channel(running.target) as channel:
        health, stub = HealthStub(channel), ImageClassifierStub(channel)

        def asked(name: str) -> pb.ClassifyRequest:
            return pb.ClassifyRequest(images=[picture(1)], model=pb.ModelSelector(name=name))

        def status(name: str) -> str:
            request = health_pb2.HealthCheckRequest(service=name)
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(health.Check(request, timeout=TIMEOUT).status))

        hang.write_text("1")
        hung = stub.Classify.future(asked("first"), timeout=TIMEOUT)
        running.wait_for("runtime hangs", seconds=TIMEOUT)
        assert stub.Classify(asked("second"), timeout=TIMEOUT).results[0].predictions
        with pytest.raises(grpc.RpcError) as refused:
            hung.result()
        assert rich_status(refused.value)[1].reason == "RUNTIME_STUCK"
        assert "others are answered" in running.wait_for("model stuck", seconds=TIMEOUT)["detail"]
        while status(f"{SERVICE}/first") != "NOT_SERVING":
            threading.Event().wait(0.05)
        assert [status(name) for name in ("", SERVICE, f"{SERVICE}/second")] == ["SERVING"] * 3
        hang.unlink()
        running.wait_for("model no longer stuck", seconds=TIMEOUT)
        assert stub.Classify(asked("first"), timeout=TIMEOUT).results[0].predictions
