"""Limits of reading a weights file, by its size: memory, CPU time, and the size of its tensors.

They are chosen for networks: the largest published ones have some thousand tensors.
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
    """A file claims more than fits into it, or more than any known network has."""


def decoded(size: int) -> int:
    """The maximum size of all tensors of a file together, in bytes.

    Args:
        size: of the file, bytes.
    """
    return TIMES * size + MORE


def memory(size: int) -> int:
    """The memory limit of the process that reads a file of `size` bytes, in bytes."""
    return _BASE + TIMES * size


def seconds(size: int) -> int:
    """The limit of CPU time of the process that reads a file of `size` bytes, in seconds."""
    return SECONDS + size // SIZE


def count(shape: Sequence[int]) -> int:
    """The number of elements of an array whose shape comes from a file.

    Raises:
        TooLargeError: there are too many axes, or a size is not valid.
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
    """Counts the bytes of a file's tensors against the limit; several may claim the same part of the file.

    Args:
        size: bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self._left = decoded(size)

    def spend(self, size: int) -> None:
        """Count a tensor of `size` bytes.

        Raises:
            TooLargeError: the limit is exceeded.
        """
        self._left -= size
        if self._left < 0:
            raise TooLargeError("tensors that are together many times as large as the file")


def enforce(size: int, computing: int) -> None:
    """Set limits of memory, CPU time and open files for this process, for reading a file of `size` bytes.

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
    """Lower resource limits of this process, by their numbers in `resource`; an existing lower limit is kept."""
    for what, value in limits.items():
        soft, hard = resource.getrlimit(what)
        known = [one for one in (value, soft, hard) if one != resource.RLIM_INFINITY]
        try:
            resource.setrlimit(what, (min(known), hard))
        except (ValueError, OSError):  # not every system has every limit
            continue


ANSWER = 16 << 20  # bytes of JSON that tell what a file holds; of the largest networks it is half a megabyte
