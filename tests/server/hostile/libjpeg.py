"""What libjpeg itself reads in a JPEG file: the very library that Pillow decodes with, asked through ctypes.

libjpeg's way out of an error is not to return, so each file is read in a process of its own, forked from a small one:
`python -m tests.server.hostile.libjpeg`. The offsets are those of libjpeg's interface 6.2 on 64-bit systems.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

_ROOT = Path(__file__).parents[3]
_VERSION, _STRUCT, _ERRORS = 62, 632, 168  # of the interface; bytes of its two structures
_WIDTH, _HEIGHT, _COMPONENTS, _BUFFERED, _SCANS, _PROGRESSIVE = 48, 52, 56, 88, 172, 312
_EXIT, _EMIT, _CODE = 0, 8, 40
_REACHED_EOI = 2
_SECONDS = 30  # that reading one file may take


@dataclass(frozen=True, slots=True)
class Found:
    """What libjpeg has read of a file."""

    width: int
    height: int
    components: int
    progressive: bool
    scans: int  # that it has begun
    whole: bool  # it came to the end of the image without an error


def library() -> Path | None:
    """libjpeg as it is bundled with Pillow; None where it is not."""
    import PIL

    folder = Path(PIL.__file__).parents[1] / "pillow.libs"
    return next(iter(sorted(folder.glob("libjpeg-*.so*"))), None) if sys.maxsize > 2**32 else None


class Reader:
    """A process that reads one file after another."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Of a process that runs `main`."""
        self._in, self._out = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)

    def read(self, data: bytes) -> Found | None:
        """What libjpeg reads in it; None where it found no header."""
        self._in.write(struct.pack("<L", len(data)) + data)
        self._in.flush()
        told = json.loads(self._out.readline())
        return None if told is None else Found(**told)


@contextmanager
def reader() -> Iterator[Reader]:
    """A reader, for as long as it is needed."""
    command = [sys.executable, "-m", "tests.server.hostile.libjpeg", str(library())]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Reader(process)
        cast("IO[bytes]", process.stdin).close()


def _read(jpeg: ctypes.CDLL, data: bytes, out: int) -> None:
    """Read a file to its end and write what was found; ends the process, as libjpeg's errors do."""
    errors, state = ctypes.create_string_buffer(_ERRORS), ctypes.create_string_buffer(_STRUCT)

    def number(at: int) -> int:
        return int(struct.unpack_from("=I", state, at)[0])

    def tell(*, whole: bool) -> None:
        told = None
        if number(_COMPONENTS):
            told = {
                "width": number(_WIDTH),
                "height": number(_HEIGHT),
                "components": number(_COMPONENTS),
                "progressive": bool(number(_PROGRESSIVE)),
                "scans": number(_SCANS),
                "whole": whole,
            }
        os.write(out, json.dumps(told).encode() + b"\n")
        os._exit(0)

    leave = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: tell(whole=False))
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(lambda _, __: None)
    jpeg.jpeg_std_error.restype = ctypes.c_void_p
    jpeg.jpeg_std_error(errors)
    struct.pack_into("@P", errors, _EXIT, ctypes.cast(leave, ctypes.c_void_p).value)
    struct.pack_into("@P", errors, _EMIT, ctypes.cast(quiet, ctypes.c_void_p).value)
    struct.pack_into("@P", state, 0, ctypes.addressof(errors))
    jpeg.jpeg_CreateDecompress(state, _VERSION, ctypes.c_size_t(_STRUCT))
    jpeg.jpeg_mem_src(state, data, ctypes.c_ulong(len(data)))
    jpeg.jpeg_read_header(state, 1)
    struct.pack_into("=I", state, _BUFFERED, 1)  # so that input can be read apart from output
    jpeg.jpeg_start_decompress(state)
    while jpeg.jpeg_consume_input(state) != _REACHED_EOI:
        pass
    tell(whole=True)


def main() -> None:
    """Answer each file on standard input, its length in front of it, with a line."""
    jpeg = ctypes.CDLL(sys.argv[1])
    while head := sys.stdin.buffer.read(4):
        data = sys.stdin.buffer.read(*struct.unpack("<L", head))
        if not (child := os.fork()):
            import signal

            signal.alarm(_SECONDS)
            _read(jpeg, data, sys.stdout.fileno())
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("libjpeg did not come to an end")


if __name__ == "__main__":
    main()
