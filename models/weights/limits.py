"""What reading a file of weights may take, by the size of the file: memory, computing, and what it comes to.

The numbers are for networks: the largest published ones have some thousand tensors. All follow from the file's size,
whatever the file claims.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TENSORS = 20_000  # of a file, in all of its sets
NAME = 1_000  # characters of a tensor's name
AXES = 32
# Bytes of all tensors together, as a multiple of the file and more. One of whole numbers of 8 bits becomes float32,
# four times as large, and two sets of tensors may share their numbers.
TIMES, MORE = 8, 1 << 20

# Of computing, for the process that reads a file. It takes a second for the largest published files, which are some
# hundreds of megabytes.
SECONDS = 20
SIZE = 16 << 20  # bytes of a file that allow it one second more
PATIENCE = 4  # times as long by the clock: other processes need the processor, too
# Bytes of memory beside what the file explains: Python, NumPy and what a format needs take 60 to 100 MiB of it.
_BASE = 256 << 20
_FILES = 64  # that may be open at a time
# Address space takes libraries and the file itself, which is mapped, beside the memory.
_LIBRARIES = 4 << 30


class TooLargeError(ValueError):
    """A file claims more than it can hold, or more than any network has."""


def decoded(size: int) -> int:
    """Bytes that all tensors of a file of so many bytes may have together."""
    return TIMES * size + MORE


def memory(size: int) -> int:
    """Bytes of memory that the process which reads a file of so many bytes may take."""
    return _BASE + TIMES * size


def seconds(size: int) -> int:
    """Seconds of computing for a file of so many bytes."""
    return SECONDS + size // SIZE


def count(shape: Sequence[int]) -> int:
    """How many numbers an array of a shape has, the shape being a file's claim.

    Raises:
        TooLargeError: more axes than any network has, or a size that is none.
    """
    # Before they are multiplied: a million sizes make a number of megabytes.
    if len(shape) > AXES:
        raise TooLargeError(f"a tensor of {len(shape)} axes")
    if any(not 0 <= side < 1 << 62 for side in shape):
        raise TooLargeError("a tensor with a size that is no size")
    return math.prod(shape)


def activations(height: int, width: int, numbers: int) -> int:
    """How many numbers all operations of a network may give together for one picture; Keras keeps them until its end.

    For each pixel EfficientNetB7 makes 2,900, ResNet-50 740; a network that makes small pictures larger first has those
    of large ones. But what holds few numbers makes few: the most for each is some hundred.

    Args:
        height: of a picture, pixels.
        width: likewise.
        numbers: that the network's file holds.
    """
    pixels = height * width
    return min(4096 * pixels + (1 << 27), 512 * pixels + (1 << 25) + 512 * numbers)


class Budget:
    """Bytes that the tensors of a file may still have; several may claim the same part of it.

    Args:
        size: bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self._left = decoded(size)

    def spend(self, size: int) -> None:
        """Note that a tensor has so many bytes.

        Raises:
            TooLargeError: together they are more than a file of this size can mean.
        """
        self._left -= size
        if self._left < 0:
            raise TooLargeError("tensors that are together many times as large as the file")


def enforce(size: int, computing: int) -> None:
    """Have the system end this process when it takes more than a file of so many bytes explains.

    macOS ignores the limits of memory, and Windows has none; there the readers' own checks have to do.
    """
    if resource is None:
        return
    most = memory(size)
    limits = {
        resource.RLIMIT_CPU: computing,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_FSIZE: decoded(size) + ANSWER,
    }
    if sys.platform == "linux":
        limits |= {resource.RLIMIT_DATA: most, resource.RLIMIT_AS: most + size + _LIBRARIES}
    lower(limits)


def lower(limits: Mapping[int, int]) -> None:
    """Set limits of this process, by their numbers in `resource`; none is raised that it already has."""
    for what, value in limits.items():
        soft, hard = resource.getrlimit(what)
        known = [one for one in (value, soft, hard) if one != resource.RLIM_INFINITY]
        try:
            resource.setrlimit(what, (min(known), hard))
        except (ValueError, OSError):  # not every system has every limit
            continue


ANSWER = 16 << 20  # bytes of JSON that tell what a file holds; of the largest networks it is half a megabyte
