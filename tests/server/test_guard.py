"""Which addresses are blocked for a flood, and which never are: the guard alone, with a clock of its own."""

from __future__ import annotations

import ipaddress

import pytest

from glimpse.server.floods.penalties import Penalty
from glimpse.server.sockets.connections import Connection, Endpoint
from tests.server.guard_scene import FLOODER, NEIGHBOUR, PLACES, Scene

USELESS = [
    ("INVALID_ARGUMENT", 0, 0.1, 1.0),  # no message
    ("CANCELLED", 0, 0.001, 0.25),  # reset before its message
    ("CANCELLED", 100, 0.001, 0.25),  # and with it
    ("DEADLINE_EXCEEDED", 0, 0.001, 0.25),
    ("UNAUTHENTICATED", 0, 0.001, 1.0),
    ("UNIMPLEMENTED", 0, 0.0, 1.0),
    ("OK", 0, 0.001, 1.0),  # a stream of nothing
    ("INVALID_ARGUMENT", 100, 0.001, 0.25),  # no image
    ("RESOURCE_EXHAUSTED", 0, 0.001, 0.1),
]


@pytest.mark.parametrize(("code", "received", "seconds", "points"), USELESS)
def test_an_address_whose_calls_come_to_nothing_is_blocked(
    code: str, received: int, seconds: float, points: float
) -> None:
    scene = Scene()
    count = int(PLACES / points)
    scene.calls(FLOODER, code, count // 2, received=received, seconds=seconds)
    assert scene.evaluate() == []
    scene.calls(FLOODER, code, count, received=received, seconds=seconds)
    (penalty,) = scene.evaluate()
    assert penalty == Penalty("192.0.2.1", "flood", [Endpoint("192.0.2.1", 4000)], 2.0)
    assert scene.guard.blocked(scene.now) == [ipaddress.ip_network("192.0.2.1/32")]


def test_many_connections_of_an_address_share_its_allowance() -> None:
    scene = Scene()
    for port in range(10):
        scene.calls(f"ipv4:192.0.2.1:{port + 1}", "INVALID_ARGUMENT", PLACES // 5)
    (penalty,) = scene.evaluate()
    assert len(penalty.connections) == 10


def test_an_ipv6_network_counts_as_one_address() -> None:
    scene = Scene()
    for host in range(16):
        scene.calls(f"ipv6:%5B2001:db8::{host:x}%5D:1", "INVALID_ARGUMENT", PLACES // 8)
    (penalty,) = scene.evaluate()
    assert penalty.address == "2001:db8::/64"
    assert scene.guard.blocked(scene.now) == [ipaddress.ip_network("2001:db8::/64")]


def test_many_addresses_within_their_allowances_are_one_flood() -> None:
    scene = Scene()
    peers = [f"ipv4:192.0.2.{host}:1" for host in range(10)]
    for _ in range(10):
        for peer in peers:
            scene.calls(peer, "INVALID_ARGUMENT", 10)
        if penalties := scene.evaluate():
            break
    assert {each.address for each in penalties} == {f"192.0.2.{host}" for host in range(10)}
    assert scene.guard.points < 10 * PLACES, "each used up its allowance"


def test_a_flood_of_many_addresses_is_found_though_each_brings_little() -> None:
    """Less than it is given back, and a small part of all."""
    scene = Scene()
    flooders = [f"ipv4:198.51.100.{host}:1" for host in range(1, 101)]
    gone = set[str]()
    for _ in range(50):
        for peer in flooders:
            if peer[5:-2] not in gone:
                scene.calls(peer, "CANCELLED", 2)
        scene.calls(NEIGHBOUR, "CANCELLED", 1)  # which cannot be served meanwhile
        gone |= {each.address for each in scene.evaluate(0.1)}
    assert len(gone) > len(flooders) / 2
    assert "2001:db8::/64" not in gone


def test_while_the_server_keeps_up_nobody_is_blocked() -> None:
    scene = Scene()
    for _ in range(20):
        scene.calls(FLOODER, "INVALID_ARGUMENT", PLACES)
        assert scene.evaluate(overloaded=False) == []


def test_a_block_gets_longer_each_time_up_to_a_minute_and_is_forgotten() -> None:
    scene = Scene()
    seconds = []
    for _ in range(8):
        scene.calls(FLOODER, "INVALID_ARGUMENT", 2 * PLACES)
        (penalty,) = scene.evaluate()
        seconds.append(penalty.seconds)
        scene.now += penalty.seconds
        assert scene.guard.blocked(scene.now) == []
        scene.guard.unblock(scene.now)
    assert seconds == [2, 4, 8, 16, 32, 60, 60, 60]
    scene.now += 600
    scene.calls(FLOODER, "INVALID_ARGUMENT", 2 * PLACES)
    assert scene.evaluate()[0].seconds == 2


def test_a_second_connection_of_the_same_flood_does_not_lengthen_the_block() -> None:
    scene = Scene()
    scene.calls(FLOODER, "INVALID_ARGUMENT", 2 * PLACES)
    (first,) = scene.evaluate()
    scene.calls("ipv4:192.0.2.1:4001", "INVALID_ARGUMENT", 2 * PLACES)
    (second,) = scene.evaluate()
    assert second.seconds < first.seconds


def test_calls_that_end_because_of_a_block_cost_nobody_points() -> None:
    scene = Scene()
    held = [scene.guard.began(FLOODER) for _ in range(PLACES)]
    scene.calls(FLOODER, "INVALID_ARGUMENT", 2 * PLACES)
    assert scene.evaluate()
    spent = scene.guard.points
    for traffic in held:
        scene.guard.ended(traffic, "CANCELLED", received=0, gated=True, seconds=1.0)
    assert scene.guard.points == spent


def test_others_behind_a_flooders_address_keep_their_connections() -> None:
    scene = Scene()
    good = "ipv4:192.0.2.1:4001"
    for port in range(5001, 5004):
        scene.calls(good, "OK", 20, received=3000)
        scene.calls(f"ipv4:192.0.2.1:{port}", "INVALID_ARGUMENT", 2 * PLACES)
        (penalty,) = scene.evaluate()
        assert penalty.connections == [Endpoint("192.0.2.1", port)]
        assert penalty.seconds == 2, "others may open connections again after two seconds, each time"
        # Their connection is there; where the kernel does not block, one that came meanwhile is closed.
        late = port + 1000
        found = [Connection(Endpoint("192.0.2.1", each), 100, 50) for each in (4001, late)]
        came = scene.guard.look(scene.now, found, block=True)
        assert came == [Penalty("192.0.2.1", "blocked", [Endpoint("192.0.2.1", late)], 0.0)]
        scene.now += 2
    assert scene.guard.refused(good) is None


def test_calls_of_a_closed_connection_are_refused_while_they_may_wait() -> None:
    scene = Scene()
    scene.calls(FLOODER, "INVALID_ARGUMENT", 2 * PLACES)
    assert scene.evaluate()
    for _ in range(16):  # four seconds; the block lasts two
        scene.look()
        scene.guard.unblock(scene.now)
    assert scene.guard.refuses
    assert scene.guard.refused(FLOODER) is not None
    for _ in range(40):
        scene.look()
        scene.guard.unblock(scene.now)
    assert not scene.guard.refuses
    assert len(scene.guard) == 0


# Honest bursts.


def test_whoever_gives_up_a_thousand_calls_in_flight_is_not_blocked() -> None:
    scene = Scene()
    scene.calls(NEIGHBOUR, "CANCELLED", 1000)  # none of which the server had come round to
    scene.calls(NEIGHBOUR, "CANCELLED", 1000, received=3000, seconds=0.05)
    assert scene.evaluate() == []


def test_hedged_calls_and_deadlines_that_pass_are_not_a_flood() -> None:
    scene = Scene()
    for _ in range(100):
        scene.calls(NEIGHBOUR, "OK", 20, received=3000, seconds=0.03)
        scene.calls(NEIGHBOUR, "CANCELLED", 20, received=3000, seconds=0.03)
        scene.calls(NEIGHBOUR, "CANCELLED", 10, received=3000, seconds=0.01)  # the faster of two answered soon
        scene.calls(NEIGHBOUR, "DEADLINE_EXCEEDED", 40, received=3000, seconds=0.2)
        scene.calls(NEIGHBOUR, "DEADLINE_EXCEEDED", 400, received=3000, seconds=0.001)
        assert scene.evaluate(0.1) == []


def test_an_honest_overload_is_not_a_flood() -> None:
    scene = Scene()
    for _ in range(100):  # ten seconds of ten times what can be answered
        scene.calls(NEIGHBOUR, "OK", 40, received=3000, seconds=0.2)
        scene.calls(NEIGHBOUR, "RESOURCE_EXHAUSTED", 360)
        assert scene.evaluate(0.1) == []


def test_callers_who_come_back_when_they_are_told_are_not_a_flood() -> None:
    scene = Scene()
    for _ in range(100):  # nothing is answered: others fill the server
        for port in range(1, 31):
            scene.calls(f"ipv4:192.0.2.7:{port}", "RESOURCE_EXHAUSTED", 1)
        assert scene.evaluate(0.25) == []


def test_a_proxy_that_carries_one_flooder_among_many_keeps_its_connection() -> None:
    scene = Scene()
    for _ in range(50):
        scene.calls(NEIGHBOUR, "OK", 50, received=3000, seconds=0.02)
        scene.calls(NEIGHBOUR, "CANCELLED", 150)
        assert scene.evaluate(0.1) == []


def test_calls_of_a_flooder_behind_a_proxy_are_refused_alone() -> None:
    proxy = "ipv4:10.1.2.3:4000"
    scene = Scene(proxies=[ipaddress.ip_network("10.0.0.0/8")])
    for _ in range(2 * PLACES):
        traffic = scene.guard.began(proxy, "198.51.100.7")
        scene.guard.ended(traffic, "INVALID_ARGUMENT", received=0, gated=True, seconds=0.0)
    (penalty,) = scene.evaluate()
    assert (penalty.address, penalty.connections) == ("198.51.100.7", [])
    assert scene.guard.refused(proxy, "198.51.100.7") is traffic
    assert scene.guard.refused(proxy, "198.51.100.8") is None
    assert scene.guard.blocked(scene.now) == []
    # Without saying for whom, it may send as much nonsense as it likes: its connection stays, its new ones come in.
    scene.calls(proxy, "INVALID_ARGUMENT", 10 * PLACES)
    assert [each.connections for each in scene.evaluate()] == [[]]
    assert scene.guard.blocked(scene.now) == []
    assert not scene.guard.blocks("10.1.2.3", scene.now)
    scene.guard.unblock(scene.now + 60)
    assert scene.guard.refused(proxy, "198.51.100.7") is None


def test_the_next_address_of_a_network_that_floods_through_a_proxy_is_refused() -> None:
    proxy = "ipv4:10.1.2.3:4000"
    scene = Scene(proxies=[ipaddress.ip_network("10.0.0.0/8")])
    for host in range(2 * PLACES):
        traffic = scene.guard.began(proxy, f"2001:db8::{host:x}")
        scene.guard.ended(traffic, "INVALID_ARGUMENT", received=0, gated=True, seconds=0.0)
    (penalty,) = scene.evaluate()
    assert scene.guard.refused(proxy, "2001:db8::ffff") is not None
    assert scene.guard.refused(proxy, "2001:db8:0:1::1") is None
    scene.evaluate(penalty.seconds)
    scene.guard.unblock(scene.now)
    assert scene.guard.refused(proxy, "2001:db8::ffff") is None
    assert scene.guard.refused(proxy, "2001:db8::fffe") is None


def test_who_is_refused_or_late_in_a_flood_is_no_part_of_it() -> None:
    scene = Scene()
    for _ in range(100):
        for port in range(1, 31):
            scene.calls(f"ipv4:198.51.100.7:{port}", "RESOURCE_EXHAUSTED", 1)
        scene.calls(NEIGHBOUR, "DEADLINE_EXCEEDED", 8)  # before the server came round to them
        for host in range(1, 51):
            scene.calls(f"ipv4:192.0.2.{host}:1", "CANCELLED", 12)
        assert not {each.address for each in scene.evaluate(0.1)} & {"198.51.100.7", "2001:db8::/64"}


def test_callers_whose_connections_end_with_an_authority_are_not_a_flood() -> None:
    scene = Scene()
    for _ in range(10):
        for port in range(1, 201):
            scene.calls(f"ipv4:192.0.2.7:{port}", "UNAVAILABLE", 1)
        assert scene.evaluate(1.0) == []


# What gRPC handles by itself.


@pytest.mark.parametrize(("workers", "refill"), [(1, 30.0), (2, 15.0), (100, 7.5)])
def test_each_of_several_workers_gives_back_a_part_of_the_points(workers: int, refill: float) -> None:
    """So a flood that is spread over all of them gets no more back than from a server of one process."""
    for share, blocked in ((0.8, False), (1.5, True)):
        scene = Scene(workers=workers)
        penalties = []
        for _ in range(60):
            scene.calls(FLOODER, "INVALID_ARGUMENT", int(share * refill))
            penalties += scene.evaluate(1.0)
        assert bool(penalties) is blocked


@pytest.mark.parametrize(("workers", "part"), [(2, PLACES // 2), (3, 86), (100, 64)])
def test_each_of_several_workers_has_a_part_of_the_allowance(workers: int, part: int) -> None:
    """But no less than what an honest caller may need whose connection leads to this one."""
    scene = Scene(workers=workers)
    scene.calls(FLOODER, "INVALID_ARGUMENT", part - 1)
    assert scene.evaluate() == []
    scene = Scene(workers=workers)
    scene.calls(FLOODER, "INVALID_ARGUMENT", part + 2)
    assert [each.address for each in scene.evaluate()] == ["192.0.2.1"]
