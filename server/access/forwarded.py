"""The address of a caller behind proxies, from `x-forwarded-for`, where a trusted proxy has written it.

Each proxy appends the address that its own connection came from, so the list is read from its right end, skipping
entries that are trusted proxies themselves: the first one that is not is the caller. Whatever stands left of it was
sent by that caller, who may write there what they like. Where all entries are trusted proxies, the caller is the
left-most: a trusted proxy vouches for it, too.

No RFC has the header; https://developer.mozilla.org/docs/Web/HTTP/Headers/X-Forwarded-For describes what is usual.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence

KEY = "x-forwarded-for"
_REMEMBERED = 4096  # headers; reading one anew takes some microseconds
_PROXIES = 32  # entries that are looked at: a chain of trusted proxies is not longer
_LONGEST = 64  # characters of one entry; the longest IPv6 address with a port has 53

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """The proxies that are trusted to tell where a call comes from."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        """Trust whoever connects from one of these networks."""
        self._trusted = tuple(trusted)
        self._is_proxy = functools.lru_cache(_REMEMBERED)(self._is_trusted)
        self._farthest = functools.lru_cache(_REMEMBERED)(self._caller)

    def caller(self, connected: str, forwarded: str) -> str:
        """Where a call comes from.

        Args:
            connected: the address that the connection comes from.
            forwarded: all values of the header, in their order, with commas between them; "": there is none.

        Returns:
            The caller's address; "" where that is the one that the connection comes from: it is no trusted proxy's, or
            what the proxy has written is no address.
        """
        # Of others nothing is remembered: a stranger's header may have the length of all that a call may have.
        return self._farthest(forwarded) if self._is_proxy(connected) else ""

    def _is_trusted(self, connected: str) -> bool:
        proxy = parse(connected)
        return proxy is not None and self._trusts(proxy)

    def _caller(self, forwarded: str) -> str:
        farthest = ""
        for entry in reversed(forwarded.rsplit(",", _PROXIES)[-_PROXIES:]):
            address = parse(entry)
            if address is None:
                return ""
            farthest = str(address)
            if not self._trusts(address):
                break
        return farthest

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def parse(entry: str) -> Address | None:
    """An address as proxies write it: `192.0.2.1`, `192.0.2.1:4000`, `2001:db8::1` or `[2001:db8::1]:4000`.

    An IPv4 address that was mapped into IPv6 is returned as IPv4; a zone is left out. None: it is no address.
    """
    text = entry.strip()
    if len(text) > _LONGEST:
        return None
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        if port and not (port[0] == ":" and port[1:].isdecimal()):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not port.isdecimal():
            return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
