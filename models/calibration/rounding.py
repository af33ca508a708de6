"""The digits in which a temperature and a threshold are written."""

from __future__ import annotations

from typing import Final

import numpy as np

DIGITS: Final = 4  # behind the point


def rounded_up(threshold: float) -> float:
    """With few digits, and not below what it was, so that the image that it was taken from still passes."""
    scale = 10**DIGITS
    return float(np.ceil(threshold * scale) / scale)
