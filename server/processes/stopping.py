"""Told to stop before there is anything to drain: from the first moment of the program, before the rest is imported.

Imported first of all, so it imports next to nothing. What remains without an answer are the some hundredths of a second
in which Python itself starts.
"""

from __future__ import annotations

import os
import signal
import sys

STOPPED = 0  # the exit code of a server that was told to stop


def exit_code(number: int, *, prepares: bool) -> int:
    """The exit code of a program that was told to stop by that signal.

    A server that is told to stop has done what it was told. Where a model was to be prepared it is not: 128 and the
    signal's number, as shells have it, so that nobody takes the work for done.
    """
    return 128 + number if prepares else STOPPED


def obey_at_once() -> None:
    """End the process on SIGTERM and SIGINT; there is nothing yet to clean up."""
    prepares = sys.argv[1:2] == ["prepare"]

    def stop(number: int, _: object) -> None:
        os._exit(exit_code(number, prepares=prepares))

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def is_program(module: str) -> bool:
    """Whether a module of this name is the program itself, run by ``-m`` or by the script that pip makes."""
    return module == "__main__" or os.path.basename(sys.argv[0]).startswith("glimpse-server")  # noqa: PTH119 - pathlib takes a while to import


def end_children() -> None:
    """Kill what this process began and what goes on: none of it is of use without it.

    Those that are known have been ended before; here go those that a library waits for. Only Linux tells them.
    """
    ours = str(os.getpid())
    try:
        numbers = [name for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - the same
    except OSError:
        return
    for number in numbers:
        try:
            with open(f"/proc/{number}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - the same
                # 13 (a name) S 12 ...: state and parent come behind the name, which may have anything in it.
                state, parent = file.read().rpartition(")")[2].split()[:2]
            if parent == ours and state != "Z":
                os.kill(int(number), signal.SIGKILL)
        except (OSError, ValueError):
            continue
