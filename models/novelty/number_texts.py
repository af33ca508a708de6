"""Arrays of numbers as texts of base64, as a bundle's description has them. No framework is imported here."""

from __future__ import annotations

import base64
import binascii
import math

import numpy as np
from numpy.typing import NDArray


def write(values: NDArray[np.floating]) -> str:
    """The bytes of an array, as it is, in base64."""
    return base64.b64encode(values.tobytes()).decode("ascii")


def read(text: str, what: str, dtype: str, size: int) -> NDArray[np.float64]:
    """The numbers that a text stands for, float64 ``[size]``.

    Args:
        text: of base64.
        what: they are, for people: the beginning of the message where something is wrong with them.
        dtype: in which they were written, such as ``<f4``.
        size: how many there have to be.

    Raises:
        ValueError: it is no base64, or they are not so many finite numbers.
    """
    length = size * np.dtype(dtype).itemsize
    if len(text) != 4 * math.ceil(length / 3):
        raise ValueError(f"{what} must be base64 of {size:,} numbers of {dtype[1:]}")
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype).astype(np.float64)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{what} is not base64: {error}") from error
    if len(values) != size or not np.isfinite(values).all():
        raise ValueError(f"{what} must be {size:,} finite numbers")
    return values
