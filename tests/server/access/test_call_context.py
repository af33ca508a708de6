"""Who a call counts for."""

from __future__ import annotations

import pytest

from glimpse.server.access.call_context import CallContext, host
from glimpse.server.fair_queue import Lane


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


def test_a_caller_counts_for_what_it_has_proved_to_be_else_for_its_address() -> None:
    call = CallContext("id", "method", "ipv4:192.0.2.7:40000")
    assert call.lane == Lane("address:192.0.2.7", "ipv4:192.0.2.7:40000")
    call.identity = "alice"
    assert call.lane == Lane("identity:alice", "ipv4:192.0.2.7:40000")


def test_the_name_that_a_caller_gives_itself_divides_only_its_own_share() -> None:
    call = CallContext("id", "method", "ipv4:192.0.2.7:40000", client="alice")
    assert call.lane == Lane("address:192.0.2.7", "alice")
    call.identity = "bob"
    assert call.lane == Lane("identity:bob", "alice")
    assert call.lane.who == call.who


@pytest.mark.parametrize("name", ["127.0.0.1", "address:127.0.0.1", "identity:alice", "ipv4:127.0.0.1:1", ""])
def test_nobody_can_pass_for_another_party_by_a_name(name: str) -> None:
    """Not an identity for an address, not an address for an identity, and a given name for neither."""
    host = CallContext("id", "method", "ipv4:127.0.0.1:1").who
    alice = CallContext("id", "method", "ipv4:127.0.0.1:1", identity="alice").who
    assert CallContext("id", "method", "ipv4:192.0.2.7:1", client=name).who not in {host, alice}
    if name:
        assert CallContext("id", "method", "ipv4:192.0.2.7:1", identity=name).who not in {host, alice}


def test_all_ports_of_a_host_and_all_addresses_of_a_64_are_one_party() -> None:
    assert len({CallContext("id", "method", f"ipv4:192.0.2.7:{port}").who for port in range(1, 100)}) == 1
    assert len({CallContext("id", "method", f"ipv6:%5B2001:db8::{each:x}%5D:9").who for each in range(100)}) == 1
