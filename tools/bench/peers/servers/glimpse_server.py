"""Glimpse itself, as its users run it: `python -m glimpse.server` with the same weights, and no knob turned."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .work import Options

if __name__ == "__main__":
    options = Options.read()
    root = Path(__file__).parents[4]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}",
        "GLIMPSE_WEIGHTS": f"{options.network}.bundle",
        "GLIMPSE_RUNTIME": options.runtime,
        "GLIMPSE_PRECISION": {"f32": "float32", "bf16": "bfloat16"}[options.precision],
        "GLIMPSE_GOLDEN": "off",  # these weights are random
    }
    os.chdir(root)
    command = [sys.executable, "-m", "glimpse.server", "--host=127.0.0.1", f"--port={options.port}", "--metrics-port=0"]
    os.execve(sys.executable, command, environment)  # noqa: S606 - this very interpreter
