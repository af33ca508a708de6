"""The digest of a weights file, with the files that belong to it, and what tells that they have not changed since."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from glimpse.models.errors import BundleError
from glimpse.models.files import bounded_files

# Suffixes of the file beside an ONNX model into which PyTorch (the first) and other exporters put the tensors.
EXTERNAL_DATA_SUFFIXES = (".data", "_data")
_SAVED_MODEL, _VARIABLES = "saved_model.pb", "variables"
_IR, _IR_WEIGHTS = ".xml", ".bin"


class FileVersion(NamedTuple):
    """What tells a file from another one of its name, and from itself with other contents."""

    device: int
    inode: int
    size: int  # bytes
    modified_ns: int
    changed_ns: int


def file_versions(path: Path) -> tuple[FileVersion, ...]:
    """Those of the files that `digest` reads; empty where they cannot be told."""
    try:
        found = [path.stat(), *(each.stat() for each in belonging(path))]
    except OSError:
        return ()
    return tuple(
        FileVersion(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found
    )


def digest(path: Path) -> str:
    """``sha256:`` and the hexadecimal hash of a weights file, with those of the files that belong to it.

    Raises:
        BundleError: the file cannot be read.
    """
    try:
        with bounded_files.open_file(path) as file:
            whole = hashlib.file_digest(file, "sha256")
        for each in belonging(path):
            with bounded_files.open_file(each) as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror or error}. A bundle needs its weights file."
        ) from error
    except ValueError as error:
        raise BundleError(f"{path} cannot be read: {error}.") from error
    return "sha256:" + whole.hexdigest()


def belonging(path: Path) -> list[Path]:
    """What exporters have put beside a file: the tensors of ONNX, of an IR, or of a SavedModel."""
    if path.name == _SAVED_MODEL:
        variables = path.parent / _VARIABLES
        found = sorted(variables.iterdir()) if variables.is_dir() else []
    elif path.suffix == _IR:
        found = [path.with_suffix(_IR_WEIGHTS)]
    else:
        found = [path.with_name(path.name + ending) for ending in EXTERNAL_DATA_SUFFIXES]
    return [each for each in found if each.is_file()]
