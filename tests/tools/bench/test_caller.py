"""The load generator against the real service, so briefly that nothing but its book-keeping is judged."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from PIL import Image

from glimpse.v1 import classifier_pb2 as pb
from tests.conftest import RunningServer
from tools.bench import photos
from tools.bench.caller import Record, _images
from tools.bench.worker import Worker, WorkerError


@pytest.fixture(scope="module")
def caller(server: RunningServer) -> Iterator[Worker]:
    with Worker("tools.bench.caller") as worker:
        worker.do("prepare", kind="raw", height=32, width=32, each=2)
        worker.do("connect", target=server.target, pid=server.process.pid)
        yield worker


def test_a_lone_caller_gets_an_answer_to_each_request(caller: Worker) -> None:
    found = caller.do("lone", requests=3)
    assert (found["requests"], found["images"], found["errors"]) == (3, 6, {})
    assert found["server_cpu"] > 0
    assert found["latency"]["max"] < found["seconds"]


def test_callers_in_a_closed_loop_get_all_answers(caller: Worker) -> None:
    found = caller.do("closed", callers=3, seconds=0.2)
    assert found["requests"] >= 3
    assert (found["images"], found["errors"]) == (2 * found["requests"], {})


def test_an_open_loop_sends_what_was_planned(caller: Worker) -> None:
    found = caller.do("opened", rate=40, seconds=0.5, seed=1)
    assert 0 < found["requests"] == found["images"] / 2
    assert found["late"]["p50"] >= 0


def test_a_stream_is_read_to_its_end(caller: Worker) -> None:
    found = caller.do("stream", streams=2, seconds=0.2)
    assert found["requests"] >= 2
    assert (found["images"], found["errors"]) == (2 * found["requests"], {})


def test_an_image_that_is_refused_counts_as_an_error() -> None:
    refused = pb.ImageResult(error=pb.ImageError(reason="CORRUPT_IMAGE"))
    answer = pb.ClassifyResponse(results=[refused, pb.ImageResult()]).SerializeToString()
    record = Record(finished=[(0.0, 0.0, answer)])
    assert _images(record, pieces=False) == 1
    assert record.errors == {"CORRUPT_IMAGE": 1}


def test_a_request_that_is_refused_counts_as_an_error(caller: Worker) -> None:
    caller.do("prepare", kind="raw", height=32, width=32, each=65)  # more than a request may hold
    try:
        found = caller.do("closed", callers=1, seconds=0.05)
    finally:
        caller.do("prepare", kind="raw", height=32, width=32, each=2)
    assert found["images"] == 0
    assert found["errors"].keys() == {"INVALID_ARGUMENT"}


def test_a_job_that_fails_says_why_and_the_next_one_works(caller: Worker) -> None:
    with pytest.raises(WorkerError, match="rate and seconds must be positive"):
        caller.do("opened", rate=0, seconds=1, seed=1)
    assert caller.do("lone", requests=1)["images"] == 2


def test_an_echo_answers_what_it_was_given(server: RunningServer, caller: Worker) -> None:
    answer = caller.do("answer")
    try:
        for kind in ("aio", "sync"):
            with Worker("tools.bench.echo") as echo:
                port = echo.do("start", kind=kind, unary=answer, stream="00")
                caller.do("connect", target=f"127.0.0.1:{port}", pid=echo.pid)
                assert caller.do("answer") == answer
    finally:
        caller.do("connect", target=server.target, pid=server.process.pid)


def test_the_photos_are_the_same_each_time_and_differ_from_one_another() -> None:
    files = photos.jpegs(6)
    assert files == photos.jpegs(6)
    assert len(set(files)) == 6
    with Image.open(io.BytesIO(files[5])) as photo:
        assert (photo.format, photo.size) == ("JPEG", photos.SIZE)


def test_raw_pixels_have_the_size_that_was_asked_for() -> None:
    assert [len(data) for data in photos.pixels(20, 30, 2)] == [1800, 1800]
