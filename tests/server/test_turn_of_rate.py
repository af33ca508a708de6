"""What comes a little faster than its caller's rate allows waits in the server for its turn, and is not refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from glimpse.server.metrics.stages import STAGES
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.conftest import TIMEOUT
from tests.server.rig import LONG, SIZE, Rig

RAW = pb.Image(raw=pb.RawPixels(height=SIZE, width=SIZE, data=bytes(SIZE * SIZE * 3)))
ONE = pb.ClassifyRequest(images=[RAW])


def pieces(count: int) -> Iterator[pb.ClassifyStreamRequest]:
    return (pb.ClassifyStreamRequest(id=str(number), request=ONE) for number in range(count))


@pytest.fixture
def limited() -> Iterator[Callable[..., Rig]]:
    """Start a server with a rate."""
    started = []
    with pytest.MonkeyPatch.context() as patch:

        def start(rate: float, *arguments: str) -> Rig:
            started.append(Rig(patch, f"--rate-limit={rate}", "--rate-burst=2", *arguments))
            started[-1].network.let()
            return started[-1]

        yield start
        for rig in started:
            rig.close()


def buckets(rig: Rig) -> list[Any]:
    rates = rig.server._ports._access.rates
    assert rates is not None
    return list(rates._buckets.values())


def refused(rig: Rig) -> float:
    return rig.gauge("glimpse_requests_rejected_total", reason="RATE_LIMITED")


def test_pieces_of_a_stream_wait_and_the_wait_is_part_of_their_admission(limited: Callable[..., Rig]) -> None:
    rig = limited(5.0)
    with grpc.insecure_channel(rig.target) as channel:
        answers = list(ImageClassifierStub(channel).ClassifyStream(pieces(5), timeout=TIMEOUT))
    timings = {answer.id: answer.response.results[0].timing for answer in answers}
    assert refused(rig) == 0
    for number in ("2", "3", "4"):
        total = sum(getattr(timings[number], f"{stage}_seconds") for stage in STAGES)
        assert timings[number].admission_seconds > 0.5 * total


def test_a_stream_whose_piece_waits_is_not_read_on(limited: Callable[..., Rig]) -> None:
    rig = limited(0.5)  # one in two seconds: a piece waits so long
    with grpc.insecure_channel(rig.target) as channel:
        call = ImageClassifierStub(channel).ClassifyStream(pieces(100), timeout=TIMEOUT)
        assert [next(call).id, next(call).id] == ["0", "1"]
        # Were it read on, most of the others would have to wait for longer than a piece does, and be refused.
        assert next(call).id == "2"
        assert refused(rig) == 0
        call.cancel()


def test_what_waits_when_the_server_drains_is_sent_elsewhere(limited: Callable[..., Rig]) -> None:
    rig = limited(0.15)
    with grpc.insecure_channel(rig.target) as channel, ThreadPoolExecutor(1) as reader:
        call = ImageClassifierStub(channel).ClassifyStream(pieces(3), timeout=TIMEOUT)
        assert [next(call).id, next(call).id] == ["0", "1"]
        last = reader.submit(next, call)
        rig.stop()
        answer = last.result(LONG)
    assert (answer.id, answer.error.reason) == ("2", "DRAINING")


def test_who_leaves_while_waiting_gives_the_turn_back(limited: Callable[..., Rig]) -> None:
    rig = limited(1.0)
    with grpc.insecure_channel(rig.target) as channel:
        stub = ImageClassifierStub(channel)
        for _ in range(2):
            stub.Classify(ONE, timeout=TIMEOUT)
        (before,) = (bucket.full_at for bucket in buckets(rig))
        call = stub.Classify.future(ONE, timeout=TIMEOUT)
        rig.wait_until(lambda: buckets(rig)[0].full_at > before or call.done())
        call.cancel()
        rig.wait_until(lambda: bool(buckets(rig)[0].full_at == pytest.approx(before)))


def test_a_lone_call_waits_only_where_its_deadline_allows_it(limited: Callable[..., Rig]) -> None:
    rig = limited(1.0)
    with grpc.insecure_channel(rig.target) as channel:
        stub = ImageClassifierStub(channel)
        for _ in range(3):
            stub.Classify(ONE, timeout=TIMEOUT)
        assert refused(rig) == 0
        with pytest.raises(grpc.RpcError) as told:
            stub.Classify(ONE, timeout=0.5)
        assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_lone_calls_that_wait_hold_little_memory(limited: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glimpse.server.service._MOST_WAITING", SIZE * SIZE * 3 - 1)
    rig = limited(1.0)
    with grpc.insecure_channel(rig.target) as channel:
        stub = ImageClassifierStub(channel)
        for _ in range(2):
            stub.Classify(ONE, timeout=TIMEOUT)
        with pytest.raises(grpc.RpcError) as told:
            stub.Classify(ONE, timeout=TIMEOUT)
    assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused(rig) == 1
