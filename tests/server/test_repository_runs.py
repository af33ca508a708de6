"""Servers with a repository of their own: stopped while they load, managed by nobody, swapped under load."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as pb
from tests.conftest import ROOT, RunningServer
from tests.server.conftest import TIMEOUT, rich_status
from tests.server.repositories import (
    Callers,
    add,
    asked,
    damage,
    files,
    repository_of,
    resident,
    serving_from,
    states,
    swap,
    threads,
    wait_for,
)
from tests.variations import with_two_workers_too

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of memory, threads and files on Linux only")


@with_two_workers_too
@pytest.mark.ci
def test_a_stop_while_a_model_is_loaded_leaves_nothing(
    tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    add(tmp_path / "root", 1)
    cache = tmp_path / "cache"  # in which nothing is converted yet
    server = start_server(environment={"GLIMPSE_MODELS": str(tmp_path / "root"), "GLIMPSE_CACHE": str(cache)}, model={})
    server.wait_for("converting network")
    server.terminate()
    assert server.exit_code() == 0
    assert not any(each.is_file() for each in cache.rglob("*")) if cache.exists() else True


@with_two_workers_too
@pytest.mark.ci
def test_models_are_managed_by_nobody_unless_the_settings_say_who(
    server: RunningServer, tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    # What a server of one model answers, without any setting.
    with repository_of(server) as models, pytest.raises(grpc.RpcError) as refused:
        models.List(pb.ModelRepositoryListRequest(), timeout=TIMEOUT)
    status, info = rich_status(refused.value)
    assert (status.code, info.reason) == (grpc.StatusCode.PERMISSION_DENIED.value[0], "NOT_PERMITTED")
    tokens = tmp_path / "tokens.toml"
    shown = {}
    for name in ("operator", "caller"):
        made = subprocess.run(
            [sys.executable, "-m", "glimpse.server.access.tokens", "new", name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        shown[name] = made.stderr.strip().rpartition(" ")[2]
        with tokens.open("a") as file:
            file.write(made.stdout)
    add(tmp_path / "root", 1)
    ours = serving_from(start_server, tmp_path / "root", GLIMPSE_ADMIN="operator", GLIMPSE_TOKENS=str(tokens))
    with repository_of(ours) as models:

        def listed(**metadata: str) -> pb.ModelRepositoryListResponse:
            return models.List(pb.ModelRepositoryListRequest(), timeout=TIMEOUT, metadata=tuple(metadata.items()))

        assert [each.name for each in listed(authorization=f"Bearer {shown['operator']}").models] == ["cifar"]
        for metadata, code in (
            ({"authorization": f"Bearer {shown['caller']}"}, grpc.StatusCode.PERMISSION_DENIED),
            ({}, grpc.StatusCode.UNAUTHENTICATED),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                listed(**metadata)
            assert refused.value.code() is code
        # Without polling a signal does: here it comes before the next look would.
        add(tmp_path / "root", 2)
        ours.terminate(signal.SIGHUP)
        bearer = (("authorization", f"Bearer {shown['operator']}"),)
        loaded = models.Load(pb.ModelRepositoryLoadRequest(name="cifar"), timeout=TIMEOUT, metadata=bearer)
        assert loaded.model.version == "2"
    assert ours.process.poll() is None


@pytest.mark.ci
def test_all_models_of_a_repository_are_prepared(tmp_path: Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 1, "other")

    def prepared(**more: str) -> subprocess.CompletedProcess[str]:
        ours = {name: value for name, value in os.environ.items() if name != "GLIMPSE_WEIGHTS"}
        return subprocess.run(
            [sys.executable, "-m", "glimpse.server", "prepare"],
            cwd=ROOT,
            env={**ours, "GLIMPSE_MODELS": str(tmp_path), "GLIMPSE_LOG_FORMAT": "json", **more},
            capture_output=True,
            text=True,
            check=False,
        )

    ended = prepared()
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["model"] for line in lines if line["event"] == "prepared"] == ["cifar", "other"]
    (tmp_path / "no-folder").touch()
    ended = prepared(GLIMPSE_CACHE=str(tmp_path / "no-folder"))
    assert ended.returncode == 4
    assert "the converted models of cifar 1, other 1 could not be stored" in ended.stderr
    damage(tmp_path / "other" / "1")
    ended = prepared()
    assert ended.returncode == 4
    assert "Not all models" in ended.stderr
    assert "other 1: " in ended.stderr


@linux
@with_two_workers_too
@pytest.mark.ci
def test_a_dozen_swaps_under_load_cost_no_memory_threads_or_files(
    tmp_path: Path, start_server: Callable[..., RunningServer], picture: Callable[[int], pb.Image]
) -> None:
    _swap_under_load(tmp_path, start_server, asked(picture), swaps=12)


@linux
@with_two_workers_too
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_swaps_under_load_cost_no_memory_threads_or_files(
    tmp_path: Path, start_server: Callable[..., RunningServer], picture: Callable[[int], pb.Image]
) -> None:
    _swap_under_load(tmp_path, start_server, asked(picture), swaps=200)


def _held(server: RunningServer) -> tuple[int, int, int]:
    """Memory, threads and files of a server: of several looks the least, because a model that is gone goes in steps."""
    looks = []
    for _ in range(5):
        looks.append((resident(server), threads(server), files(server)))
        time.sleep(0.1)
    memory, running, opened = zip(*looks, strict=True)
    return min(memory), min(running), min(opened)


def _swap_under_load(
    root: Path, start: Callable[..., RunningServer], request: pb.ClassifyRequest, *, swaps: int
) -> None:
    """Swap two versions under 20 callers: memory within 20 MB of that after half of the swaps, at most ten; threads and
    files alike.

    What an engine holds goes up and down by 40 MB as its allocator gives back: the least of several swaps counts.
    """
    for version in (1, 2):
        add(root, version)
    server = serving_from(start, root, GLIMPSE_MODELS_POLL="0")
    measured = []
    with repository_of(server) as models, Callers(server.target, request, single=10, streams=10) as callers:
        for number in range(swaps):
            swap(models, "cifar", 1 + number % 2)
            callers.answered(5)
            ready = states(models)
            assert ready[f"cifar/{1 + number % 2}"] == "ready"
            wait_for(models, {f"cifar/{2 - number % 2}": "unloaded"})
            measured.append(_held(server))
    assert callers.failed == []
    assert set(callers.answers) == {"1", "2"}
    memory, running, opened = zip(*measured, strict=True)
    sys.stdout.write(f"swaps: {swaps}, answers: {dict(callers.answers)}, memory: {[each >> 20 for each in memory]}\n")
    first = min(10, swaps // 2)
    assert min(memory[-first // 2 :]) - min(memory[first // 2 : first]) <= 20 << 20
    assert max(running[first:]) <= max(running[:first]) + 2  # asyncio's own threads come when they are first needed
    assert max(opened[first:]) <= max(opened[:first]) + 2


@with_two_workers_too
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_models_under_load_have_their_weights_shares_of_the_device(
    tmp_path: Path, start_server: Callable[..., RunningServer], picture: Callable[[int], pb.Image]
) -> None:
    models = {"small": ("cifar10", "", 1), "middle": ("random", "squeezenet1_1", 1), "large": ("random", "resnet18", 2)}
    listing = tmp_path / "models.toml"
    listing.write_text(
        "".join(
            f'[{name}]\nweights = "{weights}"\narchitecture = "{architecture}"\nweight = {weight}\n'
            "max_batch_size = 2\nprecision = 'float32'\n"
            for name, (weights, architecture, weight) in models.items()
        )
    )
    server = serving_from(start_server, listing)
    with contextlib.ExitStack() as stack:
        callers = [
            stack.enter_context(Callers(server.target, asked(picture, name), single=0, streams=6)) for name in models
        ]
        callers[-1].answered(40)  # all are busy by then
        before = [each.seconds for each in callers]
        callers[-1].answered(200)
        had = [each.seconds - earlier for each, earlier in zip(callers, before, strict=True)]
    assert [each.failed for each in callers] == [[], [], []]
    weights = [weight for *_, weight in models.values()]
    wanted = [sum(had) * weight / sum(weights) for weight in weights]
    sys.stdout.write(f"seconds of the device: {dict(zip(models, had, strict=True))}\n")
    assert had == pytest.approx(wanted, rel=0.1)
