"""Bulk work on an event loop over streams that break: by the same decisions as the synchronous client's."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from glimpse.client import AccessDeniedError, AsyncClient, Code, GlimpseError, StreamBrokenError, UnavailableError
from glimpse.v1 import classifier_pb2 as pb
from tests.client.loops import on_a_loop
from tests.client.scripted import Context, ScriptedServer, abort, refusal, stream_response

Requests = Iterator[pb.ClassifyStreamRequest]
Responses = Iterator[pb.ClassifyStreamResponse]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays between streams that nobody notices; their number stays."""
    monkeypatch.setattr("glimpse.client.backoff._FIRST_SECONDS", 0.001)
    monkeypatch.setattr("glimpse.client.backoff._LONGEST_SECONDS", 0.002)


@pytest.fixture
def other() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def photos(count: int) -> Iterator[tuple[int, bytes]]:
    return ((number, f"label {number}".encode()) for number in range(count))


async def classified(target: str) -> list[int]:
    """The numbers of 40 images, sorted; each was answered with its own answer."""
    async with AsyncClient(target) as client:
        answers = [answer async for answer in client.classify_many(photos(40), in_flight=8)]
    for number, result in answers:
        assert result.predictions[0].label == f"label {number}"
    return sorted(number for number, _ in answers)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (grpc.StatusCode.OK, ""),
        (grpc.StatusCode.UNAVAILABLE, "DRAINING"),
        (grpc.StatusCode.INTERNAL, ""),
        (grpc.StatusCode.CANCELLED, ""),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "UPLOAD_TOO_SLOW"),
    ],
)
@on_a_loop
async def test_a_stream_that_ends_early_is_followed_by_another(
    scripted: ScriptedServer, status: grpc.StatusCode, reason: str
) -> None:
    def stream(requests: Requests, context: Context) -> Responses:
        for _ in range(3):
            request = next(requests, None)
            if request is None:
                return
            yield stream_response(request)
        if status is not grpc.StatusCode.OK:
            abort(context, status, reason)

    scripted.stream = stream
    assert await classified(scripted.target) == list(range(40))
    assert len(scripted.tokens) >= 40 / 3  # streams


@on_a_loop
async def test_the_images_of_a_server_that_dies_are_answered_by_another(
    scripted: ScriptedServer, other: ScriptedServer
) -> None:
    took: Counter[str] = Counter()
    full, over = threading.Event(), threading.Event()

    def dies(requests: Requests, _: Context) -> Responses:
        for request in requests:
            took[request.id] += 1
            if len(took) <= 2:
                yield stream_response(request)
            if len(took) == 10:
                full.set()
                over.wait(60)
                return

    async def kill() -> None:
        assert await asyncio.to_thread(full.wait, 60)
        dying, staying = (scripted, other) if scripted.tokens else (other, scripted)
        staying.stream = lambda requests, _: map(stream_response, requests)
        await asyncio.to_thread(dying.stop)
        over.set()

    scripted.stream = other.stream = dies
    killing = asyncio.create_task(kill())
    assert await classified(f"ipv4:{scripted.target},{other.target}") == list(range(40))
    await killing
    assert scripted.tokens
    assert other.tokens


@on_a_loop
async def test_a_server_that_drains_answers_what_it_has_and_the_rest_go_elsewhere(
    scripted: ScriptedServer,
) -> None:
    """A server that takes no more images answers what it has, and the rest go elsewhere."""
    sent: Counter[str] = Counter()

    def drains(requests: Requests, _: Context) -> Responses:
        if len(scripted.tokens) > 1:
            for request in requests:
                sent[request.id] += 1
                yield stream_response(request)
            return
        taken = [next(requests) for _ in range(8)]
        sent.update(request.id for request in taken)
        yield from (refusal(request, Code.UNAVAILABLE, "DRAINING") for request in taken[4:])
        assert next(requests, None) is None, "it was given another image after it had refused some"
        yield from map(stream_response, taken[:4])

    scripted.stream = drains
    assert await classified(scripted.target) == list(range(40))
    assert sent == {str(number): 2 if 4 <= number < 8 else 1 for number in range(40)}


@on_a_loop
async def test_a_server_that_refuses_some_and_is_silent_about_the_others_is_left(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glimpse.client.dispatch._LEAVE_SECONDS", 0.05)
    over = threading.Event()

    def stream(requests: Requests, _: Context) -> Responses:
        if len(scripted.tokens) > 1:
            yield from map(stream_response, requests)
            return
        yield refusal(next(requests), Code.UNAVAILABLE, "RUNTIME_STUCK")
        over.wait(60)

    scripted.stream = stream
    try:
        assert await classified(scripted.target) == list(range(40))
    finally:
        over.set()
    assert len(scripted.tokens) == 2


@on_a_loop
async def test_a_server_that_has_no_room_for_a_stream_is_asked_again_when_it_says(scripted: ScriptedServer) -> None:
    hint = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=10_000_000))

    def stream(requests: Requests, context: Context) -> Responses:
        if len(scripted.tokens) < 4:
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", hint)
        yield from map(stream_response, requests)

    scripted.stream = stream
    assert await classified(scripted.target) == list(range(40))
    assert len(scripted.tokens) == 4


@on_a_loop
async def test_streams_without_an_answer_end_the_run_which_says_how_many_are_missing(
    scripted: ScriptedServer,
) -> None:
    """Streams without a single answer end the run, and it says how many images are unanswered."""

    def stream(requests: Requests, context: Context) -> Responses:
        request = next(requests)
        if len(scripted.tokens) == 1:
            yield stream_response(request)
        abort(context, grpc.StatusCode.UNAVAILABLE, "DRAINING", message="going home")

    scripted.stream = stream
    async with AsyncClient(scripted.target) as client:
        answers = client.classify_many([("a", b"cat"), ("b", b"dog")])
        assert (await anext(answers))[0] == "a"
        with pytest.raises(StreamBrokenError, match=r"unanswered images: 1\. going home"):
            await anext(answers)
    assert len(scripted.tokens) == 1 + 10


@on_a_loop
async def test_a_server_that_never_answered_is_given_up_soon_and_with_its_own_words(
    scripted: ScriptedServer,
) -> None:
    scripted.stream = lambda requests, _: (refusal(each, Code.UNAVAILABLE, "DRAINING") for each in requests)
    with pytest.raises(UnavailableError, match="as scripted"):
        await classified(scripted.target)
    assert len(scripted.tokens) == 4


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", AccessDeniedError),
        (grpc.StatusCode.UNIMPLEMENTED, "", GlimpseError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", GlimpseError),  # a message above the server's limit
    ],
)
@on_a_loop
async def test_an_end_that_would_come_again_is_raised_at_once(
    scripted: ScriptedServer, status: grpc.StatusCode, reason: str, kind: type[GlimpseError]
) -> None:
    def stream(requests: Requests, context: Context) -> Responses:
        next(requests)
        abort(context, status, reason)
        yield

    scripted.stream = stream
    with pytest.raises(kind):
        await classified(scripted.target)
    assert len(scripted.tokens) in {1, 2}  # a first end that meets a write is not understood


@on_a_loop
async def test_a_refusal_at_the_door_is_understood_though_images_are_being_sent(scripted: ScriptedServer) -> None:
    """Large images: their writing meets the end of the call."""

    def stream(_: Requests, context: Context) -> Responses:
        abort(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED")
        yield

    scripted.stream = stream
    async with AsyncClient(scripted.target) as client:
        with pytest.raises(AccessDeniedError) as caught:
            [answer async for answer in client.classify_many((n, bytes(3_000_000)) for n in range(8))]
    assert caught.value.reason == "TOKEN_REFUSED"
    assert len(scripted.tokens) in {1, 2}


@on_a_loop
async def test_an_answer_to_what_was_never_asked_breaks_the_stream(scripted: ScriptedServer) -> None:
    scripted.stream = lambda requests, _: (
        pb.ClassifyStreamResponse(id="who?", response=stream_response(request).response) for request in requests
    )
    with pytest.raises(StreamBrokenError, match=r"who\?"):
        await classified(scripted.target)
