"""Many images over one stream: each answered once, bounded in flight, and clear about its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from glimpse.client import (
    Client,
    Code,
    DeadlineExceededError,
    InvalidRequestError,
    StreamBrokenError,
    UnavailableError,
)
from glimpse.client.image_input import MAX_IMAGE_BYTES
from glimpse.v1 import classifier_pb2 as pb
from tests.client.scripted import Context, ScriptedServer, refusal, stream_response

Requests = Iterator[pb.ClassifyStreamRequest]
Responses = Iterator[pb.ClassifyStreamResponse]


def in_reverse(requests: Requests, _: Context) -> Responses:
    """Answer in groups of four, the last of each first."""
    group: list[pb.ClassifyStreamRequest] = []
    for request in requests:
        group.append(request)
        if len(group) == 4:
            yield from map(stream_response, reversed(group))
            group.clear()


def test_every_image_is_answered_once_under_its_own_key_though_answers_overtake(scripted: ScriptedServer) -> None:
    scripted.stream = in_reverse
    with Client(scripted.target) as client:
        answers = list(client.classify_many((f"key {n}", f"label {n}".encode()) for n in range(40)))

    keys = [key for key, _ in answers]
    assert sorted(keys) == sorted(f"key {n}" for n in range(40))
    assert keys[:4] == ["key 3", "key 2", "key 1", "key 0"]
    assert all(result.predictions[0].label.removeprefix("label") == key.removeprefix("key") for key, result in answers)


def test_the_order_of_the_images_is_kept_where_it_is_asked_for(scripted: ScriptedServer) -> None:
    scripted.stream = in_reverse
    with Client(scripted.target) as client:
        keys = [key for key, _ in client.classify_many(((n, b"x") for n in range(40)), ordered=True)]

    assert keys == list(range(40))


def test_one_bad_image_leaves_its_neighbours_alone(scripted: ScriptedServer, tmp_path: Path) -> None:
    sources: list[bytes | Path] = [
        b"cat",
        b"bad",
        tmp_path / "missing.jpg",
        tmp_path,
        bytes(MAX_IMAGE_BYTES + 1),
        b"dog",
    ]
    with Client(scripted.target) as client:
        results = [result for _, result in client.classify_many(enumerate(sources), ordered=True)]

    assert [result.error and result.error.reason for result in results] == [
        None,
        "NOT_AN_IMAGE",
        "FILE_NOT_FOUND",
        "NOT_A_FILE",
        "MESSAGE_TOO_LARGE",
        None,
    ]


@pytest.mark.parametrize("ordered", [False, True])
def test_no_more_images_are_in_flight_than_asked_for(scripted: ScriptedServer, *, ordered: bool) -> None:
    received: list[pb.ClassifyStreamRequest] = []
    change = threading.Condition()
    too_many = threading.Event()

    def stream(requests: Requests, _: Context) -> Responses:
        def read() -> None:
            for request in requests:
                with change:
                    received.append(request)
                    change.notify_all()

        threading.Thread(target=read, daemon=True).start()
        for answered in range(20):
            allowed = min(answered + 3, 20)
            with change:
                while len(received) < allowed:
                    assert change.wait(30)
                change.wait(0.02)  # a moment in which one too many could come
                if len(received) > allowed:
                    too_many.set()
            yield stream_response(received[answered])

    done = 0
    held: list[int] = []

    def images() -> Iterator[tuple[int, bytes]]:
        for number in range(20):
            held.append(number + 1 - done)
            yield number, b"x"

    scripted.stream = stream
    with Client(scripted.target) as client:
        for _ in client.classify_many(images(), in_flight=3, ordered=ordered):
            done += 1

    assert done == 20
    assert max(held) == 3
    assert not too_many.is_set()


def test_an_answer_is_handed_over_before_the_next_image_is_there(scripted: ScriptedServer) -> None:
    answered = threading.Event()

    def camera() -> Iterator[tuple[int, bytes]]:
        yield 0, b"first"
        assert answered.wait(30), "the first answer was kept back until the second image"
        yield 1, b"second"

    with Client(scripted.target) as client:
        for _ in client.classify_many(camera()):
            answered.set()


def test_nothing_to_classify_needs_no_server(nowhere: str, tmp_path: Path) -> None:
    with Client(nowhere) as client:
        assert list(client.classify_many(())) == []
        [(_, result)] = client.classify_many([("gone", tmp_path / "gone.jpg")])
    assert result.error is not None
    assert result.error.reason == "FILE_NOT_FOUND"


def test_nobody_at_the_target_is_said_so(nowhere: str) -> None:
    with Client(nowhere) as client, pytest.raises(UnavailableError, match="No Glimpse server answers"):
        list(client.classify_many([("a", b"cat")]))


def test_an_answer_to_what_was_never_asked_breaks_the_stream(scripted: ScriptedServer) -> None:
    scripted.stream = lambda requests, _: (
        pb.ClassifyStreamResponse(id="who?", response=stream_response(request).response) for request in requests
    )
    with Client(scripted.target) as client, pytest.raises(StreamBrokenError, match=r"who\?"):
        list(client.classify_many([("a", b"cat")]))


def test_options_that_are_refused_end_the_run_instead_of_failing_every_image(scripted: ScriptedServer) -> None:
    """Options that the server refuses end the run, instead of failing every image."""
    scripted.stream = lambda requests, _: (
        refusal(request, Code.INVALID_ARGUMENT, "TOP_K_OUT_OF_RANGE") for request in requests
    )
    with Client(scripted.target) as client, pytest.raises(InvalidRequestError) as caught:
        list(client.classify_many(enumerate([b"cat", b"dog"]), top_k=0))
    assert caught.value.reason == "TOP_K_OUT_OF_RANGE"


def test_an_image_without_room_gets_another_attempt(scripted: ScriptedServer) -> None:
    attempts: dict[str, int] = {}

    def stream(requests: Requests, _: Context) -> Responses:
        for request in requests:
            attempts[request.id] = attempts.get(request.id, 0) + 1
            full = attempts[request.id] < 3
            yield refusal(request, Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.001) if full else stream_response(request)

    scripted.stream = stream
    with Client(scripted.target) as client:
        answers = dict(client.classify_many(((n, b"cat") for n in range(10)), in_flight=4))

    assert sorted(answers) == list(range(10))
    assert all(result.error is None for result in answers.values())
    assert set(attempts.values()) == {3}


def test_a_server_that_lets_few_in_at_a_time_gets_all_images_in_the_end(scripted: ScriptedServer) -> None:
    refusals = 0

    def stream(requests: Requests, _: Context) -> Responses:
        """Refuse the first image ten times, and answer one of the others after each."""
        nonlocal refusals
        held: list[pb.ClassifyStreamRequest] = []
        for request in requests:
            if request.id != "0":
                held.append(request)
            elif refusals < 10:
                refusals += 1
                yield refusal(request, Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", 0.001)
                yield from map(stream_response, [held.pop()] if held else [])
            else:
                yield stream_response(request)
            if refusals == 10:
                yield from map(stream_response, held)
                held.clear()

    scripted.stream = stream
    with Client(scripted.target) as client:
        answers = dict(client.classify_many(((n, b"cat") for n in range(60)), in_flight=20))

    assert sorted(key for key, result in answers.items() if result.error is None) == list(range(60))


def test_an_image_that_never_finds_room_fails_in_the_end_and_alone(scripted: ScriptedServer) -> None:
    scripted.stream = lambda requests, _: (
        refusal(request, Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.001)
        if request.request.images[0].encoded == b"unlucky"
        else stream_response(request)
        for request in requests
    )
    with Client(scripted.target) as client:
        answers = dict(client.classify_many([("a", b"cat"), ("b", b"unlucky"), ("c", b"dog")]))

    assert answers["b"].error is not None
    assert answers["b"].error.reason == "QUEUE_FULL"
    assert answers["a"].error is None
    assert answers["c"].error is None


def test_a_silent_server_ends_with_the_timeout(scripted: ScriptedServer) -> None:
    over = threading.Event()

    def stream(requests: Requests, _: Context) -> Responses:
        over.wait(60)
        yield from ()

    scripted.stream = stream
    try:
        with Client(scripted.target) as client, pytest.raises(DeadlineExceededError, match="unanswered images: 1"):
            list(client.classify_many([("a", b"cat")], timeout=0.2))
    finally:
        over.set()


def test_what_the_callers_iterable_raises_reaches_the_caller(scripted: ScriptedServer) -> None:
    def images() -> Iterator[tuple[int, bytes]]:
        yield 0, b"cat"
        raise ZeroDivisionError

    with Client(scripted.target) as client, pytest.raises(ZeroDivisionError):
        list(client.classify_many(images()))


def test_a_finished_run_ends_its_stream_well_and_an_abandoned_one_cancels_it(scripted: ScriptedServer) -> None:
    """A finished run ends the stream in peace, by closing its side, and an abandoned one cancels it."""
    ends: list[str] = []
    ended = threading.Event()

    def stream(requests: Requests, context: Context) -> Responses:
        def note(end: str) -> None:
            ends.append(end)
            ended.set()

        context.add_callback(lambda: note("over"))
        yield from map(stream_response, requests)
        if context.is_active():  # a cancelled stream's requests end, too
            ends.append("half-closed by the client")

    scripted.stream = stream
    with Client(scripted.target) as client:
        list(client.classify_many(enumerate([b"cat", b"dog"])))
        assert ended.wait(30)
        assert ends == ["half-closed by the client", "over"]

        ends.clear()
        ended.clear()
        answers = client.classify_many((n, b"cat") for n in iter(int, 1))  # without end
        next(answers)
        answers.close()  # type: ignore[attr-defined]  # a generator, though promised as an iterator
        assert ended.wait(30)
        assert ends == ["over"]


def test_a_window_of_nothing_is_refused(scripted: ScriptedServer) -> None:
    with Client(scripted.target) as client, pytest.raises(ValueError, match="Received: 0"):
        client.classify_many([("a", b"cat")], in_flight=0)
