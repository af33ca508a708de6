#!/usr/bin/env python3
"""The way to the commands, as the console script `glimpse` or as this file from a clone.

As a file it has to work from any folder and with any `python3` that happens to come first on the PATH, so it needs
nothing but the standard library until it has found an interpreter that has the rest: the one it runs in, or that of
the clone's own `.venv`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

FILE = Path(__file__).resolve()
ROOT = FILE.parent.parent
NEEDED = ("grpc", "grpc_status", "rich", "typer")  # grpc_status brings protobuf and its common types
OLDEST_PYTHON = (3, 11)
NOT_SET_UP = 8  # `client.commands.exits.Exit.NOT_SET_UP`, which cannot be imported before there is a typer


def main() -> None:
    """Run the command line and exit."""
    # gRPC writes its own log to stderr, for example that a server offers no health; what it means for a call comes back
    # as that call's error. Whoever sets the variable gets to see it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from glimpse.client.commands import standard

    standard.prepare()
    try:
        with standard.checked():
            from glimpse.client.commands.app import app

            app()
    except KeyboardInterrupt:  # so early that no command had begun
        sys.exit(130)


def find_packages() -> None:
    """Make the imports work: from the clone itself, and in `.venv`'s interpreter where this one lacks packages."""
    # Python put the folder of this file on the path, where nothing is to be found; `glimpse` is in src.
    sys.path[:] = [str(ROOT / "src"), *(entry for entry in sys.path if entry != str(FILE.parent))]
    missing = _missing()
    if not missing:
        return
    home = ROOT / ".venv"
    python = home / "bin" / "python"
    if Path(sys.prefix).resolve() == home.resolve():
        wait = "if `make serve` is installing them, wait for it"
        _give_up(f"{home} lacks {', '.join(missing)}; {wait}, else run `make client` in {ROOT}.")
    if not os.access(python, os.X_OK):
        lacking = f"{sys.executable} lacks {', '.join(missing)}, and there is no {home}"
        _give_up(f"{lacking}; run `make serve` or `make client` in {ROOT} first.")
    # By the path that was typed, where that is this file: hints and examples show it.
    called = sys.argv[0] if Path(sys.argv[0]).resolve() == FILE else str(FILE)
    os.execv(python, [str(python), called, *sys.argv[1:]])  # noqa: S606  (no shell is the point)


def _missing() -> list[str]:
    if sys.version_info < OLDEST_PYTHON:
        return ["Python {}.{}".format(*OLDEST_PYTHON)]
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def _give_up(message: str) -> NoReturn:
    if sys.stderr is not None:  # closed
        sys.stderr.write(message + "\n")
    sys.exit(NOT_SET_UP)


if __name__ == "__main__":
    find_packages()
    main()
