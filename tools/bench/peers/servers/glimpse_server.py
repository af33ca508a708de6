"""Glimpse itself, as its users run it: `python -m glimpse.server` with the same weights, and no knob turned."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .work import Options, quantised

if __name__ == "__main__":
    options = Options.read()
    root, network = Path(__file__).parents[4], Path(options.network)
    served = quantised(network).parent if options.precision == "int8" else network.with_suffix(".bundle")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}",
        "GLIMPSE_WEIGHTS": str(served),
        "GLIMPSE_RUNTIME": options.runtime,
        "GLIMPSE_PRECISION": {"bf16": "bfloat16"}.get(options.precision, "float32"),
        "GLIMPSE_GOLDEN": "off",  # these weights are random
    }
    os.chdir(root)
    command = [sys.executable, "-m", "glimpse.server", "--host=127.0.0.1", f"--port={options.port}", "--metrics-port=0"]
    os.execve(sys.executable, command, environment)  # noqa: S606 - this very interpreter
