"""Reads every file of attacks under limits: ``python -m tests.models.held HOW [PART OF A NAME]``, a line of JSON each.

HOW is ``here``, where the readers run in this very process; ``apart``, as everybody reads; or ``own``, for whole models
of Keras. A test that fails harms this process alone. A line has the attack's ``name``, ``said``, the message of a
`WeightsError`, ``raised``, the kind of any other error, ``tensors``, how many were read, and ``peak``, the memory that
this process had resident meanwhile, or the one that read for it; in bytes.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glimpse.models.weights import WeightsError, read

_MEMORY = 3 << 30
_SECONDS = 300


def main() -> None:
    """Run."""
    how, part = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    makers, reading = _chosen(how)
    for name, make in makers.items():
        if part in name:
            with tempfile.TemporaryDirectory() as folder:
                sys.stdout.write(json.dumps({"name": name, **_outcome(make, reading, Path(folder))}) + "\n")
                sys.stdout.flush()


def _chosen(how: str) -> tuple[Mapping[str, Callable[[Path], Path]], Callable[[Path], int]]:
    if how == "own":
        from glimpse.models import keras_files
        from glimpse.models.prestem.recipe import Recipe
        from tests.models.keras_attacks import MODELS
        from tests.models.keras_makers import CLASSES, SIZE

        recipe = Recipe(height=SIZE, width=SIZE)
        return MODELS, lambda path: keras_files.load(path, recipe=recipe, classes=CLASSES).model.count_params()
    from tests.models.attacks import ALL
    from tests.models.weight_makers import parsed

    return ALL, lambda path: len(parsed(path) if how == "here" else read(path))


def _outcome(make: Callable[[Path], Path], reading: Callable[[Path], int], folder: Path) -> dict[str, Any]:
    path = make(folder)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # from here on the peak counts
    before = _resident("VmRSS")
    said = raised = ""
    tensors = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensors = reading(path)
    except WeightsError as error:
        said = str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test is to see it
        raised = f"{type(error).__name__}: {error}"[:300]
    # The largest so far; it counts from before a process begins its own program, when it is a copy of this one.
    children = max(0, (resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10) - before)
    grown = _resident("VmHWM") - before
    return {"said": said, "raised": raised, "tensors": tensors, "peak": max(grown, children)}


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()
