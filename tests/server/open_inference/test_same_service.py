"""The Open Inference Protocol is in front of the same service: what holds for its callers holds for these."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from glimpse.server.open_inference import open_inference_pb2 as pb
from glimpse.server.open_inference.servicer import SERVICE, SERVICE_DESCRIPTOR
from tests.server.conftest import TIMEOUT, rich_status
from tests.server.open_inference.caller import MODEL, OpenInferenceCaller, numbers, occupy, photos, pixels
from tests.server.rig import SIZE, Rig

ARRAY = np.zeros((1, SIZE, SIZE, 3), np.uint8)
OPEN_TO_ALL = {"ServerLive", "ServerReady"}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Start a server with an audit log, whose network answers."""
    running: list[Rig] = []
    with pytest.MonkeyPatch.context() as patch:

        def begin(*arguments: str, **options: Any) -> Rig:
            running.append(Rig(patch, f"--audit-log={tmp_path / 'audit.jsonl'}", *arguments, **options))
            running[-1].network.let()
            return running[-1]

        yield begin
        for each in running:
            each.close()


def reason(refused: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    return str(rich_status(refused.value)[1].reason)


def request_of(method: str) -> Any:
    return (
        pixels(ARRAY)
        if method == "ModelInfer"
        else getattr(pb, SERVICE_DESCRIPTOR.methods_by_name[method].input_type.name)()
    )


def test_every_method_but_health_checks_needs_a_token(start: Callable[..., Rig], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[token]]\nidentity = "alice"\nsha256 = "{hashlib.sha256(b"a").hexdigest()}"\n', "utf-8")
    rig = start(f"--tokens={tokens}")
    with grpc.insecure_channel(rig.target) as channel:
        stranger = OpenInferenceCaller(channel)
        alice = OpenInferenceCaller(channel, [("authorization", "Bearer a")])
        for method in SERVICE_DESCRIPTOR.methods_by_name:
            if method == "ModelStreamInfer":
                with pytest.raises(grpc.RpcError) as refused:
                    list(stranger.stream([pixels(ARRAY)]))
                assert len(list(alice.stream([pixels(ARRAY)]))) == 1
            elif method in OPEN_TO_ALL:
                assert stranger.call(method, request_of(method))
                continue
            else:
                with pytest.raises(grpc.RpcError) as refused:
                    stranger.call(method, request_of(method))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, method
            assert reason(refused) == "TOKEN_MISSING", method
        assert numbers(alice.infer(pixels(ARRAY))).shape == (1, 10)
        with pytest.raises(grpc.RpcError) as refused:
            alice.infer(photos(b"no image", id="mine"))
    rig.wait_until(lambda: "NOT_AN_IMAGE" in (tmp_path / "audit.jsonl").read_text("utf-8"))
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text("utf-8").splitlines()]
    assert not [line for line in lines if line["method"].split("/")[1] in OPEN_TO_ALL]
    last = lines[-1]
    assert (last["identity"], last["method"]) == ("alice", f"{SERVICE}/ModelInfer")
    assert (last["model"], last["images"], last["bytes"], last["code"]) == (MODEL, 1, 8, "INVALID_ARGUMENT")
    assert not any(rig.held().values())


def test_callers_are_held_to_their_rate_and_to_the_number_of_images(start: Callable[..., Rig]) -> None:
    rig = start("--rate-limit=0.001", "--rate-burst=2", "--max-images-per-request=2")
    with grpc.insecure_channel(rig.target) as channel:
        caller = OpenInferenceCaller(channel)
        with pytest.raises(grpc.RpcError) as refused:
            caller.infer(pixels(np.zeros((3, SIZE, SIZE, 3), np.uint8)))
        assert reason(refused) == "TOO_MANY_IMAGES"
        caller.infer(pixels(np.zeros((2, SIZE, SIZE, 3), np.uint8)))
        with pytest.raises(grpc.RpcError) as refused:
            caller.infer(pixels(ARRAY))
        assert reason(refused) == "RATE_LIMITED"
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("asked", ["", "latest"])
def test_a_version_that_is_not_named_is_chosen_after_the_wait_for_a_rate(start: Callable[..., Rig], asked: str) -> None:
    """Else a swap during the wait fails the request: the version that it was read with is gone."""
    rig = start("--rate-limit=100")
    registry, access = rig.server._registry, rig.server._access
    (before,) = registry
    take = access.take

    def swap(*args: Any, **options: Any) -> float:
        registry.put(replace(before, bundle=replace(before.bundle, version="next")))
        registry.take(MODEL, before.identity.version)
        return take(*args, **options)

    with pytest.MonkeyPatch.context() as patch, grpc.insecure_channel(rig.target) as channel:
        patch.setattr(access, "take", swap)
        assert OpenInferenceCaller(channel).infer(pixels(ARRAY, model_version=asked)).model_version == "next"


def test_a_timeout_of_a_request_ends_it_before_its_call_does(start: Callable[..., Rig]) -> None:
    rig = start(batch_sizes=(1,))
    rig.network.hold()
    with grpc.insecure_channel(rig.target) as channel, ThreadPoolExecutor() as pool:
        caller = OpenInferenceCaller(channel)
        first = pool.submit(caller.infer, pixels(ARRAY))
        rig.network.begun()
        request = pixels(ARRAY)
        request.parameters["timeout"].int64_param = 1
        second = pool.submit(caller.infer, request)
        rig.wait_until(lambda: second.done() or rig.gauge("glimpse_queue_depth") == 1)
        rig.network.let()
        with pytest.raises(grpc.RpcError) as late:
            second.result(TIMEOUT)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert numbers(first.result(TIMEOUT)).shape == (1, 10)
    rig.wait_until(lambda: not any(rig.held().values()))


def test_what_has_priority_is_computed_before_what_its_caller_sent_earlier(start: Callable[..., Rig]) -> None:
    """1 is first, 5 is usual, 9 is last; what is out of range is usual."""
    rig = start(batch_sizes=(1,))
    rig.network.hold()
    done: list[str] = []
    lock = threading.Lock()

    def infer(caller: OpenInferenceCaller, name: str, priority: int) -> None:
        request = pixels(ARRAY, id=name)
        request.parameters["priority"].uint64_param = priority
        answer = caller.infer(request)
        with lock:
            done.append(answer.id)

    with grpc.insecure_channel(rig.target) as channel, ThreadPoolExecutor(16) as pool:
        caller = OpenInferenceCaller(channel)
        busy = occupy(rig, lambda: pool.submit(infer, caller, "before", 0))
        for number, (name, priority) in enumerate([("last", 9), ("usual", 0), ("too high", 10), ("first", 1)]):
            pool.submit(infer, caller, name, priority)
            rig.wait_until(lambda: rig.gauge("glimpse_queue_depth") == number + 1)  # noqa: B023 - waited for here
        for batch in range(1, busy + 5):
            rig.network.let(1)
            rig.wait_until(lambda: len(done) == batch)  # noqa: B023 - the same
    order = [name for name in done if name != "before"]
    assert order == ["first", "usual", "too high", "last"]


def test_a_server_that_drains_is_not_ready_and_answers_what_it_has(start: Callable[..., Rig]) -> None:
    rig = start("--drain-announce-seconds=8", batch_sizes=(1,))
    rig.network.hold()
    with grpc.insecure_channel(rig.target) as channel, ThreadPoolExecutor() as pool:
        caller = OpenInferenceCaller(channel)
        answer = pool.submit(caller.infer, pixels(ARRAY))
        rig.network.begun()
        rig.stop()
        rig.wait_until(lambda: not caller.call("ServerReady", pb.ServerReadyRequest()).ready)
        assert not caller.call("ModelReady", pb.ModelReadyRequest(name=MODEL)).ready
        assert caller.call("ServerLive", pb.ServerLiveRequest()).live
        rig.network.let()
        assert numbers(answer.result(TIMEOUT)).shape == (1, 10)
