"""The client for asyncio, one call at a time: the same answers and errors, and an event loop that is never blocked."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from glimpse.client import (
    TLS,
    AccessDeniedError,
    AsyncClient,
    Client,
    Code,
    DeadlineExceededError,
    GlimpseError,
    ImageRefusedError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RequestRefusedError,
    ServerFaultError,
    UnavailableError,
)
from glimpse.client.health import Health, Serving
from glimpse.client.image_input import MAX_IMAGE_BYTES
from glimpse.v1 import classifier_pb2 as pb
from tests.client.certificates import Authority
from tests.client.loops import on_a_loop
from tests.client.scripted import Context, ScriptedServer, abort, response


@on_a_loop
async def test_answers_are_those_of_the_synchronous_client(scripted: ScriptedServer) -> None:
    with Client(scripted.target) as synchronous:
        expected = synchronous.classify(b"cat"), synchronous.describe(), synchronous.health()
    async with AsyncClient(scripted.target) as client:
        assert (await client.classify(b"cat"), await client.describe(), await client.health()) == expected


@on_a_loop
async def test_options_travel_with_the_request(scripted: ScriptedServer) -> None:
    async with AsyncClient(scripted.target) as client:
        await client.classify(b"cat", top_k=1, min_probability=0.5, geometry="pad", model="other", version="2")

    [request] = scripted.requests
    assert request.options == pb.ClassifyOptions(top_k=1, min_probability=0.5, geometry="pad")
    assert request.model == pb.ModelSelector(name="other", version="2")


@on_a_loop
async def test_a_path_a_string_bytes_and_an_array_are_images(scripted: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"cat")
    pixels = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    async with AsyncClient(scripted.target) as client:
        for source in (file, str(file), b"cat", pixels):
            await client.classify(source)

    images = [request.images[0] for request in scripted.requests]
    assert [image.encoded for image in images] == [b"cat"] * 3 + [b""]
    assert images[3].raw == pb.RawPixels(height=2, width=4, data=pixels.tobytes())


@on_a_loop
async def test_many_calls_go_on_side_by_side(scripted: ScriptedServer) -> None:
    all_here = threading.Barrier(8, timeout=30)

    def classify(request: pb.ClassifyRequest, _: Context) -> pb.ClassifyResponse:
        all_here.wait()
        return response(request)

    scripted.classify = classify
    async with AsyncClient(scripted.target) as client:
        answers = await asyncio.gather(*(client.classify(f"label {n}".encode()) for n in range(8)))
    assert [answer.predictions[0].label for answer in answers] == [f"label {n}" for n in range(8)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@on_a_loop
async def test_the_loop_goes_on_while_a_file_is_read(scripted: ScriptedServer, tmp_path: Path) -> None:
    """The file is a pipe whose bytes this loop writes: it could not, if the reading held it up."""
    slow = tmp_path / "slow.jpg"
    os.mkfifo(slow)
    async with AsyncClient(scripted.target) as client:
        answer = asyncio.create_task(client.classify(slow))
        while True:
            await asyncio.sleep(0.001)
            try:
                writer = os.open(slow, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads it yet
                continue
            os.write(writer, b"cat")
            os.close(writer)
            break
        assert (await answer).predictions[0].label == "cat"


@on_a_loop
async def test_what_is_wrong_with_an_image_is_raised_as_everywhere(scripted: ScriptedServer, tmp_path: Path) -> None:
    async with AsyncClient(scripted.target) as client:
        with pytest.raises(ImageRefusedError, match="bad is no image") as caught:
            await client.classify(b"bad")
        assert (caught.value.code, caught.value.reason) == (Code.INVALID_ARGUMENT, "NOT_AN_IMAGE")
        with pytest.raises(FileNotFoundError):
            await client.classify(tmp_path / "missing.jpg")
        with pytest.raises(ImageRefusedError, match="does not fit into a message"):
            await client.classify(bytes(MAX_IMAGE_BYTES + 1))
        with pytest.raises(ValueError, match=r"Received: shape \[4\]"):
            await client.classify(np.zeros(4, np.float32))
        with pytest.raises(InvalidRequestError, match="top_k"):
            await client.classify(b"cat", top_k=-1)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, ModelNotFoundError),
        (grpc.StatusCode.UNAUTHENTICATED, AccessDeniedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (grpc.StatusCode.INTERNAL, ServerFaultError),
        (grpc.StatusCode.CANCELLED, GlimpseError),
    ],
)
@on_a_loop
async def test_each_status_is_an_exception_of_its_own_with_all_details(
    scripted: ScriptedServer, status: grpc.StatusCode, kind: type[GlimpseError]
) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="options.top_k", description="bad")
    details = (
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000)),
    )
    scripted.classify = lambda _, context: abort(context, status, "SOME_REASON", *details, pushback_ms=-1)

    async with AsyncClient(scripted.target) as client:
        with pytest.raises(GlimpseError) as caught:
            await client.classify(b"cat")

    error = caught.value
    assert type(error) is kind
    assert (error.reason, error.message, error.field) == ("SOME_REASON", "as scripted", "options.top_k")
    assert error.retry_after == 2.5


@on_a_loop
async def test_a_call_without_room_is_repeated_when_the_server_says(scripted: ScriptedServer) -> None:
    def classify(request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        if len(scripted.requests) < 3:
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", pushback_ms=1)
        return response(request)

    scripted.classify = classify
    async with AsyncClient(scripted.target) as client:
        await client.classify(b"cat")
    assert len(scripted.requests) == 3


@on_a_loop
async def test_nobody_at_the_target_is_said_so(nowhere: str) -> None:
    async with AsyncClient(nowhere) as client:
        with pytest.raises(UnavailableError, match=f"No Glimpse server answers at {nowhere}"):
            await client.classify(b"cat")
        with pytest.raises(UnavailableError, match="No Glimpse server answers"):
            await client.health()


@pytest.fixture
def stuck(scripted: ScriptedServer) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The server does not answer; when a call has come, and when it is over for the server."""
    came, over = threading.Event(), threading.Event()

    def classify(request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        context.add_callback(over.set)
        came.set()
        over.wait(60)
        return response(request)

    scripted.classify = classify
    yield came, over
    over.set()


@on_a_loop
async def test_a_slow_answer_ends_with_the_timeout(
    scripted: ScriptedServer, stuck: tuple[threading.Event, threading.Event]
) -> None:
    async with AsyncClient(scripted.target, timeout=0.2) as client:
        with pytest.raises(DeadlineExceededError):
            await client.classify(b"cat")


@on_a_loop
async def test_a_cancelled_call_is_cancelled_on_the_server_too(
    scripted: ScriptedServer, stuck: tuple[threading.Event, threading.Event]
) -> None:
    came, over = stuck
    async with AsyncClient(scripted.target) as client:
        call = asyncio.create_task(client.classify(b"cat"))
        assert await asyncio.to_thread(came.wait, 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(over.wait, 30)


@on_a_loop
async def test_a_client_that_is_closed_meanwhile_is_an_error_and_no_cancelling(
    scripted: ScriptedServer, stuck: tuple[threading.Event, threading.Event]
) -> None:
    came, _ = stuck
    client = AsyncClient(scripted.target)
    call = asyncio.create_task(client.classify(b"cat"))
    assert await asyncio.to_thread(came.wait, 30)
    await client.close()
    with pytest.raises(GlimpseError, match="The client was closed"):
        await call
    with pytest.raises(ValueError, match="The client was closed"):
        await client.classify(b"cat")


def test_a_client_is_made_anywhere_and_belongs_to_the_loop_of_its_first_call(scripted: ScriptedServer) -> None:
    client = AsyncClient(scripted.target)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        assert first.run_until_complete(client.classify(b"cat")).predictions
        with pytest.raises(RuntimeError, match="make one for each loop"):
            second.run_until_complete(client.classify(b"cat"))
        first.run_until_complete(client.close())
    finally:
        first.close()
        second.close()


@on_a_loop
async def test_a_client_that_never_called_can_be_closed(nowhere: str) -> None:
    async with AsyncClient(nowhere):
        pass


@on_a_loop
async def test_a_server_that_does_not_serve_can_be_asked_for_its_health_alone(
    scripted: ScriptedServer,
) -> None:
    """A server that does not serve can be asked for its health, though nothing else is called there."""
    scripted.serving(yes=False)
    async with AsyncClient(scripted.target) as client:
        assert await client.health() == Health(Serving.SERVING, Serving.NOT_SERVING)
        with pytest.raises(UnavailableError, match="is not serving"):
            await client.classify(b"cat")


@on_a_loop
async def test_a_server_without_health_is_said_so() -> None:
    with ScriptedServer(offers_health=False) as server:
        async with AsyncClient(server.target) as client:
            with pytest.raises(RequestRefusedError, match="does not offer"):
                await client.health()


@on_a_loop
async def test_the_token_of_a_file_is_read_again_when_it_changes(scripted: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    async with AsyncClient(scripted.target, token_file=file) as client:
        await client.classify(b"cat")
        file.write_text("newer")
        await client.classify(b"cat")
        assert [key async for key, _ in client.classify_many([("a", b"cat")])] == ["a"]
    assert scripted.tokens == ["Bearer old", "Bearer newer", "Bearer newer"]


@on_a_loop
async def test_all_calls_go_over_tls_and_show_the_token(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine, pair = authority.sign("client"), authority.sign("server")
    credentials = grpc.ssl_server_credentials(
        [(pair.key.read_bytes(), pair.certificate.read_bytes())], authority.ca.read_bytes(), require_client_auth=True
    )
    tls = TLS(ca=authority.ca, certificate=mine.certificate, key=mine.key)
    with ScriptedServer(credentials=credentials) as server:
        async with AsyncClient(server.target, tls=tls, token="secret") as client:  # noqa: S106 - of a test
            await client.classify(b"cat")
            assert (await client.health()).serving
            assert [key async for key, _ in client.classify_many([("a", b"cat")])] == ["a"]
        assert server.tokens == ["Bearer secret"] * 2


def test_files_that_are_none_are_refused_when_the_client_is_made(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ValueError, match="does not hold a certificate in PEM format"):
        AsyncClient("127.0.0.1:1", tls=TLS(ca=tmp_path / "ca.pem"))
    with pytest.raises(FileNotFoundError):
        AsyncClient("127.0.0.1:1", token_file=tmp_path / "token")
