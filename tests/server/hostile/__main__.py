"""`python -m tests.server.hostile FIRST COUNT STATE`: decode mutants in a process of their own, and say what they cost.

The number under way is kept in the file STATE, so that it is known when the process dies with it. On stdout comes one
JSON object: outcomes by format, defects, and the most expensive cases in time and memory.
"""

from __future__ import annotations

import heapq
import json
import mmap
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from glimpse.server.decoding.prepare import prepare
from glimpse.server.domain import EncodedImage
from glimpse.server.errors import InvalidImageError
from tests.server.hostile.memory import forget_peak, peak, resident
from tests.server.hostile.mutants import Mutant, numbered

KEPT = 5  # of the most expensive


def outcome(mutant: Mutant) -> str:
    """`decoded` or the reason of the refusal.

    Raises:
        Exception: a defect: anything that is not a refusal, and a picture that is not what was asked for.
    """
    try:
        pixels = prepare(EncodedImage(mutant.data), mutant.recipe, mutant.limits).pixels
    except InvalidImageError as error:
        return error.reason.value
    if pixels.dtype != np.uint8 or pixels.shape != (mutant.recipe.height, mutant.recipe.width, 3):
        raise AssertionError(f"asked for {mutant.recipe}, got {pixels.dtype} {pixels.shape}")
    return "decoded"


def main(first: int, count: int, state: Path) -> None:
    """Decode the mutants of these numbers."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # as the server does
    pid = os.getpid()
    outcomes: Counter[str] = Counter()
    defects: list[str] = []
    slowest: list[tuple[float, int]] = []
    largest: list[tuple[int, int]] = []
    with state.open("r+b") as file, mmap.mmap(file.fileno(), 8) as under_way:
        for number in range(first, first + count):
            under_way[:] = number.to_bytes(8, "little")
            mutant = numbered(number)
            forget_peak(pid)
            before, begun = resident(pid), time.thread_time()
            try:
                result = outcome(mutant)
            except Exception:  # noqa: BLE001 - finding what else there is, is what this is for
                result = "DEFECT"
                defects.append(f"{number}, {mutant.name}: {traceback.format_exc(limit=-3)}")
            slowest = heapq.nlargest(KEPT, [*slowest, (time.thread_time() - begun, number)])
            largest = heapq.nlargest(KEPT, [*largest, (peak(pid) - before, number)])
            outcomes[f"{mutant.name.split()[0]} {result}"] += 1
    json.dump({"outcomes": outcomes, "defects": defects, "slowest": slowest, "largest": largest}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
