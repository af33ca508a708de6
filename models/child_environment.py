"""The environment of processes that run a module of ours with this Python."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path(__file__).parents[2]  # the folder that holds the package, wherever it is installed


def child_environment() -> dict[str, str]:
    """That of this process, in which a child finds the package as well; a copy, to which more may be added."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))}
