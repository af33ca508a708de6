"""Many images over one stream on an event loop: each answered once, and bounded in flight."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from glimpse.client import (
    AsyncClient,
    Code,
    DeadlineExceededError,
    InvalidRequestError,
    UnavailableError,
)
from glimpse.client.image_input import MAX_IMAGE_BYTES
from glimpse.v1 import classifier_pb2 as pb
from tests.client.loops import on_a_loop
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


async def photos(count: int) -> AsyncIterator[tuple[int, bytes]]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number, f"label {number}".encode()


async def without_end() -> AsyncIterator[tuple[int, bytes]]:
    while True:
        yield 0, b"cat"


@pytest.mark.parametrize("asynchronous", [False, True])
@on_a_loop
async def test_every_image_is_answered_once_under_its_own_key_though_answers_overtake(
    scripted: ScriptedServer, *, asynchronous: bool
) -> None:
    scripted.stream = in_reverse
    images = photos(40) if asynchronous else ((n, f"label {n}".encode()) for n in range(40))
    async with AsyncClient(scripted.target) as client:
        answers = [answer async for answer in client.classify_many(images)]

    keys = [key for key, _ in answers]
    assert sorted(keys) == list(range(40))
    assert keys[:4] == [3, 2, 1, 0]
    assert all(result.predictions[0].label == f"label {key}" for key, result in answers)


@on_a_loop
async def test_the_order_of_the_images_is_kept_where_it_is_asked_for(scripted: ScriptedServer) -> None:
    scripted.stream = in_reverse
    async with AsyncClient(scripted.target) as client:
        keys = [key async for key, _ in client.classify_many(photos(40), ordered=True)]
    assert keys == list(range(40))


@on_a_loop
async def test_one_bad_image_leaves_its_neighbours_alone(scripted: ScriptedServer, tmp_path: Path) -> None:
    sources: list[bytes | Path] = [
        b"cat",
        b"bad",
        tmp_path / "missing.jpg",
        tmp_path,
        bytes(MAX_IMAGE_BYTES + 1),
        b"dog",
    ]

    async def images() -> AsyncIterator[tuple[int, bytes | Path]]:
        for pair in enumerate(sources):
            yield pair

    async with AsyncClient(scripted.target) as client:
        for source in (images(), enumerate(sources)):
            results = [result async for _, result in client.classify_many(source, ordered=True)]
            assert [result.error and result.error.reason for result in results] == [
                None,
                "NOT_AN_IMAGE",
                "FILE_NOT_FOUND",
                "NOT_A_FILE",
                "MESSAGE_TOO_LARGE",
                None,
            ]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@on_a_loop
async def test_a_slow_consumer_slows_the_reading_down(
    scripted: ScriptedServer, *, asynchronous: bool, ordered: bool
) -> None:
    done = 0
    held: list[int] = []

    def images() -> Iterator[tuple[int, bytes]]:
        for number in range(30):
            held.append(number + 1 - done)
            yield number, b"x"

    async def images_in_turn() -> AsyncIterator[tuple[int, bytes]]:
        for pair in images():
            yield pair

    source = images_in_turn() if asynchronous else images()
    async with AsyncClient(scripted.target) as client:
        async for _ in client.classify_many(source, in_flight=3, ordered=ordered):
            await asyncio.sleep(0.002)  # time in which too many could be read
            done += 1
    assert done == 30
    assert max(held) == 3


@on_a_loop
async def test_an_answer_is_handed_over_before_the_next_image_is_there(scripted: ScriptedServer) -> None:
    answered = asyncio.Event()

    async def camera() -> AsyncIterator[tuple[int, bytes]]:
        yield 0, b"first"
        async with asyncio.timeout(30):
            await answered.wait()
        yield 1, b"second"

    async with AsyncClient(scripted.target) as client:
        keys = []
        async for key, _ in client.classify_many(camera()):
            keys.append(key)
            answered.set()
    assert keys == [0, 1]


@on_a_loop
async def test_an_iterable_that_blocks_does_not_hold_the_loop_up(scripted: ScriptedServer) -> None:
    answered = threading.Event()

    def disk() -> Iterator[tuple[int, bytes]]:
        yield 0, b"first"
        assert answered.wait(30), "the loop stood still"
        yield 1, b"second"

    async with AsyncClient(scripted.target) as client:
        async for _ in client.classify_many(disk()):
            answered.set()


@on_a_loop
async def test_nothing_to_classify_needs_no_server(nowhere: str, tmp_path: Path) -> None:
    async with AsyncClient(nowhere) as client:
        for nothing in (iter([(0, b"")][:0]), photos(0)):
            assert [answer async for answer in client.classify_many(nothing)] == []
        [result] = [result async for _, result in client.classify_many([("gone", tmp_path / "gone.jpg")])]
    assert result.error is not None
    assert result.error.reason == "FILE_NOT_FOUND"


@on_a_loop
async def test_nobody_at_the_target_is_said_so(nowhere: str) -> None:
    async with AsyncClient(nowhere) as client:
        with pytest.raises(UnavailableError, match="No Glimpse server answers"):
            [answer async for answer in client.classify_many(photos(3))]


@on_a_loop
async def test_options_that_are_refused_end_the_run_instead_of_failing_every_image(
    scripted: ScriptedServer,
) -> None:
    """Options that the server refuses end the run, instead of failing every image."""
    scripted.stream = lambda requests, _: (
        refusal(request, Code.INVALID_ARGUMENT, "TOP_K_OUT_OF_RANGE") for request in requests
    )
    async with AsyncClient(scripted.target) as client:
        with pytest.raises(InvalidRequestError):
            [answer async for answer in client.classify_many(without_end(), top_k=0)]


@on_a_loop
async def test_an_image_without_room_gets_another_attempt(scripted: ScriptedServer) -> None:
    attempts: dict[str, int] = {}

    def stream(requests: Requests, _: Context) -> Responses:
        for request in requests:
            attempts[request.id] = attempts.get(request.id, 0) + 1
            full = attempts[request.id] < 3
            yield refusal(request, Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.001) if full else stream_response(request)

    scripted.stream = stream
    async with AsyncClient(scripted.target) as client:
        answers = {key: result async for key, result in client.classify_many(photos(10), in_flight=4)}

    assert sorted(answers) == list(range(10))
    assert all(result.error is None for result in answers.values())
    assert set(attempts.values()) == {3}


@on_a_loop
async def test_a_silent_server_ends_with_the_timeout(scripted: ScriptedServer) -> None:
    over = threading.Event()

    def stream(requests: Requests, _: Context) -> Responses:
        over.wait(60)
        yield from ()

    scripted.stream = stream
    try:
        async with AsyncClient(scripted.target) as client:
            with pytest.raises(DeadlineExceededError, match="unanswered images: 1"):
                [answer async for answer in client.classify_many(photos(1), timeout=0.2)]
    finally:
        over.set()


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
@on_a_loop
async def test_what_the_callers_iterable_raises_reaches_the_caller(
    scripted: ScriptedServer, error: type[BaseException]
) -> None:
    async def images() -> AsyncIterator[tuple[int, bytes]]:
        yield 0, b"cat"
        raise error

    def read_in_a_thread() -> Iterator[tuple[int, bytes]]:
        yield 0, b"cat"
        raise error

    async with AsyncClient(scripted.target) as client:
        for source in (images(), read_in_a_thread()):
            with pytest.raises(error):
                [answer async for answer in client.classify_many(source)]


@on_a_loop
async def test_a_window_of_nothing_is_refused(scripted: ScriptedServer) -> None:
    async with AsyncClient(scripted.target) as client:
        with pytest.raises(ValueError, match="Received: 0"):
            client.classify_many([("a", b"cat")], in_flight=0)
