"""A server whose models change while it serves: real calls, real networks."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from glimpse.server.open_inference import open_inference_pb2 as oip
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub, ModelRepositoryStub
from tests.conftest import ROOT, RunningServer
from tests.server.conftest import TIMEOUT, metrics_of, rich_status
from tests.server.open_inference.caller import OpenInferenceCaller
from tests.server.repositories import (
    Callers,
    add,
    asked,
    damage,
    distort,
    repository_of,
    swap,
    wait_for,
)
from tests.variations import ONE_PROCESS_AND_TWO_WORKERS

SERVICE = "glimpse.v1.ImageClassifier"


@pytest.fixture(scope="module", params=ONE_PROCESS_AND_TWO_WORKERS)
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def root(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(f"repository-{workers}")
    folder = folder / "models"
    add(folder, 1, "base")
    return folder


@pytest.fixture(scope="module")
def serving(workers: int, root: Path) -> Iterator[RunningServer]:
    """A server with one model; each test brings models of its own, which the others do not know."""
    server = RunningServer(
        environment={
            "GLIMPSE_WORKERS": str(workers),
            "GLIMPSE_MODELS": str(root),
            "GLIMPSE_MODELS_POLL": "0.2",
            "GLIMPSE_MODEL_ALIASES": "isvc=base",
            "GLIMPSE_ADMIN": "*",
            "GLIMPSE_AUDIT_LOG": str(root.parent / "audit.jsonl"),
        },
        model={},
    )
    try:
        server.wait_for("serving")
        yield server
    finally:
        server.close()


@pytest.fixture
def models(serving: RunningServer) -> Iterator[ModelRepositoryStub]:
    with repository_of(serving) as stub:
        yield stub


@pytest.fixture
def stub(serving: RunningServer) -> Iterator[ImageClassifierStub]:
    with grpc.insecure_channel(serving.target) as channel:
        yield ImageClassifierStub(channel)


@pytest.mark.ci
def test_no_call_fails_while_versions_take_turns(
    root: Path, serving: RunningServer, models: ModelRepositoryStub, picture: Callable[[int], pb.Image]
) -> None:
    for version in (1, 2):
        add(root, version, "turns")
    wait_for(models, {"turns/2": "ready"})
    with Callers(serving.target, asked(picture, "turns"), single=3, streams=3) as callers:
        for version in (1, 2, 1):
            callers.answered(20)
            swap(models, "turns", version)
            callers.answered(20)
    assert callers.failed == []
    assert set(callers.answers) == {"1", "2"}
    wait_for(models, {"turns/1": "ready", "turns/2": "unloaded"})


def test_a_version_that_is_copied_into_the_repository_answers(
    root: Path,
    models: ModelRepositoryStub,
    stub: ImageClassifierStub,
    serving: RunningServer,
    picture: Callable[[int], pb.Image],
) -> None:
    add(root, 1, "copied")
    wait_for(models, {"copied/1": "ready"})
    assert stub.Classify(asked(picture, "copied"), timeout=TIMEOUT).model.version == "1"
    folder = add(root, 2, "copied", complete=False)
    wait_for(models, {"copied/2": "ready", "copied/1": "unloaded"})
    answer = stub.Classify(asked(picture, "copied"), timeout=TIMEOUT).model
    described = stub.DescribeModel(pb.DescribeModelRequest(model=pb.ModelSelector(name="copied")), timeout=TIMEOUT)
    assert (answer.name, answer.version) == (described.model.name, described.model.version) == ("copied", "2")
    assert answer.weights_digest == json.loads((folder / "model.json").read_text())["weights_digest"]
    loaded = [name for name in metrics_of(serving) if name.startswith("glimpse_model_info{") and '"copied"' in name]
    assert ['version="2"' in name for name in loaded] == [True]
    assert metrics_of(serving)['glimpse_model_state{model="copied",state="ready",version="2"}'] == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(damage, "is not the file that the bundle was made with", id="damaged"),
        pytest.param(distort, "differs from the recorded one", id="other answers than the recorded ones"),
    ],
)
def test_a_version_that_is_wrong_disturbs_nobody(  # noqa: PLR0917 - fixtures, by name
    root: Path,
    serving: RunningServer,
    models: ModelRepositoryStub,
    picture: Callable[[int], pb.Image],
    spoil: Callable[[Path], None],
    said: str,
) -> None:
    name = f"wrong-{spoil.__name__}"
    add(root, 1, name)
    wait_for(models, {f"{name}/1": "ready"})
    with Callers(serving.target, asked(picture, name), single=2, streams=1) as callers:
        copy = add(root, ".2", name)
        spoil(copy)
        copy.rename(copy.with_name("2"))
        wait_for(models, {f"{name}/2": "failed", f"{name}/1": "ready"})
        callers.answered(10)
    assert (callers.failed, set(callers.answers)) == ([], {"1"})
    listed = models.List(pb.ModelRepositoryListRequest(), timeout=TIMEOUT).models
    assert said in next(each.reason for each in listed if (each.name, each.version) == (name, "2"))
    with pytest.raises(grpc.RpcError) as refused:
        models.SetAlias(pb.ModelRepositorySetAliasRequest(name=name, alias="stable", version="2"), timeout=TIMEOUT)
    assert rich_status(refused.value)[1].reason == "MODEL_NOT_LOADED"


def test_a_stream_outlives_the_version_that_it_began_with(
    root: Path, models: ModelRepositoryStub, stub: ImageClassifierStub, picture: Callable[[int], pb.Image]
) -> None:
    add(root, 1, "streamed")
    add(root, 2, "streamed")
    (root / "streamed" / "model.toml").write_text("keep = 2\n")
    wait_for(models, {"streamed/1": "ready", "streamed/2": "ready"})
    waiting: queue.SimpleQueue[pb.ClassifyStreamRequest | None] = queue.SimpleQueue()
    answers = stub.ClassifyStream(iter(waiting.get, None), timeout=TIMEOUT)

    def ask(number: int, version: str = "") -> pb.ClassifyStreamResponse:
        waiting.put(pb.ClassifyStreamRequest(id=str(number), request=asked(picture, "streamed", version)))
        return next(answers)

    assert ask(1).response.model.version == "2"
    models.Unload(pb.ModelRepositoryUnloadRequest(name="streamed", version="2"), timeout=TIMEOUT)
    wait_for(models, {"streamed/2": "unloaded"})  # an open stream does not keep it
    assert ask(2).response.model.version == "1"
    assert ask(3, "2").error.reason == "MODEL_NOT_FOUND"
    models.Unload(pb.ModelRepositoryUnloadRequest(name="streamed"), timeout=TIMEOUT)
    assert ask(4).error.reason == "MODEL_NOT_FOUND"
    models.Load(pb.ModelRepositoryLoadRequest(name="streamed", version="1"), timeout=TIMEOUT)
    assert ask(5).response.model.version == "1"
    waiting.put(None)
    assert list(answers) == []


def test_each_model_has_a_name_of_its_own_in_health(
    root: Path, serving: RunningServer, models: ModelRepositoryStub
) -> None:
    add(root, 1, "well")
    wait_for(models, {"well/1": "ready"})
    with grpc.insecure_channel(serving.target) as channel:
        health = HealthStub(channel)

        def status(service: str) -> int:
            found: int = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT).status
            return found

        assert status(f"{SERVICE}/well") == status(SERVICE) == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=f"{SERVICE}/well"), timeout=TIMEOUT)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        models.Unload(pb.ModelRepositoryUnloadRequest(name="well"), timeout=TIMEOUT)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert status(SERVICE) == health_pb2.HealthCheckResponse.NOT_SERVING  # it is required
        # What the Open Inference Protocol says of the others is what health checks say of them.
        by_oip = OpenInferenceCaller(channel)
        assert status(f"{SERVICE}/base") == health_pb2.HealthCheckResponse.SERVING
        assert by_oip.call("ModelReady", oip.ModelReadyRequest(name="base")).ready
        assert by_oip.call("ModelReady", oip.ModelReadyRequest(name="base", version="1")).ready
        assert not by_oip.call("ModelReady", oip.ModelReadyRequest(name="well")).ready
        assert not by_oip.call("ServerReady", oip.ServerReadyRequest()).ready
        with pytest.raises(grpc.RpcError) as unknown:  # anybody may ask, also who may not classify
            status("nobody")
        assert "base" not in str(unknown.value.details())
        shutil.rmtree(root / "well")
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()
        assert status(SERVICE) == health_pb2.HealthCheckResponse.SERVING


def test_a_model_answers_by_another_name_and_says_its_own(
    stub: ImageClassifierStub, picture: Callable[[int], pb.Image]
) -> None:
    answer = stub.Classify(asked(picture, "isvc"), timeout=TIMEOUT)
    assert (answer.model.name, answer.model.version) == ("base", "1")


def test_what_is_asked_of_the_models_is_in_the_audit_log(root: Path, models: ModelRepositoryStub) -> None:
    with pytest.raises(grpc.RpcError):
        models.SetAlias(pb.ModelRepositorySetAliasRequest(name="base", alias="stable", version="77"), timeout=TIMEOUT)

    end, audit = time.monotonic() + TIMEOUT, root.parent / "audit.jsonl"
    while '"stable = 77"' not in audit.read_text():  # it is written beside the call
        assert time.monotonic() < end
        time.sleep(0.05)
    (line,) = [line for line in map(json.loads, audit.read_text().splitlines()) if line.get("detail") == "stable = 77"]
    assert line["method"] == "glimpse.v1.ModelRepository/SetAlias"
    assert (line["model"], line["code"], line["reason"]) == ("base", "NOT_FOUND", "MODEL_NOT_FOUND")


@pytest.mark.ci
def test_the_command_line_lists_loads_and_promotes(root: Path, serving: RunningServer) -> None:
    def glimpse(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "client/cli.py", "models", *words, "--target", serving.target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    for version in (1, 2):
        add(root, version, "spoken")
    assert glimpse("load", "spoken").stdout == "spoken 2 is ready.\n"
    assert glimpse("promote", "spoken", "1").stdout == "stable of spoken is version 1.\n"
    listed = json.loads(glimpse("list", "--json").stdout)["models"]
    ours = [each for each in listed if each["name"] == "spoken"]
    assert [(each["version"], each["state"], each["aliases"], each["answers_by_default"]) for each in ours] == [
        ("1", "ready", ["stable"], True),
        ("2", "ready", ["latest"], False),
    ]
    assert "spoken" in glimpse("list").stdout
    assert glimpse("alias", "spoken", "stable").stdout == "spoken has no alias stable any more.\n"
    assert glimpse("unload", "spoken").stdout == "Unloaded spoken.\n"
    refused = glimpse("load", "spoken", "3")
    assert (refused.returncode, refused.stderr) == (
        4,
        "Error: Model spoken has no version '3' in the repository. There are: 1, 2. [MODEL_NOT_FOUND]\n",
    )
