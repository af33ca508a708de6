"""The service without gRPC: what another transport would do with it, with plain values and no server in front."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.peer_certificate import PeerCertificate
from glimpse.server.classify_stream import ClassifyStream
from glimpse.server.domain import Caller, Classification, ClassifyRequest, EncodedImage, Image, RawImage
from glimpse.server.errors import Code, Reason, ServiceError
from tests.server.conftest import TIMEOUT
from tests.server.rig import SIZE, Rig

T = TypeVar("T")
PEER = "ipv4:192.0.2.7:40000"
IMAGE = RawImage(SIZE, SIZE, bytes(SIZE * SIZE * 3))
LABELS = {"grpc_type": "unary", "grpc_service": "test", "grpc_method": "Infer"}


class Transport:
    """Calls the service as a server of another protocol would."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._service = rig, rig.server._service
        self._method = self._service.calls.method("unary", "test", "Infer", classifies=True)

    def classify(self, *images: Image, headers: Sequence[tuple[str, str]] = ()) -> Classification:
        """The answer to one request."""

        async def work(call: CallContext) -> Classification:
            with self._service.place_for_call(call.lane):
                self._service.check_size(call, "", len(images))
                answer = await self._service.classify(ClassifyRequest(images), call, Caller(call.lane))
                self._service.replied(answer, call)
                return answer

        return self._run(self._call(work, headers))

    def stream(self, *requests: tuple[str, Image]) -> list[tuple[str, int | Reason]]:
        """The answers to a stream of requests: their ids, and how many predictions or which error."""
        sent: list[tuple[str, int | Reason]] = []

        async def messages() -> AsyncIterator[tuple[str, Image]]:
            for each in requests:
                yield each

        async def write(message: tuple[str, int | Reason]) -> None:
            sent.append(message)

        async def work(call: CallContext) -> None:
            with self._service.place_for_stream(call.lane):
                stream = ClassifyStream(self._service, Tuples(), call, Caller(call.lane), write)
                await stream.run(messages())

        self._run(self._call(work, ()))
        return sent

    async def _call(
        self, work: Callable[[CallContext], Coroutine[Any, Any, T]], headers: Sequence[tuple[str, str]]
    ) -> T:
        call, authorization = self._method.read(headers, PEER)
        self._method.begin(call, headers)
        code, reason = "OK", ""
        try:
            self._method.identify(call, authorization, PeerCertificate)
            return await work(call)
        except ServiceError as error:
            code, reason = Code(error.code).name, error.reason.value
            await self._method.refused(call, error)
            raise
        finally:
            self._method.end(call, code, reason)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._rig.loop).result(TIMEOUT)


class Tuples:
    """The codec of a stream whose messages are tuples."""

    in_order = False

    def request_id(self, message: tuple[str, Image]) -> str:
        return message[0]

    def request(self, message: tuple[str, Image], call: CallContext) -> ClassifyRequest:
        call.images = 1
        return ClassifyRequest((message[1],))

    async def answer(
        self, request_id: str, request: ClassifyRequest, answer: Classification, call: CallContext
    ) -> tuple[str, int | Reason]:
        assert call.model == answer.model.name
        return request_id, len(answer.results[0].predictions)

    def refusal(self, request_id: str, error: ServiceError) -> tuple[str, int | Reason]:
        return request_id, error.reason


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def start(audit: Path) -> Iterator[Callable[..., Rig]]:
    """Start a server with an audit log."""
    running: list[Rig] = []
    with pytest.MonkeyPatch.context() as patch:

        def begin(*arguments: str) -> Rig:
            running.append(Rig(patch, f"--audit-log={audit}", *arguments))
            running[-1].network.let()
            return running[-1]

        yield begin
        for each in running:
            each.close()


def lines(rig: Rig, audit: Path, number: int) -> list[dict[str, Any]]:
    """So many lines of the audit log, once they are there."""
    rig.wait_until(lambda: audit.read_text("utf-8").count("\n") >= number)
    return [json.loads(line) for line in audit.read_text("utf-8").splitlines()]


def test_any_transport_gets_answers_counted_traced_and_audited_alike(start: Callable[..., Rig], audit: Path) -> None:
    rig = start()
    answer = Transport(rig).classify(IMAGE, EncodedImage(b"none"), headers=[("x-request-id", "mine")])
    good, bad = answer.results
    assert len(good.predictions) == 5
    assert bad.error is not None
    (line,) = lines(rig, audit, 1)
    assert (line["request_id"], line["peer"], line["method"]) == ("mine", PEER, "test/Infer")
    assert (line["images"], line["bytes"], line["code"]) == (2, len(IMAGE.data) + 4, "OK")
    assert rig.gauge("grpc_server_handled_total", grpc_code="OK", **LABELS) == 1
    assert not any(rig.held().values())


def test_any_transport_is_refused_without_a_token(start: Callable[..., Rig], audit: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[token]]\nidentity = "alice"\nsha256 = "{hashlib.sha256(b"a").hexdigest()}"\n', "utf-8")
    rig = start(f"--tokens={tokens}")
    transport = Transport(rig)
    with pytest.raises(ServiceError) as refused:
        transport.classify(IMAGE)
    assert refused.value.reason is Reason.TOKEN_MISSING
    assert rig.gauge("glimpse_requests_rejected_total", reason="TOKEN_MISSING") == 1
    assert len(transport.classify(IMAGE, headers=[("authorization", "Bearer a")]).results) == 1
    stranger, alice = lines(rig, audit, 2)
    assert (stranger["identity"], stranger["code"]) == ("", "UNAUTHENTICATED")
    assert (alice["identity"], alice["code"]) == ("alice", "OK")


def test_any_transport_is_held_to_the_rate_of_its_caller(start: Callable[..., Rig]) -> None:
    transport = Transport(start("--rate-limit=0.001", "--rate-burst=2"))
    transport.classify(IMAGE, IMAGE)
    with pytest.raises(ServiceError) as refused:
        transport.classify(IMAGE)
    assert refused.value.reason is Reason.RATE_LIMITED


def test_too_many_images_are_refused_before_any_is_looked_at(start: Callable[..., Rig]) -> None:
    transport = Transport(start("--max-images-per-request=2"))
    with pytest.raises(ServiceError) as refused:
        transport.classify(*[EncodedImage(b"")] * 3)
    assert refused.value.reason is Reason.TOO_MANY_IMAGES


def test_a_stream_of_any_transport_answers_each_of_its_requests(start: Callable[..., Rig], audit: Path) -> None:
    rig = start()
    answers = Transport(rig).stream(("a", IMAGE), ("b", EncodedImage(b"none")), ("c", IMAGE))
    assert sorted(answers) == [("a", 5), ("b", 0), ("c", 5)]
    found = lines(rig, audit, 4)
    assert sorted(line["piece"] for line in found if "piece" in line) == ["a", "b", "c"]
    assert found[-1]["images"] == 3, "the call itself has the sum"


@pytest.mark.parametrize(
    ("certificate", "identity"),
    [
        (PeerCertificate(["spiffe://a/b"], ["a.example.org"], "plain", "CN=plain"), "spiffe://a/b"),
        (PeerCertificate((), ["", "a.example.org"], "plain", "CN=plain"), "a.example.org"),
        (PeerCertificate((), (), "plain", "CN=plain"), "plain"),
        (PeerCertificate((), (), "", "O=Example"), "O=Example"),
        (PeerCertificate(), ""),
    ],
)
def test_a_certificate_names_its_caller_by_the_most_specific_name(certificate: PeerCertificate, identity: str) -> None:
    assert certificate.identity == identity
