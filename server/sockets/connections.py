"""The TCP connections of this process, as the kernel sees them.

gRPC tells a handler nothing of a connection before a whole message is there: neither how many bytes of it have come,
nor how many calls were begun and reset. The kernel counts the bytes of each connection, and a connection that does harm
can be closed, which gRPC offers no call for. Linux only; elsewhere nothing is known of any connection.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import os
import socket
import struct
import time
import urllib.parse
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

_DESCRIPTORS = "/proc/self/fd"  # and no Path, which takes several times as long as the system calls
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_INFO_BYTES = 256
_COUNTS = struct.Struct("=QQ")
_COUNTS_AT = 120  # tcpi_bytes_acked and tcpi_bytes_received in `struct tcp_info` of linux/tcp.h, since Linux 4.1
_PAUSE = 19  # times the duration of a look at all connections: until the next one


class Endpoint(NamedTuple):
    """One end of a TCP connection."""

    address: str  # an IPv4 address that was mapped into IPv6 is written as IPv4
    port: int
    own: int = 0  # the port of this process that it is connected to, where that is not the first one: that for HTTP


class Connection(NamedTuple):
    """What the kernel knows of an accepted connection."""

    peer: Endpoint
    received: int  # bytes since it was accepted, of TLS and HTTP/2 too
    sent: int = 0  # bytes, of which the other end has told that they arrived


@functools.lru_cache(4096)
def endpoint(peer: str, own: int = 0) -> Endpoint | None:
    """The end of a connection that gRPC calls `peer`: `ipv4:192.0.2.1:40000` or `ipv6:%5B2001:db8::1%5D:40000`.

    None for anything else, such as a Unix socket. `own`: as in `Endpoint`.
    """
    kind, _, rest = peer.partition(":")
    address, _, port = urllib.parse.unquote(rest).rpartition(":")
    if kind not in {"ipv4", "ipv6"} or not port.isdecimal():
        return None
    with contextlib.suppress(ValueError):
        return Endpoint(_plain(address.strip("[]")), int(port), own)
    return None


def accepted(port: int, *others: int) -> list[Connection]:
    """All connections that were accepted on `port`, and on other ports of this process.

    Takes some 10 microseconds for each open file of the process.

    Raises:
        OSError: the process cannot open any more files.
    """
    return [_counted(peer, each) for peer, each, _ in _connected(port, *others)]


def close(port: int, peer: Endpoint) -> bool:
    """Close the connection from `peer` that was accepted on `port`; whether there was one.

    It is shut down, not closed: the descriptor stays gRPC's, who finds the connection at its end and cleans up.
    """
    return bool(close_all(port, {peer}))


def close_all(port: int, peers: Collection[Endpoint], *others: int) -> set[Endpoint]:
    """Close all connections from `peers` that were accepted on `port`, as `close` does; returns those there were.

    `others`: further ports of this process, to which `peers` may be connected as `Endpoint.own` says.
    """
    closed = set[Endpoint]()
    for found, each, _ in _connected(port, *others):
        if found in peers:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                each.shutdown(socket.SHUT_RDWR)
            closed.add(found)
            if len(closed) == len(peers):
                break
    return closed


class Counters:
    """The received bytes of some connections, asked for again and again: their descriptors are remembered.

    An answer takes some 5 microseconds a connection. Only one that is not known yet has all of them looked through,
    and that no more often than takes a twentieth of the time.
    """

    def __init__(self, port: int) -> None:
        """Look at connections that were accepted on `port`."""
        self._port = port
        self._descriptors: dict[Endpoint, int] = {}
        self._not_before = 0.0  # on the clock of `time.monotonic`: the next look at all of them

    def received(self, peers: Iterable[str]) -> dict[str, int]:
        """Bytes received so far on the connections from `peers`, as gRPC writes them; unknown ones are left out."""
        found: dict[str, int] = {}
        unknown: dict[Endpoint, str] = {}
        for peer in peers:
            if (wanted := endpoint(peer)) is None:
                continue
            if (size := self._known(wanted)) is None:
                unknown[wanted] = peer
            else:
                found[peer] = size
        if unknown and time.monotonic() >= self._not_before:
            begun = time.monotonic()
            self._descriptors = {}
            for at, connection, descriptor in _connected(self._port):
                self._descriptors[at] = descriptor
                if at in unknown:
                    found[unknown[at]] = _counted(at, connection).received
            ended = time.monotonic()
            self._not_before = ended + _PAUSE * (ended - begun)
        return found

    def _known(self, wanted: Endpoint) -> int | None:
        """Its bytes, if the descriptor that it had is still its own."""
        descriptor = self._descriptors.get(wanted)
        if descriptor is None:
            return None
        try:
            connection = _duplicate(descriptor)
        except OSError:
            return None
        with connection:
            try:
                peer = connection.getpeername()
                own = connection.getsockname()[1]
            except OSError:  # no socket, or one that has ended
                return None
            if own != self._port or Endpoint(_plain(peer[0]), peer[1]) != wanted:
                return None
            return _counted(wanted, connection).received


def _duplicate(descriptor: int) -> socket.socket:
    """A socket of its own on the same connection: should gRPC close its descriptor, the number may be another file's.

    The kind is told to Python, which else asks the kernel for each of its three parts.
    """
    copy = os.dup(descriptor)
    try:
        return socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=copy)
    except OSError:  # no socket
        os.close(copy)
        raise


def listening(port: int) -> Iterator[socket.socket]:
    """The TCP sockets that listen on `port`, each open until the next is asked for."""
    for each, _, _ in _sockets(port):
        with contextlib.suppress(OSError):
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                yield each


def open_files() -> int:
    """How many files the process has open, for the price of one system call where Linux is new enough (6.2)."""
    with contextlib.suppress(OSError):
        return os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))  # noqa: PTH116, PTH208
    return 0


def _connected(port: int, *others: int) -> Iterator[tuple[Endpoint, socket.socket, int]]:
    """The connected TCP sockets whose own end is `port` or one of `others`, each open until the next is asked for.

    With what is at their other end before, and their descriptor behind them.
    """
    for each, descriptor, own in _sockets(port, *others):
        try:
            peer = each.getpeername()
        except OSError:  # it listens, or has ended
            continue
        yield Endpoint(_plain(peer[0]), peer[1], 0 if own == port else own), each, descriptor


def _sockets(port: int, *others: int) -> Iterator[tuple[socket.socket, int, int]]:
    """The TCP sockets whose own end is `port` or one of `others`, each open until the next is asked for.

    With their descriptor and that port behind them.

    Raises:
        OSError: the process cannot open any more files, without which all connections would seem to have ended.
    """
    if _TCP_INFO is None:
        return
    try:
        with os.scandir(_DESCRIPTORS) as files:
            descriptors = [int(file.name) for file in files]
    except OSError as error:
        _refuse_exhaustion(error)
        return
    for descriptor in descriptors:
        try:
            copy = _duplicate(descriptor)
        except OSError as error:  # closed meanwhile, or no socket
            _refuse_exhaustion(error)
            continue
        with copy:
            try:
                own = copy.getsockname()
            except OSError:  # no socket
                continue
            if _is_address(own) and (own[1] == port or own[1] in others):
                yield copy, descriptor, int(own[1])


def _refuse_exhaustion(error: OSError) -> None:
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        raise error


def _is_address(name: object) -> bool:
    """Whether a socket's name is an address and a port of the internet, and not a Unix socket's path or a netlink's."""
    return isinstance(name, tuple) and len(name) in {2, 4} and isinstance(name[0], str)


def _counted(peer: Endpoint, connection: socket.socket) -> Connection:
    if _TCP_INFO is None:
        return Connection(peer, 0)
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_BYTES)
        sent, received = _COUNTS.unpack_from(info, _COUNTS_AT)
    except (OSError, struct.error):  # ended, or an older kernel
        return Connection(peer, 0)
    return Connection(peer, received, sent)


@functools.lru_cache(4096)
def _plain(address: str) -> str:
    """An address as Python writes it, without the zone, and IPv4 as IPv4."""
    inside = ipaddress.ip_address(address.partition("%")[0])
    mapped = inside.ipv4_mapped if isinstance(inside, ipaddress.IPv6Address) else None
    return str(mapped or inside)
