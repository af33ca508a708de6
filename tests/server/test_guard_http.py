"""The guard and connections to the port for HTTP: told apart from those to the port for gRPC, by rules of their own."""

from __future__ import annotations

import socket

import pytest

from glimpse.server.sockets import connections
from glimpse.server.sockets.connections import Connection, Endpoint
from tests.server.guard_scene import FLOODER, MIB, PLACES, Scene

HTTP = 8080
ADDRESS, PORT = "192.0.2.1", 4000  # of FLOODER
OVER_GRPC, OVER_HTTP = Endpoint(ADDRESS, PORT), Endpoint(ADDRESS, PORT, HTTP)


def test_one_port_of_a_caller_may_lead_to_both_ports_of_the_server() -> None:
    """The kernel gives the same port for two destinations; what comes over one connection is not the other's."""
    scene = Scene()
    scene.look(Connection(OVER_GRPC, 100), Connection(OVER_HTTP, 100))
    for _ in range(PLACES + 10):
        scene.guard.malformed(FLOODER, HTTP)
    scene.calls(FLOODER, "OK", 20, received=100)
    (penalty,) = scene.look(Connection(OVER_GRPC, 4000), Connection(OVER_HTTP, 4000))
    assert (penalty.reason, list(penalty.connections)) == ("flood", [OVER_HTTP])
    assert scene.guard.refused(FLOODER, port=HTTP) is not None
    assert scene.guard.refused(FLOODER) is None


def test_a_photo_that_the_kernel_has_taken_before_the_server_is_no_flood() -> None:
    """HTTP has no windows: a caller may send all of a request before a busy server has looked at its head."""
    scene = Scene()
    found = [Connection(Endpoint(ADDRESS, port, HTTP), 16 * MIB) for port in range(4000, 4010)]
    assert scene.look(*found) == []
    assert scene.look(*found) == []
    assert not scene.guard.unexplained


def test_bytes_without_end_that_are_no_request_are_charged() -> None:
    scene, received, penalties = Scene(), 0, []
    for _ in range(60):
        received += 8 * MIB
        penalties += scene.look(Connection(OVER_HTTP, received))
    assert penalties[0].reason == "flood"
    assert list(penalties[0].connections) == [OVER_HTTP]


def test_large_answers_to_few_bytes_are_no_flood() -> None:
    scene, sent = Scene(), 0
    for number in range(50):
        traffic = scene.guard.began(FLOODER, port=HTTP)
        traffic.answered += 100_000
        scene.guard.ended(traffic, "OK", received=0, gated=False, seconds=0.001)
        sent += 101_000
        assert scene.look(Connection(OVER_HTTP, 200 * (number + 1), sent)) == []


def test_connections_that_bring_no_request_cost_their_address_points() -> None:
    scene = Scene()
    for burst in range(4):
        scene.look(*(Connection(Endpoint(ADDRESS, 1000 * burst + port, HTTP), 0) for port in range(200)))
    penalties = [*scene.look(), *scene.look(), *scene.look()]
    assert {(each.address, each.reason) for each in penalties} == {(ADDRESS, "flood")}
    assert scene.guard.blocks(ADDRESS, scene.now)


def test_connections_over_http_are_none_of_those_over_grpc() -> None:
    """Each port has its own limit, and that for HTTP bounds them when they come."""
    scene = Scene(most=10, share=8)
    over_http = [Connection(Endpoint(ADDRESS, port, HTTP), 10) for port in range(1, 9)]
    assert scene.look(*over_http, *(Connection(Endpoint(ADDRESS, port), 10) for port in range(1, 6))) == []


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="the kernel tells of connections on Linux alone")
def test_connections_to_two_ports_are_told_apart_and_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [each.getsockname()[1] for each in (first, second)]
        with socket.create_connection(("127.0.0.1", ports[0])) as one, socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.connect(("127.0.0.1", ports[1]))
            kept = [first.accept()[0], second.accept()[0]]
            try:
                mine = Endpoint("127.0.0.1", one.getsockname()[1])
                theirs = Endpoint("127.0.0.1", other.getsockname()[1], ports[1])
                assert {each.peer for each in connections.accepted(*ports)} == {mine, theirs}
                assert connections.close_all(ports[0], {Endpoint(*theirs[:2])}, ports[1]) == set()
                assert connections.close_all(ports[0], {theirs}, ports[1]) == {theirs}
                assert other.recv(1) == b""
                one.settimeout(0)
                with pytest.raises(BlockingIOError):
                    one.recv(1)
            finally:
                for each in kept:
                    each.close()
