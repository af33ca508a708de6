"""ClassifyStream on the real server: bulk work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.conftest import TIMEOUT

Picture = Callable[[int], pb.Image]


def piece(name: str, *images: pb.Image, **request: object) -> pb.ClassifyStreamRequest:
    return pb.ClassifyStreamRequest(id=name, request=pb.ClassifyRequest(images=images, **request))  # type: ignore[arg-type]


def test_every_request_is_answered_once_with_its_id(stub: ImageClassifierStub, picture: Picture) -> None:
    pieces = [piece(str(i), picture(i % 7)) for i in range(500)]
    answers = list(stub.ClassifyStream(iter(pieces), timeout=TIMEOUT))
    assert sorted(int(answer.id) for answer in answers) == list(range(500))
    assert all(answer.response.results[0].predictions for answer in answers)


def test_an_answer_belongs_to_its_id(stub: ImageClassifierStub, picture: Picture) -> None:
    expected = {
        str(i): stub.Classify(pb.ClassifyRequest(images=[picture(i)]), timeout=TIMEOUT).results[0].predictions[0]
        for i in range(8)
    }
    for answer in stub.ClassifyStream((piece(str(i), picture(i)) for i in range(8)), timeout=TIMEOUT):
        best, alone = answer.response.results[0].predictions[0], expected.pop(answer.id)
        assert best.label == alone.label
        assert abs(best.probability - alone.probability) < 1e-4
    assert expected == {}, "some were not answered"


def test_bulk_work_rides_in_large_batches(stub: ImageClassifierStub, picture: Picture) -> None:
    image = picture(1)
    answers = stub.ClassifyStream((piece(str(i), image) for i in range(300)), timeout=TIMEOUT)
    assert max(answer.response.results[0].timing.batch_size for answer in answers) >= 8


def test_a_bad_request_fails_alone_and_the_stream_goes_on(stub: ImageClassifierStub, picture: Picture) -> None:
    pieces = [
        piece("good", picture(1)),
        piece("empty"),
        piece("unknown", picture(1), model=pb.ModelSelector(name="vgg16")),
        piece("bad image", pb.Image(encoded=b"no image")),
        piece("also good", picture(2)),
    ]
    answers = {answer.id: answer for answer in stub.ClassifyStream(iter(pieces), timeout=TIMEOUT)}
    assert (answers["empty"].error.code, answers["empty"].error.reason) == (3, "NO_IMAGES")
    assert (answers["unknown"].error.code, answers["unknown"].error.reason) == (5, "MODEL_NOT_FOUND")
    assert answers["bad image"].response.results[0].error.reason == "NOT_AN_IMAGE"
    assert answers["good"].response.results[0].predictions
    assert answers["also good"].response.results[0].predictions


def test_an_id_in_flight_is_refused_a_second_time(stub: ImageClassifierStub, picture: Picture) -> None:
    slow = piece("same", *[picture(seed) for seed in range(64)])
    answers = list(stub.ClassifyStream(iter([slow, piece("same", picture(1))]), timeout=TIMEOUT))
    assert sorted(answer.WhichOneof("outcome") or "" for answer in answers) == ["error", "response"]
    assert next(a for a in answers if a.HasField("error")).error.reason == "DUPLICATE_ID"


def test_an_id_may_be_used_again_once_it_is_answered(stub: ImageClassifierStub, picture: Picture) -> None:
    answered = threading.Event()

    def pieces() -> Iterator[pb.ClassifyStreamRequest]:
        yield piece("same", picture(1))
        assert answered.wait(TIMEOUT)
        yield piece("same", picture(1))

    outcomes = []
    for answer in stub.ClassifyStream(pieces(), timeout=TIMEOUT):
        outcomes.append(answer.WhichOneof("outcome"))
        answered.set()
    assert outcomes == ["response", "response"]


def test_a_client_that_does_not_read_is_not_read_from(stub: ImageClassifierStub, picture: Picture) -> None:
    """Back-pressure: the window is 64 requests, so the sender is held up long before it is through."""
    sent = 0
    # Large enough that neither side's transport can buffer the rest.
    noise = pb.Image(raw=pb.RawPixels(height=300, width=300, data=bytes(300 * 300 * 3)))
    # What is no image is refused in a sentence, and so unread answers fill the client's receive window.
    duds = [pb.Image(encoded=b"no image")] * 63
    message = pb.ClassifyRequest(images=[noise, *duds], options=pb.ClassifyOptions(top_k=10))
    stop = threading.Event()

    def pieces() -> Iterator[pb.ClassifyStreamRequest]:
        nonlocal sent
        for i in range(100_000):
            if stop.is_set():
                return
            sent += 1
            yield pb.ClassifyStreamRequest(id=f"{i:04096d}", request=message)

    call = stub.ClassifyStream(pieces(), timeout=TIMEOUT)
    seen = -1
    while seen != sent:  # until nothing more is taken for a second
        seen = sent
        stop.wait(1)
    assert sent < 1000
    stop.set()
    call.cancel()


def test_cancelling_a_stream_leaves_nothing_behind(
    stub: ImageClassifierStub, picture: Picture, in_flight: Callable[[], float]
) -> None:
    call = stub.ClassifyStream((piece(str(i), picture(1)) for i in range(10_000)), timeout=TIMEOUT)
    next(call)
    call.cancel()
    pause = threading.Event()
    while in_flight():
        pause.wait(0.02)
    assert stub.Classify(pb.ClassifyRequest(images=[picture(1)]), timeout=TIMEOUT).results[0].predictions


def test_an_id_of_4096_characters_comes_back_and_a_longer_one_ends_the_stream(
    stub: ImageClassifierStub, picture: Picture
) -> None:
    """It is kept until its answer has been taken: 64 of megabytes would be a gigabyte that nobody has counted."""
    name = "\N{GRINNING FACE}" * 4096
    answers = list(stub.ClassifyStream(iter([piece(name, picture(1))]), timeout=TIMEOUT))
    assert [answer.id for answer in answers] == [name]
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ClassifyStream(iter([piece(name + "x", picture(1))]), timeout=TIMEOUT))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "may have at most 4096 characters. Received: 4097" in str(caught.value.details())


def test_a_caller_who_leaves_is_counted_as_such_and_not_as_a_defect(
    stub: ImageClassifierStub, picture: Picture, scrape: Callable[[], dict[str, float]], in_flight: Callable[[], float]
) -> None:
    def ended() -> dict[str, float]:
        return {
            code: sum(
                value
                for name, value in scrape().items()
                if name.startswith("grpc_server_handled_total{")
                and f'grpc_code="{code}"' in name
                and 'grpc_method="ClassifyStream"' in name
            )
            for code in ("CANCELLED", "INTERNAL")
        }

    before = ended()
    image = picture(1)
    for _ in range(5):
        call = stub.ClassifyStream((piece(str(i), image) for i in range(10_000)), timeout=TIMEOUT)
        next(call)
        call.cancel()
    pause = threading.Event()
    while in_flight() or ended()["CANCELLED"] + ended()["INTERNAL"] < sum(before.values()) + 5:
        pause.wait(0.05)
    assert ended()["INTERNAL"] == before["INTERNAL"]
