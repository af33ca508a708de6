"""One process at a time looks whether a port is free and binds it, where processes could share it.

The sockets of one server share its port (SO_REUSEPORT), and so the kernel would let those of another process of the
same user join them without a word. Whoever looks first whether the port is taken finds that out, but two that start at
the same moment would both find it free.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_SECONDS = 5.0  # that another process may take to bind its sockets; it takes some milliseconds
_PAUSE = 0.01  # seconds


@asynccontextmanager
async def held(port: int, seconds: float = _SECONDS) -> AsyncIterator[None]:
    """Keep other processes from binding `port` while the block runs, once they do not, or after so many seconds.

    It is the name of a Unix socket without a file, of which there can be one in a network, as of a port, and which goes
    with the process (unix(7), "abstract"). Linux only.
    """
    try:
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:  # a sandbox that knows no such sockets
        yield
        return
    with lock:
        for _ in range(math.ceil(seconds / _PAUSE)):
            if _bound(lock, port):
                break
            await asyncio.sleep(_PAUSE)
        yield


def _bound(lock: socket.socket, port: int) -> bool:
    """Whether there is nothing to wait for."""
    try:
        lock.bind(f"\0glimpse/{port}")
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True
