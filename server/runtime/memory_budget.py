"""Memory: what there is for a model, and what it takes. Refused before it is loaded is better than killed while it is.

Linux only; elsewhere nothing is known, and nothing refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from glimpse.models.bundle import Bundle
from glimpse.server.machine import control_groups
from glimpse.server.machine.control_groups import Group
from glimpse.server.processes.startup import MemoryShortError
from glimpse.server.runtimes import RuntimeRow

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# The files of a control group with its limit and what it uses, by the version of the interface.
_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
_UNLIMITED = 1 << 60  # version 1 of the control groups says "no limit" with a number near 2**63


class MemoryBudget(NamedTuple):
    """Memory that may still be taken."""

    free: int  # bytes
    limit: str  # what sets it, for people


def expected(bundle: Bundle, runtime: RuntimeRow, *, converted: bool, rows: int, images: int) -> int | None:
    """Bytes that loading a model takes at the most; None: its weights cannot be read, of which whoever does tells.

    Args:
        bundle: what is to be loaded.
        runtime: that it is loaded with.
        converted: whether its converted network is in the cache.
        rows: of staging, all workers together.
        images: that may be in flight, decoded.
    """
    copies = runtime.copies_converted if converted and runtime.copies_converted is not None else runtime.copies
    try:
        return needed(bundle, copies, rows=rows, images=images)
    except OSError:
        return None


def lack_for_another(bundle: Bundle, runtime: RuntimeRow) -> str:
    """What another converted network takes and what is free, where that is too little; else, or unknown, empty."""
    takes, budget = expected(bundle, runtime, converted=True, rows=0, images=0), available()
    if takes is None or budget is None or takes <= budget.free:
        return ""
    return f"about {mib(takes)} of memory, and {mib(budget.free)} are free ({budget.limit})"


def check(name: str, runtime: RuntimeRow, takes: int | None, budget: MemoryBudget | None) -> None:
    """Refuse a model for which there is not enough memory.

    Args:
        name: of the model.
        runtime: that it is loaded with.
        takes: bytes, from `expected`.
        budget: from `available`; None: not known.

    Raises:
        MemoryShortError: expected; the message names what it takes and what there is.
    """
    if budget is not None and takes is not None and takes > budget.free:
        raise MemoryShortError(
            f"Loading the model {name} with {runtime.name} takes about {mib(takes)} of memory, but "
            f"{mib(budget.free)} are free ({budget.limit}). Allow more memory, serve a smaller model, or lower "
            "GLIMPSE_MAX_IMAGES_IN_FLIGHT."
        )


def needed(bundle: Bundle, copies: float, *, rows: int, images: int) -> int:
    """Bytes that a model takes at the most, from what its weights file holds; the frameworks themselves not counted.

    Args:
        bundle: what is to be loaded.
        copies: of its parameters, as float32, that are held at once.
        rows: of staging, all workers together.
        images: that may be in flight, decoded.
    """
    stored = bundle.weights_bytes
    # Half floats are computed with as float32. Only safetensors tells at its beginning.
    half = b'"dtype":"F16"' in _head(bundle.weights_path) or b'"dtype":"BF16"' in _head(bundle.weights_path)
    picture = math.prod(bundle.recipe.pixels_shape)
    return int(stored * (2 if half else 1) * copies) + (rows + images) * picture


def available(root: Path = Path("/")) -> MemoryBudget | None:
    """The least that any of the limits leaves: the machine's, the container's and the process's own."""
    return min(_budgets(root), default=None)


def _budgets(root: Path) -> Iterator[MemoryBudget]:
    machine = _fields(root / "proc/meminfo")
    if "MemAvailable" in machine:
        yield MemoryBudget(machine["MemAvailable"] << 10, "the free memory of the machine")
    soft = _address_space()
    mapped = _fields(root / "proc/self/status").get("VmSize")
    if soft is not None and mapped is not None:
        yield MemoryBudget(max(0, soft - (mapped << 10)), "within the process's limit of address space")
    for group, version in _groups(root):
        limit, usage = _FILES[version]
        maximum, used = _number(group / limit), _number(group / usage)
        if maximum is not None and used is not None and maximum < _UNLIMITED:
            # What it keeps of files goes when somebody needs the memory.
            stat = _fields(group / "memory.stat")
            cache = stat.get("inactive_file", stat.get("total_inactive_file", 0))
            yield MemoryBudget(max(0, maximum - used + cache), "within the container's memory limit")


def _address_space() -> int | None:
    """Bytes of address space that the process may have; None: any number, or not known."""
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def killed_for_memory(root: Path = Path("/")) -> int:
    """How many processes the system has killed so far for want of memory, as far as it tells: a number to compare.

    The groups that hold this process count those of their own limit, the machine counts all.
    """
    groups = sum(_fields(group / "memory.events").get("oom_kill", 0) for group, _ in _groups(root))
    groups += sum(_fields(group / "memory.oom_control").get("oom_kill", 0) for group, _ in _groups(root))
    return groups + _fields(root / "proc/vmstat").get("oom_kill", 0)


def _groups(root: Path) -> Iterator[Group]:
    return control_groups.of_process("memory", root / "proc/self/cgroup", root / "sys/fs/cgroup")


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of lines like ``name: 12 kB``; empty where there is no such file."""
    try:
        words = [line.replace(":", " ").split() for line in path.read_text("utf-8").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}


def _number(path: Path) -> int | None:
    try:
        text = path.read_text("utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 16)


def mib(size: int) -> str:
    """Bytes, for people."""
    return f"{size / (1 << 20):.0f} MiB"
