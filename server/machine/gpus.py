"""The GPUs of NVIDIA that this process may use and their memory, without importing a framework or touching a GPU.

A framework that is asked opens each GPU, which takes seconds and memory of it; a process that starts others must not.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_PROGRAM = "nvidia-smi"
_PATIENCE = 10.0  # seconds; a driver that hangs lets nvidia-smi hang
_UUID = re.compile(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)")
_MIB = 1 << 20


class GpuMemory(NamedTuple):
    """The memory of one GPU, all processes together, in bytes."""

    total: int
    used: int
    free: int

    def __str__(self) -> str:
        return (
            f"The GPU has {self.total // _MIB} MiB of memory; {self.used // _MIB} MiB of it are in use, those of this "
            f"and of all other processes together, and {self.free // _MIB} MiB are free."
        )


def visible(
    environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev"), program: str = _PROGRAM
) -> tuple[str, ...]:
    """The GPUs that a process started by this one could use, each by a name that CUDA_VISIBLE_DEVICES understands.

    If CUDA_VISIBLE_DEVICES is set, these are its entries up to the first that CUDA does not accept, as CUDA reads it.
    Else they are the UUIDs that ``nvidia-smi -L`` lists; of a GPU that is divided (MIG), those of its parts. Without
    nvidia-smi they are numbers, as many as there are device files.

    Args:
        environment: the variables of the process.
        devices: the folder of device files.
        program: the name or path of nvidia-smi.

    Returns:
        For example ``("GPU-5d2d...", "GPU-9a01...")`` or ``("0", "1")``; empty where there is no GPU.
    """
    present = _listed(program) or _numbered(devices)
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not present:
        return present
    found: list[str] = []
    for entry in (each.strip() for each in chosen.split(",")):
        if not _valid(entry, present) or entry in found:
            # CUDA shows no GPU at all where one is named twice, and ignores what follows an entry that it rejects.
            return () if entry in found else tuple(found)
        found.append(entry)
    return tuple(found)


def may_be_there(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> bool:
    """Whether this process may have a GPU, by device files alone: sooner than `visible` tells, for estimates.

    Args:
        environment: the variables of the process.
        devices: the folder of device files.
    """
    return environment.get("CUDA_VISIBLE_DEVICES", "0").strip() not in {"", "-1"} and bool(_numbered(devices))


def memory(device: str = "", environment: Mapping[str, str] = os.environ, program: str = _PROGRAM) -> GpuMemory | None:
    """The memory of one GPU.

    Args:
        device: one of `visible`; empty: the first of them.
        environment: the variables of the process, for the first.
        program: the name or path of nvidia-smi.

    Returns:
        None where nvidia-smi is missing, or does not tell it: of a part of a divided GPU, for example.
    """
    device = device or next(iter(visible(environment, program=program)), "")
    if not device or device.startswith("MIG-"):
        return None
    query = ("--query-gpu=memory.total,memory.used,memory.free", "--format=csv,noheader,nounits", f"--id={device}")
    numbers = _output(program, *query).strip().split(",")
    if len(numbers) != len(GpuMemory._fields) or not all(number.strip().isdecimal() for number in numbers):
        return None
    return GpuMemory(*(int(number) * _MIB for number in numbers))


def _valid(entry: str, present: tuple[str, ...]) -> bool:
    """Whether CUDA accepts an entry: a number of a GPU, or the beginning of a UUID."""
    if entry.isdecimal():
        return int(entry) < len(present)
    if entry.startswith(("GPU-", "MIG-")):
        known = [each for each in present if each.startswith(("GPU-", "MIG-"))]
        # Without nvidia-smi nobody knows the UUIDs; and older names of parts, MIG-GPU-..., are listed nowhere.
        return not known or entry.startswith("MIG-GPU-") or any(each.startswith(entry) for each in known)
    return False


def _listed(program: str) -> tuple[str, ...]:
    """The UUIDs that nvidia-smi lists; a GPU whose parts are listed behind it is left out."""
    found: list[str] = []
    whole = False  # the last of them is a whole GPU
    for uuid in _UUID.findall(_output(program, "-L")):
        if uuid.startswith("MIG-") and whole:
            found.pop()
        whole = uuid.startswith("GPU-")
        found.append(uuid)
    return tuple(found)


def _numbered(devices: Path) -> tuple[str, ...]:
    """As many numbers as there are device files. CUDA counts from 0, whatever the numbers of the files."""
    try:
        files = [each for each in devices.iterdir() if re.fullmatch(r"nvidia\d+", each.name)]
    except OSError:
        return ()
    return tuple(map(str, range(len(files))))


def _output(program: str, *arguments: str) -> str:
    """What nvidia-smi prints; empty where it is missing, fails or hangs."""
    try:
        ended = subprocess.run(  # noqa: S603 - the program is ours to name
            [program, *arguments], capture_output=True, text=True, check=False, timeout=_PATIENCE, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout if ended.returncode == 0 else ""
