"""The machine that is measured on, and what a process has used of it, from /proc (Linux)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Instructions that decide how fast a network runs on the CPU.
_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
_PACKAGES = (
    "tensorflow-cpu",
    "tensorflow",
    "openvino",
    "onnxruntime",
    "torch",
    "jax",
    "keras",
    "numpy",
    "pillow",
    "grpcio",
    "protobuf",
)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, that a process and its descendants have used since they began.

    Of a child that has ended it is in the parent's account, once the parent has waited for it.

    Raises:
        OSError: expected; there is no such process.
    """
    return _used(pid) + descendants_cpu_seconds(pid)


def descendants_cpu_seconds(pid: int) -> float:
    """The same of the living descendants alone."""
    total = 0.0
    for child in _children(pid):
        try:
            total += cpu_seconds(child)
        except OSError:  # it has ended between the two looks
            continue
    return total


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; pages that they share are counted once each.

    Raises:
        OSError: expected; there is no such process.
    """
    total = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    for child in _children(pid):
        try:
            total += rss_bytes(child)
        except OSError:
            continue
    return total


def threads(pid: int) -> dict[int, tuple[str, float]]:
    """The threads of a process: id -> (name, CPU seconds so far)."""
    found = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
            found[int(folder.name)] = (name, _ticks(folder / "stat", slice(11, 13)))
        except OSError:
            continue
    return found


def tree(pid: int) -> list[int]:
    """A process and its living descendants."""
    return [pid, *(each for child in _children(pid) for each in tree(child))]


def command(pid: int) -> list[str]:
    """The words of a process's command line; none of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")[:-1]
    except OSError:
        return []


def description() -> dict[str, str]:
    """What a reader has to know to judge the figures."""
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE
    return {
        "CPU": f"{_cpuinfo('model name') or platform.machine()}, {cores()} cores",
        "instructions": " ".join(_instructions()) or "none of note",
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def versions() -> dict[str, str]:
    """The installed versions of what matters for speed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def busy_seconds() -> dict[str, float]:
    """What all cores have done since the machine began: seconds of ``busy``, and of ``stolen`` by its host."""
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    user, nice, system, _, _, interrupts, soft, stolen = (int(value) / _TICKS for value in fields[:8])
    return {"busy": user + nice + system + interrupts + soft, "stolen": stolen}


def _used(pid: int) -> float:
    return _ticks(Path(f"/proc/{pid}/stat"), slice(11, 15))


def _ticks(stat: Path, fields: slice) -> float:
    """The sum of some fields, from 0 for the state: 11 utime, 12 stime, 13 and 14 of ended children."""
    # The name, in brackets, may hold spaces and brackets of its own.
    values = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return sum(int(value) for value in values[fields]) / _TICKS


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from (int(child) for child in task.read_text(encoding="ascii").split())
        except OSError:
            continue


def _cpuinfo(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _instructions() -> list[str]:
    present = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [flag for flag in _FLAGS if flag in present]
