"""A repository of models that several workers serve: what happens to its models when processes end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.access.inside import channel
from tests.server.conftest import TIMEOUT, metrics_of
from tests.server.repositories import Callers, add, damage, files, repository_of, serving_from, states, wait_for
from tests.server.worker_processes import gone, of, ready, until

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only"),
]
PICTURE = pb.Image(raw=pb.RawPixels(height=32, width=32, data=bytes(32 * 32 * 3)))
_MANY = 24  # connections, so that both workers have some: that one has none is once in eight million times


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for name in ("cifar", "other"):
        add(folder, 1, name)
    return folder


@pytest.fixture(scope="module")
def serving(root: Path) -> Iterator[RunningServer]:
    """Two workers and two models; whoever changes these leaves `cifar` and `other` with an answer."""
    running = RunningServer(
        environment={
            "GLIMPSE_WORKERS": "2",
            "GLIMPSE_MODELS": str(root),
            "GLIMPSE_MODELS_POLL": "0.2",
            "GLIMPSE_ADMIN": "*",
        },
        model={},
    )
    try:
        running.wait_for("serving")
        yield running
    finally:
        running.close()


@pytest.fixture
def server(serving: RunningServer) -> RunningServer:
    until(lambda: ready(serving))
    return serving


@pytest.fixture
def everywhere(server: RunningServer) -> Iterator[list[grpc.Channel]]:
    """Connections of their own, to both workers."""
    with ExitStack() as stack:
        yield [stack.enter_context(channel(server.target)) for _ in range(_MANY)]


def asked(name: str = "", version: str = "") -> pb.ClassifyRequest:
    return pb.ClassifyRequest(images=[PICTURE], model=pb.ModelSelector(name=name, version=version))


def answers(through: list[grpc.Channel], name: str = "", version: str = "") -> set[str]:
    """What answers a request of each connection: name/version."""
    found = [ImageClassifierStub(each).Classify(asked(name, version), timeout=TIMEOUT).model for each in through]
    return {f"{each.name}/{each.version}" for each in found}


def test_each_worker_answers_with_every_model(everywhere: list[grpc.Channel]) -> None:
    assert answers(everywhere, "cifar") == {"cifar/1"}
    assert answers(everywhere, "other") == {"other/1"}
    assert answers(everywhere) == {"cifar/1"}  # the first by name


def test_what_one_worker_is_asked_for_holds_in_each_when_it_answers(
    root: Path, server: RunningServer, everywhere: list[grpc.Channel]
) -> None:
    (root / "both").mkdir()
    (root / "both" / "model.toml").write_text("required = false\n")  # others need not wait for it
    for version in (1, 2):
        add(root, version, "both")
    with repository_of(server) as models:
        models.Load(pb.ModelRepositoryLoadRequest(name="both", version="1"), timeout=TIMEOUT)
        assert answers(everywhere, "both", "1") == {"both/1"}
        promote = pb.ModelRepositorySetAliasRequest(name="both", alias="stable", version="1")
        assert models.SetAlias(promote, timeout=TIMEOUT).kept
        assert answers(everywhere, "both") == answers(everywhere, "both", "stable") == {"both/1"}
        models.Unload(pb.ModelRepositoryUnloadRequest(name="both"), timeout=TIMEOUT)
        for each in everywhere:
            with pytest.raises(grpc.RpcError) as refused:
                ImageClassifierStub(each).Classify(asked("both"), timeout=TIMEOUT)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as refused:
            models.Load(pb.ModelRepositoryLoadRequest(name="both", version="7"), timeout=TIMEOUT)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert "has no version '7' in the repository. There are: 1, 2." in str(refused.value.details())


def test_no_call_of_any_worker_fails_while_versions_take_turns(root: Path, server: RunningServer) -> None:
    add(root, 1, "turns")
    with repository_of(server) as models:
        wait_for(models, {"turns/1": "ready"})
        with Callers(server.target, asked("turns"), single=6, streams=6) as callers:
            callers.answered(20)
            add(root, 2, "turns")
            wait_for(models, {"turns/2": "ready", "turns/1": "unloaded"})
            callers.answered(20)
            for version in (1, 2):
                promote = pb.ModelRepositorySetAliasRequest(name="turns", alias="stable", version=str(version))
                models.SetAlias(promote, timeout=TIMEOUT)
                callers.answered(20)
        assert callers.failed == []
        assert set(callers.answers) == {"1", "2"}


def test_a_version_that_is_wrong_disturbs_no_worker(
    root: Path, server: RunningServer, everywhere: list[grpc.Channel]
) -> None:
    copy = add(root, ".2", "other")
    damage(copy)
    copy.rename(copy.with_name("2"))
    with repository_of(server) as models:
        wait_for(models, {"other/2": "failed", "other/1": "ready"})
    assert answers(everywhere, "other") == {"other/1"}


def test_a_worker_that_is_killed_comes_back_with_all_models(root: Path, server: RunningServer) -> None:
    add(root, 1, "kept")
    with repository_of(server) as models:
        wait_for(models, {"kept/1": "ready"})
    before = of(server, "worker")
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(of(server, "worker")) == 2 and not before <= of(server, "worker") and ready(server))
    with ExitStack() as stack:
        through = [stack.enter_context(channel(server.target)) for _ in range(_MANY)]
        for name in ("cifar", "other", "kept"):
            assert answers(through, name) == {f"{name}/1"}
    # What the dead worker used is let go of: a version retires although it could not say that it has done with it.
    with repository_of(server) as models:
        add(root, 2, "kept")
        wait_for(models, {"kept/2": "ready", "kept/1": "unloaded"})


def test_an_engine_that_is_killed_loads_the_repository_again(
    server: RunningServer, everywhere: list[grpc.Channel]
) -> None:
    def health(name: str) -> int:
        request = health_pb2.HealthCheckRequest(service=name)
        with channel(server.target) as through:
            return int(HealthStub(through).Check(request, timeout=TIMEOUT).status)

    of_model = "glimpse.v1.ImageClassifier/cifar"
    answers(everywhere, "cifar")
    before = of(server, "engine")
    os.kill(min(before), signal.SIGKILL)
    until(lambda: health(of_model) == health_pb2.HealthCheckResponse.NOT_SERVING)
    told = set()
    for each in everywhere:
        try:
            ImageClassifierStub(each).Classify(asked("cifar"), timeout=TIMEOUT)
        except grpc.RpcError as error:
            told.add(error.code())
    assert told <= {grpc.StatusCode.UNAVAILABLE}
    until(lambda: ready(server))
    assert of(server, "engine").isdisjoint(before)
    assert answers(everywhere, "cifar") == {"cifar/1"}
    assert answers(everywhere, "other") == {"other/1"}
    assert health(of_model) == health_pb2.HealthCheckResponse.SERVING
    assert metrics_of(server)['glimpse_process_restarts_total{cause="ended",kind="engine"}'] >= 1
    with repository_of(server) as models:
        assert states(models)["cifar/1"] == "ready"


def test_a_model_that_sleeps_wakes_once_for_callers_of_both_workers(
    root: Path, server: RunningServer, everywhere: list[grpc.Channel]
) -> None:
    """Also when the engine has been replaced, which begins with all models awake."""
    (root / "sleepy").mkdir()
    (root / "sleepy" / "model.toml").write_text("required = false\nsleep_after = 3.0\n")
    add(root, 1, "sleepy")
    asleep = {"sleepy/1": "sleeping"}
    answers(everywhere, "cifar")  # so that all are connected
    with repository_of(server) as models:
        for replaced in (False, True):
            wait_for(models, asleep)
            if replaced:
                os.kill(min(of(server, "engine")), signal.SIGKILL)
                until(lambda: not ready(server))
                until(lambda: ready(server))
                wait_for(models, {"sleepy/1": "ready"})
                wait_for(models, asleep)
            before = woken(server, "sleepy")
            calls = [ImageClassifierStub(each).Classify.future(asked("sleepy"), timeout=TIMEOUT) for each in everywhere]
            assert {each.result().model.name for each in calls} == {"sleepy"}
            until(partial(has_woken, server, "sleepy", before + 1))
            assert states(models)["sleepy/1"] == "ready"
        assert [name for name in metrics_of(server) if name.startswith("glimpse_models_memory_limit_bytes")]
        wait_for(models, asleep)
        models.Load(pb.ModelRepositoryLoadRequest(name="sleepy"), timeout=TIMEOUT)
        assert states(models)["sleepy/1"] == "ready"


def has_woken(server: RunningServer, name: str, times: float) -> bool:
    return woken(server, name) == times


def woken(server: RunningServer, name: str) -> float:
    """How often a model has been woken."""
    return metrics_of(server).get(f'glimpse_model_wake_ups_total{{model="{name}",outcome="woken"}}', 0.0)


def test_a_version_is_rolled_back_in_all_workers(
    root: Path, server: RunningServer, everywhere: list[grpc.Channel]
) -> None:
    add(root, 1, "rolled")
    with repository_of(server) as models:
        wait_for(models, {"rolled/1": "ready"})
        for version in (1, 2):
            if version == 2:
                add(root, 2, "rolled")
            promote = pb.ModelRepositorySetAliasRequest(name="rolled", alias="stable", version=str(version))
            models.SetAlias(promote, timeout=TIMEOUT)
            assert answers(everywhere, "rolled") == {f"rolled/{version}"}
        back = models.RollBack(pb.ModelRepositoryRollBackRequest(name="rolled"), timeout=TIMEOUT)
        assert (back.version, back.kept) == ("1", True)
        assert answers(everywhere, "rolled") == {"rolled/1"}


def test_metrics_tell_of_each_model_once(root: Path, server: RunningServer, everywhere: list[grpc.Channel]) -> None:
    answers(everywhere, "cifar")
    found = metrics_of(server)
    loaded = [name for name in found if name.startswith("glimpse_model_info{") and '"cifar"' in name]
    assert [found[name] for name in loaded] == [1]
    assert found['glimpse_model_state{model="cifar",state="ready",version="1"}'] == 1
    assert (
        sum(value for name, value in found.items() if name.startswith("glimpse_model_state{") and "cifar" in name) == 1
    )


def test_a_signal_has_the_repository_looked_at(tmp_path: Path, start_server: Callable[..., RunningServer]) -> None:
    add(tmp_path / "root", 1)
    ours = serving_from(start_server, tmp_path / "root", GLIMPSE_MODELS_POLL="0", GLIMPSE_WORKERS="2")
    add(tmp_path / "root", 2)
    ours.terminate(signal.SIGHUP)
    with repository_of(ours) as models:
        wait_for(models, {"cifar/2": "ready", "cifar/1": "unloaded"})
    opened = files(ours)
    assert opened > 0
    ours.terminate()
    assert ours.exit_code() == 0
    assert ours.stray == []


def test_a_repository_that_cannot_be_read_ends_the_start(
    tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    nothing = tmp_path / "nothing"
    ours = start_server(environment={"GLIMPSE_MODELS": str(nothing), "GLIMPSE_WORKERS": "2"}, model={})
    assert ours.exit_code() == 4
    assert "The models of GLIMPSE_MODELS cannot be read" in "".join(str(each) for each in [*ours.log, *ours.stray])


def test_a_required_model_that_fails_at_the_start_is_no_end_of_it(
    tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    damage(add(tmp_path / "root", 1, "bad"))
    add(tmp_path / "root", 1)
    ours = serving_from(start_server, tmp_path / "root", GLIMPSE_WORKERS="2")
    assert not ready(ours)
    with channel(ours.target) as through:
        assert answers([through], "cifar") == {"cifar/1"}
    ours.terminate()
    assert ours.exit_code() == 0


def test_nothing_is_left_of_an_engine_whose_supervisor_is_killed(
    tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    add(tmp_path / "root", 1)
    ours = serving_from(start_server, tmp_path / "root", GLIMPSE_WORKERS="2")
    left = of(ours, "worker") | of(ours, "engine")
    assert len(left) == 3
    ours.terminate(signal.SIGKILL)
    until(lambda: all(map(gone, left)))
