"""The cores: how many the process may use, what they are, and how its threads take turns at them."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from glimpse.server.machine import control_groups

# The files of a control group with its quota and the period, in microseconds, by the version of the interface.
_FILES = {1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"), 2: ("cpu.max",)}
_UNLIMITED = ("-1", "max")


def available(membership: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores for computing, at least 1.

    More threads than that do not compute more: in a container with a quota they use it up early in each period, and
    then all of them stand still until the next.

    Args:
        membership: the file that names the process's control group.
        groups: where the control groups are mounted.
    """
    allowed = _allowed()
    return max(1, min(allowed, *(math.ceil(quota) for quota in _quotas(membership, groups)), allowed))


def processor(information: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor is and which instructions for vectors and matrices it has; equal texts compute alike.

    Args:
        information: the kernel's file about it, where there is one.
    """
    try:
        first = information.read_text("utf-8").strip().split("\n\n")[0]
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    about = [known[name] for name in ("vendor_id", "cpu family", "model", "model name") if name in known]
    # On ARM the flags are called features, and few enough to be named all.
    flags = known.get("flags", "").split()
    vectors = sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma", "sse")))
    return " ".join([platform.machine(), *about, *(vectors or known.get("Features", "").split())])


def share_in_long_turns() -> None:
    """Have the threads of this process, which they begin later, take turns at the ticks of the clock (SCHED_BATCH).

    Else each event of a call interrupts a thread that computes, to do little and leave it with cold caches: with a
    small network that costs a tenth of all CPU time. Where a core is free nobody waits.
    """
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or a container that forbids it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def take_turns_at_once() -> None:
    """Have the threads of this process run as soon as there is something to do (SCHED_OTHER, which all begin with).

    For whoever feeds a device: it costs little of a core, and while it waits for one the device waits, too.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _allowed() -> int:
    """Cores that the scheduler gives this process."""
    if sys.platform == "linux" and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows have no such call


def _quotas(membership: Path, groups: Path) -> Iterator[float]:
    """The number of cores that each control group of the process allows; nothing for a group without a quota."""
    for group, version in control_groups.of_process("cpu", membership, groups):
        try:
            quota, period = " ".join((group / name).read_text("utf-8") for name in _FILES[version]).split()
        except (OSError, ValueError):  # the root of the machine has no such file
            continue
        if quota not in _UNLIMITED:
            yield int(quota) / int(period)


def saturates() -> bool:
    """Whether this processor adds up products of int8 in 16 bits, as x86 did before VNNI, or may not do otherwise.

    Sums that are too large are cut off there, without a word.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
    return bool(limited) or "vnni" not in processor()
