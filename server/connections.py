"""The TCP connections of this process, as the kernel sees them.

gRPC tells a handler nothing of a connection before a whole message is there: neither how many bytes of it have come,
nor how many calls were begun and reset. The kernel counts the bytes of each connection, and a connection that does harm
can be closed, which gRPC offers no call for. Linux only; elsewhere nothing is known of any connection.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import urllib.parse
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_DESCRIPTORS = Path("/proc/self/fd")
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_INFO_BYTES = 256
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128  # tcpi_bytes_received in `struct tcp_info` of linux/tcp.h, since Linux 4.1


class Endpoint(NamedTuple):
    """One end of a TCP connection."""

    address: str  # an IPv4 address that was mapped into IPv6 is written as IPv4
    port: int


class Connection(NamedTuple):
    """What the kernel knows of an accepted connection."""

    peer: Endpoint
    received: int  # bytes since it was accepted, of TLS and HTTP/2 too


def endpoint(peer: str) -> Endpoint | None:
    """The end of a connection that gRPC calls `peer`: `ipv4:192.0.2.1:40000` or `ipv6:%5B2001:db8::1%5D:40000`.

    None for anything else, such as a Unix socket.
    """
    kind, _, rest = peer.partition(":")
    address, _, port = urllib.parse.unquote(rest).rpartition(":")
    if kind not in {"ipv4", "ipv6"} or not port.isdecimal():
        return None
    with contextlib.suppress(ValueError):
        return Endpoint(_plain(address.strip("[]")), int(port))
    return None


def accepted(port: int) -> list[Connection]:
    """All connections that were accepted on `port`. Takes some 10 microseconds for each open file of the process."""
    return [Connection(peer, _received(each)) for peer, each in _sockets(port)]


def close(port: int, peer: Endpoint) -> bool:
    """Close the connection from `peer` that was accepted on `port`; whether there was one.

    It is shut down, not closed: the descriptor stays gRPC's, who finds the connection at its end and cleans up.
    """
    return bool(close_all(port, {peer}))


def close_all(port: int, peers: Collection[Endpoint]) -> set[Endpoint]:
    """Close all connections from `peers` that were accepted on `port`, as `close` does; returns those there were."""
    closed = set[Endpoint]()
    for found, each in _sockets(port):
        if found in peers:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                each.shutdown(socket.SHUT_RDWR)
            closed.add(found)
            if len(closed) == len(peers):
                break
    return closed


def _sockets(port: int) -> Iterator[tuple[Endpoint, socket.socket]]:
    """The connected TCP sockets whose own end is `port`, each open until the next is asked for."""
    if _TCP_INFO is None:
        return
    try:
        files = list(_DESCRIPTORS.iterdir())
    except OSError:
        return
    for file in files:
        try:
            if not str(file.readlink()).startswith("socket:"):
                continue
            # A duplicate: should gRPC close its own meanwhile, the number is not taken by another file.
            copy = socket.socket(fileno=os.dup(int(file.name)))
        except OSError:
            continue
        with copy:
            try:
                if copy.family not in {socket.AF_INET, socket.AF_INET6} or copy.getsockname()[1] != port:
                    continue
                peer = copy.getpeername()
            except OSError:  # it listens, or has ended
                continue
            yield Endpoint(_plain(peer[0]), peer[1]), copy


def _received(connection: socket.socket) -> int:
    if _TCP_INFO is None:
        return 0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_BYTES)
        return int(_RECEIVED.unpack_from(info, _RECEIVED_AT)[0])
    except (OSError, struct.error):  # ended, or an older kernel
        return 0


def _plain(address: str) -> str:
    """An address as Python writes it, without the zone, and IPv4 as IPv4."""
    inside = ipaddress.ip_address(address.partition("%")[0])
    mapped = inside.ipv4_mapped if isinstance(inside, ipaddress.IPv6Address) else None
    return str(mapped or inside)
