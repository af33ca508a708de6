"""How many processes a server has: as the settings say, or by the machine."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from glimpse.server.machine import cores, gpus
from glimpse.server.processes.startup import MemoryShortError, StartupError
from glimpse.server.runtime import memory_budget
from glimpse.server.runtime.gpus import is_for_cpus
from glimpse.server.runtime.memory_budget import MemoryBudget
from glimpse.server.runtimes import RUNTIMES, RuntimeRow
from glimpse.server.settings import Settings

# Resident in a worker that has nothing to do, of which a third is shared with others; images in flight come on top.
WORKER_BYTES = 84 << 20
_MANY = 16  # cores, from which on one process does not use them
_EACH = 8  # cores a worker, where the workers share them with a network that computes
_MOST = 16  # workers that are started where nobody says how many
# Workers for each core beside a GPU. An engine keeps one to two cores busy, and more workers than have cores to run on
# slow one another down: on 16 cores ten took in 20% more calls than fifteen.
_BESIDE_GPU = 5 / 8


class Plan(NamedTuple):
    """The processes of a server."""

    workers: int  # 1: one process with everything in it
    engines: int
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them; each engine is shown one of them alone


def planned(settings: Settings, *, cpus: int | None = None, devices: Sequence[str] | None = None) -> Plan:
    """How many processes these settings mean on this machine.

    Args:
        settings: those of the server.
        cpus: cores; None: those that this process may use.
        devices: GPUs that a runtime may use; None: those that are found.

    Raises:
        StartupError: expected; several processes are asked for, and that cannot be.
    """
    # Of a repository the processes are as many as somebody says.
    one = settings.workers == 1 or (settings.models is not None and not settings.workers)
    if devices is None:
        devices = () if one or not _computes_on_gpu(settings) else gpus.visible()
    workers = 1 if one else settings.workers or _workers(cpus or cores.available(), len(devices))
    if workers > 1 and sys.platform != "linux":
        raise StartupError(
            f"GLIMPSE_WORKERS is {workers}, but several processes can share a port on Linux only. Set it to 1."
        )
    if workers == 1 and settings.engines > 1:
        raise StartupError(
            f"GLIMPSE_ENGINES is {settings.engines}, but there is one worker, and so one process with everything in "
            "it. Set GLIMPSE_WORKERS to 2 or more, or GLIMPSE_ENGINES to 0."
        )
    if settings.models is not None:  # one engine has all of its models
        devices = devices[:1]
    return Plan(workers, settings.engines or max(1, len(devices)), tuple(devices))


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


def device_of(engine: int, gpus: Sequence[str]) -> str:
    """The GPU of an engine, from 1 on, as CUDA_VISIBLE_DEVICES names it."""
    return gpus[(engine - 1) % len(gpus)]


def _workers(cpus: int, gpus: int) -> int:
    if sys.platform != "linux":
        return 1
    if gpus:
        return max(2, min(_MOST, int(cpus * _BESIDE_GPU)))
    return min(_MOST, max(1, cpus // _EACH)) if cpus >= _MANY else 1


def _computes_on_gpu(settings: Settings) -> bool:
    """Whether the runtime may be one for GPUs: its package is installed, and not as a build for CPUs alone."""
    rows: Iterable[RuntimeRow] = RUNTIMES.values() if settings.runtime == "auto" else [RUNTIMES[settings.runtime]]
    return any(row.gpu_probe and all(map(find_spec, row.packages)) and not is_for_cpus(row) for row in rows)
