"""Which weights files hold a whole model: a network of their own, as Keras saves it, and not weights alone."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from glimpse.models.errors import BundleError
from glimpse.models.files import regular_files

_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"


def holds_network(path: Path) -> bool:
    """Whether a file may hold a whole Keras model; an ``.h5`` file may turn out to have weights only.

    Raises:
        BundleError: the file cannot be opened.
    """
    with open_file(path) as file:
        head = file.read(len(_HDF5))
        if head == _HDF5:
            return not path.name.endswith(".weights.h5")
        if not head.startswith(_ZIP):
            return False
        try:
            with zipfile.ZipFile(file) as archive:
                return "config.json" in archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error):
            return path.suffix == ".keras"  # damaged, which its reader will report


def open_file(path: Path) -> BinaryIO:
    """A weights file, opened to be read.

    Raises:
        BundleError: it cannot be opened, or it is no regular file.
    """
    try:
        return regular_files.open_file(path)
    except OSError as error:
        raise BundleError(
            str(error)
            if isinstance(error, regular_files.NotARegularFileError)
            else f"{path} cannot be read: {error.strerror or error}. Give the path of a readable file."
        ) from error
