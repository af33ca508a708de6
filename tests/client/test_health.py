"""What a server says of itself, asked by messages that are written by hand: against the library that defines them."""

from __future__ import annotations

import json
from typing import Protocol

import pytest
from grpc_health.v1 import health_pb2

from glimpse.client import Client, RequestRefusedError, UnavailableError
from glimpse.client.channel import SERVICE
from glimpse.client.health import Health, Serving, _from_response, _to_request
from tests.client.conftest import Glimpse
from tests.client.scripted import ScriptedServer


class Server(Protocol):
    """What these tests need of a running server."""

    @property
    def target(self) -> str: ...


@pytest.mark.parametrize("service", ["", SERVICE])
def test_a_request_is_the_same_as_the_librarys(service: str) -> None:
    assert _to_request(service) == health_pb2.HealthCheckRequest(service=service).SerializeToString()


@pytest.mark.parametrize("name", health_pb2.HealthCheckResponse.ServingStatus.keys())
def test_every_status_of_the_library_is_understood(name: str) -> None:
    status = health_pb2.HealthCheckResponse.ServingStatus.Value(name)
    assert _from_response(health_pb2.HealthCheckResponse(status=status).SerializeToString()) is Serving(name)


@pytest.mark.parametrize("data", [b"\x08", b"\x08\x04", b"\x10\x01", b"\x08\x01\x00", b"\xff\xff"])
def test_bytes_that_are_no_status_are_unknown(data: bytes) -> None:
    assert _from_response(data) is Serving.UNKNOWN


def test_a_server_that_serves_says_so(scripted: ScriptedServer, glimpse: Glimpse) -> None:
    with Client(scripted.target) as client:
        state = client.health()
    assert state == Health(Serving.SERVING, Serving.SERVING)
    assert state.serving

    ended = glimpse("health", "--target", scripted.target)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "live   SERVING\nready  SERVING\n", "")


def test_a_server_that_does_not_serve_can_be_asked_for_its_health_alone(
    scripted: ScriptedServer, glimpse: Glimpse
) -> None:
    """A server that does not serve can be asked for its health, though nothing else is called there."""
    scripted.serving(yes=False)
    with Client(scripted.target) as client:
        assert client.health() == Health(Serving.SERVING, Serving.NOT_SERVING)
        assert not client.health().serving

    ended = glimpse("health", "--json", "--target", scripted.target)
    assert ended.returncode == 3
    assert json.loads(ended.stdout) == {"live": "SERVING", "ready": "NOT_SERVING"}


def test_a_server_that_knows_no_classifier_says_so(scripted: ScriptedServer) -> None:
    scripted.health._server_status.pop(SERVICE)
    with Client(scripted.target) as client:
        assert client.health() == Health(Serving.SERVING, Serving.SERVICE_UNKNOWN)


def test_nobody_and_a_server_without_health_are_told_apart(nowhere: str, glimpse: Glimpse) -> None:
    with Client(nowhere) as client, pytest.raises(UnavailableError, match="No Glimpse server answers"):
        client.health()
    with (
        ScriptedServer(offers_health=False) as server,
        Client(server.target) as client,
        pytest.raises(RequestRefusedError, match=r"does not offer grpc\.health"),
    ):
        client.health()
    assert glimpse("health", "--target", nowhere).returncode == 3


def test_a_real_server_answers(server: Server, glimpse: Glimpse) -> None:
    with Client(server.target) as client:
        assert client.health() == Health(Serving.SERVING, Serving.SERVING)
    assert glimpse("health", "--target", server.target).returncode == 0
