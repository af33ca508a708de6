"""Pictures for networks that need no photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def noise(number: int) -> NDArray[np.uint8]:
    """Pictures of coarse patches, which differ from one another."""
    random = np.random.default_rng(1)
    return np.repeat(np.repeat(random.integers(0, 256, (number, 4, 4, 3), np.uint8), 8, axis=1), 8, axis=2)
