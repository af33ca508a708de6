"""What a call's metadata says of the caller. It is untrusted: its length is bounded, and it proves nothing."""

from __future__ import annotations

import random
from collections.abc import Iterable

from glimpse.server.access import forwarded, tokens
from glimpse.server.access.call_context import LANE_KEY, CallContext
from glimpse.server.access.forwarded import Proxies
from glimpse.server.sockets import connections

REQUEST_ID_KEY = "x-request-id"
ROUTING_KEY = "glimpse-key"  # requests with the same one are answered by the same version of a model
_LONGEST = 128  # characters of an id and of a name; both go into logs


def read_metadata(
    metadata: Iterable[tuple[str, str | bytes]], method: str, peer: str, proxies: Proxies | None
) -> tuple[CallContext, list[str]]:
    """A call that begins, and whatever its metadata has for `authorization`.

    Args:
        metadata: of the call, or its headers; the keys in small letters.
        method: with its service.
        peer: where the connection comes from, as in `CallContext`.
        proxies: who is trusted to say where a call comes from; None: nobody.
    """
    request_id = client = routing = ""
    authorization: list[str] = []
    passed: list[str] = []
    for key, value in metadata:
        if key == REQUEST_ID_KEY:
            request_id = request_id or _text(value)
        elif key == LANE_KEY:
            client = client or _text(value)
        elif key == ROUTING_KEY:
            routing = routing or _text(value)
        elif key == tokens.KEY:
            authorization.append(str(value))
        elif key == forwarded.KEY:
            passed.append(str(value))
    call = CallContext(request_id or _fresh_id(), method, peer, client)
    call.key = routing or request_id
    if passed and proxies is not None:
        # By its own address: what limits count of one of IPv6 is its network.
        end = connections.endpoint(peer)
        call.address = "" if end is None else proxies.caller(end.address, ",".join(passed))
    return call, authorization


def _text(value: str | bytes) -> str:
    """Plain text of a bounded length; anything else counts as none, for it goes into logs and back into headers."""
    plain = isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isascii() and value.isprintable()
    return str(value) if plain else ""


def _fresh_id() -> str:
    # No secret; asking the kernel for one would cost a system call.
    return f"{random.getrandbits(128):032x}"
