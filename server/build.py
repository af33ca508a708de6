"""What runs here: the versions of the service, of Python, and of what computes."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

from glimpse import __version__
from glimpse.server.runtimes import RUNTIMES

VERSION = __version__


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
        **{row.name: version(*row.distributions) for row in RUNTIMES.values() if not row.simulated},
    }
