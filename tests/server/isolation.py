"""What the tests of decoding in processes have in common: pools, files, and processes that are held up."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import struct
import sys
import termios
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem.recipe import Recipe
from glimpse.server import domain
from glimpse.server.decoding.isolated import Isolated
from glimpse.server.decoding.prepare import Prepared

RECIPE = Recipe(height=48, width=64, crop_share=0.875, smaller="resize")
LIMITS = ImageLimits(max_bytes=2_000_000, max_pixels=16_000_000)
MIB = 1 << 20
SECONDS = 60.0  # until something is called hung, never the measure of a result
PHOTO = Image.effect_mandelbrot((300, 200), (-2, -1.2, 1, 1.2), 40).convert("RGB")

Make = Callable[..., Isolated]


def encoded(form: str, image: Image.Image = PHOTO) -> domain.EncodedImage:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return domain.EncodedImage(buffer.getvalue())


def one_colour(side: int) -> domain.EncodedImage:
    """A small file with many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head, rows = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), zlib.compress(bytes(side * (3 * side + 1)))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return domain.EncodedImage(data)


PNG = encoded("PNG")


@contextlib.contextmanager
def pools() -> Iterator[Make]:
    """Start pools; they are closed at the end."""
    with contextlib.ExitStack() as stack:

        def start(workers: int = 1, *, memory_bytes: int = 256 * MIB, seconds: float = SECONDS) -> Isolated:
            pool = Isolated(LIMITS, workers=workers, memory_bytes=memory_bytes, seconds=seconds)
            stack.callback(pool.close)
            pool.start()
            return pool

        yield start


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended, whoever is to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def open_files() -> int:
    """How many files this process has open; other tests' threads open and close some meanwhile."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - each link may be gone before it is looked at


def assert_nothing_kept(action: Callable[[], None], times: int) -> None:
    """Do something several times: less than one file more is open for each.

    Not one more at all would be too much to ask: threads of other tests in this process end when they like.
    """
    action()  # what is opened once and kept
    before = open_files()
    for _ in range(times):
        action()
    assert open_files() < before + times


def unread(pool: Isolated, pid: int) -> bool:
    """Whether that process has been sent something that it has not read yet."""
    (place,) = (place for place in pool._places if place.process is not None and place.process.pid == pid)
    assert place.process is not None
    waiting = fcntl.ioctl(place.process._socket, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(waiting, sys.byteorder) > 0


@contextlib.contextmanager
def held_up(pool: Isolated, image: domain.Image = PNG) -> Iterator[tuple[int, Future[Prepared]]]:
    """An image that is with the only process of a pool, which has been stopped: its number, and the image's answer."""
    (pid,) = pool.pids
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(pool, image, RECIPE)
        until(partial(unread, pool, pid))
        yield pid, answer
