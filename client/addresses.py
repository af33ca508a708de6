"""What a target in gRPC's syntax says of where it leads. Nothing is resolved."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote


def hosts(target: str) -> list[str]:
    """The hosts of a target: names, or addresses without brackets; none of a socket on this machine."""
    scheme, separator, rest = target.partition(":")
    if scheme in {"unix", "unix-abstract"}:
        return []
    if scheme in {"dns", "ipv4", "ipv6"} and separator:
        target = rest
        if target.startswith("//"):
            target = target[2:].partition("/")[2]  # behind the name of the server that is to resolve it
    return [_host(address) for address in unquote(target).split(",")]


def is_loopback(target: str) -> bool:
    """Whether all addresses of a target are this machine's own, so that nothing of a call leaves it."""
    return all(_is_loopback(host) for host in hosts(target))


def is_here(target: str) -> bool:
    """Whether a target means this machine, also by a name or an address that is only meant to: ``x.localhost``."""
    return all(
        _is_loopback(host) or host in {"0.0.0.0", "::"} or host.lower().rstrip(".").endswith(".localhost")  # noqa: S104
        for host in hosts(target)
    )


def _host(address: str) -> str:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::[^:]*)?", address)
    if bracketed:
        return bracketed[1]
    return address.partition(":")[0] if address.count(":") == 1 else address


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
