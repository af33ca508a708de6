"""The clients in other languages, against a real server, beside the Python client's answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from glimpse.client import Client
from glimpse.client.errors import Code
from glimpse.v1 import classifier_pb2 as pb
from tests.client.scripted import Context, ScriptedServer, abort, refusal, response, stream_response
from tests.conftest import RunningServer
from tests.examples.conftest import ALICE, Example, Guarded


def python_says(server: RunningServer, photo: Path) -> list[dict[str, Any]]:
    with Client(server.target) as client:
        predictions = client.classify(photo, top_k=5).predictions
    return [
        # The last digits of a probability depend on the batch that the image rode in.
        {"label": each.label, "index": each.index, "probability": pytest.approx(each.probability, abs=1e-4)}
        for each in predictions
    ]


@pytest.fixture
def folder(tmp_path: Path, cat_photo: Path) -> Path:
    """40 photos, more than are in flight at once, one of them broken, in folders of folders."""
    below = tmp_path / "folder" / "below"
    below.mkdir(parents=True)
    for number in range(39):
        shutil.copyfile(cat_photo, (below if number % 2 else below.parent) / f"{number}.jpg")
    (below / "broken.jpg").write_bytes(cat_photo.read_bytes()[:5000])
    (below / "notes.txt").write_text("no photo")
    return below.parent


def test_files_get_the_answers_that_the_python_client_gets(
    example: Example, server: RunningServer, cat_photo: Path
) -> None:
    ended = example.classify(server.target, cat_photo)
    assert ended.answers == {str(cat_photo): {"predictions": python_says(server, cat_photo), "error": None}}
    assert (ended.trouble, ended.code) == ("", 0)


def test_a_folder_over_a_stream_gets_all_answers_and_a_broken_photo_fails_alone(
    example: Example, server: RunningServer, cat_photo: Path, folder: Path
) -> None:
    ended = example.classify(server.target, folder)
    broken = ended.answers.pop(str(folder / "below" / "broken.jpg"))
    assert broken["predictions"] == []
    assert (broken["error"]["code"], broken["error"]["reason"]) == ("INVALID_ARGUMENT", "TRUNCATED_IMAGE")
    assert set(ended.answers) == {str(path) for path in folder.rglob("*.jpg")} - {str(folder / "below" / "broken.jpg")}
    expected = {"predictions": python_says(server, cat_photo), "error": None}
    assert [answer for answer in ended.answers.values() if answer != expected] == []
    assert (ended.trouble, ended.code) == ("", 1)


def test_a_refused_request_is_told_with_its_reason_and_a_token_over_tls_gets_in(
    example: Example, guarded: Guarded, cat_photo: Path
) -> None:
    ca = str(guarded.authorities)
    refused = example.classify(guarded.target, cat_photo, GLIMPSE_TLS_CA=ca)
    assert (refused.answers, refused.code) == ({}, 2)
    assert refused.trouble.startswith("UNAUTHENTICATED TOKEN_MISSING: ")
    let_in = example.classify(guarded.target, cat_photo, GLIMPSE_TLS_CA=ca, GLIMPSE_TOKEN=ALICE)
    assert [answer["predictions"][0]["label"] for answer in let_in.answers.values()] == ["cat"], let_in.trouble
    assert let_in.code == 0


def test_a_full_server_is_asked_again_when_it_says_so(example: Example, tmp_path: Path) -> None:
    """And each call has a deadline."""
    asked: list[float] = []

    def refuse_once(request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        asked.append(float(context.time_remaining()))
        if len(asked) == 1:
            hint = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=50_000_000))
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", hint, pushback_ms=50)
        return response(request)

    photo = tmp_path / "photo.jpg"
    photo.write_text("a cat")
    with ScriptedServer() as scripted:
        scripted.classify = refuse_once
        ended = example.classify(scripted.target, photo)
    assert (ended.code, ended.trouble) == (0, "")
    assert ended.answers[str(photo)]["predictions"][0]["label"] == "a cat"
    assert len(asked) == 2
    assert all(0 < seconds < 61 for seconds in asked), asked


def test_a_stream_that_breaks_is_begun_again_for_what_has_no_answer(example: Example, tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.jpg").write_text(name)
    streams: list[list[str]] = []

    def break_once(requests: Iterator[pb.ClassifyStreamRequest], context: Context) -> Iterator[Any]:
        streams.append([])
        for request in requests:
            streams[-1].append(request.id)
            if len(streams) == 1 and len(streams[0]) == 3:
                abort(context, grpc.StatusCode.UNAVAILABLE, "DRAINING")
            full = len(streams) == 2 and streams[-1].count(request.id) == 1 and request.id.endswith("d.jpg")
            yield refusal(request, Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.05) if full else stream_response(request)

    with ScriptedServer() as scripted:
        scripted.stream = break_once
        ended = example.classify(scripted.target, tmp_path)
    assert (ended.code, ended.trouble) == (0, "")
    labels = {Path(path).name: answer["predictions"][0]["label"] for path, answer in ended.answers.items()}
    assert labels == {f"{name}.jpg": name for name in "abcd"}
    assert len(streams) == 2
    assert streams[1].count(str(tmp_path / "d.jpg")) == 2


def test_where_nobody_answers_that_is_told(example: Example, cat_photo: Path) -> None:
    ended = example.classify("127.0.0.1:1", cat_photo)  # a port that nobody may have
    assert (ended.answers, ended.code) == ({}, 2)
    assert ended.trouble.startswith("UNAVAILABLE: ")


def test_a_token_never_travels_readable(example: Example, cat_photo: Path) -> None:
    ended = example.classify("127.0.0.1:1", cat_photo, GLIMPSE_TOKEN=ALICE)
    assert (ended.answers, ended.code) == ({}, 2)
    assert "TLS" in ended.trouble
