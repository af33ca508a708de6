"""What the process that converts a whole model of a user's own may take: memory and computing.

The file of such a model comes from anywhere, and a framework builds what it describes. Its own claims are held to the
file's size before and while that is done (`models.keras_files.bounds`); this is for what slips through.

TensorFlow maps a lot of memory that it never touches, a stack for each of its threads among it, so what counts is the
memory that is resident: 1.1 GiB without a network, and 4 to 7 times the numbers of one (VGG16 in 3.3 GiB, ConvNeXtBase
in 3.5, ResNet-50 in 1.9). Whoever began the process looks at that; the kernel's own limit, on what is mapped, is wide.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from glimpse.models.bundle import Bundle
from glimpse.models.weights import limits
from glimpse.server.machine import cores

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_FRAMEWORKS = 2 << 30  # bytes
_A_CORE = 16 << 20  # of threads and what each keeps for itself
_TIMES = 8  # the file: its numbers as float32, which may be half as large there, and their copies
_ACTIVATIONS = 8  # bytes: of two pictures, as float32
_MAPPED = 2  # times as much may be mapped as is resident
_FILES = 1024
_POLL = 0.05  # seconds between two looks; memory grows by some 0.2 GiB meanwhile


def memory(bundle: Bundle) -> int | None:
    """Bytes that the process may have resident; None: any number, for it is a network of the library.

    Raises:
        OSError: the weights cannot be found.
    """
    if bundle.architecture:
        return None
    height, width, _ = bundle.input_shape
    stored = bundle.weights_bytes
    made = limits.activations(height, width, stored // 2)
    return _FRAMEWORKS + _A_CORE * cores.available() + _TIMES * stored + _ACTIVATIONS * made


def enforce(bundle: Bundle, seconds: float) -> None:
    """Have the kernel hold this very process to it, as far as it can.

    Args:
        bundle: what it converts.
        seconds: that it may take by the clock, on all cores.
    """
    if resource is None:
        return
    most: dict[int, int] = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_CPU: int(seconds + 1) * max(1, cores.available()),
    }
    if sys.platform == "linux" and (resident := memory(bundle)) is not None:
        most[resource.RLIMIT_DATA] = _MAPPED * resident
    limits.lower(most)


def wait(process: subprocess.Popen[bytes], seconds: float, most: int | None) -> int:
    """Wait until a process ends, and look meanwhile at the memory that it takes.

    Args:
        process: the process, which goes on where this raises.
        seconds: that it may take.
        most: bytes that it may have resident; None: any number.

    Returns:
        Its exit code.

    Raises:
        subprocess.TimeoutExpired: it has not ended in time.
        MemoryError: it has more than `most` bytes resident.
    """
    if most is None:
        return process.wait(seconds)
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        try:
            return process.wait(min(_POLL, max(0.0, left)))
        except subprocess.TimeoutExpired:
            if left <= _POLL:
                raise
        if _resident(process.pid) > most:
            raise MemoryError(f"{most} bytes")


def _resident(pid: int) -> int:
    """Bytes of memory that a process has resident, without what it shares with files; 0 where that is not told."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text("ascii").split()
        # In order: mapped, resident, of that shared.
        return (int(pages[1]) - int(pages[2])) * resource.getpagesize()
    except (OSError, ValueError, IndexError, AttributeError):
        return 0
