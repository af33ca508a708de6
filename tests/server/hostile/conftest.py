"""The server that is attacked over the wire, and what must hold after each attack."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from glimpse.server.grpc.servicer import SERVICE
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of
from tools.load import samples

T = TypeVar("T")
GAUGES = ("glimpse_images_in_flight", "glimpse_image_bytes_in_flight", "glimpse_queue_depth")
# What gRPC's own C++ code says about a caller's mistakes; it goes past Python's logging.
_CORE = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d|WARNING: All log messages before absl")
# Connections that are closing, and the pool of threads that gRPC grows with its work and lets shrink when it likes.
_MORE_FILES, _MORE_THREADS = 8, 64


class Attacked:
    """A server, a good caller of it, and what it held before the first attack."""

    def __init__(self, running: RunningServer, request: pb.ClassifyRequest) -> None:
        """Call it well, so that whatever it opens at a first call is open."""
        self.running, self.target, self.pid = running, running.target, running.process.pid
        self.request = request
        self.body = request.SerializeToString()
        self.piece = pb.ClassifyStreamRequest(id="1", request=request).SerializeToString()  # of a stream
        self._seen = 0
        self.check_answers()
        self._files, self._threads = self._held()

    def check_answers(self) -> None:
        """Fail unless it is SERVING and answers a good call on a connection of its own."""
        with grpc.insecure_channel(self.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=TIMEOUT
            )
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            # A full server refuses, and means it; the attack is over, so there must come a time when it is not.
            answer = eventually(lambda: self._answer(ImageClassifierStub(channel)), lambda got: got is not None)
            assert answer is not None
            assert len(answer.results[0].predictions) == 5

    def check_unharmed(self) -> None:
        """Fail unless it lives, answers, holds nothing of the attack and has found no defect in itself."""
        assert self.running.process.poll() is None, self.running.stray
        self.check_answers()
        held = eventually(
            lambda: {name: metrics_of(self.running)[name] for name in GAUGES}, lambda g: not any(g.values())
        )
        assert held == dict.fromkeys(GAUGES, 0.0)
        files, threads = eventually(
            self._held, lambda h: h[0] <= self._files + _MORE_FILES and h[1] <= self._threads + _MORE_THREADS
        )
        assert files <= self._files + _MORE_FILES, f"{self._files} open files before, {files} now"
        assert threads <= self._threads + _MORE_THREADS, f"{self._threads} threads before, {threads} now"
        log, self._seen = self.running.log[self._seen :], len(self.running.log)
        assert [line for line in log if line["level"] in ("error", "critical")] == []
        assert [line for line in self.running.stray if not _CORE.match(line)] == []

    def _answer(self, stub: ImageClassifierStub) -> pb.ClassifyResponse | None:
        try:
            return stub.Classify(self.request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return None
            raise

    def _held(self) -> tuple[int, int]:
        """Open files and threads, of all of its processes."""
        if not Path(f"/proc/{self.pid}").exists():
            return 0, 0  # not Linux: nothing to compare
        found = samples.of_tree(self.pid)
        return found.fds, found.threads + found.pool


def eventually(look: Callable[[], T], good: Callable[[T], bool]) -> T:
    """What `look` sees once it is good, or at last."""
    end = time.monotonic() + TIMEOUT
    while not good(seen := look()) and time.monotonic() < end:
        time.sleep(0.02)
    return seen


@pytest.fixture(scope="session")
def attacked(request: pytest.FixtureRequest, picture: Callable[[int], pb.Image]) -> Iterator[Attacked]:
    """A server with all that it has by default, and one caller who means well. Its parameter, if any: its workers."""
    running = RunningServer(f"--workers={getattr(request, 'param', 1)}")
    try:
        running.wait_for("serving")
        yield Attacked(running, pb.ClassifyRequest(images=[picture(1)]))
    finally:
        running.close()


@pytest.fixture(autouse=True)
def unharmed(attacked: Attacked) -> Iterator[None]:
    """After each test the server is as it was."""
    yield
    attacked.check_unharmed()
