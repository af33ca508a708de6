"""A drain loses nothing: callers who watch health never meet a server that is going."""

from __future__ import annotations

import collections
import json
import threading
from collections.abc import Callable

import grpc

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT
from tests.variations import with_two_workers_too

CALLERS = 10
CALLS = 15  # of each, before the signal and after the end


@with_two_workers_too
def test_of_two_servers_one_may_go_and_no_call_is_lost_without_any_retry(
    server: RunningServer, start_server: Callable[..., RunningServer], picture: Callable[[int], pb.Image]
) -> None:
    going = start_server("--drain-announce-seconds=1")
    going.wait_for("serving")
    service_config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "glimpse.v1.ImageClassifier"},
    }
    options = [("grpc.enable_retries", 0), ("grpc.service_config", json.dumps(service_config))]
    request = pb.ClassifyRequest(images=[picture(1)])
    answered: collections.Counter[str] = collections.Counter()
    lost: list[str] = []
    begun, gone = threading.Semaphore(0), threading.Event()

    def call_on_and_on() -> None:
        calls_after = 0
        calls = 0
        while calls_after < CALLS:
            over = gone.is_set()
            try:
                stub.Classify(request, timeout=TIMEOUT)
                answered["after" if over else "before"] += 1
            except grpc.RpcError as error:
                lost.append(f"{error.code()} {error.details()}")
            calls_after += over
            calls += 1
            if calls == CALLS:
                begun.release()

    with grpc.insecure_channel(f"ipv4:{server.target},{going.target}", options=options) as channel:
        stub = ImageClassifierStub(channel)
        stub.Classify(request, timeout=TIMEOUT, wait_for_ready=True)
        callers = [threading.Thread(target=call_on_and_on) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        for _ in callers:
            assert begun.acquire(timeout=TIMEOUT)
        going.terminate()
        assert going.exit_code() == 0
        gone.set()
        for caller in callers:
            caller.join(TIMEOUT)
    assert lost == []
    assert answered["before"] >= CALLERS * CALLS
    assert answered["after"] == CALLERS * CALLS
