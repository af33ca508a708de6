"""Who a call counts for."""

from __future__ import annotations

import pytest

from server.doors.visit import Visit, host


@pytest.mark.parametrize(
    ("peer", "machine"),
    [
        ("ipv4:192.0.2.7:40000", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:40000", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2::9]:40000", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:40000", "fe80::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:40000", "192.0.2.7"),
        ("ipv6:%5Bnonsense%5D:40000", "%5Bnonsense%5D"),
        ("unix:/run/glimpse.sock", "unix:/run/glimpse.sock"),
        ("unix:", "unix:"),
    ],
)
def test_the_host_of_a_peer_is_its_address_without_the_port(peer: str, machine: str) -> None:
    assert host(peer) == machine


def test_the_lane_is_the_identity_else_the_name_that_a_caller_gives_itself_else_its_connection() -> None:
    visit = Visit("id", "method", "ipv4:192.0.2.7:40000")
    assert visit.lane == "ipv4:192.0.2.7:40000"
    visit.client = "somebody"
    assert visit.lane == "somebody"
    visit.identity = "alice"
    assert visit.lane == "alice"


def test_limits_do_not_go_by_the_name_that_a_caller_gives_itself() -> None:
    visit = Visit("id", "method", "ipv4:192.0.2.7:40000", client="another one each time")
    assert visit.who == "192.0.2.7"
    visit.identity = "alice"
    assert visit.who == "alice"
