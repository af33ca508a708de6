"""How large a message may be is for the client to say, and for the server, which may allow less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from glimpse import AsyncClient, Client, ImageRefusedError, RequestRefusedError
from glimpse.client.channel import MAX_MESSAGE_BYTES
from glimpse.client.results import ImageResult
from glimpse.server.settings import Settings
from glimpse.v1 import classifier_pb2 as pb
from tests.client.conftest import Glimpse
from tests.client.loops import on_a_loop
from tests.client.scripted import Context, ScriptedServer, abort, response, stream_response

MIB = 1024 * 1024
LARGE = bytes(17 * MIB)  # more than goes into a message unless the client is told otherwise


def brief(request: pb.ClassifyRequest) -> pb.ClassifyRequest:
    """The request, with the size of its image in the image's place."""
    size = len(request.images[0].encoded)
    return pb.ClassifyRequest(images=[pb.Image(encoded=b"%d bytes" % size)])


@pytest.fixture
def roomy() -> Iterator[ScriptedServer]:
    """A server that takes messages of up to 32 MiB, and answers with the size of what came."""

    def classify(request: pb.ClassifyRequest, _: Context) -> pb.ClassifyResponse:
        return response(brief(request))

    def stream(requests: Iterator[pb.ClassifyStreamRequest], _: Context) -> Iterator[pb.ClassifyStreamResponse]:
        for each in requests:
            yield stream_response(pb.ClassifyStreamRequest(id=each.id, request=brief(each.request)))

    with ScriptedServer(max_message_bytes=32 * MIB) as running:
        running.classify, running.stream = classify, stream
        yield running


def test_the_clients_default_is_the_servers() -> None:
    assert Settings.model_fields["max_message_bytes"].default == MAX_MESSAGE_BYTES


def test_a_client_sends_and_receives_larger_messages_where_it_is_told_to(roomy: ScriptedServer) -> None:
    with Client(roomy.target, max_message_bytes=20 * MIB) as client:
        assert client.classify(LARGE).predictions[0].label == f"{len(LARGE)} bytes"
        [(_, result)] = client.classify_many([(1, LARGE)])
        assert result.predictions[0].label == f"{len(LARGE)} bytes"
        roomy.classify = lambda *_: response(pb.ClassifyRequest(images=[pb.Image(encoded=b"x" * len(LARGE))]))
        assert len(client.classify(b"cat").predictions[0].label) == len(LARGE)


@on_a_loop
async def test_a_client_for_asyncio_sends_larger_messages_where_it_is_told_to(roomy: ScriptedServer) -> None:
    async with AsyncClient(roomy.target, max_message_bytes=20 * MIB) as client:
        assert (await client.classify(LARGE)).predictions[0].label == f"{len(LARGE)} bytes"
        results = [result async for _, result in client.classify_many([(1, LARGE)])]
        assert results[0].predictions[0].label == f"{len(LARGE)} bytes"


def test_a_client_that_is_told_so_refuses_smaller_images(scripted: ScriptedServer) -> None:
    with Client(scripted.target, max_message_bytes=MIB) as client:
        with pytest.raises(ImageRefusedError, match=r"more than 983,040 bytes.*raise max_message_bytes") as refused:
            client.classify(bytes(MIB))
        [(_, result)] = client.classify_many([(1, bytes(MIB))])
    assert refused.value.reason == "MESSAGE_TOO_LARGE"
    assert result.error is not None
    assert result.error.reason == "MESSAGE_TOO_LARGE"
    assert not scripted.requests


@pytest.mark.parametrize("size", [0, MIB - 1, 2**31])
def test_a_size_that_no_message_can_have_is_refused_at_once(size: int) -> None:
    with pytest.raises(ValueError, match=f"from 1,048,576 to 2,147,483,647. Received: {size:,}"):
        Client("localhost", max_message_bytes=size)
    with pytest.raises(ValueError, match="max_message_bytes"):
        AsyncClient("localhost", max_message_bytes=size)


def test_the_command_line_sends_larger_files_where_it_is_told_to(
    roomy: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    (tmp_path / "large.png").write_bytes(LARGE)
    asked = ("classify", "--json", "large.png", "-", "--target", roomy.target)
    ended = glimpse(*asked, "--max-message-bytes", str(20 * MIB), stdin=LARGE)
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [each["predictions"][0]["label"] for each in answers] == [f"{len(LARGE)} bytes"] * 2
    ended = glimpse(*asked, stdin=LARGE)
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 1
    assert [each["error"]["reason"] for each in answers] == ["MESSAGE_TOO_LARGE"] * 2
    assert "--max-message-bytes" in answers[0]["error"]["message"]
    ended = glimpse(*asked, "--max-message-bytes", "100")
    assert (ended.returncode, ended.stdout) == (2, "")


def test_a_load_test_sends_larger_photos_where_it_is_told_to(
    roomy: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    (tmp_path / "large.png").write_bytes(LARGE)
    asked = ("load", "large.png", "--requests", "1", "--warm-up", "0", "--quiet", "--target", roomy.target)
    assert glimpse(*asked).returncode == 2
    ended = glimpse(*asked, "--max-message-bytes", str(20 * MIB))
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def narrow() -> Iterator[ScriptedServer]:
    """A server that takes messages of up to 1 MiB, which is less than clients send."""
    with ScriptedServer(max_message_bytes=MIB) as running:
        yield running


# Among small images some that are too large, so that the streams with them break more than once.
MIXED = [bytes(MIB + 1) if number in {2, 3, 7, 20} else b"label %d" % number for number in range(24)]


def told(results: dict[int, ImageResult]) -> list[str]:
    """What became of each image: its label, or the reason of its error."""
    assert sorted(results) == list(range(len(MIXED)))
    ordered = [results[number] for number in range(len(MIXED))]
    return [each.error.reason if each.error else each.predictions[0].label for each in ordered]


EXPECTED = ["MESSAGE_TOO_LARGE" if len(image) > MIB else image.decode() for image in MIXED]


def test_an_image_that_the_server_takes_no_message_of_is_sent_once(narrow: ScriptedServer) -> None:
    """Waiting does not make it smaller: it is not the server's being full, which has the same status."""
    with Client(narrow.target) as client:
        with pytest.raises(ImageRefusedError, match=r"fit into a message that 127\.0\.0\.1.*smaller") as refused:
            client.classify(bytes(MIB + 1))
        assert refused.value.reason == "MESSAGE_TOO_LARGE"
        assert client.classify(b"cat").predictions[0].label == "cat"
    assert not [each for each in narrow.requests if len(each.images[0].encoded) > MIB]


def test_an_image_too_large_for_the_server_fails_alone_on_a_stream(narrow: ScriptedServer) -> None:
    with Client(narrow.target) as client:
        assert told(dict(client.classify_many(enumerate(MIXED), in_flight=8))) == EXPECTED
        ordered = [number for number, _ in client.classify_many(enumerate(MIXED), in_flight=8, ordered=True)]
    assert ordered == list(range(len(MIXED)))


@on_a_loop
async def test_an_image_too_large_for_the_server_fails_alone_on_a_loop(narrow: ScriptedServer) -> None:
    async with AsyncClient(narrow.target) as client:
        with pytest.raises(ImageRefusedError, match="smaller"):
            await client.classify(bytes(MIB + 1))
        results = {number: result async for number, result in client.classify_many(enumerate(MIXED), in_flight=8)}
    assert told(results) == EXPECTED


def test_without_sizes_in_the_refusal_only_the_largest_images_fail(scripted: ScriptedServer) -> None:
    """Another server words it otherwise; that the largest image of all is too large is certain all the same."""

    def stream(requests: Iterator[pb.ClassifyStreamRequest], context: Context) -> Iterator[pb.ClassifyStreamResponse]:
        for each in requests:
            if len(each.request.images[0].encoded) > 10:
                abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, message="Received message larger than max")
            yield stream_response(each)

    scripted.stream = stream
    images = [b"cat", b"a large one", b"dog", b"a larger one", b"bird", b"a large one"]
    with Client(scripted.target) as client:
        results = [result for _, result in client.classify_many(enumerate(images), ordered=True)]
    answers = [result.error.reason if result.error else result.predictions[0].label for result in results]
    assert answers[::2] == ["cat", "dog", "bird"]
    assert answers[1::2] == ["MESSAGE_TOO_LARGE"] * 3


def test_an_answer_too_large_for_the_client_is_told_with_the_option(scripted: ScriptedServer) -> None:
    asked = 0

    def classify(*_: object) -> pb.ClassifyResponse:
        nonlocal asked
        asked += 1
        return response(pb.ClassifyRequest(images=[pb.Image(encoded=b"x" * (MIB + 1))]))

    scripted.classify = classify
    with (
        Client(scripted.target, max_message_bytes=MIB) as client,
        pytest.raises(RequestRefusedError, match="Raise max_message_bytes"),
    ):
        client.classify(b"cat")
    assert asked == 1


def test_a_folder_with_a_photo_too_large_for_the_server_ends_with_1(
    narrow: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"cat")
    (tmp_path / "b.jpg").write_bytes(bytes(MIB + 1))
    (tmp_path / "c.jpg").write_bytes(b"dog")
    ended = glimpse("classify", "--json", "a.jpg", "b.jpg", "c.jpg", "--target", narrow.target)
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 1, ended.stderr
    assert [each["error"] is None for each in answers] == [True, False, True]
