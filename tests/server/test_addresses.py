"""What limits count as one address."""

from __future__ import annotations

import ipaddress

import pytest

from glimpse.server.sockets.addresses import counted_address, counted_network


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("unix:/run/glimpse.sock", "unix:/run/glimpse.sock"),
    ],
)
def test_an_address_counts_as_itself_or_as_its_64_bit_network(address: str, counts_as: str) -> None:
    """A zone does not count; what counts as something already, and what is no address, stays as it is."""
    assert counted_address(address) == counts_as
    assert counted_address(counts_as) == counts_as


def test_only_addresses_have_a_network_that_can_be_closed() -> None:
    """A network of IPv4 addresses is nobody's address: it would close all of them."""
    assert counted_network("192.0.2.1") == ipaddress.ip_network("192.0.2.1/32")
    assert counted_network("2001:db8::/64") == counted_network("2001:db8::9") == ipaddress.ip_network("2001:db8::/64")
    assert counted_network("192.0.2.0/24") is None
    assert counted_network("nonsense") is None
