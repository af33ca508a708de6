"""Rounding of widths that a multiplier makes."""

from __future__ import annotations


def eighths(width: float) -> int:
    """The multiple of 8 nearest to `width`, but not a tenth less: as MobileNetV2's own implementation rounds."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8
