"""Which addresses are blocked for a flood, and which never are: the guard alone, with a clock of its own."""

from __future__ import annotations

import ipaddress

import pytest

from glimpse.server.connections import Connection, Endpoint
from glimpse.server.guard import Guard
from glimpse.server.penalties import Penalty
from glimpse.server.traffic import Traffic

FLOODER, NEIGHBOUR = "ipv4:192.0.2.1:4000", "ipv6:%5B2001:db8::1%5D:5000"
PLACES = 256
MIB = 1024 * 1024


class Scene:
    """A guard, and a clock that stands still until it is told."""

    def __init__(self, **settings: object) -> None:
        self.guard = Guard(allowance=PLACES, **settings)  # type: ignore[arg-type]
        self.now = 1000.0
        self.guard.evaluate(self.now, overloaded=True)

    def calls(
        self, peer: str, code: str, count: int, *, received: int = 0, seconds: float = 0.0, gated: bool = True
    ) -> Traffic:
        for _ in range(count):
            traffic = self.guard.began(peer)
            traffic.bytes += received
            self.guard.ended(traffic, code, received=received, gated=gated, seconds=seconds)
        return traffic

    def evaluate(self, seconds: float = 0.05, *, overloaded: bool = True) -> list[Penalty]:
        self.now += seconds
        return self.guard.evaluate(self.now, overloaded=overloaded)

    def look(self, *found: Connection, seconds: float = 0.25) -> list[Penalty]:
        self.now += seconds
        return [*self.guard.look(self.now, found), *self.guard.evaluate(self.now, overloaded=True)]


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
    assert received < 500_000


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
