"""What connections cost that bring bytes and no calls, or that are too many."""

from __future__ import annotations

import ipaddress

import pytest

from glimpse.server.floods.guard import Guard
from glimpse.server.floods.penalties import Penalty
from glimpse.server.sockets.connections import Connection, Endpoint
from tests.server.guard_scene import FLOODER, MIB, NEIGHBOUR, Scene


@pytest.mark.parametrize(("sent", "most"), [(0.0, 64 * MIB), (1.0, 2 * MIB)])
def test_a_connection_that_sends_bytes_and_no_calls_is_closed(sent: float, most: int) -> None:
    scene = Scene()
    end, received = Endpoint("192.0.2.1", 4000), 0
    for _ in range(20):
        received += most // 20
        if penalties := scene.look(Connection(end, received, int(sent * received))):
            break
    assert penalties[0].connections == [end]


def test_bytes_without_windows_before_the_first_call_are_a_flood() -> None:
    """Calls that are reset before the server has come round to any: nothing was granted, for nothing was sent."""
    scene, end = Scene(), Endpoint("192.0.2.1", 4000)
    for received in range(100_000, 1_000_000, 100_000):
        if penalties := scene.look(Connection(end, received, 59)):
            break
    assert penalties[0].connections == [end]
    assert received <= 500_000


def test_clients_that_come_back_with_all_that_has_waited_are_no_flood() -> None:
    """Over TLS, whose handshake says some kilobytes; and before the server has come round to any of their calls."""
    scene = Scene()
    for said in (300, 12_000):
        clients = [Connection(Endpoint("192.0.2.1", port), 1_500_000, said) for port in range(1, 21)]
        assert scene.look(*clients) == []
        for client in clients:
            scene.calls(f"ipv4:192.0.2.1:{client.peer.port}", "OK", 30, received=50_000, seconds=0.5)
        assert scene.look(*clients) == []
        scene.look(), scene.look()


@pytest.mark.parametrize(
    ("received", "sent"),
    [(368_118, 68), (505_976, 94), (801_164, 107), (1_049_636, 107), (2_006_912, 159), (3_003_606, 250)],
)
def test_calls_that_a_busy_server_has_not_taken_up_are_no_flood(received: int, sent: int) -> None:
    """Bytes as the kernel counted them, of 4 to 100 calls with photos while the server's event loop stood still."""
    scene = Scene()
    assert scene.look(Connection(Endpoint("2001:db8::1", 5000), received, sent)) == []
    assert not scene.guard.unexplained


def test_resets_of_calls_above_the_limit_are_a_flood_in_spite_of_answers() -> None:
    scene = Scene()
    end, received, sent = Endpoint("192.0.2.1", 4000), 0, 0
    for _ in range(20):
        traffic = scene.calls(FLOODER, "OK", 5, received=3000, seconds=0.02)
        traffic.answered += 5 * 400
        received, sent = received + 500_000, sent + 75_000  # a hundred bytes a call, and thirteen that reset it
        if penalties := scene.look(Connection(end, received, sent)):
            break
    assert penalties[0].connections == [end]


def test_large_uploads_and_large_answers_are_no_flood() -> None:
    scene = Scene()
    end, received, sent = Endpoint("2001:db8::1", 5000), 0, 0
    for _ in range(200):
        traffic = scene.guard.began(NEIGHBOUR)
        traffic.waiting += 1
        received += 15 * MIB  # the message of one call, looked at before and after it is complete
        assert scene.look(Connection(end, received, sent), seconds=0.05) == []
        traffic.waiting -= 1
        traffic.bytes += 15 * MIB
        traffic.answered += 2 * MIB
        sent += 2 * MIB
        scene.guard.ended(traffic, "OK", received=15 * MIB, gated=True, seconds=0.1)
        assert scene.look(Connection(end, received, sent), seconds=0.05) == []


def test_a_stream_with_a_window_full_of_unread_pieces_is_no_flood() -> None:
    scene = Scene()
    end, received, sent = Endpoint("2001:db8::1", 5000), 0, 0
    traffic = scene.guard.began(NEIGHBOUR)
    received += 8 * MIB
    for _ in range(400):
        received += 300_000
        traffic.bytes += 300_000
        traffic.answered += 50_000
        sent += 50_000
        assert scene.look(Connection(end, received, sent), seconds=0.05) == []


def test_refused_calls_whose_messages_were_not_read_are_no_flood() -> None:
    scene = Scene()
    end, received, sent = Endpoint("2001:db8::1", 5000), 0, 0
    for _ in range(100):
        scene.calls(NEIGHBOUR, "OK", 40, received=60_000, seconds=0.1).answered += 40 * 400
        scene.calls(NEIGHBOUR, "RESOURCE_EXHAUSTED", 300)
        received, sent = received + 340 * 60_000, sent + 340 * 700
        assert scene.look(Connection(end, received, sent), seconds=0.1) == []


def test_an_address_whose_connections_bring_no_call_is_blocked() -> None:
    scene = Scene()
    penalties: list[Penalty] = []
    for look in range(1, 40):
        found = [Connection(Endpoint("192.0.2.1", 50 * look + port), 60, 40) for port in range(30)]
        if penalties := scene.look(*found, seconds=0.1):
            break
    (penalty,) = penalties
    assert (penalty.address, penalty.connections, penalty.seconds) == ("192.0.2.1", [], 2.0)
    assert scene.guard.blocked(scene.now) == [ipaddress.ip_network("192.0.2.1/32")]


# Shares of connections.


def ends(host: int, count: int) -> list[Connection]:
    return [Connection(Endpoint(f"192.0.2.{host}", port), 100, 50) for port in range(1, count + 1)]


def test_an_address_holds_no_more_than_its_share_and_keeps_its_oldest() -> None:
    scene = Scene(most=100, share=75)
    assert scene.look(*ends(1, 74)) == []
    (penalty,) = scene.look(*ends(1, 90))
    assert {each.port for each in penalty.connections} == set(range(76, 91))
    assert penalty.reason == "share"
    assert scene.guard.blocked(scene.now), "it cannot fill up again what was taken from it"
    assert scene.look(*ends(1, 74), seconds=5.0) == []
    assert scene.guard.blocked(scene.now) == []


def test_where_all_hold_too_many_those_with_the_most_give_back() -> None:
    scene = Scene(most=100, share=75)
    penalties = scene.look(*ends(1, 70), *ends(2, 50), *ends(3, 3))
    assert [(each.address, len(each.connections)) for each in penalties] == [("192.0.2.1", 22), ("192.0.2.2", 1)]


def test_who_is_served_keeps_his_connections_though_many_addresses_hoard() -> None:
    scene = Scene()
    for port in range(1, 301):
        scene.calls(f"ipv4:198.51.100.7:{port}", "OK", 1, received=3000).served = True
    fleet = [Connection(Endpoint("198.51.100.7", port), 3100, 500) for port in range(1, 301)]
    hoard = [each for host in range(1, 61) for each in ends(host, 20)]
    penalties = scene.look(*fleet, *hoard)
    assert {each.address for each in penalties} == {f"192.0.2.{host}" for host in range(1, 61)}
    assert sum(len(each.connections) for each in penalties) == len(fleet) + len(hoard) - 1000


def test_who_has_just_come_is_let_in_beside_idle_connections() -> None:
    """Each of another address: the oldest of them goes."""
    scene = Scene(most=100, share=75)
    idle = [each for host in range(1, 101) for each in ends(host, 1)]
    assert scene.look(*idle) == []
    (penalty,) = scene.look(*idle, Connection(Endpoint("198.51.100.7", 1), 100, 50))
    assert (penalty.address, len(penalty.connections)) == ("192.0.2.1", 1)


def test_what_is_gone_is_forgotten() -> None:
    scene = Scene()
    for port in range(1, 1001):
        scene.calls(f"ipv4:192.0.2.1:{port}", "OK", 1, received=3000)
    assert len(scene.guard) >= 1000
    scene.look()
    scene.look()
    assert len(scene.guard) == 0


def test_where_nobody_looks_what_is_known_of_connections_is_bounded() -> None:
    """As at the port for probes, each of which comes over a connection of its own."""
    guard = Guard()
    for number in range(100_000):
        guard.began(f"ipv4:192.0.{number >> 14}.1:{number & 0x3FFF}")
    assert len(guard) <= 2 * 16_384
