"""A port of this server alone: whether another program has it, and how it is held for the processes that share it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Mapping, Sequence

from glimpse.server.processes.startup import PortTakenError

# Of a name such as localhost, gRPC listens on those addresses that this machine has.
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def address(host: str, port: int) -> str:
    """Host and port as gRPC and people write them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def port_taken(host: str, port: int, what: str, setting: str) -> PortTakenError:
    """The error of a start that cannot listen there, for whatever reason."""
    return PortTakenError(
        f"Cannot listen on {address(host, port)}: {what}. Set GLIMPSE_HOST to an address of this machine, and "
        f"{setting} to a port that this user may open and no other program has."
    )


def check_free(host: str, ports: Mapping[str, int]) -> None:
    """Refuse to start where other programs have some of these ports, and name all of them at once.

    Args:
        host: address to bind.
        ports: by the setting that each comes from; 0 takes a free one.

    Raises:
        PortTakenError: expected; the message says what to do.
    """
    taken = {setting: port for setting, port in ports.items() if port and is_taken(host, port)}
    if len(taken) == 1:
        ((setting, port),) = taken.items()
        raise in_use(host, port, setting)
    if taken:
        places = _listed([f"{address(host, port)} ({setting})" for setting, port in taken.items()])
        raise PortTakenError(
            f"Cannot listen on {places}: The addresses are in use. Stop the program that uses them, perhaps another "
            f"server, or choose other ports with {_listed(list(taken))}; 0 takes any that is free."
        )


def in_use(host: str, port: int, setting: str) -> PortTakenError:
    """The error of a start whose port another program has."""
    return PortTakenError(
        f"Cannot listen on {address(host, port)}: The address is in use. Stop the program that uses it, perhaps "
        f"another server, or choose another port with {setting}; 0 takes any that is free."
    )


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def is_taken(host: str, port: int) -> bool:
    """Whether another socket listens there; what else may be wrong with the address, gRPC finds out."""
    with contextlib.suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended are no matter
                try:
                    probe.bind(address)
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        return True
    return False


def reserve(host: str, port: int, setting: str, *, shared: bool = True) -> tuple[list[socket.socket], int]:
    """Bind a port, for processes of this user to share unless it is not `shared`, without listening on it.

    The kernel gives no connection to a socket that does not listen, and the port to no other program while it is open.

    Args:
        host: address to bind.
        port: 0 takes a free one.
        setting: that the port comes from, for the error.
        shared: whether other processes of this user may bind it, too.

    Returns:
        The sockets, which hold the port until they are closed, and its number.

    Raises:
        PortTakenError: expected; the message says what to do.
    """
    held: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        try:
            missing: OSError | None = None
            for family, place in _places(host):
                try:
                    each = undo.enter_context(_bound(family, place, port, shared=shared))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
                    continue
                port = int(each.getsockname()[1])
                held.append(each)
            if missing is not None and not held:
                raise missing
        except OSError as error:
            raise port_taken(host, port, str(error.strerror or error), setting) from error
        undo.pop_all()
    return held, port


def _places(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses to bind. For all addresses of IPv4, gRPC binds those of IPv6, too, where there are any."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified and socket.has_dualstack_ipv6():
            return [(socket.AF_INET6, "::")]
    found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, str(place[0])) for family, _, _, _, place in found))


def _bound(family: socket.AddressFamily, place: str, port: int, *, shared: bool) -> socket.socket:
    with contextlib.ExitStack() as undo:
        each = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        _bind(each, place, port, shared=shared)
        undo.pop_all()
    return each


def _bind(each: socket.socket, place: str, port: int, *, shared: bool) -> None:
    if shared:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if each.family == socket.AF_INET6 and place == "::":
        each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        each.bind((place, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Connections of a former server that have ended but are remembered. Not set at once: others who look whether
        # the port is taken would not see a socket that has it and does not listen.
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind((place, port))
