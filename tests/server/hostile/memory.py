"""How much memory a process and its children have and had, from Linux' /proc."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peaks of memory are read from /proc, which only Linux has"
)
MIB = 1 << 20


def processes(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += processes(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has just ended
    return found


def resident(pid: int) -> int:
    """Bytes of memory that the process and its children hold now."""
    return sum(_read(each, "VmRSS") for each in processes(pid))


def peak(pid: int) -> int:
    """The most bytes that each of them held since `forget_peak`, added up: at least the peak of their sum."""
    return sum(_read(each, "VmHWM") for each in processes(pid))


def forget_peak(pid: int) -> None:
    """Begin to look for the peak anew."""
    for each in processes(pid):
        Path(f"/proc/{each}/clear_refs").write_text("5")


def _read(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)
