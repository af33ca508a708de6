"""What listens and what answers is what the settings say, and no more."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from glimpse.server.processes.startup import PortTakenError
from tests.server.access.authority import Authority
from tests.server.access.inside import IN, Inside, channel, classify, entry, healthy
from tests.server.conftest import TIMEOUT

Start = Callable[..., Inside]


def listed(through: grpc.Channel) -> set[str]:
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = ServerReflectionStub(through).ServerReflectionInfo(iter([asked]), timeout=TIMEOUT)
    return {service.name for service in next(answers).list_services_response.service}


def unimplemented(call: Callable[[], object]) -> bool:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_probes_have_a_plain_port_of_their_own_that_answers_them_alone(
    inside: Start, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.server().write(tmp_path)
    ca, tokens = tmp_path / "ca.crt", tmp_path / "tokens.toml"
    ca.write_bytes(authority.pem)
    tokens.write_text(entry("alice", "a"))
    running = inside(health_port=0, tls_certificate=certificate, tls_key=key, tls_client_ca=ca, tokens=tokens)
    assert running.bound.health not in {None, running.bound.grpc}
    with channel(f"127.0.0.1:{running.bound.health}") as probe:
        assert healthy(probe)
        assert classify(probe) == "UNIMPLEMENTED"
        assert unimplemented(lambda: listed(probe))
        # A check is the name of a service, and no more is read.
        assert classify(probe, size=1_000_000) in {"UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}
        assert healthy(probe)


def test_health_can_be_switched_off(inside: Start) -> None:
    running = inside(serve_health=False)
    with channel(running.target) as caller:
        assert unimplemented(lambda: healthy(caller))
        assert "grpc.health.v1.Health" not in listed(caller)
        assert classify(caller) == IN


def test_reflection_can_be_switched_off(inside: Start) -> None:
    running = inside(serve_reflection=False)
    with channel(running.target) as caller:
        assert unimplemented(lambda: listed(caller))
        assert healthy(caller)


def test_metrics_can_be_switched_off_and_then_nothing_listens(inside: Start) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = inside(serve_metrics=False, metrics_port=port)
    assert running.bound.metrics is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), TIMEOUT)
    running = inside(metrics_port=port)
    assert running.bound.metrics == port
    socket.create_connection(("127.0.0.1", port), TIMEOUT).close()


def test_a_health_port_that_is_taken_is_told_by_its_name(inside: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortTakenError, match="GLIMPSE_HEALTH_PORT"):
            inside(health_port=taken.getsockname()[1])
