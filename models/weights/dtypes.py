"""Arrays from the bytes of a file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A number format that NumPy lacks: the upper half of a float32.
BFLOAT16 = "bfloat16"


def numbers(data: bytes | memoryview, dtype: str) -> NDArray[np.generic]:
    """The numbers in `data`, read-only, without a copy where possible.

    Args:
        data: as many bytes as whole numbers need.
        dtype: as NumPy writes it, ``"<f4"``, or `BFLOAT16`, which becomes float32 with no loss.
    """
    if dtype != BFLOAT16:
        return np.frombuffer(data, dtype)
    wide: NDArray[Any] = np.frombuffer(data, "<u2").astype("<u4")
    wide <<= 16
    return wide.view("<f4")


def width(dtype: str) -> int:
    """Bytes of one number."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize
