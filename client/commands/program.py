"""The name by which this program was called, for hints and examples that can be typed as they stand."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

_INSTALLED = "glimpse"
_FILE = "cli.py"  # by which a clone has the program


def name() -> str:
    """``client/cli.py``, with the path that was typed, where it is run as a file; else ``glimpse``."""
    called = sys.argv[0]
    return shlex.quote(called) if Path(called).name == _FILE else _INSTALLED


def called(command: str) -> str:
    """A command line that says ``glimpse``, with the name by which the program was called in its place."""
    return re.sub(rf"(?<!\S){_INSTALLED}(?= )", lambda _: name(), command)
