"""A program and all that it starts, wherever that has gone: what they use, and their end for certain (Linux).

Ray's and Triton's processes leave their parent's group and outlive it. All of them inherit the environment, so a mark
in it finds them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

_MARK = "GLIMPSE_BENCH_MARK"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GRACE = 20.0  # seconds to end after SIGTERM
_LIMIT = 60.0  # seconds to end after SIGKILL; only the kernel can hold a process longer


class Program:
    """One program under a mark of its own; its output goes to a file."""

    def __init__(
        self, command: list[str], *, folder: Path, environment: Mapping[str, str], log: Path, grace: float = _GRACE
    ) -> None:
        """Start it in `folder` with exactly that environment; `grace` is the time it gets to end by itself."""
        self._grace = grace
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environment, name: value},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self) -> Iterator[int]:
        """All processes that carry the mark."""
        mark = self._mark.encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)
            except OSError:  # ended, or somebody else's
                continue

    def cpu_seconds(self) -> dict[int, float]:
        """What each process has used, user and system."""
        used = {}
        for pid in self.pids():
            try:
                stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            except OSError:
                continue
            # After the name, which is in brackets and may hold anything: utime and stime are the 12th and 13th.
            fields = stat.rpartition(")")[2].split()
            used[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
        return used

    def resident_bytes(self) -> int:
        """Memory of all processes; pages that they share are counted in each."""
        total = 0
        for pid in self.pids():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
            except OSError:
                continue
        return total

    def proportional_bytes(self) -> int:
        """Memory of all processes; a page that n of them share counts 1/n in each. Dearer to ask for."""
        total = 0
        for pid in self.pids():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        return total

    def last_words(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace").strip()[-800:]

    def close(self) -> None:
        """End all of it; returns when none is left.

        Raises:
            TimeoutError: the kernel holds some of it.
        """
        # The first alone: it knows in which order its own end, and what they leave in shared memory.
        if self.process.poll() is None:
            self.process.terminate()
        end = time.monotonic() + self._grace
        while time.monotonic() < end and self._left():
            time.sleep(0.1)
        while left := self._left():
            if time.monotonic() > end + _LIMIT:
                raise TimeoutError(f"Processes {left} did not end when killed.")
            # Again and again: one that ends may have started another just before.
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        self.process.wait()

    def _left(self) -> list[int]:
        self.process.poll()
        return list(self.pids())

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all of it."""
        self.close()
