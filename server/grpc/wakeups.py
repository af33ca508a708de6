"""How gRPC's thread wakes the event loop: once for all that has come, and not once for each event.

That thread appends an event to a list, and writes a byte to a socket for it. The event loop is woken by the socket,
reads a single byte, and takes all events of the list. So it is woken again for each other byte, and finds nothing: of
four events of a call nearly three, each of which costs a turn of the loop. Here it reads all bytes that are there. An
event is in the list before its byte is in the socket, so none is left behind.
"""

from __future__ import annotations

import importlib
import socket
from types import SimpleNamespace
from typing import Any

_MOST = 4096  # bytes


class _ReadWhole(socket.socket):
    """A socket whose bytes only say that there is something."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """All that has come; never nothing but at the end."""
        return super().recv(max(bufsize, _MOST), flags)


def wake_once() -> None:
    """Have the event loops of this process read so; to be called before the first object of grpc.aio is made.

    Where gRPC is built otherwise than it was, nothing changes.
    """
    core: Any = importlib.import_module("grpc._cython.cygrpc")
    if getattr(core, "socket", None) is socket:
        core.socket = SimpleNamespace(**{**vars(socket), "socketpair": _pair})


def _pair(*positional: Any, **named: Any) -> tuple[socket.socket, socket.socket]:
    """`socket.socketpair`, of which gRPC reads from the first."""
    reads, writes = socket.socketpair(*positional, **named)
    return _ReadWhole(fileno=reads.detach()), writes
