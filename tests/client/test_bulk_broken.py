"""Bulk work over streams that break: the next one gets what is unanswered, and each image is answered once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from glimpse.client import AccessDeniedError, Client, Code, GlimpseError, StreamBrokenError, UnavailableError
from glimpse.v1 import classifier_pb2 as pb
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


def both(*servers: ScriptedServer) -> str:
    """A target with several addresses, between which calls take turns."""
    return "ipv4:" + ",".join(server.target for server in servers)


def photos(count: int) -> Iterator[tuple[int, bytes]]:
    return ((number, f"label {number}".encode()) for number in range(count))


def classified(target: str, count: int = 40, in_flight: int = 8) -> list[int]:
    """The numbers of the images that were answered, each with its own answer, in the order of the answers."""
    with Client(target) as client:
        answers = list(client.classify_many(photos(count), in_flight=in_flight))
    for number, result in answers:
        assert result.predictions[0].label == f"label {number}"
    return [number for number, _ in answers]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (grpc.StatusCode.OK, ""),
        (grpc.StatusCode.UNAVAILABLE, "DRAINING"),
        (grpc.StatusCode.UNAVAILABLE, ""),
        (grpc.StatusCode.INTERNAL, ""),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "UPLOAD_TOO_SLOW"),
    ],
)
def test_a_stream_that_ends_early_is_followed_by_another(
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
    assert sorted(classified(scripted.target)) == list(range(40))
    assert len(scripted.tokens) >= 40 / 3  # streams


def test_the_images_of_a_server_that_dies_are_answered_by_another(
    scripted: ScriptedServer, other: ScriptedServer
) -> None:
    took: list[str] = []
    full = threading.Event()
    over = threading.Event()

    def takes_all_and_answers_two(requests: Requests, _: Context) -> Responses:
        for request in requests:
            took.append(request.id)
            if len(took) <= 2:
                yield stream_response(request)
            if len(took) == 10:
                full.set()
                over.wait(60)
                return

    scripted.stream = other.stream = takes_all_and_answers_two
    dying: list[ScriptedServer] = []

    def kill() -> None:
        assert full.wait(60)
        victim = scripted if scripted.tokens else other
        dying.append(victim)
        (other if victim is scripted else scripted).stream = lambda requests, _: map(stream_response, requests)
        victim.stop()
        over.set()

    killing = threading.Thread(target=kill)
    killing.start()
    answered = classified(both(scripted, other))
    killing.join()

    assert len(dying) == 1
    assert sorted(answered) == list(range(40))


def test_a_server_that_drains_answers_what_it_has_and_the_rest_go_elsewhere(
    scripted: ScriptedServer, other: ScriptedServer
) -> None:
    """As a server that drains: refusals overtake the answers to what it had taken before."""
    answered_by: list[str] = []
    leaving: list[ScriptedServer] = []

    def drains(server: ScriptedServer) -> None:
        def stream(requests: Requests, _: Context) -> Responses:
            if leaving:  # the other one left, and this one stays
                for request in requests:
                    answered_by.append("staying")
                    yield stream_response(request)
                return
            leaving.append(server)
            taken = [next(requests) for _ in range(8)]
            for request in taken[4:]:
                yield refusal(request, Code.UNAVAILABLE, "DRAINING")
            assert next(requests, None) is None, "it was given another image after it had refused some"
            for request in taken[:4]:
                answered_by.append("leaving")
                yield stream_response(request)

        server.stream = stream

    drains(scripted)
    drains(other)
    assert sorted(classified(both(scripted, other))) == list(range(40))
    assert Counter(answered_by) == {"leaving": 4, "staying": 36}


def test_a_server_that_refuses_some_and_is_silent_about_the_others_is_left(
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
        assert sorted(classified(scripted.target)) == list(range(40))
    finally:
        over.set()
    assert len(scripted.tokens) == 2, "the end of the stream that was left broke the one that followed"


def test_connections_that_come_of_age_are_not_noticed() -> None:
    pause = threading.Event()

    def slowly(requests: Requests, _: Context) -> Responses:
        for request in requests:
            pause.wait(0.005)
            yield stream_response(request)

    with ScriptedServer(max_connection_age_ms=100) as server:
        server.stream = slowly
        assert sorted(classified(server.target, count=200)) == list(range(200))
        assert len(server.tokens) > 1, "all fitted into one stream: nothing was tested"


def test_what_was_told_to_come_back_later_comes_back_once_on_the_next_stream(scripted: ScriptedServer) -> None:
    sent: Counter[str] = Counter()

    def stream(requests: Requests, _: Context) -> Responses:
        first = len(scripted.tokens) == 1
        for request in requests:
            sent[request.id] += 1
            if first:
                yield refusal(request, Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.05)
                if request.id == "7":
                    return
            else:
                yield stream_response(request)

    scripted.stream = stream
    assert sorted(classified(scripted.target)) == list(range(40))
    assert all(times == (2 if int(key) < 8 else 1) for key, times in sent.items())


def test_a_server_that_has_no_room_for_a_stream_is_asked_again_when_it_says(scripted: ScriptedServer) -> None:
    hint = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=10_000_000))

    def stream(requests: Requests, context: Context) -> Responses:
        if len(scripted.tokens) < 4:
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", hint)
        yield from map(stream_response, requests)

    scripted.stream = stream
    assert sorted(classified(scripted.target)) == list(range(40))
    assert len(scripted.tokens) == 4


def test_no_more_images_are_held_than_asked_for_however_many_streams_break(scripted: ScriptedServer) -> None:
    scripted.stream = lambda requests, _: (stream_response(next(requests)) for _ in range(1))
    done = 0
    held: list[int] = []

    def images() -> Iterator[tuple[int, bytes]]:
        for number in range(30):
            held.append(number + 1 - done)
            yield number, b"x"

    with Client(scripted.target) as client:
        for _ in client.classify_many(images(), in_flight=3):
            done += 1
    assert done == 30
    assert max(held) == 3


def test_streams_without_an_answer_end_the_run_which_says_how_many_are_missing(
    scripted: ScriptedServer,
) -> None:
    """Streams without a single answer end the run, and it says how many images are unanswered."""

    def stream(requests: Requests, context: Context) -> Responses:
        request = next(requests)
        if len(scripted.tokens) == 1:
            yield stream_response(request)
        abort(context, grpc.StatusCode.UNAVAILABLE, "DRAINING", message="going home")

    scripted.stream = stream
    with Client(scripted.target) as client:
        answers = client.classify_many([("a", b"cat"), ("b", b"dog")])
        assert next(answers)[0] == "a"
        with pytest.raises(StreamBrokenError, match="unanswered images: 1") as caught:
            next(answers)
    assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "DRAINING")
    assert caught.value.message.endswith("going home")
    assert len(scripted.tokens) == 1 + 10


def test_streams_that_end_without_a_word_are_no_quiet_success(scripted: ScriptedServer) -> None:
    scripted.stream = lambda requests, _: iter([stream_response(next(requests))] if len(scripted.tokens) < 3 else [])
    with Client(scripted.target) as client, pytest.raises(StreamBrokenError, match=r"images: 1\. .*ended it early"):
        list(client.classify_many(enumerate([b"cat", b"dog", b"cow"])))


def test_a_server_that_never_answered_is_given_up_soon_and_with_its_own_words(
    scripted: ScriptedServer,
) -> None:
    def stream(requests: Requests, context: Context) -> Responses:
        yield from (refusal(request, Code.UNAVAILABLE, "DRAINING") for request in requests)

    scripted.stream = stream
    with Client(scripted.target) as client, pytest.raises(UnavailableError, match="as scripted"):
        list(client.classify_many(photos(40)))
    assert len(scripted.tokens) == 4


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", AccessDeniedError),
        (grpc.StatusCode.UNIMPLEMENTED, "", GlimpseError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", GlimpseError),  # a message above the server's limit
    ],
)
def test_an_end_that_would_come_again_is_raised_at_once(
    scripted: ScriptedServer, status: grpc.StatusCode, reason: str, kind: type[GlimpseError]
) -> None:
    def stream(requests: Requests, context: Context) -> Responses:
        next(requests)
        abort(context, status, reason)
        yield

    scripted.stream = stream
    with Client(scripted.target) as client, pytest.raises(kind):
        list(client.classify_many(photos(40)))
    assert len(scripted.tokens) == 1


def test_a_client_that_is_closed_meanwhile_ends_the_run(scripted: ScriptedServer) -> None:
    with Client(scripted.target) as client:
        answers = client.classify_many((n, b"cat") for n in iter(int, 1))  # without end
        next(answers)
    with pytest.raises(StreamBrokenError, match="closed"):
        list(answers)
