"""Mutants by the thousand: processes of their own, watched for those that hang and those that die."""

from __future__ import annotations

import heapq
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from tests.server.hostile.mutants import numbered

HUNG = 30.0  # seconds on one file of a few kB, until it is called hung
_SHARE = 5000  # mutants for one process
# Freed memory goes back at once, so that a peak belongs to its own case.
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "MALLOC_MMAP_THRESHOLD_": "65536"}


@dataclass
class Findings:
    """What came of a set of mutants."""

    outcomes: Counter[str] = field(default_factory=Counter)  # "JPEG decoded", "PNG CORRUPT_IMAGE", ...
    defects: list[str] = field(default_factory=list)
    slowest: list[tuple[float, int]] = field(default_factory=list)  # seconds of processor time, number
    largest: list[tuple[int, int]] = field(default_factory=list)  # bytes of memory above what there was, number

    def report(self) -> str:
        """For people."""
        lines = [f"{self.outcomes.total()} mutants"]
        lines += [f"{count:8}  {name}" for name, count in sorted(self.outcomes.items())]
        lines += [f"{seconds:8.3f} s    {number}: {_told(number)}" for seconds, number in self.slowest]
        lines += [f"{size / 2**20:8.1f} MiB  {number}: {_told(number)}" for size, number in self.largest]
        return "\n".join(lines)


def decode_all(numbers: range) -> Findings:
    """Decode the mutants of these numbers, a process a core."""
    shares = [numbers[at : at + _SHARE] for at in range(0, len(numbers), _SHARE)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as watchers:
        return _together(watchers.map(_decode, shares))


def _decode(numbers: range) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "state")
        state.write_bytes(bytes(8))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.hostile", str(numbers.start), str(len(numbers)), state],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        seen = b""
        while True:
            try:
                out, err = process.communicate(timeout=HUNG)
                break
            except subprocess.TimeoutExpired:
                if state.read_bytes() == seen:
                    process.kill()
                seen = state.read_bytes()
        number = int.from_bytes(state.read_bytes(), "little")
    if process.returncode != 0:
        ended = f"{number}, {_told(number)}: ended its process with {process.returncode} (-9: it hung). {err}"
        return Findings(defects=[ended])
    found = json.loads(out)
    return Findings(
        Counter(found["outcomes"]),
        found["defects"],
        [(seconds, case) for seconds, case in found["slowest"]],
        [(size, case) for size, case in found["largest"]],
    )


def _together(parts: Iterable[Findings]) -> Findings:
    whole = Findings()
    for part in parts:
        whole.outcomes += part.outcomes
        whole.defects += part.defects
        whole.slowest = heapq.nlargest(5, whole.slowest + part.slowest)
        whole.largest = heapq.nlargest(5, whole.largest + part.largest)
    return whole


def _told(number: int) -> str:
    mutant = numbered(number)
    return f"{mutant.name} ({len(mutant.data)} bytes)"
