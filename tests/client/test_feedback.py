"""Feedback by the client and by the command line, to a server that plays a part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glimpse.client import AsyncClient, Client, FeedbackResult, TrueClass
from glimpse.client.feedback import from_response
from glimpse.v1 import classifier_pb2 as pb
from tests.client.scripted import ScriptedServer

RIGHT = FeedbackResult("first", sampled=True)


def test_many_true_classes_are_told_in_calls_that_each_have_room_for() -> None:
    classes = [TrueClass(f"{number:032}", "a class of some length", image=number) for number in range(150)]
    with ScriptedServer() as server, Client(server.target) as client:
        assert client.feedback(classes) == [RIGHT] * 150
        assert client.feedback([]) == []
    told = [image for request in server.fed_back for image in request.images]
    assert [each.image for each in told] == list(range(150))
    assert told[9] == pb.TrueClass(request_id=f"{9:032}", image=9, true_class="a class of some length")
    assert len(server.fed_back) > 1
    assert max(request.ByteSize() for request in server.fed_back) <= 4096
    assert max(len(request.images) for request in server.fed_back) <= 64


def test_the_client_for_asyncio_tells_the_same() -> None:
    async def run(target: str) -> list[FeedbackResult]:
        async with AsyncClient(target) as client:
            return await client.feedback([TrueClass("1", "cat", new_class=True)])

    with ScriptedServer() as server:
        assert asyncio.run(run(server.target)) == [RIGHT]
    assert server.fed_back == [
        pb.FeedbackRequest(images=[pb.TrueClass(request_id="1", true_class="cat", new_class=True)])
    ]


def test_an_outcome_that_only_a_newer_server_has_is_not_counted() -> None:
    response = pb.FeedbackResponse(results=[pb.FeedbackResult(outcome=99, sampled=True)])  # type: ignore[arg-type]
    (result,) = from_response(response)
    assert (result.outcome, result.counted, result.sampled) == ("unspecified", False, True)


def test_the_command_tells_the_class_of_one_image(glimpse: Callable[..., Any]) -> None:
    with ScriptedServer() as server:
        ended = glimpse("feedback", "--target", server.target, "abc", "tiger cat", "--image", "2")
        assert ended.returncode == 0
        assert ended.stdout == "abc: the answer was right; its sample has the class now\n"
        ended = glimpse("feedback", "--target", server.target, "--json", "abc", "griffin", "--new-class")
        assert json.loads(ended.stdout) == {"request_id": "abc", "image": 0, "outcome": "first", "sampled": True}
    first, second = (request.images[0] for request in server.fed_back)
    assert (first.image, first.true_class, first.new_class) == (2, "tiger cat", False)
    assert second.new_class


def test_the_command_reads_many_from_a_file(glimpse: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(
        'request_id,true_class,image,new_class\r\na,cat,,\r\nb,"dog, small",3,yes\r\nc,owl,0,no\r\n', encoding="utf-16"
    )
    with ScriptedServer() as server:
        ended = glimpse("feedback", "--target", server.target, "--csv", str(file))
    assert ended.returncode == 0
    assert ended.stdout.startswith("3 of 3 counted: 3 answers were right")
    (request,) = server.fed_back
    assert [(each.request_id, each.true_class, each.image, each.new_class) for each in request.images] == [
        ("a", "cat", 0, False),
        ("b", "dog, small", 3, True),
        ("c", "owl", 0, False),
    ]


@pytest.mark.parametrize(
    ("arguments", "content"),
    [
        ([], None),
        (["a"], None),
        (["a", "cat", "--csv", "FILE"], "request_id,true_class\n"),
        (["--csv", "FILE"], "request_id,class\na,cat\n"),
        (["--csv", "FILE"], ""),
        (["--csv", "FILE"], "request_id;true_class\na;cat\n"),
        (["--csv", "FILE"], "request_id,true_class,image\na,cat,one\n"),
        (["--csv", "FILE"], "request_id,true_class,image\na,cat,-1\n"),
        (["--csv", "FILE"], "request_id,true_class,new_class\na,cat,perhaps\n"),
        (["a", "cat", "--image", "99999999999"], None),
        (["--csv", "missing.csv"], None),
    ],
)
def test_what_is_no_feedback_is_a_usage_error(
    glimpse: Callable[..., Any], tmp_path: Path, arguments: list[str], content: str | None
) -> None:
    file = tmp_path / "labels.csv"
    if content is not None:
        file.write_text(content)
    ended = glimpse("feedback", *[str(file) if each == "FILE" else each for each in arguments])
    assert ended.returncode == 2, ended.stderr


def test_an_image_that_is_not_counted_is_told_and_fails_the_command(glimpse: Callable[..., Any]) -> None:
    class Refusing(ScriptedServer):
        def Feedback(self, request: pb.FeedbackRequest, context: Any) -> pb.FeedbackResponse:  # noqa: N802
            return pb.FeedbackResponse(results=[pb.FeedbackResult(outcome=pb.FEEDBACK_OUTCOME_UNKNOWN_CLASS)])

    with Refusing() as server:
        ended = glimpse("feedback", "--target", server.target, "abc", "griffin")
    assert ended.returncode == 1
    assert "--new-class" in ended.stderr


def test_a_table_without_a_row_is_told_to_hold_none(glimpse: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("request_id,true_class\n")
    with ScriptedServer() as server:
        ended = glimpse("feedback", "--target", server.target, "--csv", "labels.csv")
    assert (ended.returncode, ended.stdout.partition(":")[0]) == (0, "0 of 0 counted")
