"""How many processes a server has: as the settings say, or by the machine."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from glimpse.server import cores
from glimpse.server.runtime import memory_budget
from glimpse.server.runtime.memory_budget import MemoryBudget
from glimpse.server.runtimes import RUNTIMES, RuntimeRow
from glimpse.server.settings import Settings
from glimpse.server.startup import MemoryShortError, StartupError

# Resident in a worker that has nothing to do, of which a third is shared with others; images in flight come on top.
WORKER_BYTES = 84 << 20
_MANY = 16  # cores, from which on one process does not use them
_EACH = 8  # cores a worker, where the workers share them with a network that computes
_MOST = 16  # workers that are started where nobody says how many


class Plan(NamedTuple):
    """The processes of a server."""

    workers: int  # 1: one process with everything in it
    engines: int
    gpus: bool  # an engine for each GPU, so that each is shown its own alone


def planned(settings: Settings, *, cpus: int | None = None, gpus: int | None = None) -> Plan:
    """How many processes these settings mean on this machine.

    Args:
        settings: those of the server.
        cpus: cores; None: those that this process may use.
        gpus: that a runtime may use; None: those that are found.

    Raises:
        StartupError: expected; several processes are asked for, and that cannot be.
    """
    gpus = (visible_gpus() if _computes_on_gpu(settings) else 0) if gpus is None else gpus
    workers = settings.workers or _workers(cpus or cores.available(), gpus)
    if workers > 1 and sys.platform != "linux":
        raise StartupError(
            f"GLIMPSE_WORKERS is {workers}, but several processes can share a port on Linux only. Set it to 1."
        )
    if workers == 1 and settings.engines > 1:
        raise StartupError(
            f"GLIMPSE_ENGINES is {settings.engines}, but there is one worker, and so one process with everything in "
            "it. Set GLIMPSE_WORKERS to 2 or more, or GLIMPSE_ENGINES to 0."
        )
    return Plan(workers, settings.engines or max(1, gpus), gpus > 0)


def check_memory(plan: Plan, budget: MemoryBudget | None = None) -> None:
    """Refuse more workers than there is memory for. What the model takes, the engine checks.

    Args:
        plan: what is to be started.
        budget: the memory that may be taken; None: what is found.

    Raises:
        MemoryShortError: expected; the message says how much they take, and how much there is.
    """
    budget = memory_budget.available() if budget is None else budget
    takes = plan.workers * WORKER_BYTES
    if budget is not None and takes > budget.free:
        raise MemoryShortError(
            f"{plan.workers} workers take about {takes >> 20} MiB of memory, {WORKER_BYTES >> 20} MiB each, but "
            f"{budget.free >> 20} MiB are free ({budget.limit}). Allow more memory, or lower GLIMPSE_WORKERS."
        )


def visible_gpus(devices: Path = Path("/dev"), visible: str | None = os.environ.get("CUDA_VISIBLE_DEVICES")) -> int:
    """NVIDIA devices that a framework would see, without asking one, which takes seconds."""
    found = sum(1 for each in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", each.name))
    return found if visible is None else min(found, len(_chosen(visible)))


def device_of(engine: int, visible: str | None = os.environ.get("CUDA_VISIBLE_DEVICES")) -> str:
    """The GPU of an engine, from 1 on, as CUDA_VISIBLE_DEVICES names it."""
    names = None if visible is None else _chosen(visible)
    return str(engine - 1) if names is None else names[(engine - 1) % len(names)]


def _chosen(visible: str) -> list[str]:
    """The devices of CUDA_VISIBLE_DEVICES, which ends at the first that is none."""
    names = []
    for name in (each.strip() for each in visible.split(",")):
        if not name or name.startswith("-"):
            break
        names.append(name)
    return names


def _workers(cpus: int, gpus: int) -> int:
    if sys.platform != "linux":
        return 1
    if gpus:
        return max(2, min(_MOST, cpus - 1))
    return min(_MOST, max(1, cpus // _EACH)) if cpus >= _MANY else 1


def _computes_on_gpu(settings: Settings) -> bool:
    """Whether the runtime may be one for GPUs: its package is installed, and not as a build for CPUs alone."""
    rows: Iterable[RuntimeRow] = RUNTIMES.values() if settings.runtime == "auto" else [RUNTIMES[settings.runtime]]
    return any(row.gpu_probe and all(map(find_spec, row.packages)) and not _for_cpus(row) for row in rows)


def _for_cpus(row: RuntimeRow) -> bool:
    if "tensorflow-cpu" not in row.distributions:
        return False
    try:
        metadata.version("tensorflow-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True
