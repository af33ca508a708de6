"""Which runtime computes: the one that is named, or the fastest that is installed for the device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import TypeVar

import structlog

from glimpse.models.bundle import Bundle
from glimpse.server.runtime import UnsupportedNetworkError
from glimpse.server.runtimes import RUNTIMES, RuntimeName, RuntimeRow
from glimpse.server.settings.kinds import RuntimeChoice

T = TypeVar("T")
# With any of these the user says how JAX is to take memory of a GPU.
_JAX_MEMORY = (
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)
_log = structlog.get_logger(__name__)


def choose(wanted: RuntimeChoice) -> tuple[RuntimeName, ...]:
    """The runtimes to build with, best first, and Keras told of their backend; call it before Keras is imported.

    A name stands for itself alone; ``auto`` for what is installed and builds on the same backend as the first.

    Raises:
        ValueError: it is not installed.
    """
    _take_gpu_memory_as_needed()
    if wanted == "auto":
        found = _installed_on_gpu() or tuple(
            row.name for row in RUNTIMES.values() if not row.simulated and not _missing(row)
        )
        if not found:
            raise ValueError("No runtime is installed. Install one with pip install 'glimpse-serve[server]'")
    else:
        row = RUNTIMES[wanted]
        if missing := _missing(row):
            raise ValueError(
                f"The runtime {wanted} needs {' and '.join(missing)}, which is not installed. Install it with pip "
                f"install 'glimpse-serve[{row.extra}]', or set GLIMPSE_RUNTIME to auto."
            )
        found = (wanted,)
    backend = RUNTIMES[found[0]].backend
    if backend is None:  # it reads no Keras model
        return found
    os.environ["KERAS_BACKEND"] = backend
    if "keras" in sys.modules and (loaded := sys.modules["keras"].backend.backend()) != backend:
        raise ValueError(f"The runtime {found[0]} needs Keras on {backend}; this process has loaded it on {loaded}.")
    return tuple(name for name in found if RUNTIMES[name].backend == backend)


def able(names: tuple[RuntimeName, ...], bundle: Bundle, *, auto: bool = False) -> tuple[RuntimeName, ...]:
    """Those of the runtimes that can compute a model: all of them, but for a graph of another framework.

    `auto`: nobody has named a runtime, so that another one that is installed may take their place; a log line says so.

    Raises:
        ValueError: none of them can; the message says what to do.
    """
    if not bundle.graph:
        return names
    found = tuple(name for name in names if RUNTIMES[name].reads_converted or RUNTIMES[name].simulated)
    if found:
        return found
    reads = [row for row in RUNTIMES.values() if row.reads_converted]
    installed = tuple(row.name for row in reads if not _missing(row))
    if auto and installed:
        _log.warning(
            "slower runtime",
            runtime=installed[0],
            instead_of=names[0],
            detail=f"{bundle.weights_path} is a graph of another framework, which is computed on CPUs alone.",
        )
        return installed
    wanted = reads[0].name
    raise ValueError(
        f"{bundle.weights_path} is a graph of another framework, which the runtime {wanted} computes, on CPUs "
        f"alone. Received: {', '.join(names)}. Set GLIMPSE_RUNTIME={wanted} (pip install {wanted}); to compute on "
        "a GPU, name an architecture of the library with GLIMPSE_MODEL, if the graph is one."
    )


def first(names: tuple[RuntimeName, ...], attempt: Callable[[RuntimeName], T]) -> T:
    """What `attempt` gives for the first of the runtimes that can; a warning says why a better one is passed over.

    Raises:
        UnsupportedNetworkError: none of them can.
    """
    for name, following in zip(names, [*names[1:], None], strict=True):
        try:
            return attempt(name)
        except UnsupportedNetworkError as error:
            if following is None:
                raise
            _log.warning("slower runtime", runtime=following, instead_of=name, detail=str(error))
    raise ValueError("No runtime was named.")


def _take_gpu_memory_as_needed() -> None:
    """Have JAX and TensorFlow take memory of a GPU as they need it, unless the user has said how much they take.

    Else JAX takes three quarters of it at the first touch and TensorFlow nearly all, and every other process on the
    same GPU runs out of memory. They read this when they first touch the GPU.
    """
    if not any(name in os.environ for name in _JAX_MEMORY):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def _missing(row: RuntimeRow) -> tuple[str, ...]:
    return tuple(package for package in row.packages if find_spec(package) is None)


def _installed_on_gpu(driver: Path = Path("/proc/driver/nvidia/version")) -> tuple[RuntimeName, ...]:
    """The first runtime that sees a GPU. It is asked only where there is a driver for one, for that takes seconds."""
    if not driver.exists():
        return ()
    able = ((row.name, row.gpu_probe) for row in RUNTIMES.values() if row.gpu_probe and not _missing(row))
    return next(((name,) for name, probe in able if resolve_name(probe)()), ())
