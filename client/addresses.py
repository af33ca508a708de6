"""Targets in gRPC's syntax: completed and checked, and what they say of where they lead. Nothing is resolved."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote

DEFAULT_PORT = 50051

# What people copy from other tools, and what to write instead. gRPC would take the scheme for the name of a host.
_FOREIGN = {"http": "", "https": "TLS", "grpc": "", "grpcs": "TLS", "tcp": "", "tls": "TLS", "ssl": "TLS"}
_SOCKETS = frozenset({"unix", "unix-abstract"})
_LISTS = frozenset({"dns", "ipv4", "ipv6"})
_MAX_PORT = 65_535


def complete(target: str) -> str:
    """A target as gRPC takes it: an address without a port gets the default one, 50051.

        glimpse.example          -> glimpse.example:50051
        ::1 or [::1]             -> [::1]:50051
        dns:///glimpse.example   -> dns:///glimpse.example:50051
        unix:/run/glimpse.sock   -> as it is: a socket has no port

    Raises:
        ValueError: it is empty, has a scheme of another protocol, or a port that cannot be one; the message says what
            to write.
    """
    target = target.strip()
    if not target:
        raise ValueError("The target is empty. Write HOST:PORT, for example localhost:50051.")
    scheme, separator, rest = target.partition(":")
    if separator and rest.startswith("//") and scheme.lower() in _FOREIGN:
        address = rest[2:].partition("/")[0] or f"localhost:{DEFAULT_PORT}"
        with_tls = " and use TLS (--tls, or tls=True in Python)" if _FOREIGN[scheme.lower()] else ""
        raise ValueError(f"A target is HOST:PORT, without {scheme}://. Received: {target}. Write {address}{with_tls}.")
    if target.startswith(("/", "./", "../")):
        raise ValueError(f"A Unix socket is written with unix: in front. Received: {target}. Write unix:{target}.")
    if separator and scheme in _SOCKETS:
        if not rest.strip("/"):
            raise ValueError(f"The path of the Unix socket is missing. Received: {target}. Write unix:/path/to/socket.")
        return target
    if separator and scheme in _LISTS:
        # Behind dns:// stands the name of the server that is to resolve the rest.
        authority, slash, addresses = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
        head = f"{scheme}://{authority}{slash}" if rest.startswith("//") else f"{scheme}:"
        return head + ",".join(map(_with_port, addresses.split(","))) if addresses else target
    if "://" in target or (separator and rest.startswith("/")):
        return target  # another of gRPC's resolvers, such as xds:///
    return _with_port(target)


def _with_port(address: str) -> str:
    """An address with its port, or with the default one.

    Raises:
        ValueError: its port cannot be one.
    """
    bracketed = re.fullmatch(r"(\[[^\]]*\])(?::(.*))?", address)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    elif _is_ipv6(address):  # which needs brackets beside a port
        host, port = f"[{address}]", None
    else:
        host, _, port = address.partition(":")
    if not port:  # also where nothing follows the colon
        return f"{host}:{DEFAULT_PORT}"
    if port.isdecimal() and not 0 < int(port) <= _MAX_PORT:
        raise ValueError(f"A port is a number from 1 to {_MAX_PORT}. Received: {address}.")
    return address


def _is_ipv6(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).version == 6
    except ValueError:
        return False


def hosts(target: str) -> list[str]:
    """The hosts of a target: names, or addresses without brackets; none of a socket on this machine."""
    scheme, separator, rest = target.partition(":")
    if scheme in _SOCKETS:
        return []
    if scheme in _LISTS and separator:
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
