"""What runs here: the versions of the service, of Python, and of what computes."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

from glimpse import __version__

VERSION = __version__
# By the names that they have here, each with its distributions: TensorFlow has one for CPUs alone.
_RUNTIMES = {
    "openvino": ("openvino",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "jax": ("jax",),
    "torch": ("torch",),
}


@cache
def version(*distributions: str) -> str:
    """The version of the first of them that is installed; empty where none is."""
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def information() -> dict[str, str]:
    """Versions by name; empty: it is not installed."""
    return {
        "version": VERSION,
        "python": platform.python_version(),
        "grpc": version("grpcio"),
        **{name: version(*distributions) for name, distributions in _RUNTIMES.items()},
    }
