"""The control groups (cgroups) of this process, which hold the limits of its container. Linux only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Group(NamedTuple):
    """A control group."""

    folder: Path  # with the files of its limits and counters
    version: int  # of the control groups' interface, 1 or 2, on which the names of those files depend


def of_process(
    controller: str, membership: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> Iterator[Group]:
    """The groups whose limits apply to this process: its own, and each group around it up to the root.

    In a container the root is the container's own group, and the path of the process's group may not exist in it.

    Args:
        controller: what the limits are of, for example ``memory`` or ``cpu``.
        membership: the file that names the groups of the process.
        mounted: the folder in which the control groups are mounted.
    """
    try:
        lines = membership.read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", maxsplit=2)
        if controllers == "":
            top, version = mounted, 2
        elif controller in controllers.split(","):
            top, version = mounted / controller, 1
        else:
            continue
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            yield Group(folder, version)
            if folder == top:
                break
