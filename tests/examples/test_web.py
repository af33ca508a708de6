"""The client for pages, through Envoy as deploy/components/gateway configures it; and what else Envoy lets pages do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from glimpse.client import Client
from glimpse.v1 import classifier_pb2 as pb
from tests.client.scripted import Context, ScriptedServer, abort, response
from tests.conftest import CACHE, RunningServer
from tests.deploy.balancer import Balancer
from tests.deploy.tools import tool
from tests.examples.conftest import Example, node_example
from tests.examples.test_examples import python_says
from tests.server.http.asking import instances

pytestmark = pytest.mark.slow

ORIGIN = "https://pages.example.org"
CLASSIFY = "/glimpse.v1.ImageClassifier/Classify"
_SECONDS = 60


@pytest.fixture(scope="module")
def web() -> Example:
    return node_example("web")


@pytest.fixture(scope="module")
def replica() -> Iterator[RunningServer]:
    tool("envoy")  # skips before anything is started
    running = RunningServer(environment={"GLIMPSE_HTTP_PORT": "0", "GLIMPSE_SERVE_PAGE": "true", **CACHE})
    try:
        running.wait_for("serving")
        yield running
    finally:
        running.close()


def balanced(folder: Path, grpc_port: int, *http: int, origins: tuple[str, ...] = ()) -> Balancer:
    balancer = Balancer([grpc_port], folder, http=http, origins=origins)
    try:
        balancer.wait_until_healthy({grpc_port})
        balancer.wait_until_healthy(set(http), "glimpse_http")
    except BaseException:
        balancer.close()
        raise
    return balancer


@pytest.fixture(scope="module")
def envoy(replica: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    """In front of a real server, with pages of one origin allowed."""
    ports = [int(address.rpartition(":")[2]) for address in (replica.target, replica.http)]
    with balanced(tmp_path_factory.mktemp("envoy"), *ports, origins=(ORIGIN,)) as running:
        yield running


def address(envoy: Balancer) -> str:
    return f"http://127.0.0.1:{envoy.web}"


@pytest.fixture
def scripted(envoy: Balancer, tmp_path: Path) -> Iterator[tuple[ScriptedServer, str]]:
    """A server that does as it is told, and the address of an Envoy in front of it."""
    assert envoy.healthy(), "skipped where there is no Envoy"
    with ScriptedServer() as server, balanced(tmp_path, server.port) as running:
        yield server, address(running)


def test_a_page_gets_the_answers_that_the_python_client_gets(
    web: Example, envoy: Balancer, replica: RunningServer, cat_photo: Path
) -> None:
    ended = web.classify(address(envoy), cat_photo)
    assert ended.answers == {str(cat_photo): {"predictions": python_says(replica, cat_photo), "error": None}}
    assert (ended.trouble, ended.code) == ("", 0)


def test_a_photo_that_cannot_be_read_fails_by_its_reason(web: Example, envoy: Balancer, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no photo")
    ended = web.classify(address(envoy), broken)
    error = ended.answers[str(broken)]["error"]
    assert (error["code"], error["reason"], ended.code) == ("INVALID_ARGUMENT", "NOT_AN_IMAGE", 1)


def test_a_full_server_is_asked_again_when_it_says_so(
    web: Example, scripted: tuple[ScriptedServer, str], tmp_path: Path
) -> None:
    """And each call has a deadline, which Envoy passes on."""
    server, target = scripted
    asked: list[float] = []

    def refuse_once(request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        asked.append(float(context.time_remaining()))
        if len(asked) == 1:
            hint = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=50_000_000))
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", hint, pushback_ms=50)
        return response(request)

    server.classify = refuse_once
    photo = tmp_path / "photo.jpg"
    photo.write_text("a cat")
    ended = web.classify(target, photo)
    assert (ended.trouble, ended.code) == ("", 0)
    assert ended.answers[str(photo)]["predictions"][0]["label"] == "a cat"
    assert len(asked) == 2
    assert all(0 < seconds < 61 for seconds in asked), asked


def test_a_refusal_is_told_with_its_reason(web: Example, scripted: tuple[ScriptedServer, str], cat_photo: Path) -> None:
    server, target = scripted
    server.classify = lambda _, context: abort(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
    ended = web.classify(target, cat_photo)
    assert (ended.answers, ended.code) == ({}, 2)
    assert ended.trouble == "UNAUTHENTICATED TOKEN_MISSING: as scripted"


def test_a_token_never_travels_readable(web: Example, cat_photo: Path) -> None:
    ended = web.classify("http://127.0.0.1:1", cat_photo, GLIMPSE_TOKEN="a")  # noqa: S106 - nobody gets it
    assert (ended.answers, ended.code) == ({}, 2)
    assert "https" in ended.trouble


def asked(
    envoy: Balancer, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request to Envoy's port for pages: status, headers and body of the answer."""
    connection = HTTPConnection("127.0.0.1", envoy.web, timeout=_SECONDS)
    try:
        connection.request(method, path, body or None, {name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(("origin", "allowed"), [(ORIGIN, True), ("https://evil.example", False)])
def test_only_pages_of_a_named_origin_may_call(envoy: Balancer, origin: str, allowed: bool) -> None:  # noqa: FBT001
    wanted = {
        "origin": origin,
        "access_control_request_method": "POST",
        "access_control_request_headers": "content-type,x-grpc-web",
    }
    _, headers, _ = asked(envoy, "OPTIONS", CLASSIFY, b"", **wanted)
    assert headers.get("access-control-allow-origin") == (origin if allowed else None)
    _, headers, _ = asked(envoy, "POST", CLASSIFY, bytes(5), origin=origin, content_type="application/grpc-web+proto")
    assert headers.get("access-control-allow-origin") == (origin if allowed else None)
    assert ("grpc-status" in headers.get("access-control-expose-headers", "")) is allowed


def test_no_page_may_call_as_the_file_stands(replica: RunningServer, tmp_path: Path) -> None:
    with balanced(tmp_path, int(replica.target.rpartition(":")[2])) as running:
        _, headers, _ = asked(running, "OPTIONS", CLASSIFY, origin=ORIGIN, access_control_request_method="POST")
    assert "access-control-allow-origin" not in headers


def test_json_goes_through_envoy_and_the_page_does_not(
    envoy: Balancer, replica: RunningServer, cat_photo: Path
) -> None:
    with Client(replica.target) as client:
        name = client.describe().model.name
    body, photo = json.dumps(instances(cat_photo.read_bytes())).encode(), cat_photo.read_bytes()
    answers = [
        asked(envoy, "POST", "/classify?top_k=1", photo),
        asked(envoy, "POST", f"/v1/models/{name}:predict", body),
        asked(envoy, "GET", f"/v2/models/{name}"),
        asked(envoy, "GET", "/v2/health/ready"),
        asked(envoy, "GET", "/v1/models"),
        asked(envoy, "GET", f"/v2/models/{name}/config"),
        asked(envoy, "GET", f"/v2/models/{name}.pixels/versions/1/ready"),
    ]
    assert [status for status, _, _ in answers] == [200] * 7
    assert json.loads(answers[0][2])["results"][0]["predictions"][0]["label"] == "cat"
    for path in ("/", "/docs", "/v2/repository/index", "/glimpse.v1.ModelRepository/List"):
        assert asked(envoy, "POST", path, bytes(5))[0] == 404, path
    for path in (f"/v2/models/{name}/stats", f"/v2/models/{name}/versions/1/stats", f"/v2/models/{name}%2Fstats"):
        assert asked(envoy, "GET", path)[0] == 404, "those of one replica"


def test_without_an_http_port_json_is_unavailable_and_pages_go_on(
    web: Example, replica: RunningServer, tmp_path: Path, cat_photo: Path
) -> None:
    with balanced(tmp_path, int(replica.target.rpartition(":")[2])) as running:
        assert asked(running, "POST", "/classify", b"photo")[0] == 503
        assert web.classify(address(running), cat_photo).code == 0


def test_the_open_inference_protocol_goes_through_envoy(envoy: Balancer) -> None:
    """Its methods for callers do; those that manage models do not."""
    with grpc.insecure_channel(envoy.target) as channel:

        def call(method: str) -> bytes:
            made: Callable[..., bytes] = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            return made(b"", timeout=_SECONDS)

        assert call("ServerReady") == b"\x08\x01"
        assert b"glimpse" in call("ServerMetadata")
        with pytest.raises(grpc.RpcError) as refused:
            call("RepositoryModelLoad")
        assert isinstance(refused.value, grpc.Call)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert refused.value.details() == "", "the server would say why, Envoy says nothing"
