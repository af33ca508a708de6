"""Which proxy calls go through: gRPC takes one from the environment, and says of it nothing when it fails."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from glimpse.client.addresses import hosts, is_here

# As gRPC reads them: the first that is there, and only in lower case.
_NAMES = ("grpc_proxy", "https_proxy", "http_proxy")
# gRPC does not read the one in upper case. Whoever sets it alone does not expect to be sent through a proxy.
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Proxy:
    """One that the environment names."""

    variable: str
    address: str  # without the user and the password that the variable may hold


def for_target(target: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy that calls to a target go through; None where they go directly.

    A target on this machine is never called through a proxy, which is for the world outside and could not reach it.
    """
    name = next((name for name in _NAMES if environment.get(name)), None)
    if name is None or is_here(target):
        return None
    found = _split(environment[name])
    if found is None:  # gRPC does not use it, either
        return None
    exceptions = next((environment[each] for each in _EXCEPTIONS if environment.get(each)), "")
    if all(_is_excepted(host, exceptions) for host in hosts(target)):
        return None
    return Proxy(name, f"{found.scheme}://{found.netloc.rpartition('@')[2]}")


def explanation(target: str) -> str:
    """A sentence for a call that failed on its way through a proxy; nothing where there is none."""
    proxy = for_target(target)
    if proxy is None:
        return ""
    return (
        f" The call went through the proxy {proxy.address} of the variable {proxy.variable}; "
        f"no_proxy={','.join(hosts(target))} calls the server directly."
    )


def _split(value: str) -> SplitResult | None:
    try:
        found = urlsplit(value if "://" in value else f"http://{value}")
    except ValueError:
        return None
    return found if found.scheme == "http" and found.netloc else None


def _is_excepted(host: str, exceptions: str) -> bool:
    """As gRPC compares: the end of a name, or a network that an address is of."""
    for each in (part.strip() for part in exceptions.split(",")):
        if each and (each == "*" or host.lower().endswith(each.lower().removeprefix("*"))):
            return True
        try:
            if "/" in each and ipaddress.ip_address(host) in ipaddress.ip_network(each, strict=False):
                return True
        except ValueError:
            continue
    return False
