"""What runs here: the versions of the service, of Python, and of what computes."""

from __future__ import annotations

import platform
from importlib import metadata

_DISTRIBUTION = "glimpse-serve"
# By the names that they have here, each with its distributions: TensorFlow has one for CPUs alone.
_RUNTIMES = {
    "openvino": ("openvino",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "jax": ("jax",),
    "torch": ("torch",),
}


def _version(*distributions: str) -> str:
    """The version of the first of them that is installed; empty where none is."""
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


VERSION = _version(_DISTRIBUTION) or "unknown"


def information() -> dict[str, str]:
    """Versions by name; empty: it is not installed."""
    return {
        "version": VERSION,
        "python": platform.python_version(),
        "grpc": _version("grpcio"),
        **{name: _version(*distributions) for name, distributions in _RUNTIMES.items()},
    }
