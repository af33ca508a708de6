"""A decoder process: ``python -m glimpse.server.decoding.worker``, started and spoken to by `server.decoding.isolated`.

It loads Pillow and NumPy, binds itself to its limits, and then turns one image after another into pixels. Whatever a
codec does wrong in here costs this process and the image that it holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from PIL import Image

from glimpse.models.decoding.limits import ImageLimits
from glimpse.server import domain
from glimpse.server.decoding import worker_protocol
from glimpse.server.decoding.prepare import prepare
from glimpse.server.errors import InvalidImageError, Reason

_FILES = 32  # descriptors; it has four of its own


@dataclass(frozen=True, slots=True)
class Orders:
    """What a decoder process is told at its start, as one argument of its command line."""

    limits: ImageLimits
    memory_bytes: int  # on top of what it holds when it is ready
    lifeline: int  # a pipe of this process alone, which the server holds open as long as it wants the process to live

    def written(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, written: str) -> Self:
        """What `written` wrote."""
        values = json.loads(written)
        return cls(**{**values, "limits": ImageLimits(**values["limits"])})


def main() -> None:
    """Answer requests on standard input, a socket, until the server has gone."""
    orders = Orders.read(sys.argv[1])
    server = socket.socket(fileno=0)
    _die_with(orders.lifeline)
    # The server decides when its decoders end, also where a signal goes to every process at once.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.init()  # loads the plugins now, with all the memory that they want
    _bind(orders.memory_bytes)
    server.sendall(worker_protocol.HELLO)
    while (request := worker_protocol.read_request(lambda size: server.recv(size, socket.MSG_WAITALL))) is not None:
        image, recipe = request
        try:
            answer = worker_protocol.reply(prepare(image, recipe, orders.limits), recipe)
        except Exception as error:  # noqa: BLE001 - this one image's, whatever it is
            answer = worker_protocol.refusal(_refused(error, image, orders.memory_bytes), recipe)
        del request, image  # megabytes, not to be held while the next ones come
        try:
            server.sendall(answer)
        except OSError:
            return  # the server has gone


def _die_with(lifeline: int) -> None:
    """Have the kernel end this process when the other end of `lifeline` closes, even in the middle of a codec."""
    import fcntl  # here, as the next one: the server imports this file, also where there is neither

    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which ends it
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it had closed before
        sys.exit()


def _bind(memory_bytes: int) -> None:
    """Limit what this process may have from now on; its memory only where the system tells what it has."""
    import resource

    with contextlib.suppress(FileNotFoundError):  # macOS
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        address_space = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a stranger's image
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))


def _refused(error: Exception, image: domain.Image, memory_bytes: int) -> InvalidImageError:
    """What the sender of an image is told."""
    field = "raw.data" if isinstance(image, domain.RawImage) else "encoded"
    if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
        return InvalidImageError(
            Reason.DECODER_FAILED,
            f"Decoding the image takes more than {memory_bytes} bytes of memory. Send a smaller image.",
            field=field,
        )
    if isinstance(error, InvalidImageError):
        return error
    return InvalidImageError(
        Reason.DECODER_FAILED,
        f"The decoder failed on the image ({type(error).__name__}: {error}). Save the image again.",
        field=field,
    )


if __name__ == "__main__":
    main()
