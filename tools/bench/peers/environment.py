"""A virtual environment for each peer: what they ask for does not go together, nor with what the service needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".cache" / "bench"
_SECONDS = 1800  # for an installation; Ray and Triton are hundreds of megabytes


class EnvironmentFailedError(RuntimeError):
    """The environment could not be made; the message ends with what pip said."""


def prepare(name: str, packages: tuple[str, ...], variables: Mapping[str, str] | None = None) -> Path:
    """The Python of the environment `name`, which is made where it is not there with exactly those packages.

    Without packages it is this very one. `variables` are for what has to be built.

    Raises:
        EnvironmentFailedError: it could not be installed.
    """
    if not packages:
        return Path(sys.executable)
    folder = CACHE / name
    python = folder / "bin" / "python"
    stamp = folder / "packages.json"
    wanted = json.dumps(sorted(packages))
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Installing {name} into its own environment; the first time takes minutes.", file=sys.stderr)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Installed, not measured: whoever else uses the machine goes first.
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], [*pip, *packages]):
        try:
            subprocess.run(
                ["nice", *command],  # noqa: S607 - wherever the system has it
                check=True,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                env={**os.environ, **(variables or {})},
            )
        except subprocess.CalledProcessError as error:
            said = [line for line in error.stderr.splitlines() if line.startswith("ERROR")] or [error.stderr]
            raise EnvironmentFailedError(f"{name} cannot be installed: {said[0].strip()[:300]}") from error
        except subprocess.TimeoutExpired as error:
            raise EnvironmentFailedError(f"{name} was not installed within {_SECONDS} s.") from error
    stamp.write_text(wanted)
    return python


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """The versions that the environment really has, by the names of the packages."""
    names = [package.split("==")[0].split("[")[0] for package in packages]
    script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    told = subprocess.run([str(python), "-c", script, *names], check=True, capture_output=True, text=True, timeout=60)
    found: dict[str, str] = json.loads(told.stdout)
    return found
