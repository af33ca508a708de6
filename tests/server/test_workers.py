"""A server of several processes, seen from outside: one port, one health, one /metrics, one end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from glimpse.server.supervisor.plan import WORKER_BYTES
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.access.inside import channel
from tests.server.conftest import TIMEOUT, metrics_of
from tests.server.worker_processes import (
    SERVICE,
    Callers,
    connections_of,
    gone,
    of,
    ready,
    request,
    status,
    until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only")


@pytest.fixture(scope="module")
def workers() -> Iterator[RunningServer]:
    """A server with two workers that serves again whenever a test begins."""
    running = RunningServer("--workers=2", "--health-port=0")
    try:
        running.wait_for("serving", seconds=280)
        yield running
    finally:
        running.close()


@pytest.fixture
def server_of_two(workers: RunningServer) -> RunningServer:
    until(lambda: ready(workers))
    return workers


def test_two_workers_answer_on_one_port_and_both_are_called(server_of_two: RunningServer) -> None:
    port = int(server_of_two.target.rpartition(":")[2])
    with grpc.insecure_channel(server_of_two.target) as through:
        expected = ImageClassifierStub(through).Classify(request(), timeout=TIMEOUT).results[0].predictions
    opened = [channel(server_of_two.target) for _ in range(32)]
    try:
        for each in opened:
            found = ImageClassifierStub(each.__enter__()).Classify(request(), timeout=TIMEOUT).results[0]
            assert found.predictions == expected
        shares = [connections_of(pid, port) for pid in of(server_of_two, "worker")]
        assert len(shares) == 2
        assert min(shares) > 0, shares
    finally:
        for each in opened:
            each.__exit__(None, None, None)


def test_a_worker_s_memory_is_what_starts_are_checked_for(server_of_two: RunningServer) -> None:
    """So much is resident where nothing was decoded; what messages take comes on top."""
    for pid in of(server_of_two, "worker"):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        assert WORKER_BYTES / 2 < pages * os.sysconf("SC_PAGE_SIZE") < 2 * WORKER_BYTES


def test_health_on_the_second_port_is_that_of_the_server(server_of_two: RunningServer) -> None:
    port = server_of_two.wait_for("listening")["health_port"]
    for target in (server_of_two.target, f"127.0.0.1:{port}"):
        assert [status(target, service) for service in ("", SERVICE)] == ["SERVING", "SERVING"]


def test_metrics_are_those_of_all_processes(server_of_two: RunningServer) -> None:
    before = metrics_of(server_of_two)
    for _ in range(8):
        with channel(server_of_two.target) as through:
            ImageClassifierStub(through).Classify(request(), timeout=TIMEOUT)
    after = metrics_of(server_of_two)
    assert after['glimpse_processes{kind="worker"}'] == 2
    assert after["glimpse_requests_answered_total"] - before["glimpse_requests_answered_total"] == 8
    assert after["glimpse_images_in_flight_limit"] == 256


def test_a_worker_that_is_killed_is_replaced_and_no_caller_notices(server_of_two: RunningServer) -> None:
    before = of(server_of_two, "worker")
    with Callers(server_of_two.target) as callers:
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(of(server_of_two, "worker") - before) == 1 and ready(server_of_two))
        callers.more()
    assert callers.lost == []
    assert metrics_of(server_of_two)['glimpse_process_restarts_total{cause="ended",kind="worker"}'] >= 1


@pytest.mark.ci
def test_a_worker_that_is_told_to_end_drains_and_is_replaced(server_of_two: RunningServer) -> None:
    before = of(server_of_two, "worker")
    with Callers(server_of_two.target) as callers:
        os.kill(max(before), signal.SIGTERM)
        until(lambda: len(of(server_of_two, "worker") - before) == 1 and ready(server_of_two))
        callers.more()
    assert callers.lost == []


@pytest.mark.ci
def test_what_a_worker_counted_before_it_drained_is_not_lost(server_of_two: RunningServer) -> None:
    """Nobody asks for its metrics between the calls and its end."""
    before, workers = metrics_of(server_of_two), of(server_of_two, "worker")
    for _ in range(8):
        with channel(server_of_two.target) as through:
            ImageClassifierStub(through).Classify(request(), timeout=TIMEOUT)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    until(lambda: all(gone(pid) for pid in workers))
    until(lambda: ready(server_of_two))
    name = "glimpse_requests_answered_total"
    assert metrics_of(server_of_two)[name] - before[name] == 8


@pytest.mark.ci
def test_an_engine_that_is_killed_is_replaced_and_no_caller_notices(server_of_two: RunningServer) -> None:
    """Meanwhile the only server lives, but is not ready, and the client waits for that."""
    workers, engines = of(server_of_two, "worker"), of(server_of_two, "engine")
    told = set[str]()
    with Callers(server_of_two.target) as callers:
        os.kill(min(engines), signal.SIGKILL)

        def replaced() -> bool:
            told.add(status(server_of_two.target, SERVICE))
            assert status(server_of_two.target, "") == "SERVING"
            return len(of(server_of_two, "engine") - engines) == 1 and ready(server_of_two)

        until(replaced)
        callers.more()
    assert callers.lost == []
    assert told == {"SERVING", "NOT_SERVING"}
    assert of(server_of_two, "worker") == workers


@pytest.mark.ci
def test_another_server_does_not_get_the_port_of_several_workers(
    server_of_two: RunningServer, start_server: Callable[..., RunningServer]
) -> None:
    port = server_of_two.target.rpartition(":")[2]
    assert start_server(f"--port={port}").exit_code() == 3
