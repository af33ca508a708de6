"""What limits count as one address: an IPv4 address, or the /64 of an IPv6 address.

A /64 is what providers give to one customer, with more addresses than anyone could remember.
"""

from __future__ import annotations

import functools
import ipaddress

from glimpse.server.sockets.filters import Network

_REMEMBERED = 4096  # addresses; finding one anew takes microseconds


@functools.lru_cache(_REMEMBERED)
def counted_address(address: str) -> str:
    """What an address counts as, as text: `192.0.2.1`, `2001:db8::/64`; what is no address stays as it is."""
    network = counted_network(address)
    if network is None:
        return address
    return str(network.network_address) if network.version == 4 else str(network)


@functools.lru_cache(_REMEMBERED)
def counted_network(address: str) -> Network | None:
    """What counts as one address; None: `address` is none.

    Args:
        address: with or without the zone of an interface (`fe80::1%eth0`), which does not count; an IPv4 address that
            was mapped into IPv6 is that IPv4 address. Or what `counted_address` gives.
    """
    try:
        if "/" in address:
            return ipaddress.IPv6Network(address)
        inside = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(inside, ipaddress.IPv4Address):
        return ipaddress.IPv4Network(inside)
    if inside.ipv4_mapped is not None:
        return ipaddress.IPv4Network(inside.ipv4_mapped)
    return ipaddress.IPv6Network((inside, 64), strict=False)
