"""A server as on another system, which ``SYSTEM`` names: ``python -m tests.server.elsewhere``, with a server's flags.

What that system's Python lacks is taken away before anything of ours is imported: modules, functions, signals, and the
event loop's way to listen for signals.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from importlib.abc import MetaPathFinder
from typing import Any

LACKING = {
    "macos": {"modules": (), "os": ("sched_getaffinity", "sched_setscheduler", "SCHED_BATCH", "sched_param")},
    "windows": {
        "modules": ("resource", "fcntl", "uvloop", "pwd", "grp", "termios"),
        "os": (
            *("sched_getaffinity", "sched_setscheduler", "SCHED_BATCH", "sched_param", "geteuid", "getuid"),
            *("killpg", "getpgid", "setpgid", "fork"),
        ),
    },
}
_SIGNALS = ("SIGKILL", "SIGIO", "SIGHUP", "SIGUSR1")


class Missing(MetaPathFinder):
    """Finds nothing, for good."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def find_spec(self, name: str, *_: object) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def take_away(system: str) -> None:
    """Make this process one of that system, as far as Python code can tell."""
    lacking = LACKING[system]
    for name in lacking["modules"]:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Missing(*lacking["modules"]))
    for name in lacking["os"]:
        delattr(os, name)
    if system == "macos":
        return
    for name in _SIGNALS:
        delattr(signal, name)

    def kill(process: subprocess.Popen[bytes]) -> None:  # Windows has a call for it
        if process.poll() is None:
            os.kill(process.pid, 9)

    subprocess.Popen.kill = kill  # type: ignore[assignment,method-assign]

    class Library(ctypes.CDLL):
        def __init__(self, name: str | None, *arguments: Any, **options: Any) -> None:
            if name is None:
                raise TypeError("the name of a library is wanted")
            super().__init__(name, *arguments, **options)

    ctypes.CDLL = Library  # type: ignore[misc]

    def refuse(*_: object) -> None:
        raise NotImplementedError

    asyncio.SelectorEventLoop.add_signal_handler = refuse  # type: ignore[assignment,method-assign]
    asyncio.SelectorEventLoop.remove_signal_handler = refuse  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    take_away(os.environ["SYSTEM"])
    from glimpse.server import __main__ as program

    sys.exit(program.main())
