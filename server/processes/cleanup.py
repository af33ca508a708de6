"""What a start would leave behind if it ended now, so that it can be told to end at any moment.

A start runs processes and makes folders that are of use only once they are complete. It does so in a thread, which
cannot be interrupted; whoever ends it ends its processes and removes its folders, and then it can begin nothing new.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

Process = subprocess.Popen[bytes]

_DEATH_SECONDS = 0.5  # for the kernel to take a process down, which may hold a gigabyte
_PATIENCE = 3  # attempts to remove a folder into which something is still written


class StoppedError(Exception):
    """Expected: the start was told to end meanwhile, so that nothing more may be begun."""


class Cleanup:
    """What there is to end and to remove. Safe to use from several threads."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._lock = threading.RLock()
        self._processes: set[Process] = set()
        self._paths: set[Path] = set()
        self._empty: list[Path] = []  # folders to be removed where nothing is in them, outer ones first
        self._over = False

    def run(self, begin: Callable[[], Process]) -> Process:
        """Begin a process, which has to lead a group of its own.

        Raises:
            StoppedError: expected; nothing is begun any more.
        """
        with self._lock:
            self.go_on()
            process = begin()
            self._processes.add(process)
            return process

    def make(self, create: Callable[[], Path | None]) -> Path | None:
        """Create a file or folder that is to be removed unless `settle` or `remove` comes first; None: none was made.

        Raises:
            StoppedError: expected; nothing is begun any more.
        """
        with self._lock:
            self.go_on()
            path = create()
            if path is not None:
                self._paths.add(path)
            return path

    def make_folders(self, folder: Path) -> None:
        """Create a folder and those around it, as far as they are missing; they are removed while they are empty.

        Raises:
            StoppedError: expected; nothing is begun any more.
            OSError: it cannot be created.
        """
        with self._lock:
            self.go_on()
            missing = [each for each in (folder, *folder.parents) if not each.exists()]
            self._empty.extend(reversed(missing))
            folder.mkdir(parents=True, exist_ok=True)

    def settle(self, path: Path, move: Callable[[], object]) -> None:
        """Move something to where it may stay; what `move` raises is passed on, and the path is still to be removed.

        Raises:
            StoppedError: expected; it has been removed.
        """
        with self._lock:
            self.go_on()
            move()
            self._paths.discard(path)

    def remove(self, path: Path) -> None:
        """Remove something now."""
        with self._lock:
            self._paths.discard(path)
            _remove(path)

    def forget(self, process: Process) -> None:
        """It has ended."""
        with self._lock:
            self._processes.discard(process)

    def end(self) -> None:
        """End every process with its group, remove every path, and let nothing begin any more."""
        with self._lock:
            self._over = True
            for process in self._processes:
                end(process)
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_DEATH_SECONDS)
            for path in self._paths:
                _remove(path)
            for folder in reversed(self._empty):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            self._processes.clear()
            self._paths.clear()
            self._empty.clear()

    def go_on(self) -> None:
        """Nothing, unless the start was told to end.

        Raises:
            StoppedError: expected; it was.
        """
        if self._over:
            raise StoppedError("The start was stopped.")


_current: ContextVar[Cleanup] = ContextVar("cleanup", default=Cleanup())  # noqa: B039 - what nobody ends


def current() -> Cleanup:
    """That of the start which this code is part of; where there is none, one that nobody ends."""
    return _current.get()


@contextlib.contextmanager
def within(cleanup: Cleanup) -> Iterator[None]:
    """Make it the current one while the block runs."""
    token = _current.set(cleanup)
    try:
        yield
    finally:
        _current.reset(token)


def end(process: Process) -> None:
    """Kill a process that leads a group of its own, with all that is in the group. Does not wait."""
    # Windows has no groups. A group is there while anything is in it, even when its leader has ended.
    with contextlib.suppress(AttributeError, OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # does nothing where it has ended


def _remove(path: Path) -> None:
    for _ in range(_PATIENCE):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
        if not path.exists():
            return
        time.sleep(0.05)
